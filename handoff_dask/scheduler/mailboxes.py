"""Mailboxes: what sessions have not been told yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distributed.protocol import pickle

from handoff_dask.scheduler.lifecycle import Dropped, LifeEvent
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState, RunState
from handoff_dask.scheduler.states import State


@dataclass(slots=True)
class Mailbox:
    """What one session has not been told yet."""

    #: The Dask client of the session.
    client: str
    #: Those that the session has not said to have got: lists ``[kind, content]``, since within tuples
    #: Dask would leave exceptions packed, in one process.
    messages: list[list[Any]] = field(default_factory=list)
    filled: asyncio.Event = field(default_factory=asyncio.Event)
    #: Messages so far, got or not.
    total: int = 0

    def put(self, kind: str, content: Any) -> None:
        """Keep a message for the session's next look."""
        self.messages.append([kind, content])
        self.total += 1
        self.filled.set()


class Mailboxes:
    """The mailbox of every session: those of one client must not take each other's messages."""

    def __init__(self) -> None:
        self._boxes: dict[str, Mailbox] = {}

    def of(self, client: str, listener: str) -> Mailbox:
        """The mailbox of a session, a new one if there is none."""
        box = self._boxes.get(listener)
        if box is None:
            box = self._boxes[listener] = Mailbox(client)
        return box

    def tell(self, client: str, listener: str, kind: str, content: Any) -> None:
        """Keep a message for a session's next look."""
        self.of(client, listener).put(kind, content)

    def tell_events(self, listener: str, content: Any) -> None:
        """Keep telemetry for the next look of a session, if it is still there."""
        if listener in self._boxes:
            self._boxes[listener].put("events", content)

    def count(self, listener: str) -> int:
        """How many messages there have been for a session, got or not."""
        box = self._boxes.get(listener)
        return 0 if box is None else box.total

    async def watch(self, client: str, listener: str, got: int) -> list[list[Any]] | None:
        """Wait until there is more to tell a session than it has got; then tell it.

        None if it has been told things that are not known here: its client was thought to be gone.
        """
        if got and listener not in self._boxes:
            return None
        box = self.of(client, listener)
        del box.messages[: len(box.messages) - (box.total - got)]
        while not box.messages and self._boxes.get(listener) is box:
            box.filled.clear()
            await box.filled.wait()
        return list(box.messages)

    def close(self, listener: str) -> None:
        """A session looks no more."""
        box = self._boxes.pop(listener, None)
        if box is not None:
            box.filled.set()

    def listeners_of(self, client: str) -> list[str]:
        """The sessions of a client."""
        return [listener for listener, box in self._boxes.items() if box.client == client]


class RunMessages(Observer):
    """Tells the session that submitted a run when it begins, what it cannot read, and how it ends.

    Parameters
    ----------
    mailboxes
        Of all sessions.
    offers
        ``{node: capabilities and threads}``, as records have it.
    """

    watches = (Dropped,)

    def __init__(self, mailboxes: Mailboxes, offers: Callable[[], dict[str, dict[str, Any]]]) -> None:
        self._mailboxes = mailboxes
        self._offers = offers

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """A result that was known could not be read: the session has it computed."""
        run, attempt = function.run, function.attempt
        if function.position in run.manifest.reading and attempt is not None and attempt.raised is not None:
            self._tell(run, "missed", [run.token, function.position, attempt.raised_text])

    def run_began(self, run: RunState) -> None:
        """The first function of a run has been placed."""
        if run.watched:
            self._tell(run, "status", [run.token, run.status])

    def run_grew(self, run: RunState) -> None:
        """A run has got items of a map."""
        if run.watched:
            self._tell(run, "grew", [run.token, list(run.manifest.spawned)])

    def run_ended(self, run: RunState) -> None:
        """A run is over."""
        if run.watched:
            outcome = pickle.dumps(run.outcome(self._offers()))
            self._tell(run, "ended", [outcome, run.exceptions()])

    def _tell(self, run: RunState, kind: str, content: Any) -> None:
        for listener, client in run.listeners.items():
            self._mailboxes.tell(client, listener, kind, content)
