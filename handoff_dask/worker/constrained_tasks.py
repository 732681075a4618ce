"""What a worker holds back until its resources are free: nobody blocks those behind.

A worker of Dask looks only at the first task of those that wait for its resources; one that does
not fit blocks all others, though they would.  There is no hook for that.  So the one place where
it looks, ``WorkerState.constrained``, is given another collection of the same kind, whose first
task is the first that fits.  That is the only thing of a worker's inside that we replace.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableSet
from operator import attrgetter
from typing import TYPE_CHECKING

from distributed.collections import HeapSet
from distributed.worker_state_machine import TaskState

if TYPE_CHECKING:
    from distributed.worker_state_machine import WorkerState

#: What a task asks of its worker: resources and amounts.
_Asked = tuple[tuple[str, float], ...]

_priority = attrgetter("priority")


class HeldBack(MutableSet[TaskState]):
    """Tasks by priority, those first for which there is room.

    Parameters
    ----------
    state
        The worker's, for the resources that are free.
    """

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        #: Tasks that ask for the same fit or do not fit together.
        self._alike: dict[_Asked, HeapSet[TaskState]] = {}
        #: What each task asked for when it came.
        self._asked: dict[TaskState, _Asked] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def __contains__(self, value: object) -> bool:
        return value in self._asked

    def __iter__(self) -> Iterator[TaskState]:
        return iter(self._asked)

    def sorted(self) -> Iterator[TaskState]:
        """All tasks, by priority."""
        return iter(sorted(self._asked, key=_priority))

    def add(self, value: TaskState) -> None:
        """Hold a task back."""
        if value in self._asked:
            return
        asked = self._asked[value] = tuple(value.resource_restrictions.items())
        alike = self._alike.get(asked)
        if alike is None:
            alike = self._alike[asked] = HeapSet(key=_priority)
        alike.add(value)

    def discard(self, value: TaskState) -> None:
        """Let go of a task, if it is here."""
        asked = self._asked.pop(value, None)
        if asked is not None:
            alike = self._alike[asked]
            alike.discard(value)
            if not alike:
                del self._alike[asked]

    def peek(self) -> TaskState:
        """The first task that fits; the first of all if none does."""
        free = self._state.available_resources
        heads = [
            alike.peek()
            for asked, alike in self._alike.items()
            if all(free[name] >= amount for name, amount in asked)
        ]
        return min(heads or [alike.peek() for alike in self._alike.values()], key=_priority)

    def pop(self) -> TaskState:
        """Let go of the first task that fits."""
        first = self.peek()
        self.discard(first)
        return first


def let_nobody_block(state: WorkerState) -> None:
    """Have a worker start the first task that fits, from now on."""
    if not isinstance(state.constrained, HeldBack):
        held = HeldBack(state)
        for task in state.constrained.sorted():
            held.add(task)
        state.constrained = held  # type: ignore[assignment]  # it has all that is used there


def as_before(state: WorkerState) -> None:
    """Have a worker look at the first task only, as it did before."""
    if isinstance(state.constrained, HeldBack):
        held: HeapSet[TaskState] = HeapSet(key=_priority)
        for task in state.constrained.sorted():
            held.add(task)
        state.constrained = held
