"""Calls in processes of their own: ours beside a pool of loky's, without any cluster.

``python -m benchmarks isolated``.  loky need not be installed by itself: joblib brings it along.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from handoff_dask.worker.isolated import IsolatedProcesses

#: So many calls at a time, each in a process.
WIDE = 2
#: An array of 100 MB.
LARGE = 12_500_000

Call = Callable[..., Any]


def nothing(*args: Any) -> None:
    """What is called."""


def given(count: int) -> Any:
    """A large result."""
    return np.ones(count)


@contextmanager
def ours() -> Iterator[Call]:
    """Calls in processes of handoff's isolated functions; what is given waits for a call's value."""
    processes, numbers = IsolatedProcesses(WIDE), iter(range(10**9))

    def call(code: Call, *args: Any) -> Any:
        return processes.run(
            f"call-{next(numbers)}", code, args, resources={"cpu": 1}, devices={}, carrier={},
            timeout_s=None, current=lambda: None, limit="", used=lambda usage: None,
        )  # fmt: skip

    try:
        yield call
    finally:
        processes.close()


@contextmanager
def lokys() -> Iterator[Call]:
    """Calls in a pool of loky's."""
    from joblib.externals.loky import ProcessPoolExecutor

    with ProcessPoolExecutor(WIDE) as pool:
        yield lambda code, *args: pool.submit(code, *args).result()


def measured(calls: Call, count: int) -> dict[str, float]:
    """Seconds and rates of one of them."""
    found = {}
    begun = time.perf_counter()
    calls(nothing)
    found["first call, s"] = time.perf_counter() - begun
    with ThreadPoolExecutor(WIDE) as threads:
        begun = time.perf_counter()
        list(threads.map(lambda _: calls(time.sleep, 0.1), range(WIDE)))
        found["a process more, s"] = time.perf_counter() - begun - 0.1
        begun = time.perf_counter()
        list(threads.map(lambda _: calls(nothing), range(count)))
        found["calls per second"] = count / (time.perf_counter() - begun)
    array = np.ones(LARGE)
    for name, large in (("100 MB in, s", (nothing, array)), ("100 MB out, s", (given, LARGE))):
        taken = []
        for _ in range(3):
            begun = time.perf_counter()
            calls(*large)
            taken.append(time.perf_counter() - begun)
        found[name] = min(taken)
    return found


def main(*, quick: bool = False, repeats: int = 2) -> None:
    """Measure both in turn, and print the better figure of each."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(1 if quick else repeats):
        for name, pool in (("handoff", ours), ("loky", lokys)):
            with suppress(ImportError), pool() as calls:
                for what, value in measured(calls, 100 if quick else 1000).items():
                    better = max if "per second" in what else min
                    known = best.setdefault(what, {})
                    known[name] = better(value, known.get(name, value))
    print(f"{'':20}{'handoff':>10}{'loky':>10}")
    for what, values in best.items():
        print(f"{what:20}" + "".join(f"{values[n]:>10.3g}" for n in ("handoff", "loky") if n in values))
