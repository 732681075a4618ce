"""The prefetch queues of nodes: who is in them, whose turn it is, and what admits them there.

A function that is sent before there is room waits on its node in a *prefetch queue*, behind those
whose claim it takes over.  The worker admits the functions of a queue by what is left of a *lane*;
a queue of so many slots runs so many functions at once.

A worker gives back what a function takes of its lane when its thread is over.  Where Dask has dropped
a function whose thread goes on, or a function waits for others, that is stuck as long.  The
queue then goes on with another lane, and what was sent behind that function is taken back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from handoff_dask.protocol.names import LANE_UNITS, LANES, RELAYS, SHORT_LANES
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import Attempt, Prefetched, QueueKey


@dataclass(slots=True)
class _Queue:
    """What one prefetch queue of a node has been sent."""

    #: How many may have begun.
    begun: int = 0
    #: Those behind, in their order.
    behind: deque[tuple[FunctionState, Attempt]] = field(default_factory=deque)
    #: Those that may have begun.
    running: dict[Attempt, FunctionState] = field(default_factory=dict)
    #: When the last one ended, in seconds since the epoch.
    moved: float = 0.0

    def waiting(self) -> list[FunctionState]:
        """Those whose turn has not come; what was dropped meanwhile is left out."""
        return [f for f, attempt in self.behind if _is_behind(f, attempt)]


class PrefetchQueues:
    """All prefetch queues, and the lanes that admit their functions."""

    def __init__(self) -> None:
        self._queues: dict[QueueKey, _Queue] = {}
        #: Lanes of queues that do not have the one of their own number.
        self._instead: dict[QueueKey, int] = {}
        #: ``{(address, lane): threads that hold it, and have left their queue}``.
        self._stuck: dict[QueueKey, int] = {}
        #: What each such thread holds.
        self._held: dict[Attempt, QueueKey] = {}

    # ------------------------------------------------------------------ order

    def enter(self, function: FunctionState, attempt: Attempt, slots: int) -> bool:
        """Note that a function is being sent in the queue of its attempt; whether it is behind others."""
        assert attempt.queue is not None
        queue = self._queues.get(attempt.queue)
        if queue is None:
            queue = self._queues[attempt.queue] = _Queue()
        if queue.begun < slots:
            queue.begun += 1
            queue.running[attempt] = function
            return False
        queue.behind.append((function, attempt))
        return True

    def leave(self, attempt: Attempt, now: float) -> FunctionState | None:
        """Note that an attempt is off its node, which lives; the function whose turn comes, if any does."""
        queue = None if attempt.queue is None else self._queues.get(attempt.queue)
        if queue is None or queue.running.pop(attempt, None) is None:
            # One that was behind others leaves nobody its place.
            return None
        queue.moved = now
        while queue.behind:
            follower, its_attempt = queue.behind.popleft()
            if _is_behind(follower, its_attempt):
                queue.running[its_attempt] = follower
                return follower
        self._one_less(attempt, queue)
        return None

    def _one_less(self, attempt: Attempt, queue: _Queue) -> None:
        queue.begun -= 1
        if not queue.begun:
            assert attempt.queue is not None
            del self._queues[attempt.queue]

    def behind(self, key: QueueKey) -> list[FunctionState]:
        """The functions in a queue whose turn has not come."""
        queue = self._queues.get(key)
        return [] if queue is None else queue.waiting()

    def is_anybody_behind(self) -> bool:
        """Whether some function waits in a queue."""
        return any(queue.behind for queue in self._queues.values())

    def overdue(self, since: float) -> Iterator[tuple[list[FunctionState], list[FunctionState]]]:
        """Those that run and those that wait in each queue in which nothing has ended since then."""
        for queue in self._queues.values():
            if queue.behind and queue.moved < since:
                waiting = queue.waiting()
                if waiting and waiting[0].attempt is not None and waiting[0].attempt.placed < since:
                    yield list(queue.running.values()), waiting

    # ------------------------------------------------------------------ admission

    def admission(self, key: QueueKey, slots: int) -> dict[str, float]:
        """What a function takes of the lane of its queue, of which so many run at once."""
        return {LANES[self._instead.get(key, key[1])]: LANE_UNITS // slots}

    def sticks(self, attempt: Attempt, now: float) -> list[FunctionState]:
        """Note that an attempt leaves its queue, but its thread keeps what it takes of the lane.

        The queue goes on with another lane.  The answer: those behind, which cannot begin there.
        """
        assert attempt.queue is not None
        key = attempt.queue
        queue = self._queues.get(key)
        behind: list[FunctionState] = []
        if queue is not None:
            behind = queue.waiting()
            if queue.running.pop(attempt, None) is not None:
                queue.moved = now
                queue.behind.clear()
                self._one_less(attempt, queue)
        if attempt in self._held:
            return []
        address, number = key
        held = self._held[attempt] = (address, self._instead.get(key, number))
        self._stuck[held] = self._stuck.get(held, 0) + 1
        taken = {n for a, n in [*self._stuck] if a == address}
        taken |= {n for (a, _), n in self._instead.items() if a == address}
        # The last ones are nobody's own; with none left, the queue waits for the thread.
        spare = [n for n in range(SHORT_LANES + RELAYS, len(LANES)) if n not in taken]
        if spare:
            self._instead[key] = spare[-1]
        return behind

    def comes_free(self, attempt: Attempt) -> None:
        """Note that such a thread is over."""
        held = self._held.pop(attempt, None)
        if held is None:
            return
        left = self._stuck.get(held, 0) - 1
        if left > 0:
            self._stuck[held] = left
        else:
            self._stuck.pop(held, None)
            # The queue whose own it is goes on with it.
            self._instead.pop(held, None)

    def node_left(self, address: str) -> None:
        """Forget the queues of a node that is gone."""
        tables: tuple[dict[QueueKey, Any], ...] = (self._queues, self._instead, self._stuck)
        for known in tables:
            for key in [k for k in known if k[0] == address]:
                del known[key]
        for attempt in [a for a, held in self._held.items() if held[0] == address]:
            del self._held[attempt]


def _is_behind(function: FunctionState, attempt: Attempt) -> bool:
    """Whether an attempt is still the function's own, and its turn has not come."""
    state = function.state
    return isinstance(state, Prefetched) and state.attempt is attempt
