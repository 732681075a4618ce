"""Who is blamed when a worker dies: not those that were sent ahead and have not begun.

Dask suspects every task that is assigned to a worker when it dies, and gives up a task that is
suspected too often.  It is right for us too, as a function is assigned when it can start; but
those that were sent ahead, behind others, are innocent.  They are let off in advance: Dask's
suspicion of them is one lower than it should be until their turn comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from distributed.metrics import time

if TYPE_CHECKING:
    from distributed.scheduler import TaskState

    from handoff_dask.scheduler.runs import Function

#: A node's address and the number of a lane there.
LaneKey = tuple[str, int]


@dataclass(slots=True)
class Line:
    """The functions that one lane of a node has been sent."""

    #: How many may have begun.
    begun: int = 0
    #: Those behind, in their order, with the tasks as Dask knows them.
    behind: deque[tuple[Function, TaskState]] = field(default_factory=deque)
    #: Those that may have begun.
    running: dict[Function, None] = field(default_factory=dict)
    #: When the last one ended, in seconds since the epoch.
    moved: float = 0.0

    def waiting(self, key: LaneKey) -> list[Function]:
        """Those of this lane whose turn has not come; who was dropped meanwhile is left out."""
        return [f for f, _ in self.behind if f.lane == key and f.behind]


class Blame:
    """Keeps suspicion from functions whose turn has not come."""

    def __init__(self) -> None:
        self._lines: dict[LaneKey, Line] = {}
        self._turns = count()

    def placed(self, function: Function, task: TaskState, lane: tuple[int, int]) -> None:
        """A function is being sent in a lane, ``(its number, how many of it run at once)``."""
        number, slots = lane
        assert function.address is not None
        function.lane = (function.address, number)
        line = self._lines.get(function.lane)
        if line is None:
            line = self._lines[function.lane] = Line()
        # The worker takes them in this order, which is the engine's, whatever graph they are of.
        task.priority = (0, 0, next(self._turns))
        if line.begun < slots:
            line.begun += 1
            line.running[function] = None
        else:
            function.spared, function.behind = task.suspicious, True
            task.suspicious -= 1
            line.behind.append((function, task))

    def left(self, function: Function, task: TaskState, *, alive: bool) -> None:
        """A function that was sent in a lane is off its node: if that lives, the next one may begin."""
        key, function.lane = function.lane, None
        if function.spared is not None:
            # Whatever has become of its node, it was not to blame.
            task.suspicious, function.spared = function.spared, None
            return
        line = self._lines.get(key) if key is not None else None
        if line is None or key is None or not alive:
            return
        line.moved = time()
        line.running.pop(function, None)
        while line.behind:
            follower, its_task = line.behind.popleft()
            if follower.lane == key and follower.spared is not None:
                its_task.suspicious, follower.spared = follower.spared, None
                follower.behind = False
                line.running[follower] = None
                return
        line.begun -= 1
        if not line.begun:
            del self._lines[key]

    def behind(self, key: LaneKey) -> list[str]:
        """Keys of the functions in a lane whose turn has not come."""
        line = self._lines.get(key)
        return [] if line is None else [f.key for f in line.waiting(key)]

    def anybody_behind(self) -> bool:
        """Whether some function waits in a lane."""
        return any(line.behind for line in self._lines.values())

    def stuck(self, since: float) -> Iterator[tuple[list[Function], list[Function]]]:
        """Those that run and those that wait in each lane in which nothing has ended since then."""
        for key, line in self._lines.items():
            if line.behind and line.moved < since:
                waiting = line.waiting(key)
                if waiting and (waiting[0].placed or 0.0) < since:
                    yield list(line.running), waiting

    def node_left(self, address: str) -> None:
        """A node is gone, with its lanes; who was spared there stays spared."""
        for key in [k for k in self._lines if k[0] == address]:
            del self._lines[key]
