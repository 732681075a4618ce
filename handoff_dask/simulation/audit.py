"""Auditing an event log: whether what was promised was kept, from the log alone.

The log is replayed in a new engine, which must decide the same.  Independently of the engine it is
checked that no node was given more than it has, that pins and labels were heeded, that arguments were
there, and that no function was tried more often than it may be.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from handoff_dask.errors import ValidationError
from handoff_dask.placement.amounts import THREAD, Amounts, amounts_of
from handoff_dask.placement.decisions import Place
from handoff_dask.placement.demand import Demand
from handoff_dask.placement.encoding import decode
from handoff_dask.placement.events import (
    ClaimedElsewhere,
    Event,
    FunctionFinished,
    FunctionReady,
    NodeChanged,
    NodeJoined,
    NodeLeft,
    ReturnedElsewhere,
    RunOpened,
    SharedRegistered,
)
from handoff_dask.placement.recording import Replay
from handoff_dask.resources import Capabilities, undeclared

#: At most so many findings are kept of a log.
MOST = 100


#: States in which an argument may be when a function that takes it is placed; where it has failed, the
#: function accepts that.
_HAS_ENDED = ("Finished", "Failed", "Skipped")


#: What reading raises of a file that nobody has written as a log.
_UNREADABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


@dataclass
class AuditReport:
    """What an audit has found."""

    turns: int = 0
    events: int = 0
    placements: int = 0
    attempts: int = 0
    functions: int = 0
    runs: int = 0
    #: Whether the log goes to the end; not if it reached its limit, or was cut.
    complete: bool = True
    #: What was promised and not kept, in words, one each.
    findings: list[str] = field(default_factory=list)

    def found(self, problem: str) -> None:
        """Note that something was not kept."""
        if len(self.findings) < MOST:
            self.findings.append(problem)

    def __str__(self) -> str:
        what = (
            f"{self.turns} turns of the engine, {self.events} events, {self.placements} placements; "
            f"{self.runs} runs, {self.functions} functions, {self.attempts} attempts that ended"
        )
        cut = "" if self.complete else "\nthe log is not complete: it has reached its limit, or was cut"
        if not self.findings:
            return f"{what}{cut}\nevery promise was kept; a new engine decides the same"
        return "\n".join([f"{what}{cut}", f"{len(self.findings)} findings:", *self.findings])


class _Holder:
    """A function that is placed."""

    def __init__(self, demand: Demand, run: str, place: Place) -> None:
        self.amounts = amounts_of(demand.cost)
        self.run = run
        self.node = place.node
        self.queue = place.prefetch_queue


class Audit:
    """Reads a log, line by line."""

    def __init__(self) -> None:
        self.report = AuditReport()
        self._replay: Replay | None = None
        self._nodes: dict[str, tuple[Capabilities, int, str | None]] = {}
        self._shared: set[str] = set()
        self._elsewhere: dict[Any, tuple[str, Amounts]] = {}
        self._demands: dict[str, tuple[Demand, str]] = {}
        self._placed: dict[str, _Holder] = {}
        self._runs: dict[str, RunOpened] = {}
        self._states: dict[str, str] = {}
        self._arguments: dict[str, list[str]] = {}
        self._retries: dict[str, int] = {}
        self._raised: Counter[str] = Counter()

    def read(self, line: Mapping[str, Any]) -> None:
        """Take one line of the log."""
        if "turn" in line:
            self._turn(dict(line["turn"]))
        elif "life" in line:
            self._life(*line["life"])
        elif "run" in line:
            self.report.runs += 1
            for key, (arguments, retries) in line["run"]["functions"].items():
                self.report.functions += 1
                self._arguments[key], self._retries[key] = arguments, retries
        elif "log" in line:
            self._replay = Replay(decode(line["log"]["settings"]))
        elif "end" in line:
            self.report.complete = False

    # ------------------------------------------------------------------ the engine

    def _turn(self, turn: dict[str, Any]) -> None:
        if self._replay is None:
            raise ValidationError("this is no event log of handoff; its first line is missing")
        report = self.report
        report.turns += 1
        before = {function: holder.node for function, holder in self._placed.items()}
        for event in self._replay.events_of(turn):
            report.events += 1
            self._happened(event)
        touched: dict[str, list[_Holder]] = defaultdict(list)
        for decision in map(decode, turn.get("decisions", ())):
            if isinstance(decision, Place):
                report.placements += 1
                holder = self._place(decision, before)
                if not decision.prefetched:
                    touched[decision.node].append(holder)
        for node, holders in touched.items():
            self._check_room(node, holders, turn["now"])
        difference = self._replay.turn(turn)
        if difference is not None:
            report.found(f"at {turn['now']:.6f} a new engine decides otherwise: {difference:.600}")

    def _happened(self, event: Event) -> None:
        if isinstance(event, NodeJoined):
            self._lose(event.node)
            self._nodes[event.node] = event.capabilities, event.threads, event.address
        elif isinstance(event, NodeChanged):
            if event.node in self._nodes:
                address = self._nodes[event.node][2]
                self._nodes[event.node] = event.capabilities, event.threads, address
        elif isinstance(event, NodeLeft):
            self._lose(event.node)
        elif isinstance(event, ClaimedElsewhere):
            self._elsewhere[event.claim] = event.node, amounts_of(event.cost, event.threads)
        elif isinstance(event, ReturnedElsewhere):
            self._elsewhere.pop(event.claim, None)
        elif isinstance(event, RunOpened):
            self._runs[str(event.run)] = event
        elif isinstance(event, FunctionReady):
            self._demands[str(event.function)] = event.demand, str(event.run)
        elif isinstance(event, FunctionFinished):
            self._placed.pop(str(event.function), None)
        elif isinstance(event, SharedRegistered):
            self._shared.add(event.name)

    def _lose(self, node: str) -> None:
        self._nodes.pop(node, None)
        self._placed = {f: holder for f, holder in self._placed.items() if holder.node != node}
        self._elsewhere = {c: claim for c, claim in self._elsewhere.items() if claim[0] != node}

    def _place(self, place: Place, before: Mapping[str, str]) -> _Holder:
        function = str(place.function)
        demand, run = self._demands.get(function, (Demand(), ""))
        known = self._nodes.get(place.node)
        if function not in self._demands:
            self.report.found(f"{function} was placed, and had not been ready")
        if known is None:
            self.report.found(f"{function} was placed on {place.node!r}, which is not there")
        else:
            capabilities, _, address = known
            if demand.pin is not None and demand.pin not in (place.node, address):
                self.report.found(f"{function} is pinned to {demand.pin!r}, and was placed on {place.node!r}")
            if not self._as_confined(run, place.node, capabilities).has_labels(demand.cost):
                self.report.found(
                    f"{function} was placed on {place.node!r}, which lacks a label that it asks"
                )
        if function in self._placed and before.get(function) is not None:
            self.report.found(f"{function} was placed again before it had ended")
        holder = self._placed[function] = _Holder(demand, run, place)
        return holder

    def _as_confined(self, run: str, node: str, capabilities: Capabilities) -> Capabilities:
        """What a node is to a run."""
        opened = self._runs.get(run)
        if opened is None or opened.nodes is None:
            return capabilities
        limit = opened.nodes.get(node) or opened.nodes.get(self._nodes[node][2] or "")
        return capabilities if limit is None else capabilities.confined(limit, self._declared(opened))

    def _declared(self, opened: RunOpened) -> frozenset[str]:
        nodes = opened.nodes or {}
        known = [c for name, (c, _, address) in self._nodes.items() if name in nodes or address in nodes]
        return undeclared(nodes.values(), known)

    def _check_room(self, node: str, placed: Iterable[_Holder], now: float) -> None:
        """Check that a node on which something was placed holds no more than it has of what that asks."""
        if node not in self._nodes:
            return
        capabilities, threads, _ = self._nodes[node]
        total = {THREAD: threads, **capabilities.amounts}
        used: Counter[str] = Counter()
        in_queue: Counter[int] = Counter()
        for holder in self._placed.values():
            if holder.node != node:
                continue
            if holder.queue is not None:
                number, slots = holder.queue
                in_queue[number] += 1
                if in_queue[number] > slots:  # it waits for one before it
                    continue
            used.update(dict(holder.amounts))
        for where, amounts in self._elsewhere.values():
            if where == node:
                used.update(dict(amounts))
        asked = {name for holder in placed for name, _ in holder.amounts} - self._shared
        for name in sorted(asked):
            if name in total and used[name] > total[name]:
                what = name or "threads"
                self.report.found(
                    f"at {now:.6f} {node!r} holds {used[name]} units of {what}, and has {total[name]}"
                )

    # ------------------------------------------------------------------ functions

    def _life(self, key: str, event: str, state: str, node: str | None, raised: bool, at: float) -> None:
        if event == "Placed":
            missing = [
                a for a in self._arguments.get(key, ()) if self._states.get(a, "Finished") not in _HAS_ENDED
            ]
            if missing:
                self.report.found(f"at {at:.6f} {key} was sent to {node!r} before {missing[0]} had ended")
        elif event in ("Ended", "FailedForGood"):
            self.report.attempts += 1
        if raised and event in ("Dropped", "FailedForGood"):
            self._raised[key] += 1
            if key in self._retries and self._raised[key] > self._retries[key] + 1:
                self.report.found(
                    f"{key} was tried {self._raised[key]} times, and may be {self._retries[key] + 1}"
                )
        self._states[key] = state


def audit(path: str) -> AuditReport:
    """Audit the event log in a file.

    Raises
    ------
    ValidationError
        If it is no event log.
    """
    reading = Audit()
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
            except json.JSONDecodeError as error:
                if number == 1:
                    raise ValidationError(f"{path} is no event log of handoff: {error}") from error
                reading.report.complete = False  # it was cut while it was written
                break
            try:
                reading.read(line)
            except _UNREADABLE as error:
                raise ValidationError(f"line {number} of {path} cannot be read: {error!r}") from error
    return reading.report
