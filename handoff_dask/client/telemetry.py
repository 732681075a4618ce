"""The client's side of telemetry: tells the scheduler what is wanted, and handlers what happens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from distributed.metrics import time

from handoff_dask import telemetry
from handoff_dask.protocol.telemetry import DAG_START, DAG_STOP, KnownRun, expand, unpack
from handoff_dask.telemetry.events import Event

if TYPE_CHECKING:
    from handoff_dask.client.connection import Connection

logger = logging.getLogger(__name__)

#: The sessions of this process, by the address of their scheduler.  The first that is usable
#: listens: the handlers are the process's, and must hear each event once.
_hearings: dict[str, list[Hearing]] = {}


class Hearing:
    """What a session hears of its cluster."""

    def __init__(self, session: Connection) -> None:
        self._session = session
        self._asked: frozenset[Event] = frozenset()
        self._asking = asyncio.Lock()
        self._runs: dict[str, KnownRun] = {}
        #: Messages of the scheduler that have been dealt with.
        self.heard = 0
        # Handlers run in a thread of their own, in order: one that waits must not stop the loop.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="handoff-telemetry")
        self._unsubscribe = telemetry.subscribe_changes(self.sync_soon)
        self._closed = False
        self._address: str | None = None

    @property
    def listens(self) -> bool:
        """Whether the scheduler sends events to this session."""
        return bool(self._asked)

    @property
    def _is_usable(self) -> bool:
        return not self._closed and self._session.is_usable

    def close(self) -> None:
        """Hear nothing more; another session of the process takes over."""
        if self._closed:
            return
        self._closed = True
        self._unsubscribe()
        self._thread.shutdown(wait=False)
        others = _hearings.get(self._address or "", [])
        if self in others:
            others.remove(self)
            for other in others[:1]:
                other.sync_soon()

    def sync_soon(self) -> None:
        """A handler came or went, in whatever thread; or another session listens no more."""
        loop: Any = self._session.client.loop
        if self._is_usable:
            loop.add_callback(self._sync_quietly)

    async def _sync_quietly(self) -> None:
        try:
            await self.sync()
        except Exception:
            logger.debug("the scheduler could not be told what telemetry is wanted", exc_info=True)

    def _ear(self) -> Hearing:
        """The session of this process that listens to this cluster."""
        here = _hearings[self._address or ""]
        here[:] = [other for other in here if other is self or other._is_usable]
        return here[0]

    async def sync(self, *, greet: bool = False) -> None:
        """Make the scheduler send what handlers of this process want.

        With ``greet`` they are told of the nodes that are there.
        """
        if not self._is_usable or not self._session.has_plugin:
            return
        if self._address is None:
            self._address = self._session.scheduler_address
            _hearings.setdefault(self._address, []).append(self)
        ear = self._ear()
        if ear is self:
            await self._listen(greet)
        elif telemetry.wanted() != ear._asked:
            # It may belong to another thread, and must have asked before anything is submitted here.
            loop: Any = ear._session.client.loop
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ear.sync(), loop.asyncio_loop))

    async def _listen(self, greet: bool) -> None:
        async with self._asking:
            wanted = telemetry.wanted()
            if wanted != self._asked:
                await self._session.ask("listen", listener=self._session.name, events=wanted, greet=greet)
                self._asked = wanted
                self._session.watch()

    async def catch_up(self) -> None:
        """Until this process's handlers have been told all that the scheduler has said so far."""
        if not telemetry.has_handlers() or self._address is None:
            return
        ear = self._ear()
        if ear is self:
            return
        total = await self._session.ask("count_of", listener=ear._session.name)
        while ear.heard < total and ear._is_usable and ear._session.is_watching:
            await asyncio.sleep(0.005)

    async def take(self, packed: bytes) -> None:
        """Tell the handlers."""
        if not self._closed:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._tell, packed)

    async def tell_empty(self, dag_id: Hashable, strategy: str) -> None:
        """Tell the handlers of a DAG of which nothing had to run, so that no scheduler knows of it."""
        if not telemetry.has_handlers():
            return
        about = {"dag_id": dag_id, "function_count": 0, "allocation_strategy": strategy}
        begun = {"system_time": time()}
        batch: list[Any] = [
            (DAG_START, begun, {**about, "status": "pending"}),
            (DAG_STOP, {**begun, "duration": 0.0}, {**about, "status": "finished"}),
        ]
        await asyncio.get_running_loop().run_in_executor(self._thread, telemetry.deliver, batch)

    def _tell(self, packed: bytes) -> None:
        try:
            self._tell_all(packed)
        except Exception:
            logger.exception("telemetry could not be told; this is a defect in handoff_dask")

    def _tell_all(self, packed: bytes) -> None:
        introductions, notes, forgotten = unpack(packed)
        for introduction in introductions:
            token = introduction.token
            self._runs[token] = KnownRun(introduction, self._session.ids_of(token))
        telemetry.deliver(expand(notes, self._runs.get))
        for token in forgotten:
            self._runs.pop(token, None)
