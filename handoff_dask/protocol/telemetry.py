"""What the scheduler notes for those who listen, and how a client makes events of it.

The scheduler notes what only it knows, by run and position; the ids, costs and names that do not
change go along once per run.  So an event costs it one small tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from distributed.protocol import pickle
from distributed.protocol.serialize import Serialize, Serialized, deserialize

from handoff_dask.errors import AllocationError, FunctionFailedError
from handoff_dask.protocol.manifest import with_items
from handoff_dask.telemetry.events import Event

DAG = ("handoff", "execution", "dag")
FUNCTION = ("handoff", "execution", "function")
NODE = ("handoff", "node")
# Made once: an event that is noted thousands of times is then packed once.
DAG_START, DAG_STOP, DAG_EXCEPTION = (*DAG, "start"), (*DAG, "stop"), (*DAG, "exception")
START = (*FUNCTION, "start")
ENDS: Mapping[str, Event] = {end: (*FUNCTION, end) for end in ("stop", "exception", "retry")}
REUSED = (*FUNCTION, "reused")
ALLOCATION = ("handoff", "allocation", "function")
CLAIM = ("handoff", "resources", "claim")
RELEASE = ("handoff", "resources", "release")
NODE_UP, NODE_DOWN, NODE_UPDATE = (*NODE, "up"), (*NODE, "down"), (*NODE, "update")
NODE_SICK, NODE_WELL = (*NODE, "sick"), (*NODE, "well")

#: An event as handlers are told it: name, measurements, metadata.
Told: TypeAlias = tuple[Event, dict[str, Any], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Introduction:
    """What does not change about a run; the ids are pickled, since the scheduler may not know their types."""

    token: str
    dag_id: bytes
    ids: bytes
    strategy: str
    #: The distinct costs and their amounts, and for each function the position of its own.
    costs: Sequence[Mapping[str, Any]]
    amounts: Sequence[Mapping[str, int | float]]
    demand_of: Sequence[int]
    #: Items of maps; see :attr:`~handoff_dask.protocol.manifest.Manifest.spawned`.
    spawned: Sequence[tuple[int, int, int]] = ()


class KnownRun:
    """A run that a client has been introduced to."""

    __slots__ = ("_amounts", "_costs", "_demand_of", "dag_id", "ids", "strategy")

    def __init__(
        self, introduction: Introduction, ids: tuple[Hashable, Sequence[Hashable]] | None = None
    ) -> None:
        self.dag_id, known = ids or _ids(introduction)
        self.ids = with_items(known, introduction.spawned) if introduction.spawned else known
        self.strategy = introduction.strategy
        self._costs, self._amounts = introduction.costs, introduction.amounts
        self._demand_of = introduction.demand_of

    def cost(self, position: int) -> dict[str, Any]:
        """What a function costs, labels included; the caller's own copy."""
        return dict(self._costs[self._demand_of[position]])

    def amounts(self, position: int) -> dict[str, int | float]:
        """What a function holds while it runs; the caller's own copy."""
        return dict(self._amounts[self._demand_of[position]])


def _ids(introduction: Introduction) -> tuple[Hashable, Sequence[Hashable]]:
    try:
        return pickle.loads(introduction.dag_id), pickle.loads(introduction.ids)
    except Exception:  # whatever the type's own unpickling raises, or its module is not here
        token = introduction.token
        return token, [f"{token}-{n}" for n in range(len(introduction.demand_of))]


class Allocated(NamedTuple):
    """A function has been bound to a node."""

    event: Event
    run: str
    position: int
    node: str
    waited_s: float
    candidates: int
    cause: str
    transfer_bytes: int

    def _reason(self, strategy: str) -> str:
        """Why this node, and what was waited for."""
        why = (
            "the only node with room"
            if self.candidates == 1
            else f"{strategy} of {self.candidates} nodes with room"
        )
        return f"{why}; waited for {self.cause}" if self.cause else f"{why}; did not wait"

    def told(self, run: KnownRun) -> Told:
        """The event."""
        metadata = {
            "dag_id": run.dag_id,
            "function_id": run.ids[self.position],
            "node": self.node,
            "strategy": run.strategy,
            "reason": self._reason(run.strategy),
        }
        measurements = {
            "wait_time": self.waited_s,
            "candidates": self.candidates,
            "transfer_bytes": self.transfer_bytes,
        }
        return self.event, measurements, metadata


class Booked(NamedTuple):
    """A function has taken what it costs, or given it back."""

    event: Event
    run: str
    position: int
    node: str
    available: dict[str, int | float]
    #: What it has taken, if that is not what its function cost at first.
    amounts: dict[str, int | float] | None = None

    def told(self, run: KnownRun) -> Told:
        """The event."""
        metadata = {"node": self.node, "dag_id": run.dag_id, "function_id": run.ids[self.position]}
        amounts = run.amounts(self.position) if self.amounts is None else self.amounts
        return self.event, {"amounts": amounts, "available": self.available}, metadata


class Began(NamedTuple):
    """An attempt has begun."""

    event: Event
    run: str
    position: int
    node: str
    attempt: int
    began: float
    queued_s: float
    #: What it costs, if that is not what its function cost at first.
    cost: dict[str, Any] | None = None

    def told(self, run: KnownRun) -> Told:
        """The event."""
        measurements = {"system_time": self.began, "queue_time": self.queued_s}
        return self.event, measurements, _about_attempt(self, run)


class Ended(NamedTuple):
    """An attempt is over."""

    event: Event
    run: str
    position: int
    node: str
    attempt: int
    began: float
    queued_s: float
    duration_s: float
    nbytes: int | None
    #: Pickled, or a text where no exception was raised.
    exception: bytes | str | None
    #: Processor seconds, megabytes, and whether these are exact.
    used: Sequence[Any] | None = None
    #: What it costs, if that is not what its function cost at first.
    cost: dict[str, Any] | None = None

    def told(self, run: KnownRun) -> Told:
        """The event."""
        measurements: dict[str, Any] = {
            "system_time": self.began,
            "queue_time": self.queued_s,
            "duration": self.duration_s,
        }
        if self.used is not None:
            measurements.update(zip(("cpu_s", "peak_memory_mb", "exact"), self.used, strict=True))
        if self.nbytes is not None:
            measurements["nbytes"] = self.nbytes
        metadata = _about_attempt(self, run)
        if self.exception is not None:
            metadata["exception"] = read_exception(self.exception)
        return self.event, measurements, metadata


def _about_attempt(note: Began | Ended, run: KnownRun) -> dict[str, Any]:
    return {
        "dag_id": run.dag_id,
        "function_id": run.ids[note.position],
        "node": note.node,
        "attempt": note.attempt,
        "cost": run.cost(note.position) if note.cost is None else dict(note.cost),
    }


class Failed(NamedTuple):
    """How a run failed: a function raised."""

    position: int
    node: str | None
    attempts: int
    exception: bytes | str

    def error(self, run: KnownRun) -> BaseException:
        """What the execution raises."""
        cause = read_exception(self.exception)
        if not isinstance(cause, BaseException):
            cause = RuntimeError(cause)
        return FunctionFailedError(run.ids[self.position], self.node, self.attempts, cause)


class Refused(NamedTuple):
    """How a run failed: a function could not be placed."""

    position: int
    reasons: Mapping[str, str]
    problem: str | None
    #: What it costs, if that is not what it cost at first.
    cost: dict[str, Any] | None = None

    def error(self, run: KnownRun) -> BaseException:
        """What the execution raises."""
        cost = run.cost(self.position) if self.cost is None else self.cost
        return AllocationError(run.ids[self.position], cost, self.reasons, self.problem)


def _cancelled(run: KnownRun) -> BaseException:
    # Only the client needs it, whose modules import those of the scheduler.
    from handoff_dask.errors import ExecutionCancelledError

    return ExecutionCancelledError(run.dag_id)


class RunNoted(NamedTuple):
    """A run has begun, or is over."""

    event: Event
    run: str
    status: str
    function_count: int
    submitted: float
    duration_s: float | None = None
    why: Failed | Refused | None = None

    def told(self, run: KnownRun) -> Told:
        """The event."""
        measurements = {"system_time": self.submitted}
        if self.duration_s is not None:
            measurements["duration"] = self.duration_s
        metadata: dict[str, Any] = {
            "dag_id": run.dag_id,
            "function_count": self.function_count,
            "allocation_strategy": run.strategy,
            "status": self.status,
        }
        if self.event == DAG_EXCEPTION:
            metadata["exception"] = _cancelled(run) if self.why is None else self.why.error(run)
        return self.event, measurements, metadata


class ReusedNoted(NamedTuple):
    """Functions of a run do not run, since their results are known."""

    event: Event
    run: str
    #: Their ids, pickled.
    ids: bytes
    at: float

    def told(self, run: KnownRun) -> list[Told]:
        """The events, one for each function."""
        ids = pickle.loads(self.ids)
        return [(self.event, {"system_time": self.at}, {"dag_id": run.dag_id, "function_id": i}) for i in ids]


class NodeNoted(NamedTuple):
    """A node is there, is gone, or offers something else."""

    event: Event
    run: None
    node: str
    address: str | None
    capabilities: dict[str, Any]

    def told(self, run: None) -> Told:
        """The event."""
        return self.event, {"capabilities": self.capabilities}, {"node": self.node, "address": self.address}


class NodeJudged(NamedTuple):
    """A node is set aside since it only fails, or is used again."""

    event: Event
    run: None
    node: str
    failures: int
    reason: str

    def told(self, run: None) -> Told:
        """The event."""
        return self.event, {"failures": self.failures}, {"node": self.node, "reason": self.reason}


Note: TypeAlias = Allocated | Booked | Began | Ended | RunNoted | ReusedNoted | NodeNoted | NodeJudged


def pack_exception(exception: Any) -> bytes | str:
    """An exception as the scheduler has it, which does not look into it."""
    if isinstance(exception, Serialized):
        exception = deserialize(exception.header, exception.frames)
    elif isinstance(exception, Serialize):
        exception = exception.data
    if isinstance(exception, (bytes, str)):
        return exception
    try:
        return bytes(pickle.dumps(exception))
    except Exception:  # whatever its own __reduce__ raises
        return repr(exception)


def read_exception(packed: bytes | str) -> Any:
    """The exception; a text that says so where it cannot be read."""
    if isinstance(packed, str):
        return packed
    try:
        return pickle.loads(packed)
    except Exception as error:  # its module may not be here
        return f"an exception that cannot be read here ({error!r})"


#: What kind of note an event is made from.
KINDS: Mapping[Event, type[Note]] = {
    ALLOCATION: Allocated,
    REUSED: ReusedNoted,
    CLAIM: Booked,
    RELEASE: Booked,
    START: Began,
    **dict.fromkeys(ENDS.values(), Ended),
    **dict.fromkeys((DAG_START, DAG_STOP, DAG_EXCEPTION), RunNoted),
    **dict.fromkeys((NODE_UP, NODE_DOWN, NODE_UPDATE), NodeNoted),
    **dict.fromkeys((NODE_SICK, NODE_WELL), NodeJudged),
}


def pack(introductions: Sequence[Introduction], notes: Sequence[Note], forgotten: Sequence[str]) -> bytes:
    """What a session is sent at once."""
    # Plain tuples are packed and unpacked many times faster than named ones.
    return bytes(pickle.dumps((introductions, list(map(tuple, notes)), forgotten)))


def unpack(packed: bytes) -> tuple[Sequence[Introduction], list[Note], Sequence[str]]:
    """What :func:`pack` was given."""
    introductions, notes, forgotten = pickle.loads(packed)
    return introductions, [KINDS[note[0]](*note) for note in notes], forgotten


def expand(notes: Sequence[Note], known: Callable[[str], KnownRun | None]) -> list[Told]:
    """The events that were noted; those of runs that are not known are left out."""
    told: list[Told] = []
    for note in notes:
        if isinstance(note, (NodeNoted, NodeJudged)):
            told.append(note.told(None))
        elif (run := known(note.run)) is None:
            continue
        elif isinstance(note, ReusedNoted):
            told.extend(note.told(run))
        else:
            told.append(note.told(run))
    return told
