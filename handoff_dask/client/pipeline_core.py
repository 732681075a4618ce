"""The core of a pipeline: items in, results out, and what becomes of its stages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

from distributed.metrics import monotonic

from handoff_dask.client.execution_core import ExecutionCore
from handoff_dask.client.scheduler_link import SchedulerLink
from handoff_dask.client.stream_census import Census
from handoff_dask.client.stream_flow import StreamFlow
from handoff_dask.client.stream_routing import Routing
from handoff_dask.client.stream_telemetry import StreamTelemetry
from handoff_dask.errors import NotFoundError, PipelineEndedError, StageLostError
from handoff_dask.graph.stages import StageGraph
from handoff_dask.protocol.outcome import Outcome
from handoff_dask.protocol.stages import Parcel
from handoff_dask.record.status import FAILED, ExecutionStatus

logger = logging.getLogger(__name__)

#: Seconds between two notes to the nodes of what has come out; they keep it until then.
TELL_S = 0.05
#: Seconds that the stages have to end by themselves, before their execution is cancelled.
END_S = 1.0
#: Seconds between two notes to the scheduler of how the pipeline stands.
STAND_S = 1.0


class PipelineCore(StreamFlow):
    """A pipeline in the client's process.

    It runs in the client's event loop, except for what it has of :class:`StreamFlow`.

    Parameters
    ----------
    link
        To the scheduler.
    execution
        The run whose functions are the workers of the stages.
    graph
        The stages.
    workers
        ``(position of the stage, number of the worker)`` of each function of the run.
    name
        Of the pipeline, among its nodes.
    max_in_flight, ordered, on_node_loss
        As for :func:`~handoff_dask.stream`.
    telemetry
        Tells handlers of this process.
    """

    def __init__(
        self,
        link: SchedulerLink,
        execution: ExecutionCore,
        graph: StageGraph,
        workers: list[tuple[int, int]],
        *,
        name: str,
        max_in_flight: int,
        ordered: bool,
        on_node_loss: str,
        telemetry: StreamTelemetry,
    ) -> None:
        loop: Any = link.client.loop
        super().__init__(
            graph, loop.asyncio_loop, max_in_flight=max_in_flight, ordered=ordered, telemetry=telemetry
        )
        self.link = link
        self._execution = execution
        self._moves = on_node_loss == "move"
        self._routing = Routing(
            link.client, name, graph, workers,
            take=self._take, begin=self._begin, interrupt=lambda: None, fail=self.fail,
        )  # fmt: skip
        self._census = Census(graph, self._routing, self._needs_flush)
        self._newly_done: list[int] = []
        self._is_telling = False
        self._ending: asyncio.Task[None] | None = None
        self._standing: asyncio.TimerHandle | None = None
        #: Items that are to have come out before earlier losses are forgiven: all below.
        self._to_forgive: int | None = None
        self._ended = asyncio.Event()

    @property
    def token(self) -> str:
        """The name of the pipeline on the scheduler."""
        return self._execution.token

    @property
    def execution(self) -> ExecutionCore:
        """The run whose functions are the workers of the stages."""
        return self._execution

    # ------------------------------------------------------------------ from any thread: how it stands

    @property
    def is_in_loop(self) -> bool:
        """Whether this is called in the client's event loop."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    @property
    def is_placed(self) -> bool:
        """Whether every worker of every stage has a node."""
        return self._routing.is_placed

    @property
    def nodes(self) -> list[list[str | None]]:
        """``[[node of each worker] of each stage]``; ``None`` for one that has none yet."""
        return [[name for name, _ in stage] for stage in self._routing.by_stage()]

    def stage_of(self, function_id: Hashable) -> int:
        """The position of a stage.

        Raises
        ------
        NotFoundError
            If no stage has this id.
        """
        for stage in self.graph.stages:
            if stage.id == function_id:
                return stage.position
        raise NotFoundError("stage", function_id, f"DAG {self.dag_id!r} has no regular function of this id")

    @property
    def counts(self) -> tuple[int, int, int]:
        """Items inside, how many there may be, and how many have come out."""
        with self._changed:
            return self._window.inside, self._window.max_in_flight, self._window.out

    def wait_until_placed(self, timeout: float) -> bool:
        """Wait, in a thread, until every worker has a node; whether they have."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_placed or self.status != "running", timeout)
        return self.is_placed

    def close(self) -> None:
        """Take no more."""
        with self._changed:
            if self.status == "running":
                self.status = "closed"
                self._wake()
                self._waits()
                if not self._window.unfinished:
                    self._in_loop(self._end_soon)

    async def wait_for_nodes(self, timeout: float) -> None:
        """As :meth:`wait_until_placed`, in the client's loop."""
        give_up = monotonic() + timeout
        while not self.is_placed and self.status == "running" and monotonic() < give_up:
            await asyncio.wait({self._next_change()}, timeout=give_up - monotonic())

    # ------------------------------------------------------------------ in the loop: messages

    def stage_changed(self, position: int, what: str, node: str, address: str) -> None:
        """The scheduler says something of a worker of a stage."""
        if self._ended.is_set():
            return
        if what == "lost":
            self._lost(position, node)
        elif what == "placed":
            self._routing.placed(position, node, address)
        else:
            self._routing.ready(position, node, address)
        with self._changed:
            self._wake()

    def _lost(self, position: int, node: str) -> None:
        if self._ending is not None:
            return
        self._routing.lost(position)
        with self._changed:
            self._to_forgive = self._window.next
        if not self._moves:
            ids = list(self._execution.compiled.keys)
            self.fail(StageLostError(ids[position], node))

    def _begin(self) -> None:
        """All stages can take items: send what is unfinished, what was sent before a loss too."""
        with self._changed:
            window, routing = self._window, self._routing
            self._newly_done.clear()
            routing.tell(routing.routes(window.watermark, window.done_above()))
            for number, parcels in list(window.unfinished.items()):
                routing.send(number, parcels)
            self._waits()
            self._wake()
        if self._standing is None:
            self._stand()

    def _take(self, message: dict[str, Any]) -> None:
        """A node says something."""
        op = message.pop("op")
        if op == "items":
            self._results(message)
        elif op == "census":
            self._census.counted(message)
        elif op == "broken" and message["gen"] == self._routing.generation:
            self._routing.broken_between(message["address"], self._window.next - len(self._window.unfinished))

    def _results(self, message: dict[str, Any]) -> None:
        complete = self._arrived(message)
        self._newly_done += complete
        if complete and not self._is_telling:
            self._is_telling = True
            self._loop.call_later(TELL_S, self._tell_done)
        if self.status == "closed" and not self._window.unfinished:
            self._end_soon()

    def _tell_done(self) -> None:
        """Let the nodes drop what has come out."""
        self._is_telling = False
        with self._changed:
            done, self._newly_done = self._newly_done, []
            watermark = self._window.watermark
        if done:
            self._routing.tell(
                {"op": "done", "watermark": watermark, "done": [n for n in done if n >= watermark]}
            )

    def _pushed(self, number: int, parcels: list[Parcel]) -> None:
        if self._routing.is_live:
            self._routing.send(number, parcels)

    def _waits(self) -> None:
        if self._census.is_needed and self._needs_flush():
            self._in_loop(self._census.begin)

    def _needs_flush(self) -> bool:
        """Whether no item comes in before one goes out."""
        window = self._window
        waits = not window.has_room or self.status == "closed" or self._draining > 0
        return waits and bool(window.unfinished) and self.status in ("running", "closed")

    def _stand(self) -> None:
        """Tell the scheduler how it stands, now and then."""
        self._standing = self._loop.call_later(STAND_S, self._stand)
        inside, most, out = self.counts
        forgive = self._to_forgive is not None and self._window.watermark >= self._to_forgive
        if forgive:
            self._to_forgive = None
        self._telling = asyncio.ensure_future(
            _quietly(
                self.link.ask(
                    "stream_stands",
                    token=self.token,
                    inside=inside,
                    max_in_flight=most,
                    out=out,
                    forgive=forgive,
                )
            )
        )

    # ------------------------------------------------------------------ in the loop: the end

    def fail(self, error: BaseException) -> None:
        """It cannot go on."""
        with self._changed:
            if self.status in ("stopped", "failed"):
                return
            self.status, self.error = "failed", error
            self._wake()
        self._end_soon()

    def end(self, outcome: Outcome | None, status: ExecutionStatus) -> None:
        """The run of its stages is over."""
        if status == FAILED:
            self.fail(self._execution.failure or RuntimeError("the stages' run has failed"))
        elif self._ending is None:
            if self.link.is_closed:
                self._set_stopped()
            else:
                self.fail(self._execution.failure or PipelineEndedError(self.dag_id, status))
        self._end_soon()

    def _end_soon(self) -> None:
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())

    async def stop(self) -> None:
        """Drop what is inside, and give back what the stages hold."""
        self._set_stopped()
        self._end_soon()
        await self._ended.wait()

    def _set_stopped(self) -> None:
        with self._changed:
            if self.status == "running" or (self.status == "closed" and self._window.inside):
                self.status = "stopped"
                self._wake()

    def abandon(self) -> None:
        """Nobody has the pipeline any more; from any thread."""
        if not self._ended.is_set():
            self._set_stopped()
            self._in_loop(self._end_soon)

    async def _end(self) -> None:
        try:
            if self._standing is not None:
                self._standing.cancel()
            if self._routing.is_live and self.status != "failed":
                self._routing.tell({"op": "stop"})
                with suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(self._execution.wait_until_over(), END_S)
            if self.link.is_usable:
                await _quietly(self._execution.cancel_run())
        finally:
            for future in self._execution.futures.values():
                future.release()  # else a lost node would have stages run again
            self._routing.close()
            self._census.close()
            self._telemetry.pipeline_ended(self.status, self.error)
            self._ended.set()


async def _quietly(request: Any) -> None:
    try:
        await request
    except Exception:
        logger.debug("the scheduler could not be told of a pipeline", exc_info=True)
