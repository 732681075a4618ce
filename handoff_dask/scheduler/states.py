"""The states of a function on the scheduler, each with the facts that belong to it.

``lifecycle.py`` has the table of transitions between them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from handoff_dask.protocol.killed import MemoryDeath
from handoff_dask.protocol.names import SHORT_LANES
from handoff_dask.record.status import CANCELLED, FAILED, FINISHED, PENDING, RUNNING, SKIPPED, WAITING
from handoff_dask.record.usage import MemoryShortage
from handoff_dask.resources import MEGABYTE, NOTHING, Cost

#: A node's address and the number of a prefetch queue there.
QueueKey: TypeAlias = tuple[str, int]


#: What exceptions are called, as text, that tell of a want of memory.
_MEMORY = re.compile(r"[\w.]*(MemoryError|MemoryExceededError)\b")


#: A worker that died without a word is likely to have died of its memory if it held so much of its limit.
FULL = 0.8


@dataclass(slots=True)
class WorkerEnd:
    """What is known of the end of a worker; in bytes."""

    #: Name of its node.
    node: str
    limit: int
    #: What its process held, and how much of that were results of tasks.
    held: int
    results: int = 0
    #: Whether its nanny has said that it ends it for its memory.
    is_certain: bool = False

    def death(self) -> MemoryDeath | None:
        """It as it is told; ``None`` if memory was not why."""
        if not self.is_certain and self.held < FULL * self.limit:
            return None
        return MemoryDeath(self.node, self.held / MEGABYTE, self.limit / MEGABYTE, self.is_certain)

    def is_by(self, cost: Cost) -> bool:
        """Whether a function of this cost may be to blame: there was more than it claims."""
        return self.death() is not None and self.held - self.results > memory_of(cost)


def memory_of(cost: Cost) -> int:
    """The bytes that a cost claims."""
    return dict(cost.amounts).get("memory", 0)


@dataclass(slots=True, eq=False)
class Attempt:
    """One placement of a function on a node.  Times are seconds since the epoch.

    An attempt is known by its identity: what it holds of its node is returned once, whatever has
    become of the function meanwhile.
    """

    #: Name and address of the node.
    node: str
    address: str
    #: When the arguments were there, and when the function was bound to the node.
    ready: float
    placed: float
    #: What it claims.
    cost: Cost = NOTHING
    #: How many nodes had room then, and what the function had waited for.
    candidates: int = 0
    cause: str = ""
    #: Indices of the node's devices that it has.
    devices: tuple[int, ...] = ()
    #: Whether it was sent before there was room, behind another function whose claim it takes over.
    prefetched: bool = False
    #: The prefetch queue through which its worker admits it.
    queue: QueueKey | None = None
    #: When it ran, by its worker's clock; known once it has ended, or its start has been reported.
    start: float | None = None
    stop: float | None = None
    #: Seconds that it ran, once it has ended.
    took_s: float | None = None
    #: What it used: processor seconds, megabytes, and whether that is exact.
    used: tuple[float, float, bool] | None = None
    #: Whether the claim of the next attempt has grown because of how this one ended.
    has_grown: bool = False
    #: Seconds that its arguments took to the node.
    transfer_s: float | None = None
    #: Bytes of arguments that had to be moved to the node, as the engine saw it.
    transfer_bytes: int = 0
    #: Size of its result in bytes.
    nbytes: int | None = None
    #: Whether it has given back its thread at some time, to wait for others.  What it holds since then
    #: is a claim of its own in the engine.
    seceded: bool = False
    #: Whether it holds its thread, and whether it waits for an execution of its own and holds no cpu.
    has_thread: bool = True
    paused: bool = False
    #: What it has raised, before Dask has decided about a retry.
    raised: Any = None
    #: The same as text.
    raised_text: str = ""
    #: How its worker has died.
    death: WorkerEnd | None = None
    #: Why it has failed for good, if its result says so.
    failure: Any = None
    #: Whether its worker has given it back: no thread of it goes on.
    recalled: bool = False
    #: Whether its thread goes on although it has raised: its time was over.
    left_behind: bool = False

    def resumes(self, with_thread: bool) -> None:
        """Note that it needs again what it has given back."""
        self.paused = False
        self.has_thread = with_thread

    def holds(self) -> tuple[Cost, int]:
        """What it holds of its node now: of its cost, and of threads."""
        return self.cost.without("cpu") if self.paused else self.cost, int(self.has_thread)

    @property
    def wants_memory(self) -> bool:
        """Whether it has ended for want of memory."""
        if self.death is not None:
            return self.death.is_by(self.cost)
        return bool(_MEMORY.match(self.raised_text))

    def shortage(self, hint: str) -> MemoryShortage:
        """How much memory it had, and what it claimed."""
        peak = None if self.used is None else self.used[1]
        return MemoryShortage(memory_of(self.cost) / MEGABYTE or None, peak, hint)

    @property
    def is_short(self) -> bool:
        """Whether it is in a prefetch queue of short functions, several of which are under way."""
        return self.queue is not None and self.queue[1] < SHORT_LANES


@dataclass(slots=True)
class Pending:
    """Arguments are missing."""

    status: ClassVar[str] = PENDING


@dataclass(slots=True)
class Waiting:
    """Every argument is there; the engine has not placed it yet."""

    status: ClassVar[str] = WAITING
    #: Seconds since the epoch.
    since: float


@dataclass(slots=True)
class Prefetched:
    """It is on its node, behind others; its turn has not come, by the scheduler's account."""

    status: ClassVar[str] = RUNNING
    attempt: Attempt


@dataclass(slots=True)
class Running:
    """It is on its node, and may have begun."""

    status: ClassVar[str] = RUNNING
    attempt: Attempt


@dataclass(slots=True)
class Finished:
    """Its result is in the memory of a worker, or was."""

    status: ClassVar[str] = FINISHED
    attempt: Attempt


@dataclass(slots=True)
class Failed:
    """It has failed for good."""

    status: ClassVar[str] = FAILED
    #: None if it never got a node.
    attempt: Attempt | None
    #: Whether its task is given the failure as its result: whatever becomes of that task, it has failed.
    is_given: bool = False


@dataclass(slots=True)
class Cancelled:
    """Its run was over before it had ended."""

    status: ClassVar[str] = CANCELLED
    attempt: Attempt


@dataclass(slots=True)
class Skipped:
    """It needs what has failed, in a run that goes on."""

    status: ClassVar[str] = SKIPPED
    #: Position of the function that failed.
    by: int


State: TypeAlias = Pending | Waiting | Prefetched | Running | Finished | Failed | Cancelled | Skipped
