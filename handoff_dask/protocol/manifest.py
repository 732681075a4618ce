"""The manifest: what the scheduler must know of a run before its graph arrives."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dask.base import tokenize

from handoff_dask.graph.retry import Retry
from handoff_dask.placement.events import Demand
from handoff_dask.protocol.packing import Packed, Sent
from handoff_dask.record.status import OnFailure
from handoff_dask.resources import Capabilities


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
    #: Of the whole run: larger goes first.  What it may hold beside others of equal priority, in proportion.
    priority: float = 0
    share: float = 1.0
    #: How functions are tried again that do not say so themselves.
    retry: Retry = field(default_factory=Retry)
    #: Seconds.
    allocation_timeout_s: float = 0.0
    #: Seconds; moves of arguments that take less do not matter.
    transfer_floor_s: float = 0.01
    #: What becomes of the run when a function has failed for good.
    on_failure: OnFailure = "stop"
    #: Whether it outlives its client, and how many of these are kept once they are over.
    detach: bool = False
    retained_detached: int = 16


class Sizes(NamedTuple):
    """Where the size of an argument is found: the results of some tasks, and bytes beside these."""

    keys: tuple[Any, ...]
    nbytes: int


class AskedCost(NamedTuple):
    """A cost that is asked for each attempt."""

    #: The callable, packed.
    code: Packed | Sent
    #: ``{number of the argument's name: where its size is found}``.
    arguments: Mapping[int, Sizes]


@dataclass(slots=True)
class AskedCosts:
    """The costs of a run that are asked, by position."""

    functions: dict[int, AskedCost]
    #: Of the items of maps, by the position of what makes them.
    items: dict[int, AskedCost]
    #: Ids of their arguments, pickled as one list.
    names: bytes


@dataclass(slots=True)
class Items:
    """What is known of the items of a map before there are any."""

    #: Position of the function that takes their results.
    of: int
    #: Name of their code.
    name: str
    #: Number of their demand.
    demand: int
    retries: int
    #: How further attempts are made, if they wait or may go where an item has failed.
    retry: Retry | None = None
    priority: float = 0.0
    duration_s: float | None = None
    #: Whether the client wants their results.
    wanted: bool = False
    #: What grows of their cost; see :attr:`Manifest.growth`.
    growth: dict[str, tuple[float, int | None]] = field(default_factory=dict)
    #: Whether they run although an argument that is no list has failed, and positions of the functions that
    #: the lists need.
    accepts: bool = False
    lists: frozenset[int] = frozenset()


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
    #: How many further attempts each function has.
    retries: list[int]
    #: Of the functions that have one.
    priorities: dict[int, float] = field(default_factory=dict)
    durations: dict[int, float] = field(default_factory=dict)
    #: What grows of their costs: ``{position: {resource: (factor, the most in units or None)}}``.
    growth: dict[int, dict[str, tuple[float, int | None]]] = field(default_factory=dict)
    #: What functions ask for by now, where that is not what they asked for at first; filled on the scheduler.
    changed: dict[int, Demand] = field(default_factory=dict)
    #: Costs that are callables.
    asked: AskedCosts | None = None
    #: ``{group: what its node must be able to hold}``.
    groups: dict[Hashable, Demand] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    #: The functions as an own strategy is shown them, pickled; see ``own_strategies``.
    shown: bytes | None = None
    #: The session that is told how the run ends.
    listener: str = ""
    #: The function that executes this run, if one does: its key, and the number of its attempt.
    parent: tuple[str, int] | None = None
    #: Positions of the functions that move an argument: ``{position: (role, producer, group)}``.
    transfers: dict[int, Any] = field(default_factory=dict)
    #: Of a pipeline: ``(position of the stage, number of the worker)`` of each function.
    stages: list[tuple[int, int]] | None = None
    #: How they are made, for the functions that wait before them, or may go where they have failed.
    retry: dict[int, Retry] = field(default_factory=dict)
    #: Positions of the functions that run although arguments failed; then failures travel as values.
    accepting: frozenset[int] = frozenset()
    #: Positions of what is read in the place of functions that do not run.
    reading: frozenset[int] = frozenset()
    #: Ids of all functions that do not run since their results are known, pickled; None if there can be none.
    reused: bytes | None = None
    #: Positions of the functions that make the items of maps, and what is known of these.
    items: dict[int, Items] = field(default_factory=dict)
    #: Items that are there: ``[(position of the first, how many, position of what takes their results), …]``.
    spawned: list[tuple[int, int, int]] = field(default_factory=list)

    def spawn(self, position: int, count: int) -> list[str]:
        """Add the items of a map, after all positions that are taken; their keys."""
        items, first = self.items[position], len(self.names)
        self.spawned.append((first, count, items.of))
        self.names += [items.name] * count
        self.demand_of += [items.demand] * count
        self.retries += [items.retries] * count
        added = range(first, first + count)
        if items.retry is not None:
            self.retry.update(dict.fromkeys(added, items.retry))
        if items.priority:
            self.priorities.update(dict.fromkeys(added, items.priority))
        if items.duration_s is not None:
            self.durations.update(dict.fromkeys(added, items.duration_s))
        if items.growth:
            self.growth.update(dict.fromkeys(added, items.growth))
        if self.asked is not None and position in self.asked.items:
            self.asked.functions.update(dict.fromkeys(added, self.asked.items[position]))
        if items.accepts:
            self.accepting |= frozenset(added)
        return [self.key(n) for n in added]

    def __len__(self) -> int:
        return len(self.names)

    def key(self, position: int) -> str:
        """The Dask key of a function: its code's name, the run, its position."""
        return f"{self.names[position]}-{self.token}-{position}"

    def keys(self) -> list[str]:
        """All keys, by position."""
        token = self.token
        return [f"{name}-{token}-{i}" for i, name in enumerate(self.names)]


def with_items(ids: Sequence[Hashable], spawned: Iterable[tuple[int, int, int]]) -> list[Hashable]:
    """The ids of a run's functions, by position: these, then those of the items of maps.

    Examples
    --------
    >>> with_items(["a", "b"], [(2, 2, 1)])
    ['a', 'b', ('b', 0), ('b', 1)]
    """
    found = [*ids]
    for first, count, of in spawned:
        found[first:] = [(found[of], n) for n in range(count)]
    return found


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


def run_of(key: object) -> tuple[str | None, int]:
    """The run and the position in a key made by :meth:`Manifest.key`; ``(None, 0)`` of any other key."""
    parts = key.rsplit("-", 2) if isinstance(key, str) else []
    if len(parts) == 3 and len(parts[1]) == 16 and parts[1][0] == "0" and parts[2].isdigit():
        return parts[1], int(parts[2])
    return None, 0


def position_of(key: str) -> int:
    """The position that stands in a key made by :meth:`Manifest.key`."""
    return int(key[key.rindex("-") + 1 :])
