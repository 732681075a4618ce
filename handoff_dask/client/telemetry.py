"""The telemetry receiver: asks the scheduler for events, and calls the handlers of this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from distributed.metrics import monotonic, time

from handoff_dask import telemetry
from handoff_dask.client.messages import Messages
from handoff_dask.client.scheduler_link import SchedulerLink
from handoff_dask.protocol.telemetry import DAG_START, DAG_STOP, REUSED, KnownRun, expand, unpack
from handoff_dask.telemetry.events import Event

logger = logging.getLogger(__name__)

#: Seconds that the handlers of one event may take before the end of a run no longer waits for them.
SLOW_S = 0.25

#: The receivers of this process, by the address of their scheduler.  The first that is usable
#: receives the events: the handlers belong to the process, and must be called once for each event.
_receivers: dict[str, list[TelemetryReceiver]] = {}


class TelemetryReceiver:
    """Receives the events of one session's cluster.

    Parameters
    ----------
    link
        The link to the scheduler.
    messages
        Brings the events.
    is_installed
        Whether the scheduler's plugin has been installed.
    ids_of
        The ids of a DAG and of its functions, for a run of this session.
    """

    def __init__(
        self,
        link: SchedulerLink,
        messages: Messages,
        *,
        is_installed: Callable[[], bool],
        ids_of: Callable[[str], tuple[Hashable, Sequence[Hashable]] | None],
    ) -> None:
        self._link = link
        self._messages = messages
        self._is_installed = is_installed
        self._ids_of = ids_of
        self._requested: frozenset[Event] = frozenset()
        self._requesting = asyncio.Lock()
        self._runs: dict[str, KnownRun] = {}
        # Handlers run in a thread of their own, in order: one that waits must not stop the loop.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="handoff-telemetry")
        self._unsubscribe = telemetry.subscribe_changes(self.sync_soon)
        self._closed = False
        self._address: str | None = None
        #: Messages so far, and those for which the handlers have been called.
        self._taken = self._delivered = 0
        #: Since when the handlers of one event have been running, in monotonic seconds.
        self._handling_since: float | None = None

    @property
    def is_receiving(self) -> bool:
        """Whether the scheduler sends events to this session."""
        return bool(self._requested)

    @property
    def _is_usable(self) -> bool:
        return not self._closed and self._link.is_usable

    def close(self) -> None:
        """Receive nothing more; another session of the process takes over."""
        if self._closed:
            return
        self._closed = True
        self._unsubscribe()
        self._thread.shutdown(wait=False)
        others = _receivers.get(self._address or "", [])
        if self in others:
            others.remove(self)
            for other in others[:1]:
                other.sync_soon()

    def sync_soon(self) -> None:
        """A handler was attached or detached in any thread, or another session has been closed."""
        loop: Any = self._link.client.loop
        if self._is_usable:
            loop.add_callback(self._sync_quietly)

    async def _sync_quietly(self) -> None:
        try:
            await self.sync()
        except Exception:
            logger.debug("the scheduler could not be asked for telemetry", exc_info=True)

    def _receiver(self) -> TelemetryReceiver:
        """The receiver of this process for this cluster."""
        here = _receivers[self._address or ""]
        here[:] = [other for other in here if other is self or other._is_usable]
        return here[0]

    async def sync(self, *, greet: bool = False) -> None:
        """Make the scheduler send the events that handlers of this process want.

        With ``greet``, handlers get an event for each node that is there already.
        """
        if not self._is_usable or not self._is_installed():
            return
        if self._address is None:
            self._address = self._link.address
            _receivers.setdefault(self._address, []).append(self)
        receiver = self._receiver()
        if receiver is self:
            await self._request(greet)
        elif telemetry.wanted() != receiver._requested:
            # It may belong to another thread, and must have asked before anything is submitted here.
            loop: Any = receiver._link.client.loop
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(receiver.sync(), loop.asyncio_loop))

    async def _request(self, greet: bool) -> None:
        async with self._requesting:
            wanted = telemetry.wanted()
            if wanted != self._requested:
                await self._link.ask("listen", listener=self._link.name, events=wanted, greet=greet)
                self._requested = wanted
                self._messages.start()

    async def listen_again(self) -> None:
        """Tell a new scheduler which events are wanted, as far as the last one knew."""
        if self._requested:
            await self._link.ask("listen", listener=self._link.name, events=self._requested, greet=True)

    async def catch_up(self) -> None:
        """Wait until the handlers have been called for everything that the scheduler has sent so far.

        Handlers that are slow, or wait themselves, are not waited for: what they are told of goes on.
        """
        if self._address is None or not (telemetry.has_handlers() or self._undelivered):
            return
        receiver = self._receiver()
        if receiver is not self:
            total = await self._link.ask("count_of", listener=receiver._link.name)
            messages = receiver._messages
            while messages.handled < total and receiver._is_usable and messages.is_running:
                if receiver._is_slow():
                    return
                await asyncio.sleep(0.005)
        while receiver._undelivered and receiver._is_usable and not receiver._is_slow():
            await asyncio.sleep(0.002)

    async def catch_up_for_good(self) -> None:
        """Wait for what happened before the session stops: Dask's own tasks end without a word to it."""
        if not self.is_receiving or not telemetry.has_handlers() or not await self._link.is_reachable():
            return
        total = await self._link.ask("count_of", listener=self._link.name)
        while self._messages.handled < total and self._messages.is_running and not self._is_slow():
            await asyncio.sleep(0.002)
        await self.catch_up()

    @property
    def _undelivered(self) -> int:
        return self._taken - self._delivered

    def _is_slow(self) -> bool:
        """Whether the handlers of one event take longer than anybody should wait for."""
        since = self._handling_since
        return since is not None and monotonic() - since > SLOW_S

    def take(self, packed: bytes) -> None:
        """Have the handlers called for the events of a message."""
        if not self._closed:
            self._taken += 1
            self._thread.submit(self._deliver, packed)

    async def deliver_empty(self, dag_id: Hashable, strategy: str, reused: Iterable[Hashable] = ()) -> None:
        """Call the handlers for a DAG of which nothing runs, so that the scheduler never sees it."""
        if not telemetry.has_handlers():
            return
        about = {"dag_id": dag_id, "function_count": 0, "allocation_strategy": strategy}
        begun = {"system_time": time()}
        batch: list[Any] = [
            (DAG_START, begun, {**about, "status": "pending"}),
            *((REUSED, begun, {"dag_id": dag_id, "function_id": i}) for i in reused),
            (DAG_STOP, {**begun, "duration": 0.0}, {**about, "status": "finished"}),
        ]
        await asyncio.get_running_loop().run_in_executor(self._thread, telemetry.deliver, batch)

    def deliver_soon(self, batch: list[tuple[Event, Any, Any]]) -> None:
        """Call the handlers for events of this process; from any thread."""
        if not self._closed and telemetry.has_handlers():
            with suppress(RuntimeError):  # closed meanwhile
                self._thread.submit(telemetry.deliver, batch)

    def _deliver(self, packed: bytes) -> None:
        try:
            self._deliver_all(packed)
        except Exception:
            logger.exception("telemetry could not be delivered; this is a defect in handoff_dask")
        finally:
            self._handling_since = None
            self._delivered += 1

    def _deliver_all(self, packed: bytes) -> None:
        introductions, notes, forgotten = unpack(packed)
        for introduction in introductions:
            token = introduction.token
            self._runs[token] = KnownRun(introduction, self._ids_of(token))
        for event in expand(notes, self._runs.get):
            self._handling_since = monotonic()
            telemetry.deliver([event])
        for token in forgotten:
            self._runs.pop(token, None)
