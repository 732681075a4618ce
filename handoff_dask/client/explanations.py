"""Explanations: why a function waits, or where it ran and why there; as data and as text."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from handoff_dask.errors import NotFoundError
from handoff_dask.graph.arguments import did_you_mean
from handoff_dask.protocol.explain import Finding, Hindrance, Party
from handoff_dask.protocol.telemetry import KnownRun
from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.record.pipeline import PipelineFigures, bottleneck
from handoff_dask.resources import amount_of
from handoff_dask.visualization.texts import plain

__all__ = ["ArgumentState", "FunctionExplanation", "Holder", "NodeReason"]

#: Holders that a text names, at most.
NAMED = 5


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds something of a node, or keeps it for itself."""

    #: ``"function"``, ``"thread"`` (of a function that was cancelled), ``"client"`` or ``"task"``
    #: (of Dask's own).
    kind: str
    #: Of functions and threads.
    dag_id: Hashable = None
    function_id: Hashable = None
    #: Of clients and tasks.
    name: str = ""

    def __str__(self) -> str:
        if self.kind == "function":
            return f"{self.function_id!r} of DAG {self.dag_id!r}"
        if self.kind == "thread":
            return f"the thread of {self.function_id!r} of DAG {self.dag_id!r}, which was cancelled"
        return f"{self.kind} {self.name!r}"


@dataclass(frozen=True, slots=True)
class NodeReason:
    """What stands between a function and a node."""

    #: In a word; the keys of ``handoff_dask.placement.explanation.CAUSES``.
    cause: str
    #: The resource or label it is about, if it is about one.
    resource: str | None = None
    #: What the function asks of it, what the node has, and what of that is free now.
    needed: int | float | None = None
    capability: int | float | None = None
    free: int | float | None = None
    #: Who holds it, or for whom the node is kept.
    holders: tuple[Holder, ...] = ()
    #: The same in words.
    text: str = ""

    def __str__(self) -> str:
        if not self.holders:
            return self.text
        shown = ", ".join(map(str, self.holders[:NAMED]))
        more = f" and {len(self.holders) - NAMED} more" if len(self.holders) > NAMED else ""
        held = "kept for" if self.cause == "reservation" else "held by"
        return f"{self.text}; {held} {shown}{more}"


@dataclass(frozen=True, slots=True)
class ArgumentState:
    """An argument that is not there yet."""

    function_id: Hashable
    status: str
    #: Where it runs, if it does.
    node: str | None = None

    def __str__(self) -> str:
        return f"{self.function_id!r} ({self.status}{f' on {self.node!r}' if self.node else ''})"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """How a stage of a pipeline stands, and which stage limits the pipeline."""

    workers: int
    nodes: tuple[str, ...]
    #: Items that it has settled since its workers were placed, and that wait in it.
    items: int
    waiting: int
    #: Share of the last second in which its code ran.
    busy: float
    #: Items inside the pipeline, and how many there may be.
    inside: int
    max_in_flight: int
    #: The function whose stage limits the pipeline; ``None`` if no stage does.
    bottleneck: Hashable
    #: Why it is that one.
    why: str

    def lines(self, function_id: Hashable) -> list[str]:
        """The same in words."""
        count = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        state = (
            f"  as a stage: {count}, {self.items} items done, {self.waiting} waiting, "
            f"busy {100 * self.busy:.0f} % of the time"
        )
        if self.bottleneck is None:
            return [state, f"  {self.why}"]
        whose = "it is" if self.bottleneck == function_id else f"{self.bottleneck!r} is"
        return [state, f"  {whose} the bottleneck of the pipeline: {self.why}"]

    def to_dict(self) -> dict[str, Any]:
        """All of it as dicts, lists, numbers and texts."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        values["nodes"] = list(self.nodes)
        values["bottleneck"] = None if self.bottleneck is None else _text(self.bottleneck)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionExplanation:
    """Where a function of an execution stands, and why.

    ``str()`` says it in words; :meth:`to_dict` gives it ready for JSON.
    """

    dag_id: Hashable
    function_id: Hashable
    #: ``"pending"`` (arguments are missing), ``"waiting"`` (for a node), ``"running"``,
    #: ``"finished"``, ``"failed"``, ``"cancelled"``, ``"skipped"`` (it needs what has failed).
    status: str
    strategy: str
    #: Its node, if it has been started.
    node: str | None = None
    attempts: int = 0
    #: What it waits for, or waited for, in a word; empty if for nothing.
    cause: str = ""
    #: Seconds that it has waited for a node since it was ready, or did wait.
    waited_s: float | None = None
    #: How many nodes had room for it when it was placed; None if that is not known any more.
    candidates: int | None = None
    #: Whether it was sent to its node behind others, before there was room.
    sent_ahead: bool = False
    #: Functions of the same demand that go before it.
    ahead: int = 0
    #: While it waits and other runs do: the largest fractions of anything the cluster has that its run and
    #: its client hold, and how many other runs wait.
    shares: tuple[float, float, int] | None = None
    #: The arguments that it lacks.
    arguments: tuple[ArgumentState, ...] = ()
    #: ``{node: what stands in the way there}``, while it waits; None where it has room.
    nodes: Mapping[str, NodeReason | None] = field(default_factory=dict)
    #: Why it failed, or was cancelled.
    problem: str | None = None
    #: How its stage stands, if it is one of a pipeline.
    stage: StageState | None = None

    def __str__(self) -> str:
        name = f"{self.function_id!r} of DAG {self.dag_id!r}"
        if self.status == "pending":
            missing = ", ".join(map(str, self.arguments)) or "the scheduler to look at it"
            return f"{name} waits for {missing}"
        if self.status == "waiting":
            return "\n".join([f"{name} has waited {self._waited()}", *self._details()])
        where = "" if self.node is None else f" on node {self.node!r}"
        verb = {"running": "runs", "finished": "ran", "failed": "failed"}
        verb |= {"cancelled": "was cancelled", "skipped": "was skipped"}
        head = f"{name} {verb[self.status]}{where}"
        why = [self._chosen()] if self.node is not None else []
        if self.stage is not None:
            return "\n".join(["; ".join([head, *why]), *self.stage.lines(self.function_id)])
        return "; ".join([head, *why, *([self.problem] if self.problem else [])])

    def _waited(self) -> str:
        return f"{self.waited_s or 0.0:.3g} s for {self.cause or 'a decision'}"

    def _details(self) -> list[str]:
        lines = [f"  {self.ahead} functions like it go before it"] if self.ahead else []
        if self.shares is not None:
            run, client, rivals = self.shares
            others = "1 other run waits" if rivals == 1 else f"{rivals} other runs wait"
            lines.append(f"  its run holds {run:.0%} of the cluster, its client {client:.0%}; {others}")
        return lines + [
            f"  {node}: {'has room' if reason is None else reason}" for node, reason in self.nodes.items()
        ]

    def _chosen(self) -> str:
        if self.sent_ahead:
            chosen = "it is short, and was sent there behind others like it"
        elif self.candidates is None:
            chosen = f"{self.strategy} chose it"
        else:
            rooms = "node that had" if self.candidates == 1 else f"of {self.candidates} nodes that had"
            chosen = f"{self.strategy} chose the {'only' if self.candidates == 1 else 'best'} {rooms} room"
        return f"{chosen}, after {self._waited()}" if self.cause else chosen

    def to_dict(self) -> dict[str, Any]:
        """All of it as dicts, lists, numbers and texts; ids that are no texts as their ``repr``."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        values["stage"] = None if self.stage is None else self.stage.to_dict()
        values["arguments"] = [_plain(argument) for argument in self.arguments]
        values["nodes"] = {node: None if r is None else _plain(r) for node, r in self.nodes.items()}
        for name in ("dag_id", "function_id"):
            values[name] = _text(values[name])
        return values


def _plain(value: NodeReason | ArgumentState | Holder) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(value, name) for name in value.__slots__}
    for name in ("dag_id", "function_id"):
        if values.get(name) is not None:
            values[name] = _text(values[name])
    if "holders" in values:
        values["holders"] = [_plain(holder) for holder in values["holders"]]
    return {name: v if isinstance(v, list) else plain(v) for name, v in values.items()}


def _text(value: Hashable) -> str:
    return value if isinstance(value, str) else repr(value)


def explained(
    finding: Finding, position: int, ids: tuple[Hashable, Any] | None = None
) -> FunctionExplanation:
    """What the scheduler has found out, with ids in place of positions.

    Parameters
    ----------
    finding
        Of the scheduler.
    position
        Of the function.
    ids
        Of its run, if they are known here.
    """
    runs = {
        run.token: KnownRun(run, ids if run.token == finding.token else None) for run in finding.introductions
    }
    known = runs[finding.token]
    return FunctionExplanation(
        dag_id=known.dag_id,
        function_id=known.ids[position],
        status=finding.status,
        strategy=known.strategy,
        node=finding.node,
        attempts=finding.attempts,
        cause=finding.cause,
        waited_s=finding.waited_s,
        candidates=finding.candidates,
        sent_ahead=finding.sent_ahead,
        ahead=finding.ahead,
        shares=finding.shares,
        arguments=tuple(
            ArgumentState(p.name if p.position is None else known.ids[p.position], status, node)
            for p, status, node in finding.arguments
        ),
        nodes={node: None if h is None else _reason(h, runs) for node, h in finding.nodes.items()},
        problem=_problem(finding, known),
        stage=None if finding.pipeline is None else _stage(finding.pipeline, position, known),
    )


def _stage(figures: PipelineFigures, position: int, run: KnownRun) -> StageState | None:
    place, why = bottleneck(figures)
    stage = next((stage for stage in figures.stages if stage.first == position), None)
    if stage is None:  # of its workers, the first stands for the stage
        return None
    return StageState(
        workers=stage.workers,
        nodes=stage.nodes,
        items=stage.items,
        waiting=stage.waiting,
        busy=stage.busy,
        inside=figures.inside,
        max_in_flight=figures.max_in_flight,
        bottleneck=None if place is None else run.ids[figures.stages[place].first],
        why=why,
    )


def _problem(finding: Finding, run: KnownRun) -> str | None:
    if finding.because is None:
        return finding.problem
    return f"{run.ids[finding.because]!r} failed: {finding.problem}"


def _reason(hindrance: Hindrance, runs: Mapping[str, KnownRun]) -> NodeReason:
    obstacle = hindrance.obstacle
    amounts = obstacle.cause in ("amount", "room", "confined") and obstacle.needed > 0
    threads = obstacle.cause == "thread"
    kept = "is being cleared for a function that has waited too long"
    return NodeReason(
        cause=obstacle.cause,
        resource=obstacle.resource,
        needed=amount_of(obstacle.needed) if amounts else 1 if threads else None,
        capability=obstacle.capability if threads else amount_of(obstacle.capability) if amounts else None,
        free=max(obstacle.free, 0) if threads else amount_of(max(obstacle.free, 0)) if amounts else None,
        holders=tuple(_holder(party, runs) for party in hindrance.parties),
        text=kept if obstacle.cause == "reservation" else str(obstacle),
    )


def _holder(party: Party, runs: Mapping[str, KnownRun]) -> Holder:
    run = runs.get(party.run) if party.run is not None else None
    if run is None or party.position is None:
        return Holder(party.kind, name=party.name)
    return Holder(party.kind, run.dag_id, run.ids[party.position])


def from_record(record: ExecutionRecord, function_id: Hashable) -> FunctionExplanation:
    """An explanation from a record; used once the scheduler has forgotten the execution.

    Raises
    ------
    NotFoundError
        If the record has no such function, or it does not run on its own.
    """
    function = next((f for f in record.functions if f.id == function_id), None)
    if function is None:
        hint = did_you_mean(function_id, (f.id for f in record.functions))
        raise NotFoundError("function", function_id, f"DAG {record.dag_id!r} has none of this id; {hint}")
    refuse_idle(function)
    waited = None
    if function.placed is not None and function.ready is not None:
        waited = max(0.0, function.placed - function.ready)
    over = record.status in ("failed", "cancelled") and function.status in ("pending", "waiting")
    return FunctionExplanation(
        dag_id=record.dag_id,
        function_id=function_id,
        status="cancelled" if over else function.status,
        strategy=record.strategy,
        node=function.node,
        attempts=function.attempts,
        cause=function.cause,
        waited_s=waited,
        problem=None if function.error is None else function.error.strip().rpartition("\n")[2],
    )


def refuse_idle(function: FunctionRecord) -> None:
    """Refuse to explain what never runs on its own.

    Raises
    ------
    NotFoundError
        For inline functions and inputs.
    """
    if function.type != "regular":
        hint = "it runs inside those that take it" if function.type == "inline" else "it is an input"
        raise NotFoundError("scheduled function", function.id, f"{hint}; ask for one of its dependents")
