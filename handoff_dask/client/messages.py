"""Receives the scheduler's messages to a session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from handoff_dask.client.scheduler_link import SchedulerLink
from handoff_dask.errors import SchedulerLostError, SessionEndedError


class Messages:
    """Receives the scheduler's messages one after the other, while somebody needs them.

    Parameters
    ----------
    link
        The link to the scheduler.
    is_needed
        Whether anything waits for messages.
    take
        Called with the kind and the content of each message.
    lost
        Called with the reason when no further message can come.
    """

    def __init__(
        self,
        link: SchedulerLink,
        *,
        is_needed: Callable[[], bool],
        take: Callable[[str, Any], Awaitable[None]],
        lost: Callable[[BaseException], None],
    ) -> None:
        self._link = link
        self._is_needed = is_needed
        self._take = take
        self._lost = lost
        self._task: asyncio.Task[None] | None = None
        self._received = 0
        #: How many messages have been dealt with.
        self.handled = 0

    @property
    def is_running(self) -> bool:
        """Whether messages are being received."""
        return self._task is not None

    def start(self) -> None:
        """Begin to receive, unless that goes on already."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._receive())

    def begin_anew(self) -> None:
        """There is a new scheduler, from which nothing has come."""
        self._received = self.handled = 0

    def stop(self) -> None:
        """Receive nothing more."""
        if self._task is not None:
            self._task.cancel()

    async def _receive(self) -> None:
        try:
            while self._is_needed():
                for kind, content in await self._link.next_messages(lambda: self._received):
                    self._received += 1
                    await self._take(kind, content)
                    self.handled += 1
        except Exception as error:
            lost = error if isinstance(error, SchedulerLostError) else SchedulerLostError(repr(error))
            self._lost(lost)
            if lost is not error:
                raise
        finally:
            self._task = None
            # Cancelled with the session or the client's loop: nobody must wait for messages that never come.
            self._lost(SessionEndedError("the session has ended before its execution; submit it again"))
