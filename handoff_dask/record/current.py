"""What a function may ask of its own attempt while it runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Current", "attempt_here", "devices_here", "running", "running_with"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The attempt of a function that runs here."""

    #: The DAG's id.
    dag_id: Hashable
    #: The function's id.
    function_id: Hashable
    #: Which attempt it is, from 1.
    attempt: int
    #: Name of the node.
    node: str
    #: What it costs: ``{resource name: amount or label}``.
    cost: Mapping[str, Any] = field(default_factory=dict)
    #: Indices of the devices of its node that it has: ``{"gpu": [1]}``; empty where it claims none.
    devices: Mapping[str, list[int]] = field(default_factory=dict)


_running: ContextVar[Current | None] = ContextVar("handoff-running", default=None)


_asks: ContextVar[Callable[[], Current | None] | None] = ContextVar("handoff-asks", default=None)
_devices: ContextVar[Mapping[str, list[int]] | None] = ContextVar("handoff-devices", default=None)


def attempt_here() -> Current | None:
    """The attempt that runs in this context, if the code that runs it has said so."""
    found, ask = _running.get(), _asks.get()
    return ask() if found is None and ask is not None else found


def devices_here() -> Mapping[str, list[int]] | None:
    """The devices of the attempt that runs in this context; ``None`` if nobody has said."""
    known = _devices.get()
    running_here = _running.get()
    return running_here.devices if known is None and running_here is not None else known


@contextmanager
def running_with(ask: Callable[[], Current | None], devices: Mapping[str, list[int]]) -> Iterator[None]:
    """Say whom to ask which attempt runs in a block, and which devices it has."""
    asks, given = _asks.set(ask), _devices.set(devices)
    try:
        yield
    finally:
        _asks.reset(asks)
        _devices.reset(given)


@contextmanager
def running(attempt: Current) -> Iterator[None]:
    """Say which attempt runs in a block."""
    token = _running.set(attempt)
    try:
        yield
    finally:
        _running.reset(token)
