"""The record of an execution, from which results, pictures and reports are made."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from handoff_dask.record.logs import Logs
from handoff_dask.record.usage import Usage

__all__ = ["ExecutionRecord", "FunctionRecord", "Timing"]


@dataclass(frozen=True, slots=True)
class Timing:
    """When a function ran: its last attempt, on its node's clock."""

    #: Seconds since the epoch.
    start: float
    #: Seconds since the epoch.
    stop: float
    #: How many times it was started.
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRecord:
    """One function of an execution, as far as it has come."""

    id: Hashable
    #: The code's name.
    name: str
    #: Ids of the functions whose results it takes, inputs and inline functions included.
    args: tuple[Hashable, ...] = ()
    #: ``"regular"``, ``"inline"`` or ``"input"``.
    type: str = "regular"
    #: What its last attempt claimed, as a user writes it.
    cost: Mapping[str, Any] = field(default_factory=dict)
    #: What its attempts have claimed in turn, where that has changed; the last is ``cost``.
    claimed: tuple[Mapping[str, Any], ...] = ()
    #: ``"pending"`` (arguments missing), ``"waiting"`` (for a node), ``"running"``,
    #: ``"finished"``, ``"failed"``, ``"cancelled"``, ``"skipped"`` (it needed what had failed), ``"reused"``
    #: (its result was known); inline and input: ``"none"``.
    status: str = "pending"
    #: Name of its node.
    node: str | None = None
    #: Seconds since the epoch: when its arguments were there, when it was bound to its node,
    #: when it started and stopped there.
    ready: float | None = None
    placed: float | None = None
    start: float | None = None
    stop: float | None = None
    attempts: int = 0
    #: What it waited for before it was placed: ``"room"``, ``"thread"``, ``"pin"``, … or ``""``.
    cause: str = ""
    #: Size of its result in bytes.
    nbytes: int | None = None
    #: What its last attempt used, if that was measured.
    usage: Usage | None = None
    #: Expected or hinted seconds.
    duration_s: float | None = None
    #: Seconds between ``placed`` and ``start`` that its arguments took to its node, if known.
    transfer_s: float | None = None
    #: Traceback as text, if it failed.
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRecord:
    """An execution as far as it has come."""

    dag_id: Hashable
    #: ``"pending"``, ``"running"``, ``"finished"``, ``"failed"``, ``"cancelled"``.
    status: str
    #: In topological order.
    functions: tuple[FunctionRecord, ...]
    #: ``{node name: capabilities}`` as the user writes them, ``threads`` beside them.
    nodes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    strategy: str = "first_available"
    #: Seconds since the epoch.
    submitted: float | None = None
    ended: float | None = None
    #: What functions printed and logged.
    logs: Logs = field(default_factory=Logs)
