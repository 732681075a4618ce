"""Random DAGs that use every feature, and what each function must return, worked out one after the other."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from distributed import get_client

import handoff_dask as handoff
from handoff_dask import Argument, Function

#: Values that are large are so many bytes long.
LARGE = 300_000


def mix(name: Hashable, *args: Any) -> int:
    """A number that depends on the name, on every argument, and on their order."""
    text = repr((name, [value if isinstance(value, int) else len(value) for value in args]))
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def brief(*args: Any, name: Hashable) -> int:
    """End at once."""
    return mix(name, *args)


def lasting(*args: Any, name: Hashable, seconds: float) -> int:
    """Take some time."""
    time.sleep(seconds)
    return mix(name, *args)


def large(*args: Any, name: Hashable) -> bytes:
    """Return much."""
    return b"." * (LARGE + mix(name, *args) % 1000)


def listed(values: list[Any], name: Hashable) -> int:
    """Take the results as a list."""
    return mix(name, *values)


def raises_at_first(*args: Any, name: Hashable, folder: str) -> int:
    """Raise in the first attempt."""
    once(folder, name)
    return mix(name, *args)


def exits_at_first(*args: Any, name: Hashable, folder: str) -> int:
    """End the worker's process in the first attempt."""
    try:
        once(folder, name)
    except LookupError:
        os._exit(3)
    return mix(name, *args)


def once(folder: str, name: Hashable) -> None:
    """Raise, but only the first time that this is called anywhere."""
    path = Path(folder, hashlib.sha256(repr(name).encode()).hexdigest())
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return
    raise LookupError(f"first attempt of {name!r}")


def nested(*args: Any, name: Hashable) -> int:
    """Execute a DAG of its own."""
    inner = [
        Function(n, list(range(n))[-2:], brief, kwargs={"name": (name, n)}, cost={"cpu": 1}) for n in range(3)
    ]
    results = handoff.execute(inner, client=get_client()).results
    return mix(name, *args, results[2])


def never(*args: Any, name: Hashable) -> int:
    """Fail for good."""
    raise ArithmeticError(name)


class Unreadable(Exception):
    """An exception that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("this exception does not travel")


def unreadable(*args: Any, name: Hashable) -> int:
    """Fail with what does not travel."""
    raise Unreadable(name)


def changed(value: Any, source: str, target: str, by: int) -> Any:
    """Change an argument on its way."""
    return value + by if isinstance(value, int) else value


COSTS = (
    None,
    {"cpu": 1},
    {"cpu": 0.5, "memory": 20},
    {"cpu": 2},
    {"memory": "100 MB"},
    {"licence": 1},
    {"ssd": True, "cpu": 1},
)


def job(rng: random.Random, name: str, count: int, folder: str) -> tuple[handoff.DAG, dict[Hashable, Any]]:
    """A random DAG and its results.

    Parameters
    ----------
    name
        Of the DAG; no two may be equal.
    count
        How many functions it has.
    folder
        Where attempts are noted.
    """
    dag, values = handoff.DAG(name), {}
    for n in range(count):
        ident: Hashable = rng.choice([n, f"f{n}", ("part", n)])
        args = rng.sample(list(values), min(len(values), rng.choice([0, 1, 1, 2, 3])))
        full = (name, n)
        fields: dict[str, Any] = {"cost": rng.choice(COSTS), "priority": rng.choice([0, 0, 0, 1])}
        if rng.random() < 0.3:
            fields["duration"] = rng.choice([0.001, 0.05, 0.3])
        code, more = pick(rng, full, folder)
        taken = [values[a] for a in args]
        shown: list[Any] = list(args)
        if code is nested:
            fields["cost"] = rng.choice([None, {"cpu": 1}])
        elif args and rng.random() < 0.06:
            shown[0] = Argument(args[0], (changed, 1), (changed, 2))
            taken[0] = taken[0] + 3 if isinstance(taken[0], int) else taken[0]
            fields["cost"] = None
        elif args and rng.random() < 0.08:
            fields["node"] = handoff.Collocated(args[0])
            fields["cost"] = {"cpu": 0.5}
        if code is listed:
            fields["argument_inclusion"] = "as_list"
        dag.add_function(Function(ident, shown, code, kwargs={"name": full, **more}, **fields))
        values[ident] = expected(code, full, taken)
    return dag, values


def pick(rng: random.Random, name: Hashable, folder: str) -> tuple[Any, dict[str, Any]]:
    """A code and its options."""
    chance = rng.random()
    if chance < 0.02:
        return nested, {}
    if chance < 0.05:
        return raises_at_first, {"folder": folder}
    if chance < 0.0515:
        return exits_at_first, {"folder": folder}
    if chance < 0.12:
        return large, {}
    if chance < 0.2:
        return listed, {}
    if chance < 0.4:
        return lasting, {"seconds": rng.choice([0.005, 0.02, 0.1])}
    return brief, {}


def expected(code: Any, name: Hashable, args: list[Any]) -> Any:
    """What a function returns, worked out here."""
    if code is large:
        return b"." * (LARGE + mix(name, *args) % 1000)
    if code is nested:
        inner: list[int] = []
        for n in range(3):
            inner.append(mix((name, n), *inner[-2:]))
        return mix(name, *args, inner[2])
    return mix(name, *args)
