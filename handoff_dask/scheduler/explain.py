"""On the scheduler: finding out where a function stands and what is in its way.

Functions are named by run and position; the client puts the ids in.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from distributed.metrics import monotonic

from handoff_dask.errors import NotFoundError
from handoff_dask.placement.explanation import Obstacle
from handoff_dask.protocol.explain import Finding, Hindrance, Party
from handoff_dask.protocol.telemetry import Introduction
from handoff_dask.record.status import CANCELLED, FAILED, FINISHED, PENDING, WAITING
from handoff_dask.scheduler.runs import Function, Run

if TYPE_CHECKING:
    from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin


class Findings:
    """Answers what is asked about single functions."""

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        plugin.requests.add(find_out=self.find_out, latest_run=self.latest_run)

    def latest_run(self, client: str, dag: str) -> Introduction | None:
        """The latest run of a DAG id (as a token) that is remembered."""
        runs = {run.token: run for run in [*self._plugin.views.ended(), *self._plugin.registry.runs.values()]}
        found = [run for run in runs.values() if run.manifest.dag_token == dag]
        return max(found, key=lambda run: run.submitted).introduction() if found else None

    def find_out(self, client: str, token: str, position: int) -> Finding:
        """Where a function stands.

        Raises
        ------
        NotFoundError
            If its run is not remembered.
        """
        # What has just happened is taken into account.
        self._plugin.driver.flush()
        announced = self._plugin.registry.announced.get(token)
        if announced is not None:
            return Finding(
                token=token,
                status=PENDING,
                introductions=[Run(announced.manifest, client, submitted=0.0, watched=True).introduction()],
            )
        run = self._plugin.registry.runs.get(token)
        if run is None:
            run = next((r for r in self._plugin.views.ended() if r.token == token), None)
        function = None if run is None else run.functions.get(position)
        if run is None or function is None:
            raise NotFoundError("execution", token, "it has been forgotten")
        return self._about(run, function)

    def _about(self, run: Run, function: Function) -> Finding:
        waits = function.status in (PENDING, WAITING)
        status = CANCELLED if waits and run.status in (FAILED, CANCELLED) else function.status
        finding = Finding(token=run.token, status=status)
        runs = {run.token: run}
        if status == PENDING:
            finding.arguments = self._missing(function)
        elif status == WAITING:
            self._waiting(function, finding, runs)
        elif function.placed is not None:
            finding.node, finding.attempts = function.node, function.attempts
            finding.cause, finding.candidates = function.cause, function.candidates
            finding.sent_ahead = function.ahead
            finding.waited_s = max(0.0, function.placed - (function.ready or function.placed))
        if status in (FAILED, CANCELLED):
            self._problem(run, function, finding)
        finding.introductions = [r.introduction() for r in runs.values()]
        return finding

    def _missing(self, function: Function) -> list[tuple[Party, str, str | None]]:
        task = self._plugin.scheduler.tasks.get(function.key)
        missing: list[tuple[Party, str, str | None]] = []
        for argument in () if task is None else task.dependencies:
            if argument.state == "memory":
                continue
            other = self._plugin.registry.functions.get(str(argument.key))
            if other is None:
                missing.append((Party("task", name=str(argument.key)), str(argument.state), None))
            else:
                node = other.node if other.status not in (PENDING, WAITING, FINISHED) else None
                missing.append((self._party(other, "function"), other.status, node))
        return sorted(missing, key=lambda found: (found[0].position or 0, found[0].name))

    def _waiting(self, function: Function, finding: Finding, runs: dict[str, Run]) -> None:
        why = self._plugin.driver.engine.explain(function.key, now=monotonic())
        finding.cause, finding.waited_s, finding.ahead = why.cause, why.waited_s, why.ahead
        nodes: dict[str, Hindrance | None] = {}
        for node, obstacle in why.nodes.items():
            nodes[node] = None
            if obstacle is not None:
                nodes[node] = Hindrance(obstacle, tuple(self._parties(obstacle, runs)))
        finding.nodes = nodes

    def _parties(self, obstacle: Obstacle, runs: dict[str, Run]) -> list[Party]:
        found = []
        for holder in obstacle.holders:
            function, kind = self._function(holder)
            if function is not None:
                if kind == "function" and function.behind:
                    continue  # the one before it holds the claim
                runs[function.run.token] = function.run
                found.append(self._party(function, kind))
            elif isinstance(holder, tuple):
                found.append(Party(str(holder[0]), name=str(holder[1])))
        return found

    def _function(self, holder: Hashable) -> tuple[Function | None, str]:
        if isinstance(holder, str):
            return self._plugin.registry.functions.get(holder), "function"
        if isinstance(holder, tuple) and holder[0] == "lingering":
            lingering = self._plugin.attempts.lingering.get(holder[1])
            return (None if lingering is None else lingering.function), "thread"
        return None, ""

    def _party(self, function: Function, kind: str) -> Party:
        return Party(kind, function.run.token, function.position)

    def _problem(self, run: Run, function: Function, finding: Finding) -> None:
        finding.problem = "the execution was cancelled"
        if run.refusal is not None:
            reasons, problem = run.refusal
            each = [f"{node}: {why}" for node, why in reasons.items()]
            finding.problem = "; ".join([*([problem] if problem else []), *each]) or "there are no nodes"
        elif run.error is not None:
            finding.problem = run.error.strip().rpartition("\n")[2]
        if run.failed is not None and run.failed != function.position:
            finding.because = run.failed
