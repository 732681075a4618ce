"""Pipelines on the scheduler: where their stages are, which can take items, how busy they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distributed.metrics import time

from handoff_dask.protocol.names import STAGE_READY, STAGE_STATS
from handoff_dask.record.pipeline import PipelineFigures, StageFigures, bottleneck
from handoff_dask.scheduler.lifecycle import Dropped, Ended, FailedForGood, LifeEvent, NotTaken, Placed
from handoff_dask.scheduler.mailboxes import Mailboxes
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.pipeline_room import PipelineRoom
from handoff_dask.scheduler.runs import FunctionState, Runs, RunState
from handoff_dask.scheduler.states import State
from handoff_dask.scheduler.tasks import Tasks
from handoff_dask.visualization.summary import id_text

#: What a session is told of a worker of a stage.
PLACED, READY, LOST = "placed", "ready", "lost"


@dataclass(slots=True)
class StageCounts:
    """How a worker of a stage stood when it was heard of last."""

    at: float
    items: int = 0
    waiting: int = 0
    running: int = 0
    busy_s: float = 0.0
    #: Share of the time in which the code ran, between the last two reports.
    busy: float = 0.0


@dataclass(slots=True)
class PipelineState:
    """A pipeline that has not ended."""

    run: RunState
    #: By position of the worker's function.
    counts: dict[int, StageCounts] = field(default_factory=dict)
    #: Items inside, and how many there may be: as its client said last.
    inside: int = 0
    max_in_flight: int = 0
    #: Items that have come out.
    out: int = 0


class Pipelines(Observer):
    """Watches the runs that are pipelines, and tells their sessions.

    Parameters
    ----------
    runs, tasks
        What is known of runs; Dask's tasks.
    mailboxes
        Of the sessions.
    room
        Who of the pipelines' stages may go where.
    """

    watches = (Placed, Dropped, NotTaken, Ended, FailedForGood)

    def __init__(self, runs: Runs, tasks: Tasks, mailboxes: Mailboxes, room: PipelineRoom) -> None:
        self._runs = runs
        self._tasks = tasks
        self._mailboxes = mailboxes
        self._room = room
        self.open: dict[str, PipelineState] = {}

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What clients may ask."""
        return {"stream_stands": self.stands}

    def install(self, streams: dict[str, Callable[..., Any]]) -> None:
        """Listen to the workers."""
        streams.update({STAGE_READY: self.ready, STAGE_STATS: self.stats})

    # ------------------------------------------------------------------ what happens

    def run_opened(self, run: RunState) -> None:
        """A pipeline's stages are going to be placed."""
        if run.manifest.stages is not None:
            self.open[run.token] = PipelineState(run)
            self._room.opened(run)

    def run_ended(self, run: RunState) -> None:
        """A pipeline is over."""
        if self.open.pop(run.token, None) is not None:
            self._room.closed(run)

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """A stage's worker has been given a node, or has lost it."""
        if function.run.token in self.open:
            if isinstance(event, Placed):
                self._room.took(function, event.attempt.node)
                self._tell(function, PLACED)
                return
            self._room.left(function)
            if not isinstance(event, (Ended, FailedForGood)):
                self.open[function.run.token].counts.pop(function.position, None)
                self._tell(function, LOST)

    def ready(self, key: str, run_id: int, **kwargs: Any) -> None:
        """A stage's worker has made its state, and can take items."""
        function = self._present(key, run_id)
        if function is not None:
            self._tell(function, READY)

    def _present(self, key: str, run_id: int) -> FunctionState | None:
        function = self._runs.functions.get(key)
        known = function is not None and function.is_on_node and function.run.token in self.open
        return function if known and self._tasks.is_present(key, run_id) else None

    def _tell(self, function: FunctionState, what: str) -> None:
        run = function.run
        node, address = function.fact("node"), function.fact("address")
        content = [run.token, function.position, what, node, address]
        self._mailboxes.tell(run.client, run.manifest.listener, "stage", content)

    # ------------------------------------------------------------------ how they stand

    def stats(self, stats: list[tuple[str, int, list[float]]], **kwargs: Any) -> None:
        """A node says how its stages stand."""
        now = time()
        for key, run_id, (items, waiting, running, busy_s) in stats:
            function = self._present(key, run_id)
            if function is None:
                continue
            counts = self.open[function.run.token].counts
            before = counts.get(function.position) or StageCounts(now - 1.0)
            share = (busy_s - before.busy_s) / max(now - before.at, 1e-3)
            counts[function.position] = StageCounts(
                now, int(items), int(waiting), int(running), busy_s, min(1.0, max(0.0, share))
            )

    def stands(
        self, client: str, token: str, inside: int, max_in_flight: int, out: int, forgive: bool
    ) -> None:
        """A client says how its pipeline stands; what was inside at the last loss may have come out since."""
        pipeline = self.open.get(token)
        if pipeline is None:
            return
        pipeline.inside, pipeline.max_in_flight, pipeline.out = inside, max_in_flight, out
        if forgive:
            for function in pipeline.run.functions.values():
                self._tasks.forgive(function.key)

    def figures(self, run: RunState) -> PipelineFigures | None:
        """How a pipeline stands; ``None`` if the run is none, or is over."""
        pipeline = self.open.get(run.token)
        if pipeline is None:
            return None
        places: dict[int, list[int]] = {}
        for position, (stage, _) in enumerate(run.manifest.stages or ()):
            places.setdefault(stage, []).append(position)
        stages = tuple([self._stage(pipeline, places[stage]) for stage in sorted(places)])
        return PipelineFigures(stages, pipeline.inside, pipeline.max_in_flight, pipeline.out)

    def _stage(self, pipeline: PipelineState, positions: list[int]) -> StageFigures:
        counts = [pipeline.counts[p] for p in positions if p in pipeline.counts]
        functions = [pipeline.run.functions[p] for p in positions if p in pipeline.run.functions]
        first = min(positions, key=lambda p: (pipeline.run.manifest.stages or [])[p][1])
        return StageFigures(
            first,
            len(positions),
            tuple([str(f.fact("node")) for f in functions if f.is_on_node]),
            sum(c.items for c in counts),
            sum(c.waiting for c in counts),
            sum(c.busy for c in counts) / len(positions),
        )

    def overview(self) -> list[dict[str, Any]]:
        """All pipelines that are open, ready for JSON."""
        return [self._seen(pipeline.run) for pipeline in self.open.values()]

    def _seen(self, run: RunState) -> dict[str, Any]:
        figures = self.figures(run)
        assert figures is not None
        place, why = bottleneck(figures)
        names = [id_text(run.id_of(stage.first)) for stage in figures.stages]
        return {
            "token": run.token,
            "dag_id": id_text(run.dag_id),
            "submitted": run.submitted,
            "inside": figures.inside,
            "max_in_flight": figures.max_in_flight,
            "out": figures.out,
            "bottleneck": None if place is None else names[place],
            "why": why,
            "stages": [
                {
                    "function_id": name,
                    **{f: getattr(stage, f) for f in ("workers", "items", "waiting", "busy")},
                    "nodes": list(stage.nodes),
                }
                for name, stage in zip(names, figures.stages, strict=True)
            ],
        }
