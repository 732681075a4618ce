"""The scheduler's record of runs: where each function stands, and how the run ended."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

from distributed.metrics import time
from distributed.protocol import pickle

from handoff_dask.graph.retry import Retry
from handoff_dask.placement.estimates import Kind, family_of
from handoff_dask.placement.events import Demand
from handoff_dask.placement.strategies import Strategy
from handoff_dask.protocol.manifest import Manifest, with_items
from handoff_dask.protocol.outcome import Outcome
from handoff_dask.protocol.telemetry import Introduction
from handoff_dask.record.logs import kept
from handoff_dask.record.status import PENDING
from handoff_dask.record.usage import MemoryShortage
from handoff_dask.resources import Cost
from handoff_dask.scheduler.states import Attempt, Pending, Prefetched, Running, State, Waiting
from handoff_dask.scheduler.user_code import UserCode

logger = logging.getLogger(__name__)


#: No waits, and elsewhere if possible.
_PLAIN = Retry()


class FunctionState:
    """One function of a run, as the scheduler sees it."""

    __slots__ = (
        "attempt",
        "attempts",
        "expected_s",
        "failed_on",
        "key",
        "not_before",
        "position",
        "rank",
        "run",
        "settled_for",
        "state",
    )

    def __init__(self, run: RunState, key: str, position: int) -> None:
        self.run = run
        self.key = key
        self.position = position
        self.state: State = Pending()
        #: The last attempt, whatever has become of it.
        self.attempt: Attempt | None = None
        #: How many attempts have begun.
        self.attempts = 0
        #: Names of the nodes on which it has raised, once for each time.
        self.failed_on: list[str] = []
        #: When its next attempt may be made, in seconds since the epoch.
        self.not_before = 0.0
        self.rank = 0.0
        #: The number of the attempt for which its cost was asked last.
        self.settled_for = 0
        #: Expected seconds, if anything is known.
        self.expected_s: float | None = None

    @property
    def status(self) -> str:
        """Where it stands, in a word."""
        return self.state.status

    @property
    def is_on_node(self) -> bool:
        """Whether it is on a node now."""
        return isinstance(self.state, (Running, Prefetched))

    @property
    def ready(self) -> float | None:
        """When it became ready last, in seconds since the epoch."""
        if isinstance(self.state, Waiting):
            return self.state.since
        return None if self.attempt is None else self.attempt.ready

    @property
    def retry(self) -> Retry:
        """How it is tried again; how often, Dask knows."""
        return self.run.manifest.retry.get(self.position, _PLAIN)

    def fact(self, name: str) -> Any:
        """A fact of the last attempt; None if there was none."""
        return None if self.attempt is None else getattr(self.attempt, name)


#: So many families of functions of one code and demand are told apart in a run.
MOST_FAMILIES = 32


class RunKind:
    """Functions of one run that have the same code and demand, and are of one family."""

    __slots__ = ("cost", "family", "known", "name", "told_s")

    def __init__(self, name: str, cost: Cost, family: str) -> None:
        self.name = name
        self.cost = cost
        self.family = family
        #: What has been learned of them, in this run and before.
        self.known: Kind | None = None
        #: The mean seconds by which the run was last ordered.
        self.told_s: float | None = None

    def teaches(self, other: RunKind, *, all_families: bool) -> bool:
        """Whether what is learned of it is all that is known of functions of another kind."""
        if other is self or not all_families:
            return other is self
        return other.known is None and other.name == self.name and other.cost == self.cost


class RunFailure(NamedTuple):
    """How a function of a run has failed."""

    #: As Dask serialises them.
    exception: Any = None
    traceback: Any = None
    #: Both as text.
    text: str = ""
    #: Why it could not be placed, if that is how it failed: ``({node: why not}, what else)``.
    refusal: tuple[dict[str, str], str | None] | None = None


class Dependence(NamedTuple):
    """What the results of a run depend on, as its client has told."""

    #: By position; None where it cannot be told.
    fingerprints: list[str | None]
    #: What each was computed from, for clients alone.
    records: bytes
    #: ``{fingerprint: key}`` of results of earlier runs that it reuses.
    earlier: dict[str, str]


class RunState:
    """One execution of a DAG."""

    #: Whether it is no DAG, but tasks of Dask's own that handoff places.
    is_of_tasks: ClassVar[bool] = False

    def __init__(self, manifest: Manifest, client: str, *, submitted: float, watched: bool) -> None:
        self.manifest = manifest
        self.token = manifest.token
        #: Its name for the engine.
        self.engine_run = manifest.token
        #: The Dask client that submitted it.
        self.client = client
        #: Submitted through a session (which is told how it ends), not as a plain collection.
        self.watched = watched
        #: The sessions that are told of it: ``{session: its client}``.
        self.listeners: dict[str, str] = {manifest.listener: client} if watched else {}
        self.status = PENDING
        self.submitted = submitted
        self.ended: float | None = None
        #: By position; absent where only some outputs were asked for.
        self.functions: dict[int, FunctionState] = {}
        #: Keys that the run still waits for: those that the client wants, all of a run that goes on.
        self.missing: set[str] = set()
        self.wanted: frozenset[str] = frozenset()
        #: Functions that Dask has not forgotten.
        self.alive = 0
        #: The functions that have failed for good, by position, the first to fail first.
        self.failures: dict[int, RunFailure] = {}
        #: ``{position: position of the failed function that it needed}``.
        self.skipped: dict[int, int] = {}
        #: What the results depend on, once the client has worked it out.
        self.depends: Dependence | None = None
        #: Keys that are kept for this run although its client does not want them.
        self.kept: set[str] = set()
        #: Somebody has asked for a result of it that was lost after its end.
        self.asked_again = False
        #: The client's planner has ordered it.
        self.planned = False
        #: How many times functions were offered to the engine, and how many times with large arguments.
        self.offered = self.with_data = 0
        #: A fixed order, by position; absent where it follows from the graph and the durations.
        self.ranks: list[float] | None = None
        #: What functions ask for by now, where that is not what they asked for at first, by position.
        self._changed = manifest.changed
        #: What their attempts have claimed, in turn, and why the last could not claim more, if so.
        self._claimed: dict[int, list[Cost]] = {}
        self._limits: dict[int, str] = {}
        #: Ids of the arguments of functions whose cost is asked, once they are read.
        self.argument_names: list[Hashable] | None = None
        #: Calls the callables that give costs, once one is asked.
        self.cost_code: UserCode | None = None
        self._kinds: dict[tuple[str, int], dict[str, RunKind]] = {}
        self._kind_of: dict[int, RunKind] = {}
        #: Positions, and for each of them which of these take its result.
        self.dependents: tuple[list[int], list[list[int]]] = ([], [])
        #: What its functions printed and logged: ``(position, attempt, node, time, source, text)``.
        self.logs: deque[tuple[int, int, str, float, str, str]] = kept(())
        self._amounts = [d.cost.to_amounts() for d in manifest.demands]
        self._costs = [d.cost.to_dict() for d in manifest.demands]
        #: Texts for the ids, by position, once somebody has looked.
        self.texts: list[str] | None = None
        self._ids: list[Hashable] | None = None
        self._dag_id: Hashable = None

    @property
    def over(self) -> bool:
        """Whether it has finished, failed or been cancelled."""
        return self.ended is not None

    @property
    def goes_on(self) -> bool:
        """Whether the engine goes on with it when a function has been rejected."""
        return self.keeps_going

    @property
    def is_detached(self) -> bool:
        """Whether it outlives its client."""
        return self.watched and self.manifest.options.detach

    @property
    def keeps_going(self) -> bool:
        """Whether all that does not need what has failed still runs."""
        return self.watched and self.manifest.options.on_failure != "stop"

    @property
    def passes_failures(self) -> bool:
        """Whether failures are results, since some of its functions accept them."""
        return self.keeps_going and bool(self.manifest.accepting) and not self.over

    @property
    def failed(self) -> int | None:
        """Position of the function that failed first."""
        return next(iter(self.failures), None)

    @property
    def problem(self) -> RunFailure:
        """How the first function failed; empty if none has."""
        return next(iter(self.failures.values()), RunFailure())

    @property
    def strategy_name(self) -> str:
        """What users and telemetry call its strategy."""
        return self.manifest.options.strategy_name

    def producers(self) -> dict[int, list[int]]:
        """``{position: positions of the functions whose results it takes}``."""
        positions, dependents = self.dependents
        found: dict[int, list[int]] = {position: [] for position in positions}
        for position, after in zip(positions, dependents, strict=True):
            for place in after:
                found[positions[place]].append(position)
        return found

    def demand(self, position: int) -> Demand:
        """What a function asks of a node."""
        changed = self._changed.get(position) if self._changed else None
        if changed is not None:
            return changed
        return self.manifest.demands[self.manifest.demand_of[position]]

    def claim(self, position: int, cost: Cost, limit: str = "", *, is_first: bool = False) -> None:
        """Let the next attempt of a function claim this, and remember why it cannot be more, if so."""
        demand = self.demand(position)
        self._changed[position] = replace(demand, cost=cost)
        claimed = self._claimed.setdefault(position, [] if is_first else [demand.cost])
        if not claimed or claimed[-1] != cost:
            claimed.append(cost)
        self._limits[position] = limit

    def has_changed(self, position: int) -> bool:
        """Whether a function costs something else than the manifest says."""
        return position in self._changed

    def limit_of(self, position: int) -> str:
        """Why the claim of a function cannot be more; ``""`` if it can."""
        return self._limits.get(position, "")

    def claimed(self, position: int) -> list[dict[str, Any]]:
        """What the attempts of a function have claimed in turn, if that has changed."""
        return [cost.to_dict() for cost in self._claimed.get(position, ())]

    def kind_of(self, position: int) -> RunKind:
        """The kind of a function: those of this run with the same code, demand and family."""
        kind = self._kind_of.get(position)
        if kind is None:
            name, number = self.manifest.names[position], self.manifest.demand_of[position]
            kinds = self._kinds.setdefault((name, number), {})
            # Where ids have nothing in common each would be a family of its own.
            family = family_of(self.id_of(position)) if len(kinds) < MOST_FAMILIES else ""
            kind = kinds.get(family)
            if kind is None:
                kind = kinds[family] = RunKind(name, self.manifest.demands[number].cost, family)
            self._kind_of[position] = kind
        return kind

    def amounts(self, position: int) -> dict[str, int | float]:
        """The amounts that a function holds while it runs."""
        if position in self._changed:
            return self._changed[position].cost.to_amounts()
        return self._amounts[self.manifest.demand_of[position]]

    def cost(self, position: int) -> dict[str, Any]:
        """A function's cost, labels included."""
        if position in self._changed:
            return self._changed[position].cost.to_dict()
        return self._costs[self.manifest.demand_of[position]]

    @property
    def dag_id(self) -> Hashable:
        """The DAG's id; its ``repr`` where the scheduler cannot import the type."""
        if self._dag_id is None:
            self._dag_id = _unpickle(self.manifest.dag_id, self.token)
        return self._dag_id

    def id_of(self, position: int) -> Hashable:
        """A function's id; its key where the scheduler cannot import the type."""
        if self._ids is None:
            keys = self.manifest.keys()
            self._ids = _unpickle(self.manifest.ids, keys)
        if position >= len(self._ids):
            self._ids = with_items(self._ids, self.manifest.spawned)
        return self._ids[position]

    def introduction(self) -> Introduction:
        """What a client must know of the run to be told what happens in it."""
        manifest = self.manifest
        return Introduction(
            token=self.token,
            dag_id=manifest.dag_id,
            ids=manifest.ids,
            strategy=self.strategy_name,
            costs=self._costs,
            amounts=self._amounts,
            demand_of=manifest.demand_of,
            spawned=tuple(manifest.spawned),
        )

    def outcome(self, capabilities: dict[str, dict[str, Any]]) -> Outcome:
        """All that the client is told of the run, as it stands."""
        functions = [self.functions.get(i) for i in range(len(self.manifest))]

        def column(read: Callable[[FunctionState], Any], default: Any = None) -> list[Any]:
            return [default if f is None else read(f) for f in functions]

        def attempts(name: str, default: Any = None) -> list[Any]:
            values = [None if f is None else f.fact(name) for f in functions]
            return values if default is None else [default if v is None else v for v in values]

        return Outcome(
            token=self.token,
            status=self.status,
            nodes=attempts("node"),
            ready=column(attrgetter("ready")),
            placed=attempts("placed"),
            start=attempts("start"),
            stop=attempts("stop"),
            attempts=column(attrgetter("attempts"), 0),
            causes=attempts("cause", ""),
            nbytes=attempts("nbytes"),
            used=attempts("used"),
            transfers=attempts("transfer_s"),
            states=column(attrgetter("status"), "none"),
            capabilities=capabilities,
            submitted=self.submitted,
            ended=self.ended,
            claimed={position: self.claimed(position) for position in self._changed},
            shortages=self._shortages(),
            failures=[(position, failure.refusal) for position, failure in self.failures.items()],
            skipped=dict(self.skipped),
            spawned=tuple(self.manifest.spawned),
            logs=list(self.logs),
        )

    def _shortages(self) -> dict[int, MemoryShortage]:
        """What is known of the memory of the functions that failed for want of it."""
        found = {}
        for position in self.failures:
            function = self.functions.get(position)
            attempt = None if function is None else function.attempt
            if attempt is not None and attempt.wants_memory:
                found[position] = attempt.shortage(self.limit_of(position))
        return found

    def exceptions(self) -> list[list[Any]]:
        """Exception and traceback of each failed function, in the order of the outcome."""
        return [[failure.exception, failure.traceback] for failure in self.failures.values()]


class TaskRun(RunState):
    """Tasks of one graph of Dask's that name resources.  Their ids are their keys.

    Parameters
    ----------
    manifest
        What each of them asks for.
    keys
        Their keys, by position.
    ranks
        Their place in Dask's own order, by position; larger goes earlier.
    client
        Who has submitted them.
    engine_run
        For the engine, tasks that a client has submitted one by one are one run: they share its room, and
        Dask's priorities hold among all of them.
    """

    is_of_tasks = True

    def __init__(
        self, manifest: Manifest, keys: list[Any], ranks: list[float], client: str, engine_run: str
    ) -> None:
        super().__init__(manifest, client, submitted=time(), watched=False)
        self.engine_run = engine_run
        self.keys = keys
        self.ranks = ranks
        # The order is Dask's: memory stays low in it.
        self.planned = True

    @property
    def goes_on(self) -> bool:
        """They have little to do with each other."""
        return True

    @property
    def dag_id(self) -> Hashable:
        """They are of no DAG."""
        return None

    def id_of(self, position: int) -> Hashable:
        """The key of a task."""
        key: Hashable = self.keys[position]
        return key


def _unpickle(data: bytes, default: Any) -> Any:
    try:
        return pickle.loads(data)
    except BaseException as error:  # whatever the user's __reduce__ raises here
        logger.info("an id cannot be read on the scheduler (%r); its key stands for it", error)
        return default


class Announced(NamedTuple):
    """A run whose graph has not arrived yet."""

    client: str
    manifest: Manifest
    strategy: Strategy
    #: Cancelled before its graph has come.
    cancelled: bool = False


class Runs:
    """Every run and function that is known now."""

    def __init__(self) -> None:
        #: Runs that Dask has not forgotten, by token.
        self.by_token: dict[str, RunState] = {}
        #: Their functions, by Dask key.
        self.functions: dict[Any, FunctionState] = {}
        #: Runs whose client waits for an answer whether to send them: ``{token: client}``.
        self.announcing: dict[str, str] = {}
        #: Runs whose graph is on its way, by token.
        self.announced: dict[str, Announced] = {}
        #: ``{name for the engine: how many runs are known that it stands for}``.
        self.of_engine: Counter[str] = Counter()

    def open(self) -> Iterator[RunState]:
        """Runs that are not over."""
        return (run for run in self.by_token.values() if not run.over)
