"""The pipelines on this node: which are here, and how they stand."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distributed.comm.core import Comm
from distributed.core import Status

from handoff_dask.protocol.names import STAGE_READY, STAGE_STATS
from handoff_dask.protocol.stage_call import StageCall
from handoff_dask.protocol.stages import STREAM, StageSetup
from handoff_dask.worker.isolated_stage import IsolatedStageCall
from handoff_dask.worker.stage_worker import StageWorker
from handoff_dask.worker.stream_host import StreamHost

if TYPE_CHECKING:
    from distributed import Worker

logger = logging.getLogger(__name__)

#: Seconds between two reports of how stages stand.
REPORT_S = 1.0

#: States of a task of Dask's whose thread works for nobody.
UNWANTED = ("cancelled", "released", "forgotten", "resumed")


class Streams:
    """What a node has of pipelines.

    Parameters
    ----------
    worker
        Dask's.
    isolated
        Makes the call of an isolated stage, by the key of its task.
    """

    def __init__(self, worker: Worker, isolated: Callable[[str, StageCall], IsolatedStageCall]) -> None:
        self._worker = worker
        self._make_isolated = isolated
        loop: Any = worker.loop
        self._loop: asyncio.AbstractEventLoop = loop.asyncio_loop
        self._lock = threading.Lock()
        self._hosts: dict[str, StreamHost] = {}
        #: Stages' workers by the key of their task.
        self._workers: dict[Any, StageWorker] = {}
        self._reporting: asyncio.Task[None] | None = None
        worker.handlers[STREAM] = self.connected

    def run(self, token: str, key: Any, setup: StageSetup) -> int:
        """Be a worker of a stage until the pipeline ends; called in the thread of its task."""
        isolated = self._make_isolated(str(key), setup.call) if setup.call.function.isolated else None
        with self._lock:
            host = self._hosts.get(token)
            if host is None:
                host = self._hosts[token] = StreamHost(
                    token, self._worker.address, self._loop, self._worker.connection_args
                )
            stage = StageWorker(setup, host, key, isolated)
            self._workers[key] = host.workers[setup.stage, setup.worker] = stage
        try:
            self._loop.call_soon_threadsafe(self._begin, key)
            return stage.run(lambda: self._say_ready(key))
        finally:
            if isolated is not None:
                isolated.end()
            with self._lock:
                if self._workers.get(key) is stage:
                    del self._workers[key]
                if host.workers.get((setup.stage, setup.worker)) is stage:
                    del host.workers[setup.stage, setup.worker]
                if not host.workers and self._hosts.get(token) is host:
                    del self._hosts[token]
                    self._loop.call_soon_threadsafe(host.close)

    def _say_ready(self, key: Any) -> None:
        def say() -> None:
            task = self._worker.state.tasks.get(key)
            if task is not None:
                self._worker.batched_send({"op": STAGE_READY, "key": key, "run_id": task.run_id})

        self._loop.call_soon_threadsafe(say)

    async def connected(self, comm: Comm, token: str | None = None, is_client: bool = False) -> Status:
        """A client or another node begins to send."""
        host = self._hosts.get(token or "")
        if host is None:
            comm.abort()
        else:
            await host.serve(comm, is_client)
        return Status.dont_reply

    def transition(self, key: Any, finish: str) -> None:
        """Stop a worker whose task is not wanted any more."""
        if key in self._workers and finish in UNWANTED:
            self._workers[key].stop()

    def close(self) -> None:
        """Stop all: the node ends, or the plugin goes."""
        for stage in list(self._workers.values()):
            stage.stop()
        for host in list(self._hosts.values()):
            host.close()
        if self._reporting is not None:
            self._reporting.cancel()

    # ------------------------------------------------------------------ reports

    def _begin(self, key: Any) -> None:
        task = self._worker.state.tasks.get(key)
        if task is None or task.state in UNWANTED:  # since before the worker was known here
            self.transition(key, "cancelled")
        if self._reporting is None:
            self._reporting = asyncio.ensure_future(self._report())

    async def _report(self) -> None:
        try:
            while self._workers:
                await asyncio.sleep(REPORT_S)
                stats = []
                for key, stage in list(self._workers.items()):
                    task, stands = self._worker.state.tasks.get(key), stage.stands()
                    if task is not None:
                        numbers = [stands["items"], stands["waiting"], stands["running"], stands["busy_s"]]
                        stats.append([key, task.run_id, numbers])
                if stats and self._worker.status == Status.running:
                    self._worker.batched_send({"op": STAGE_STATS, "stats": stats})
        finally:
            self._reporting = None
