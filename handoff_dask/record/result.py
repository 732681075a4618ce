"""The result of an execution: values, nodes and times by function id."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from handoff_dask.errors import NotFoundError, failures_text
from handoff_dask.graph.arguments import did_you_mean, id_of
from handoff_dask.record.execution import ExecutionRecord, Timing
from handoff_dask.record.logs import Logs
from handoff_dask.record.lower_bound import lower_bounds
from handoff_dask.record.time_split import TimeSplit, time_split
from handoff_dask.record.usage import Usage

__all__ = ["ExecutionResult"]


class ExecutionResult:
    """The result of an execution: values, nodes and times by function id.

    Parameters
    ----------
    dag_id, results, allocations, timings, failed, skipped, reused
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
        *,
        failed: Mapping[Hashable, BaseException] | None = None,
        skipped: Mapping[Hashable, Hashable] | None = None,
        reused: Iterable[Hashable] = (),
    ) -> None:
        #: The DAG's id.
        self.dag_id = dag_id
        #: ``{function id: value}``.
        self.results = results
        #: ``{function id: node name}``.
        self.allocations = allocations
        #: ``{function id: Timing}``.
        self.timings = timings
        #: ``{function id: what it raised}`` of the functions that have failed for good.
        self.failed: Mapping[Hashable, BaseException] = dict(failed or {})
        #: ``{function id: id of the failed function that it needed}``.
        self.skipped: Mapping[Hashable, Hashable] = dict(skipped or {})
        #: Ids of the functions that did not run, since their results were known.
        self.reused: frozenset[Hashable] = frozenset(reused)
        self._record = record

    def __getitem__(self, function: Any) -> Any:
        """The value of a function that is named by its id or a reference; of several in a list, their values.

        Raises
        ------
        NotFoundError
            If there is no result of a function.
        """
        if isinstance(function, list):
            return [self[one] for one in function]
        key = id_of(function)
        try:
            return self.results[key]
        except KeyError:
            hint = did_you_mean(key, self.results, "a result")
            raise NotFoundError(
                "result", key, f"DAG {self.dag_id!r} has no result of this id; {hint}"
            ) from None

    def logs(self, function: Any = None) -> Logs:
        """What a function, or all of them, printed and logged, by attempt."""
        return self.record.logs.of(function)

    def __repr__(self) -> str:
        failures = f", {failures_text(len(self.failed), len(self.skipped))}" if self.failed else ""
        return f"<ExecutionResult of DAG {self.dag_id!r}: {len(self.results)} results{failures}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_record": self.record}

    @property
    def record(self) -> ExecutionRecord:
        """All that is known of the run, for pictures and reports."""
        if not isinstance(self._record, ExecutionRecord):
            self._record = self._record()
        return self._record

    @property
    def usage(self) -> dict[Hashable, Usage]:
        """``{function id: what its last attempt used}``, of those that were measured."""
        return {f.id: f.usage for f in self.record.functions if f.usage is not None}

    @property
    def time_split(self) -> TimeSplit:
        """Where its time went, by cause; see :mod:`handoff_dask.record.time_split`."""
        return time_split(self.record)

    @property
    def lower_bound_s(self) -> float | None:
        """Seconds that no placement on these nodes could beat, with the durations that were measured.

        ``None`` if nothing ran; :func:`handoff_dask.record.lower_bound.lower_bounds` says what sets it.
        """
        bounds = lower_bounds(self.record) if self.timings else ()
        return bounds[0].seconds if bounds else None

    @property
    def makespan_s(self) -> float | None:
        """Seconds from submission to the end, if both are known."""
        record = self.record
        if record.submitted is None or record.ended is None:
            return None
        return record.ended - record.submitted
