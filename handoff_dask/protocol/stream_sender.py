"""Sends a stream's values over one of Dask's connections: few messages, in order."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from distributed.comm.core import Comm

from handoff_dask.protocol.stages import Entry, message_of

#: A message has at most so many values, and about so many bytes.
MOST_VALUES, MOST_BYTES = 1024, 16_000_000


class StreamSender:
    """Sends what any thread puts here; what has gathered meanwhile goes as one message.

    Parameters
    ----------
    loop
        The event loop of this process's node or client.
    connect
        Opens the connection, when there is something to send.
    generation
        Gives the number of the present routes; it goes along with values.
    broken
        Called, once, if the connection breaks.  What is put here afterwards is dropped: whoever
        keeps it sends it again when there are new routes.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connect: Callable[[], Awaitable[Comm]],
        generation: Callable[[], int],
        broken: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._connect = connect
        self._generation = generation
        self._broken = broken
        self._lock = threading.Lock()
        self._queue: deque[Entry | dict[str, Any]] = deque()
        self._is_sending = False
        self._is_closed = False
        self.comm: Comm | None = None

    def put(self, *parts: Entry | dict[str, Any]) -> None:
        """Send values, or messages of another kind, after what was put here before."""
        with self._lock:
            if self._is_closed:
                return
            self._queue.extend(parts)
            if self._is_sending:
                return
            self._is_sending = True
        try:
            self._loop.call_soon_threadsafe(self._start)
        except RuntimeError:  # the loop is gone with its process's node or client
            self._is_closed = True

    def _start(self) -> None:
        self._task = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        try:
            if self.comm is None:
                self.comm = await self._connect()
            while (message := self._next()) is not None:
                await self.comm.write(message)
        except (OSError, asyncio.TimeoutError):  # Dask's CommClosedError is one
            self.close()
            self._broken()

    def _next(self) -> dict[str, Any] | None:
        with self._lock:
            queue = self._queue
            if not queue or self._is_closed:
                self._is_sending = False
                return None
            if isinstance(queue[0], dict):
                return queue.popleft()  # type: ignore[return-value]
            entries: list[Entry] = []
            nbytes = 0
            while queue and len(entries) < MOST_VALUES and nbytes < MOST_BYTES:
                entry = queue[0]
                if isinstance(entry, dict):
                    break
                entries.append(entry)
                nbytes += entry[1].nbytes
                queue.popleft()
        message = message_of(entries)
        message["gen"] = self._generation()
        return message

    @property
    def is_closed(self) -> bool:
        """Whether nothing is sent any more."""
        return self._is_closed

    def close(self) -> None:
        """Send nothing more."""
        with self._lock:
            self._is_closed = True
            self._queue.clear()
        if self.comm is not None:
            self.comm.abort()
