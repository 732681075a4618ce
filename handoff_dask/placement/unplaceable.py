"""Functions that no node there is could ever hold, and how long they may wait for one."""

from __future__ import annotations

from heapq import heappop, heappush

from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.decisions import Reject
from handoff_dask.placement.explanation import Obstacle
from handoff_dask.placement.queues import Queue, ScheduledFunction
from handoff_dask.placement.reasons import idle_obstacle


class Unplaceable:
    """The clocks of functions for which a node has yet to come."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        #: Queues whose functions no node could hold.
        self.queues: dict[Queue, None] = {}
        #: ``(deadline, number, function, its queue's generation)``; void once that has passed.
        self._due: list[tuple[float, int, ScheduledFunction, int]] = []
        self._number = 0

    def add(self, scheduled: ScheduledFunction, now: float) -> None:
        """Start the clock of a function that has just become ready, if no node could hold it."""
        queue = scheduled.queue
        if queue.unplaceable:
            self.watch(scheduled, now)
        elif not self._backlog.is_possible(queue):
            self.review(queue, now)

    def review(self, queue: Queue, now: float) -> None:
        """Start or stop the clocks of a queue."""
        unplaceable = not self._backlog.is_possible(queue)
        if unplaceable == queue.unplaceable:
            return
        queue.unplaceable = unplaceable
        queue.generation += 1
        if unplaceable:
            self.queues[queue] = None
            for scheduled in queue.in_order():
                self.watch(scheduled, now)
        else:
            del self.queues[queue]
            self._backlog.refresh(queue)

    def review_all(self, now: float) -> None:
        """Look at all queues of unplaceable functions: there is a node more, or one that offers more."""
        for queue in list(self.queues):
            self.review(queue, now)

    def tidy(self) -> None:
        """Forget queues in which nothing waits any more."""
        for queue in [queue for queue in self.queues if not queue.count]:
            queue.unplaceable = False
            queue.generation += 1
            del self.queues[queue]
        if not self.queues:
            self._due.clear()

    def watch(self, scheduled: ScheduledFunction, now: float) -> None:
        """Start the clock of one function."""
        self._number += 1
        item = (now + scheduled.run.timeout_s, self._number, scheduled, scheduled.queue.generation)
        heappush(self._due, item)

    def due(self, now: float) -> ScheduledFunction | None:
        """The next function whose time is up, if there is one."""
        deadline = self.deadline()
        return None if deadline is None or deadline > now else heappop(self._due)[2]

    def deadline(self) -> float | None:
        """When the next function's time is up."""
        while self._due:
            deadline, _, scheduled, generation = self._due[0]
            if scheduled.waits and scheduled.queue.generation == generation and not scheduled.run.failed:
                return deadline
            heappop(self._due)
        return None


def reject(backlog: Backlog, scheduled: ScheduledFunction, problem: str | None = None) -> Reject:
    """Give up a function, and with it its run unless that goes on: nothing more of it is placed."""
    queue, run = scheduled.queue, scheduled.run
    obstacles = {name: why for name, why in obstacles_of(backlog, queue).items() if why is not None}
    if run.goes_on:
        backlog.withdraw(scheduled)
    else:
        run.failed = True
        backlog.drop_waiting(run)
    return Reject(function=scheduled.function, run=run.key, obstacles=obstacles, problem=problem)


def obstacles_of(backlog: Backlog, queue: Queue) -> dict[str, Obstacle | None]:
    """What keeps each node, even when idle, from holding the functions of a queue."""
    nodes = sorted(backlog.ledger.nodes.values(), key=lambda node: node.name)
    request, group = queue.request, queue.to_bind
    shared, confinement = backlog.ledger.shared, request.confinement
    found = {
        n.name: idle_obstacle(n, request.cost, queue.pin, request.hold, confinement, shared) for n in nodes
    }
    if group is None or group.is_possible():
        return found
    asked = group.request.cost
    return {n.name: idle_obstacle(n, asked, group.pin, None, confinement, shared) for n in nodes}
