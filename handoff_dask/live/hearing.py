"""The client's side of telemetry: tells the scheduler what is wanted, and handlers what happens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from distributed.metrics import time
from distributed.protocol import pickle

from handoff_dask import telemetry
from handoff_dask.telemetry.events import Event

if TYPE_CHECKING:
    from handoff_dask.live.session import Handoff

logger = logging.getLogger(__name__)

DAG = ("handoff", "execution", "dag")

#: The one session of this process that listens to a cluster, by its scheduler's address: the
#: handlers are the process's, and must hear each event once.
_ears: dict[str, Hearing] = {}


class Hearing:
    """What a session hears of its cluster."""

    def __init__(self, session: Handoff) -> None:
        self._session = session
        self._asked: frozenset[Event] = frozenset()
        #: ``{token: (DAG id, function ids)}``.
        self._ids: dict[str, tuple[Hashable, Sequence[Hashable]]] = {}
        #: Messages of the scheduler that have been dealt with.
        self.heard = 0
        # Handlers run in a thread of their own, in order: one that waits must not stop the loop.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="handoff-telemetry")
        self._unsubscribe = telemetry.subscribe_changes(self._changed)
        self._closed = False

    @property
    def listens(self) -> bool:
        """Whether the scheduler sends events to this session."""
        return bool(self._asked)

    def close(self) -> None:
        """Hear nothing more; another session of the process may take over."""
        self._closed = True
        self._unsubscribe()
        for address, ear in list(_ears.items()):
            if ear is self:
                del _ears[address]
        self._thread.shutdown(wait=False)

    def _changed(self) -> None:
        """A handler came or went, in whatever thread."""
        loop: Any = self._session.client.loop
        if not self._closed and self._session.is_usable:
            loop.add_callback(self._sync_quietly)

    async def _sync_quietly(self) -> None:
        try:
            await self.sync()
        except Exception:
            logger.debug("the scheduler could not be told what telemetry is wanted", exc_info=True)

    async def sync(self) -> None:
        """Make the scheduler send what handlers of this process want."""
        if self._closed or not self._session.has_plugin:
            return
        address = self._session.scheduler_address
        ear = _ears.setdefault(address, self)
        if ear is not self and ear._session.is_usable:
            return
        _ears[address] = self
        wanted = telemetry.wanted()
        if wanted != self._asked:
            self._asked = wanted
            await self._session.ask("listen", listener=self._session.name, events=wanted)
            self._session.watch()

    async def catch_up(self) -> None:
        """Until this process's handlers have been told all that the scheduler has said so far."""
        if not telemetry.has_handlers():
            return
        ear = _ears.get(self._session.scheduler_address)
        if ear is None or ear is self or not ear._session.is_usable:
            return
        total = await self._session.ask("count_of", listener=ear._session.name)
        while ear.heard < total and ear._session.is_usable:
            await asyncio.sleep(0.005)

    async def take(self, introductions: Mapping[str, Any], events: Sequence[Any]) -> None:
        """Tell the handlers."""
        for token, (dag_id, ids) in introductions.items():
            self._ids[token] = self._session.ids_of(token) or (pickle.loads(dag_id), pickle.loads(ids))
        batch = [
            (tuple(event), measurements, self._with_ids(metadata)) for event, measurements, metadata in events
        ]
        await asyncio.get_running_loop().run_in_executor(self._thread, telemetry.deliver, batch)

    async def tell_empty(self, dag_id: Hashable, strategy: str) -> None:
        """Tell the handlers of a DAG of which nothing had to run, so that no scheduler knows of it."""
        if not telemetry.has_handlers():
            return
        about = {"dag_id": dag_id, "function_count": 0, "allocation_strategy": strategy}
        begun = {"system_time": time()}
        batch: list[Any] = [
            ((*DAG, "start"), begun, {**about, "status": "pending"}),
            ((*DAG, "stop"), {**begun, "duration": 0.0}, {**about, "status": "finished"}),
        ]
        await asyncio.get_running_loop().run_in_executor(self._thread, telemetry.deliver, batch)

    def _with_ids(self, metadata: dict[str, Any]) -> dict[str, Any]:
        token = metadata.get("dag_id")
        if token is not None:
            dag_id, ids = self._ids[token]
            metadata["dag_id"] = dag_id
            if "function_id" in metadata:
                metadata["function_id"] = ids[metadata["function_id"]]
        exception = metadata.get("exception")
        if isinstance(exception, bytes):
            metadata["exception"] = pickle.loads(exception)
        return metadata
