"""Events on their way from the scheduler to a client.

The scheduler does not have the user's modules.  What is the user's (ids of any hashable kind,
exceptions) therefore travels sealed: pickled where it is known, carried as bytes through the
scheduler, and opened by the client, so that an enum arrives as that enum.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import cloudpickle

from handoff_dask.telemetry.events import Event

__all__ = ["Batch", "Sealed", "pack", "seal", "unpack"]

#: Events with their measurements and metadata, in the order in which they happened.
Batch: TypeAlias = list[tuple[Event, dict[str, Any], dict[str, Any]]]

_PLAIN = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value of the user's that the scheduler carries without looking into it.

    Equal payloads are equal and hash alike, but one value may be pickled to different bytes:
    seal an id once and keep the result.
    """

    #: The pickled value.
    payload: bytes
    #: What stands for it where it cannot be read.
    label: str

    def open(self) -> Any:
        """The value; its label if the payload cannot be unpickled in this process."""
        try:
            return pickle.loads(self.payload)
        except Exception:  # whatever the user's __setstate__ or a missing module raises
            return self.label


def seal(value: Any) -> Any:
    """Make a value fit to be carried by a process that does not have the user's modules.

    Strings, numbers, None and tuples of them are returned as they are; of what cannot be
    pickled the ``repr`` is left.

    Examples
    --------
    >>> seal(("part", 3))
    ('part', 3)
    >>> from fractions import Fraction
    >>> seal(Fraction(1, 2)).open()
    Fraction(1, 2)
    """
    if _is_plain(value):
        return value
    label = _label(value)
    try:
        return Sealed(cloudpickle.dumps(value), label)
    except Exception:  # cloudpickle raises what the value's own __reduce__ raises
        return label


def pack(events: Iterable[tuple[Event, Mapping[str, Any], Mapping[str, Any]]]) -> bytes:
    """Events as bytes.  A value that cannot be pickled is sent as its ``repr``: none is lost."""
    batch = [(tuple(event), dict(measurements), dict(metadata)) for event, measurements, metadata in events]
    try:
        return pickle.dumps(batch, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:
        sealed = [(event, _sealed(numbers), _sealed(about)) for event, numbers, about in batch]
        return pickle.dumps(sealed, protocol=pickle.HIGHEST_PROTOCOL)


def unpack(packed: bytes) -> Batch:
    """The events of :func:`pack`, with what was sealed opened.

    Examples
    --------
    >>> unpack(pack([(("app", "work"), {"n": 1}, {"id": seal(("a", 1))})]))
    [(('app', 'work'), {'n': 1}, {'id': ('a', 1)})]
    """
    batch: Batch = pickle.loads(packed)
    return [(event, _opened(measurements), _opened(metadata)) for event, measurements, metadata in batch]


def _is_plain(value: Any) -> bool:
    # Exact types: an IntEnum is an int too, and would lose its class on the way.
    return type(value) in _PLAIN or (type(value) is tuple and all(_is_plain(v) for v in value))


def _label(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _sealed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, Sealed) else seal(value) for name, value in values.items()}


def _opened(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.open() if isinstance(value, Sealed) else value for name, value in values.items()}
