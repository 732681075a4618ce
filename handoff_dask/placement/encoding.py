"""Events and decisions of the engine as JSON, and back.

Nothing of it is code: a record may come from anybody.  What users may use as a key and JSON does not
know is written as its ``repr``; equal keys stay equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from handoff_dask.placement import decisions, events
from handoff_dask.placement.demand import DataArgument, Demand
from handoff_dask.placement.explanation import Obstacle
from handoff_dask.placement.settings import EngineSettings
from handoff_dask.placement.strategies import BUILT_IN, ScoredStrategy
from handoff_dask.resources import Capabilities, Cost

#: Everything that may be read back, by name.
KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(getattr(events, name) for name in events.__all__),
        decisions.Place,
        decisions.Wait,
        decisions.Reject,
        decisions.MoveData,
        Demand,
        DataArgument,
        Obstacle,
        EngineSettings,
        Capabilities,
        Cost,
    )
    if isinstance(kind, type) and is_dataclass(kind)
}


def encode(value: Any) -> Any:
    """What JSON can hold of a value.

    Examples
    --------
    >>> encode(("a", 1, {"b": 2.5}))
    {'tuple': ['a', 1, {'dict': [['b', 2.5]]}]}
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, ScoredStrategy):
        return {"strategy": value.name}
    if is_dataclass(value) and type(value).__name__ in KINDS:
        return {type(value).__name__: {f.name: encode(getattr(value, f.name)) for f in _told(value)}}
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, frozenset):
        return {"set": sorted(encode(item) for item in value)}
    if isinstance(value, Mapping):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    return {"other": repr(value)}


def _told(value: Any) -> list[Any]:
    """The fields that differ from their defaults; most do not."""
    return [f for f in fields(value) if getattr(value, f.name) != f.default]


def decode(data: Any) -> Any:
    """The value that was encoded.

    Raises
    ------
    ValueError
        If it is none of what :func:`encode` makes.
    """
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError(f"{data!r:.80} is no recorded value")
    ((kind, content),) = data.items()
    if kind == "tuple":
        return tuple(decode(item) for item in content)
    if kind == "set":
        return frozenset(content)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    if kind == "other":
        return content
    if kind == "strategy" and content in BUILT_IN:
        return BUILT_IN[content]
    if kind in KINDS and isinstance(content, dict):
        return KINDS[kind](**{str(name): decode(item) for name, item in content.items()})
    raise ValueError(f"{kind!r} is no kind of recorded value; the record is of another version of handoff")
