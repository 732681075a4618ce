"""What is known of an execution: values that results, pictures and reports are made from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handoff_dask.time_split import TimeSplit

__all__ = ["ExecutionRecord", "ExecutionResult", "FunctionRecord", "Timing"]


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
    #: As the user wrote it.
    cost: Mapping[str, Any] = field(default_factory=dict)
    #: ``"pending"`` (arguments missing), ``"waiting"`` (for a node), ``"running"``,
    #: ``"finished"``, ``"failed"``, ``"cancelled"``; inline and input: ``"none"``.
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


class ExecutionResult:
    """What an execution came to.

    Parameters
    ----------
    dag_id, results, allocations, timings
        See the attributes.
    record
        All that is known of the run, or a function that gives it when somebody asks.
    """

    def __init__(
        self,
        dag_id: Hashable,
        results: Mapping[Hashable, Any],
        allocations: Mapping[Hashable, str],
        timings: Mapping[Hashable, Timing],
        record: ExecutionRecord | Callable[[], ExecutionRecord],
    ) -> None:
        #: The DAG's id.
        self.dag_id = dag_id
        #: ``{function id: value}``.
        self.results = results
        #: ``{function id: node name}``.
        self.allocations = allocations
        #: ``{function id: Timing}``.
        self.timings = timings
        self._record = record

    def __repr__(self) -> str:
        return f"<ExecutionResult of DAG {self.dag_id!r}: {len(self.results)} results>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_record": self.record}

    @property
    def record(self) -> ExecutionRecord:
        """All that is known of the run, for pictures and reports."""
        if not isinstance(self._record, ExecutionRecord):
            self._record = self._record()
        return self._record

    @property
    def time_split(self) -> TimeSplit:
        """Where its time went, by cause; see :mod:`handoff_dask.time_split`."""
        from handoff_dask.time_split import time_split

        return time_split(self.record)

    @property
    def lower_bound_s(self) -> float | None:
        """Seconds that no placement on these nodes could beat, with the durations that were measured.

        ``None`` if nothing ran; :func:`handoff_dask.lower_bound.lower_bounds` says what sets it.
        """
        from handoff_dask.lower_bound import lower_bounds

        bounds = lower_bounds(self.record) if self.timings else ()
        return bounds[0].seconds if bounds else None

    @property
    def makespan_s(self) -> float | None:
        """Seconds from submission to the end, if both are known."""
        record = self.record
        if record.submitted is None or record.ended is None:
            return None
        return record.ended - record.submitted
