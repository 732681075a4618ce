"""What a function may ask of its own attempt while it runs."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Current", "attempt_here", "running"]


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


def attempt_here() -> Current | None:
    """The attempt that runs in this context, if the code that runs it has said so."""
    return _running.get()


@contextmanager
def running(attempt: Current) -> Iterator[None]:
    """Say which attempt runs in a block."""
    token = _running.set(attempt)
    try:
        yield
    finally:
        _running.reset(token)
