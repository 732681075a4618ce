"""The source of explanations: finding out where a function stands and what is in its way.

Functions are named by run and position; the client puts the ids in.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from distributed.metrics import monotonic, time

from handoff_dask.errors import NotFoundError
from handoff_dask.placement.explanation import Obstacle
from handoff_dask.protocol.explain import Finding, Hindrance, Party
from handoff_dask.protocol.telemetry import Introduction
from handoff_dask.record.pipeline import PipelineFigures
from handoff_dask.record.status import CANCELLED, FAILED, FINISHED, PENDING, SKIPPED, WAITING
from handoff_dask.scheduler.engine_driver import EngineDriver
from handoff_dask.scheduler.lingering import LingeringThreads
from handoff_dask.scheduler.runs import FunctionState, Runs, RunState
from handoff_dask.scheduler.states import Prefetched
from handoff_dask.scheduler.tasks import Tasks


class ExplainSource:
    """Answers what is asked about single functions.

    Parameters
    ----------
    runs, tasks, driver, threads
        What is known of runs; Dask's tasks; of the engine; threads that go on without their function.
    ended
        The last runs that are over, the latest last.
    figures
        How a run stands that is a pipeline.
    """

    def __init__(
        self,
        runs: Runs,
        tasks: Tasks,
        driver: EngineDriver,
        threads: LingeringThreads,
        ended: Callable[[], list[RunState]],
        figures: Callable[[RunState], PipelineFigures | None],
    ) -> None:
        self._runs = runs
        self._tasks = tasks
        self._driver = driver
        self._threads = threads
        self._ended = ended
        self._figures = figures

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What clients may ask."""
        return {
            "find_out": self.find_out,
            "find_task": self.find_task,
            "latest_run": self.latest_run,
            "introduce": self.introduce,
        }

    def introduce(self, client: str, token: str) -> Introduction | None:
        """The ids and costs of a run that is remembered."""
        runs = {run.token: run for run in [*self._ended(), *self._runs.by_token.values()]}
        return runs[token].introduction() if token in runs else None

    def latest_run(self, client: str, dag: str) -> Introduction | None:
        """The latest run of a DAG id (as a token) that is remembered."""
        runs = {run.token: run for run in [*self._ended(), *self._runs.by_token.values()]}
        found = [run for run in runs.values() if run.manifest.dag_token == dag]
        return max(found, key=lambda run: run.submitted).introduction() if found else None

    def find_task(self, client: str, key: Hashable) -> tuple[Introduction, int] | None:
        """A task of Dask's own that handoff places: its run, and its position there."""
        functions: Mapping[Any, FunctionState] = self._runs.functions
        function = functions.get(key)
        if function is None or not function.run.is_of_tasks:
            return None
        return function.run.introduction(), function.position

    def find_out(self, client: str, token: str, position: int) -> Finding:
        """Where a function stands.

        Raises
        ------
        NotFoundError
            If its run is not remembered.
        """
        # What has just happened is taken into account.
        self._driver.flush()
        announced = self._runs.announced.get(token)
        if announced is not None:
            return Finding(
                token=token,
                status=PENDING,
                introductions=[
                    RunState(announced.manifest, client, submitted=0.0, watched=True).introduction()
                ],
            )
        run = self._runs.by_token.get(token)
        if run is None:
            run = next((r for r in self._ended() if r.token == token), None)
        function = None if run is None else run.functions.get(position)
        if run is None or function is None:
            raise NotFoundError("execution", token, "it has been forgotten")
        return self._about(run, function)

    def _about(self, run: RunState, function: FunctionState) -> Finding:
        waits = function.status in (PENDING, WAITING)
        status = CANCELLED if waits and run.status in (FAILED, CANCELLED) else function.status
        finding = Finding(token=run.token, status=status, pipeline=self._figures(run))
        runs = {run.token: run}
        if status == PENDING:
            finding.arguments = self._missing(function)
        elif status == WAITING:
            self._waiting(function, finding, runs)
        elif function.attempt is not None:
            attempt = function.attempt
            finding.node, finding.attempts = attempt.node, max(function.attempts, 1)
            finding.cause, finding.candidates = attempt.cause, attempt.candidates
            finding.sent_ahead = attempt.prefetched
            finding.waited_s = max(0.0, attempt.placed - attempt.ready)
        if status in (FAILED, CANCELLED, SKIPPED):
            self._problem(run, function, finding)
        finding.introductions = [r.introduction() for r in runs.values()]
        return finding

    def _missing(self, function: FunctionState) -> list[tuple[Party, str, str | None]]:
        task = self._tasks.get(function.key)
        missing: list[tuple[Party, str, str | None]] = []
        for argument in () if task is None else task.dependencies:
            if argument.state == "memory":
                continue
            other = self._runs.functions.get(argument.key)
            if other is None:
                missing.append((Party("task", name=str(argument.key)), str(argument.state), None))
            else:
                node = other.fact("node") if other.status not in (PENDING, WAITING, FINISHED) else None
                missing.append((self._party(other, "function"), other.status, node))
        return sorted(missing, key=lambda found: (found[0].position or 0, found[0].name))

    def _waiting(self, function: FunctionState, finding: Finding, runs: dict[str, RunState]) -> None:
        if function.not_before:
            finding.cause, finding.waited_s = "retry", max(0.0, time() - (function.ready or time()))
            return
        why = self._driver.engine.explain(function.key, now=monotonic())
        finding.cause, finding.waited_s, finding.ahead = why.cause, why.waited_s, why.ahead
        finding.shares = self._shares(function.run)
        nodes: dict[str, Hindrance | None] = {}
        for node, obstacle in why.nodes.items():
            nodes[node] = None
            if obstacle is not None:
                nodes[node] = Hindrance(obstacle, tuple(self._parties(obstacle, runs)))
        finding.nodes = nodes

    def _shares(self, run: RunState) -> tuple[float, float, int] | None:
        holdings = self._driver.engine.holdings()
        own = next((holding for holding in holdings if holding.run == run.engine_run), None)
        rivals = sum(holding.waiting > 0 for holding in holdings if holding is not own)
        return None if own is None or not rivals else (own.share, own.client_share, rivals)

    def _parties(self, obstacle: Obstacle, runs: dict[str, RunState]) -> list[Party]:
        found = []
        for holder in obstacle.holders:
            function, kind = self._function(holder)
            if function is not None:
                if kind == "function" and isinstance(function.state, Prefetched):
                    continue  # the one before it holds the claim
                runs[function.run.token] = function.run
                found.append(self._party(function, kind))
            elif isinstance(holder, tuple):
                found.append(Party(str(holder[0]), name=str(holder[1])))
        return found

    def _function(self, holder: Hashable) -> tuple[FunctionState | None, str]:
        functions: Mapping[Any, FunctionState] = self._runs.functions
        if holder in functions:
            return functions[holder], "function"
        if isinstance(holder, tuple) and holder[0] == "lingering":
            lingering = self._threads.threads.get(holder[1])
            return (None if lingering is None else lingering.function), "thread"
        return None, ""

    def _party(self, function: FunctionState, kind: str) -> Party:
        return Party(kind, function.run.token, function.position)

    def _problem(self, run: RunState, function: FunctionState, finding: Finding) -> None:
        finding.problem = "the execution was cancelled"
        because = run.skipped.get(function.position, run.failed)
        if function.position in run.failures:
            because = function.position
        failure = run.problem if because is None else run.failures.get(because, run.problem)
        if failure.refusal is not None:
            reasons, problem = failure.refusal
            each = [f"{node}: {why}" for node, why in reasons.items()]
            finding.problem = "; ".join([*([problem] if problem else []), *each]) or "there are no nodes"
        elif failure.text:
            finding.problem = failure.text.strip().rpartition("\n")[2]
        if because is not None and because != function.position:
            finding.because = because
