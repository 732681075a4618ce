"""The options of an execution, checked before anything is sent."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from distributed import Client

from handoff_dask import config
from handoff_dask.client.user_strategies import pack
from handoff_dask.errors import ValidationError
from handoff_dask.graph.retry import Retry, given_retry
from handoff_dask.placement.strategies import BUILT_IN
from handoff_dask.protocol.manifest import Options
from handoff_dask.record.status import OnFailure, choice_on_failure
from handoff_dask.resources import Capabilities

#: What a user may say of an execution, beside the DAG.
NAMES = (
    "allocation_strategy",
    "allocator",
    "cache",
    "client",
    "detach",
    "inputs",
    "max_concurrency",
    "max_retries",
    "on_failure",
    "outputs",
    "priority",
    "progress",
    "resources",
    "resume",
    "retry",
    "share",
    "timeout",
)


def refuse_unknown(unknown: Mapping[str, Any]) -> None:
    """Refuse options that do not exist.

    Raises
    ------
    ValidationError
        If there is one.
    """
    for name in unknown:
        raise ValidationError(f"there is no option {name!r}; the options are {', '.join(NAMES)}")


def refuse_other_than_client(client: Any) -> None:
    """Refuse what is given as a client and is none.

    Raises
    ------
    ValidationError
        If it is neither a client nor ``None``.
    """
    if client is not None and not isinstance(client, Client):
        raise ValidationError(f"client is {client!r}; give a distributed.Client, of this cluster say")


def parse(
    *,
    allocation_strategy: Any,
    allocator: Any,
    resources: Iterable[Mapping[str, Any]] | None,
    max_retries: int | None,
    retry: Retry | None,
    max_concurrency: int | None,
    priority: float,
    share: float,
    on_failure: OnFailure,
    detach: bool = False,
) -> Options:
    """Parse the options that are sent to the scheduler.

    Raises
    ------
    ValidationError
        If one is wrong.
    """
    default = config.count("max-retries") if max_retries is None and retry is None else 0
    max_retries = _count("max_retries", max_retries, least=0)
    # What is read later is refused now, not when the first execution ends.
    config.count("retained-dags")
    config.nbytes("fetch-warning")
    for name in ("planning", "resumable"):
        config.switch(name)
    strategy, name = strategy_of(allocation_strategy, allocator)
    return Options(
        strategy=strategy,
        strategy_name=name,
        nodes=_nodes(resources),
        max_concurrency=_count("max_concurrency", max_concurrency, least=1),
        priority=run_priority(priority),
        share=run_share(share),
        retry=given_retry(max_retries, retry, default),
        allocation_timeout_s=config.seconds("allocation-timeout"),
        transfer_floor_s=config.seconds("transfer-floor"),
        on_failure=choice_on_failure(on_failure),
        detach=switch("detach", detach),
        retained_detached=config.count("retained-detached"),
    )


def configured() -> Options:
    """The options of an execution for which the user names none: as Dask's configuration has them."""
    return parse(
        allocation_strategy=None,
        allocator=None,
        resources=None,
        max_retries=None,
        retry=None,
        max_concurrency=None,
        priority=0,
        share=1.0,
        on_failure="stop",
    )


def _count(name: str, value: Any, *, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValidationError(f"{name} is {value!r}; give a whole number of at least {least}")
    return int(value)


def run_priority(value: Any) -> float:
    """The priority of a run.

    Raises
    ------
    ValidationError
        If it is no finite number.
    """
    return _real("priority", value, "a number, larger for what goes earlier")


def run_share(value: Any) -> float:
    """The share of a run.

    Raises
    ------
    ValidationError
        If it is no finite number above 0.
    """
    share = _real("share", value, wanted := "a number above 0, 1.0 for a share like any other's")
    if share <= 0:
        raise ValidationError(f"share is {value!r}; give {wanted}")
    return share


def _real(name: str, value: Any, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValidationError(f"{name} is {value!r}; give {wanted}")
    return float(value)


def switch(name: str, value: Any) -> bool:
    """An option that is on or off.

    Raises
    ------
    ValidationError
        If it is neither ``True`` nor ``False``.
    """
    if not isinstance(value, bool):
        raise ValidationError(f"{name} is {value!r}; give True or False")
    return value


def timeout_s(value: Any, name: str = "timeout") -> float | None:
    """A timeout in seconds.

    Raises
    ------
    ValidationError
        If it is no number of at least 0.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) >= 0:
        raise ValidationError(f"{name} is {value!r}; give seconds, or None to wait for ever")
    return float(value)


def strategy_of(strategy: Any, allocator: Any) -> tuple[str | bytes, str]:
    """The name of a built-in strategy, or the user's own as it is sent; and what it is called.

    Raises
    ------
    ValidationError
        If both are given, or there is no such strategy, or it cannot be sent.
    """
    if strategy is not None and allocator is not None:
        raise ValidationError("allocation_strategy and allocator are both given; give one of them")
    own = strategy if allocator is None else allocator
    if own is None:
        own = config.get("allocation-strategy")
    if not isinstance(own, str):
        return pack(own)
    if own not in BUILT_IN:
        raise ValidationError(
            f"there is no allocation strategy {own!r}; there are {', '.join(BUILT_IN)}, "
            "or give an object with select or allocate"
        )
    return own, own


def _nodes(resources: Any) -> dict[str, Capabilities] | None:
    if resources is None:
        return None
    wrong = "write [{'node': name, 'capabilities': {…}}, …]"
    if isinstance(resources, (str, bytes, Mapping)) or not isinstance(resources, Iterable):
        raise ValidationError(f"resources is {resources!r}; {wrong}")
    nodes: dict[str, Capabilities] = {}
    for entry in resources:
        if not isinstance(entry, Mapping) or "node" not in entry or set(entry) - {"node", "capabilities"}:
            raise ValidationError(f"resources has the entry {entry!r}; {wrong}")
        name = str(entry["node"])
        if name in nodes:
            raise ValidationError(f"resources names node {name!r} twice; name it once")
        nodes[name] = Capabilities.parse(entry.get("capabilities"))
    return nodes


def refuse_unhashable(*ids: object) -> None:
    """Refuse what cannot be an id.

    Raises
    ------
    ValidationError
        If one cannot be hashed.
    """
    for i in ids:
        try:
            hash(i)
        except TypeError:
            raise ValidationError(
                f"{i!r} cannot be an id; use what can be hashed, a string or a tuple say"
            ) from None
