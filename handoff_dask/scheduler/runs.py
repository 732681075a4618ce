"""The scheduler's record of runs: where each function stands, and how the run ended."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from distributed.protocol import pickle

from handoff_dask.placement.estimates import Kind
from handoff_dask.placement.events import Demand
from handoff_dask.protocol.manifest import Manifest
from handoff_dask.protocol.outcome import Outcome
from handoff_dask.protocol.telemetry import Introduction
from handoff_dask.record.status import PENDING
from handoff_dask.resources import Cost

if TYPE_CHECKING:
    from handoff_dask.scheduler.telemetry import Claim

logger = logging.getLogger(__name__)


class Function:
    """One function of a run, as the scheduler sees it.  Times are seconds since the epoch."""

    __slots__ = (
        "address",
        "ahead",
        "attempts",
        "behind",
        "candidates",
        "cause",
        "claim",
        "expected_s",
        "key",
        "lane",
        "nbytes",
        "node",
        "placed",
        "position",
        "raised",
        "rank",
        "ready",
        "run",
        "seceded",
        "short",
        "spared",
        "start",
        "status",
        "stop",
        "told",
        "transfer_s",
    )

    def __init__(self, run: Run, key: str, position: int) -> None:
        self.run = run
        self.key = key
        self.position = position
        self.status = PENDING
        #: Name and address of the node of the last attempt.
        self.node: str | None = None
        self.address: str | None = None
        self.attempts = 0
        self.rank = 0.0
        #: Expected seconds, if anything is known.
        self.expected_s: float | None = None
        self.ready: float | None = None
        self.placed: float | None = None
        self.start: float | None = None
        self.stop: float | None = None
        self.cause = ""
        self.nbytes: int | None = None
        #: How many nodes had room for it when it was placed.
        self.candidates = 0
        #: Whether the present attempt was sent behind others, whose claim it takes over.
        self.ahead = False
        #: Whether it was, and its turn has not come, as far as is known.
        self.behind = False
        #: The lane that the present attempt was sent in, and what Dask's suspicion is set back to
        #: when its turn comes; see :mod:`handoff_dask.scheduler.suspicion`.
        self.lane: tuple[str, int] | None = None
        #: Whether that lane is one of short functions, several of which may be under way.
        self.short = False
        self.spared: int | None = None
        #: Seconds that its arguments took to its node.
        self.transfer_s: float | None = None
        #: What has been told of the present attempt last: ``""``, ``"start"`` or ``"end"``.
        self.told = ""
        #: What it holds, as far as that has been told.
        self.claim: Claim | None = None
        #: Whether it has let go of its thread, and waits for others.
        self.seceded = False
        #: What the present attempt has raised, before Dask has decided about a retry.
        self.raised: Any = None


class RunKind:
    """Functions of one run that have the same code and demand."""

    __slots__ = ("cost", "known", "name", "told_s")

    def __init__(self, name: str, cost: Cost) -> None:
        self.name = name
        self.cost = cost
        #: What has been learned of them, in this run and before.
        self.known: Kind | None = None
        #: The mean seconds by which the run was last ordered.
        self.told_s: float | None = None


class Run:
    """One execution of a DAG."""

    def __init__(self, manifest: Manifest, client: str, *, submitted: float, watched: bool) -> None:
        self.manifest = manifest
        self.token = manifest.token
        #: The Dask client that submitted it.
        self.client = client
        #: Submitted through a session (which is told how it ends), not as a plain collection.
        self.watched = watched
        self.status = PENDING
        self.submitted = submitted
        self.ended: float | None = None
        #: By position; absent where only some outputs were asked for.
        self.functions: dict[int, Function] = {}
        #: Keys that the client wants and that are not there yet.
        self.missing: set[str] = set()
        self.wanted: frozenset[str] = frozenset()
        #: Functions that Dask has not forgotten.
        self.alive = 0
        self.failed: int | None = None
        #: The client's planner has ordered it.
        self.planned = False
        self._kinds: dict[tuple[str, int], RunKind] = {}
        self._kind_of: dict[int, RunKind] = {}
        self.exception: Any = None
        self.traceback: Any = None
        self.refusal: tuple[dict[str, str], str | None] | None = None
        #: The traceback and the exception of the function that failed, as text.
        self.error: str | None = None
        #: Positions, and for each of them which of these take its result.
        self.dependents: tuple[list[int], list[list[int]]] = ([], [])
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
        return self.manifest.demands[self.manifest.demand_of[position]]

    def kind_of(self, position: int) -> RunKind:
        """The kind of a function: those of this run with the same code and demand."""
        kind = self._kind_of.get(position)
        if kind is None:
            name, number = self.manifest.names[position], self.manifest.demand_of[position]
            kind = self._kinds.get((name, number))
            if kind is None:
                kind = self._kinds[name, number] = RunKind(name, self.manifest.demands[number].cost)
            self._kind_of[position] = kind
        return kind

    def amounts(self, position: int) -> dict[str, int | float]:
        """The amounts that a function holds while it runs."""
        return self._amounts[self.manifest.demand_of[position]]

    def cost(self, position: int) -> dict[str, Any]:
        """A function's cost, labels included."""
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
        )

    def outcome(self, capabilities: dict[str, dict[str, Any]]) -> Outcome:
        """All that the client is told of the run, as it stands."""
        functions = [self.functions.get(i) for i in range(len(self.manifest))]

        def column(name: str, default: Any = None) -> list[Any]:
            return [default if f is None else getattr(f, name) for f in functions]

        return Outcome(
            token=self.token,
            status=self.status,
            nodes=column("node"),
            ready=column("ready"),
            placed=column("placed"),
            start=column("start"),
            stop=column("stop"),
            attempts=column("attempts", 0),
            causes=column("cause", ""),
            nbytes=column("nbytes"),
            transfers=column("transfer_s"),
            states=column("status", "none"),
            capabilities=capabilities,
            submitted=self.submitted,
            ended=self.ended,
            failed=self.failed,
            refusal=self.refusal,
        )


def _unpickle(data: bytes, default: Any) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:  # whatever the user's __reduce__ raises here
        logger.info("an id cannot be read on the scheduler (%r); its key stands for it", error)
        return default
