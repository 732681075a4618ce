"""What client, scheduler and workers say to each other: names, and what is sent under them."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from dask.base import tokenize

from handoff_dask.errors import HandoffError
from handoff_dask.placement.events import Demand
from handoff_dask.resources import Capabilities


class SchedulerLostError(HandoffError):
    """The scheduler cannot be reached any more."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        #: How that shows itself.
        self.why = why

    def __str__(self) -> str:
        return f"the scheduler cannot be reached ({self.why}); connect a new client and submit again"


#: The name of both plugins, and of the scheduler's RPC handler.
NAME = "handoff"

#: RPC, worker to scheduler: what the worker offers.
REPORT = "handoff_report"
#: Stream, scheduler to worker: say when this task's thread is over.
WATCH = "handoff-watch"
#: Stream, worker to scheduler: the thread of a watched task is over.
ENDED = "handoff-ended"
#: Stream, scheduler to worker: report each task of ours that starts (or stop doing so).
REPORT_STARTS = "handoff-report-starts"
#: Stream, worker to scheduler: a task of ours has started.
STARTED = "handoff-started"
#: Stream, worker to scheduler: an attempt of a task of ours has raised.
RAISED = "handoff-raised"
#: Stream, worker to scheduler: tasks, ours or not, need a result that has come and cannot be read.
UNREADABLE = "handoff-unreadable"

#: Stream, worker to scheduler: a task, ours or not, has let go of its thread.
SECEDED = "handoff-seceded"

#: Dask resources that admit functions which were sent ahead, one name for each lane of a node,
#: and for each function of it that may be followed; the rest is to spare.
LANES = tuple(f"{NAME}-lane-{i}" for i in range(48))
#: So many of them are for short functions, of which several are under way; so many for functions
#: that may be followed.
SHORT_LANES, RELAYS = 4, 28
#: How much of its resource each lane has: divisible by any small number of slots.
LANE_UNITS = 720_720

#: The layer annotation by which the scheduler plugin knows our tasks.
ANNOTATION = "handoff"


@dataclass(slots=True)
class Options:
    """How a run is to be executed."""

    #: Name of a built-in strategy, or the user's own, pickled by cloudpickle.
    strategy: str | bytes = "first_available"
    #: What users and telemetry call it.
    strategy_name: str = "first_available"
    #: ``{node name or address: the most the run may use there}``.
    nodes: Mapping[str, Capabilities] | None = None
    max_concurrency: int | None = None
    max_retries: int = 3
    #: Seconds.
    allocation_timeout_s: float = 0.0


@dataclass(slots=True)
class Manifest:
    """What the scheduler must know of a run: its functions' demands, by position.

    Ids stay in the client; the scheduler carries them only as an opaque pickle, so that they may
    be of types it cannot import.
    """

    token: str
    #: The DAG's id, pickled, and as a token by which equal ids are equal.
    dag_id: bytes
    dag_token: str
    #: The ids of the scheduled functions in topological order, pickled as one list.
    ids: bytes
    #: Names of their codes.
    names: list[str]
    #: The distinct demands, and for each function the position of its own.
    demands: list[Demand]
    demand_of: list[int]
    #: Positions of the functions that each one waits for.
    retries: list[int]
    #: Of the functions that have one.
    priorities: dict[int, float] = field(default_factory=dict)
    durations: dict[int, float] = field(default_factory=dict)
    #: ``{group: what its node must be able to hold}``.
    groups: dict[Hashable, Demand] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    #: The functions as an own strategy is shown them, pickled; see ``own_strategies``.
    shown: bytes | None = None
    #: The session that is told how the run ends.
    listener: str = ""
    #: Positions of the functions that move an argument: ``{position: (role, producer, group)}``.
    transfers: dict[int, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def key(self, position: int) -> str:
        """The Dask key of a function: its code's name, the run, its position."""
        return f"{self.names[position]}-{self.token}-{position}"

    def keys(self) -> list[str]:
        """All keys, by position."""
        token = self.token
        return [f"{name}-{token}-{i}" for i, name in enumerate(self.names)]


def token_of(identity: Hashable) -> str:
    """What names an id on the scheduler, where its type may be unknown.

    Ids that are one key of a dict have one token.

    Examples
    --------
    >>> token_of(("a", 1)) == token_of(("a", 1.0)) != token_of(("a", 2))
    True
    """
    return str(tokenize(_plain(identity)))


def _plain(identity: Any) -> Any:
    if type(identity) is tuple:
        return tuple([_plain(part) for part in identity])
    if isinstance(identity, str):
        return str.__str__(identity)
    if isinstance(identity, numbers.Number):
        with suppress(OverflowError, TypeError, ValueError):  # infinity, what is complex or no number
            number: Any = float(identity)  # type: ignore[arg-type]
            whole: Any = int(identity)  # type: ignore[call-overload]
            return whole if whole == identity else number if number == identity else identity
    return identity


def position_of(key: str) -> int:
    """The position that stands in a key made by :meth:`Manifest.key`."""
    return int(key[key.rindex("-") + 1 :])


#: A run that ends within so many seconds is not worth planning.
LEAST_PLANNED_S = 1.0


@dataclass(slots=True)
class Standing:
    """How a run stands, for the client's planner; lists are by position."""

    #: ``"done"``, ``"running"`` or ``"left"``.
    states: Sequence[str]
    #: Seconds, where anything is known.
    expected_s: Sequence[float | None]
    ranks: Sequence[float]
    #: ``{position: (node, seconds since it was placed)}``.
    running: Mapping[int, tuple[str, float]]
    #: ``{node: (capabilities, threads)}``.
    nodes: Mapping[str, tuple[Mapping[str, Any], int]]


@dataclass(slots=True)
class Outcome:
    """How a run ended, as the scheduler tells its client; lists are by position."""

    token: str
    status: str
    nodes: Sequence[str | None] = ()
    ready: Sequence[float | None] = ()
    placed: Sequence[float | None] = ()
    start: Sequence[float | None] = ()
    stop: Sequence[float | None] = ()
    attempts: Sequence[int] = ()
    causes: Sequence[str] = ()
    nbytes: Sequence[int | None] = ()
    #: Seconds that the arguments took to the node.
    transfers: Sequence[float | None] = ()
    states: Sequence[str] = ()
    #: ``{node: capabilities}``.
    capabilities: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    submitted: float = 0.0
    ended: float | None = None
    #: Position of the function that failed.
    failed: int | None = None
    #: Why it could not be placed, if that is how it failed: ``({node: why not}, what else)``.
    refusal: tuple[dict[str, str], str | None] | None = None
