"""Threads that go on although Dask has dropped their functions.

A thread cannot be stopped.  What its function held of the node stays claimed until the worker
says that the thread is over, or the node is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from handoff_dask.placement.events import ClaimedElsewhere, Event, ReturnedElsewhere
from handoff_dask.protocol.names import WATCH
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import Attempt


class Lingering(NamedTuple):
    """A thread that may still run a function which Dask has dropped."""

    function: FunctionState
    attempt: Attempt


class LingeringThreads:
    """Which threads go on, each by the number of the claim that it keeps.

    Parameters
    ----------
    send
        Sends a message to the worker of this address, if it is there.
    """

    def __init__(self, send: Callable[[str, dict[str, Any]], None]) -> None:
        self._send = send
        self.threads: dict[int, Lingering] = {}
        #: Workers to be asked when a thread is over: ``(address, key, claim)``.
        self._to_watch: list[tuple[str, str, int]] = []
        self._claims = 0

    def add(self, function: FunctionState, attempt: Attempt) -> Event:
        """Note that a thread goes on; its claim, for the engine."""
        self._claims += 1
        self.threads[self._claims] = Lingering(function, attempt)
        # The worker is asked only after Dask has told it to drop the task.
        self._to_watch.append((attempt.address, function.key, self._claims))
        return _claim_of(self._claims, function, attempt)

    def claim_of(self, attempt: Attempt) -> ClaimedElsewhere | None:
        """What a thread that goes on holds by now; ``None`` if it is over."""
        for number, (function, its_attempt) in self.threads.items():
            if its_attempt is attempt:
                return _claim_of(number, function, attempt)
        return None

    def ask(self) -> None:
        """Ask the workers when the threads of dropped functions are over."""
        for address, key, claim in self._to_watch:
            self._send(address, {"op": WATCH, "key": key, "claim": claim})
        self._to_watch.clear()

    def over(self, claim: int) -> tuple[Lingering, Event] | None:
        """Note that a thread is over; what it was, and the end of its claim."""
        found = self.threads.pop(claim, None)
        return None if found is None else (found, ReturnedElsewhere(claim=("lingering", claim)))

    def node_left(self, address: str) -> list[Lingering]:
        """Forget the threads of a node that is gone."""
        gone = [claim for claim, found in self.threads.items() if found.attempt.address == address]
        return [self.threads.pop(claim) for claim in gone]


def _claim_of(number: int, function: FunctionState, attempt: Attempt) -> ClaimedElsewhere:
    cost, threads = attempt.holds()
    return ClaimedElsewhere(
        claim=("lingering", number),
        node=attempt.node,
        cost=cost,
        threads=threads,
        devices=attempt.devices,
    )
