"""The register of runs: how each is opened, ended and forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from dask.typing import Key
from distributed.metrics import time
from distributed.protocol import pickle
from toolz import groupby, unique

from handoff_dask.collector import collector_held
from handoff_dask.errors import AllocationError, HandoffError
from handoff_dask.placement.events import Event, FunctionKey, RunClosed, RunOpened
from handoff_dask.placement.strategies import Strategy
from handoff_dask.protocol.manifest import Manifest, position_of
from handoff_dask.protocol.names import is_barrier
from handoff_dask.record.status import CANCELLED, FAILED, FINISHED, PENDING, RUNNING
from handoff_dask.scheduler import lifecycle as life
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.ranks import Ranks
from handoff_dask.scheduler.runs import FunctionState, RunFailure, Runs, RunState, TaskRun
from handoff_dask.scheduler.tasks import Tasks
from handoff_dask.scheduler.user_strategies import load
from handoff_dask.scheduler.words import NO_WORDS, Words


class Registry:
    """Opens, ends and forgets runs.

    Parameters
    ----------
    runs, nodes, tasks
        What is known of runs and workers; Dask's tasks.
    gather
        Takes events for the engine.
    ranks
        Puts the functions of a run in order.
    permit_of
        Who is asked before each placement of a run, if anybody.
    observers
        Told of what becomes of runs.
    later
        Calls a function in the next turn of the scheduler's event loop.
    """

    def __init__(
        self,
        runs: Runs,
        nodes: Nodes,
        tasks: Tasks,
        gather: Callable[[Iterable[Event]], None],
        ranks: Ranks,
        permit_of: Callable[[RunState], Callable[[FunctionKey, str], bool] | None],
        observers: Observer,
        later: Callable[..., object],
    ) -> None:
        self._runs = runs
        self._nodes = nodes
        self._tasks = tasks
        self._gather = gather
        self._ranks = ranks
        self._permit_of = permit_of
        self._observers = observers
        self._later = later
        #: Tasks that gather results and are refused for what Dask was told of them, until they are parked.
        self._refused: dict[Any, HandoffError] = {}

    @property
    def functions(self) -> Mapping[Any, FunctionState]:
        """Every function that is known now, by Dask key."""
        return self._runs.functions

    def run(self, token: str) -> RunState | None:
        """A run that is known now."""
        return self._runs.by_token.get(token)

    # ------------------------------------------------------------------ begin

    def graph_arrived(
        self,
        marks: Mapping[str, Manifest | str],
        wanted: set[Hashable],
        client: str,
        words: Words = NO_WORDS,
    ) -> None:
        """Hold the functions of a graph before Dask assigns any; ``words`` are Dask's own around it."""
        manifests = {
            mark.token: mark for mark in unique(marks.values(), key=id) if isinstance(mark, Manifest)
        }
        by_token: dict[str, list[str]] = groupby(lambda key: _token_of(marks[key]), marks)
        for token, keys in by_token.items():
            announced, is_new = self._runs.announced.pop(token, None), token not in self._runs.by_token
            if announced is not None:
                self._open(announced.manifest, client, announced.strategy, watched=True)
            elif is_new:
                manifest = words.heard(manifests[token])
                self._open(manifest, client, load(manifest), watched=False, problem=words.refused())
            # They ask for what their functions are refused for, and would wait for it.
            self._tasks.ask_for_nothing(words.gathering)
            run = self._runs.by_token[token]
            with collector_held(len(keys)):
                self._hold(run, keys, wanted)
            if is_new:
                self._observers.run_opened(run)
            if announced is not None and announced.cancelled:
                self.end(run, CANCELLED)

    def no_function_arrived(self, words: Words) -> None:
        """A graph that brings no new function is here; it may gather the results of known ones."""
        for key in words.gathering:
            task = self._tasks.get(key)
            if task is not None and any(d.key in self._runs.functions for d in task.dependencies):
                error = AllocationError(key, dict(words.said["resources"]), {}, words.refused())
                self.refuse_tasks([key], error)

    def refuse_tasks(self, keys: Iterable[Hashable], error: HandoffError) -> None:
        """Let tasks of Dask's own that have just arrived fail as soon as their arguments are there."""
        for key in keys:
            function, task = self._runs.functions.pop(key, None), self._tasks.get(key)
            if function is not None:
                self._forget(function.run)
            if task is not None:
                self._tasks.hold(task)
                self._refused[key] = error

    def task_changed(self, key: Any, state: str) -> None:
        """A task that is no function of ours has changed its state."""
        if state == "no-worker" and key in self._refused:
            self._later(self._tasks.fail_if_held, key, self._refused.pop(key))
        elif state == "forgotten":
            self._refused.pop(key, None)

    def graph_broken(self, marks: Mapping[str, Manifest | str], problem: str) -> None:
        """End the runs of a graph that could not be taken over."""
        for token in unique(map(_token_of, marks.values())):
            run = self._runs.by_token.get(token)
            if run is not None:
                self.refuse(run, 0, ({}, problem))

    def tasks_arrived(self, run: TaskRun) -> None:
        """Hold tasks of Dask's own that are to be placed."""
        self._begin(run, load(run.manifest))
        for position, key in enumerate(run.keys):
            self._runs.functions[key] = run.functions[position] = FunctionState(run, key, position)
            self._tasks.hold_too(key)
        run.alive = len(run.keys)
        run.missing = set(run.keys)
        self._ranks.order(run)
        self._observers.run_opened(run)

    def _open(
        self,
        manifest: Manifest,
        client: str,
        strategy: Strategy,
        *,
        watched: bool,
        problem: str | None = None,
    ) -> None:
        run = RunState(manifest, client, submitted=time(), watched=watched)
        self._begin(run, strategy, problem)

    def _begin(self, run: RunState, strategy: Strategy, problem: str | None = None) -> None:
        manifest = run.manifest
        self._runs.by_token[manifest.token] = run
        self._runs.of_engine[run.engine_run] += 1
        if self._runs.of_engine[run.engine_run] > 1:
            return
        options = manifest.options
        opened = RunOpened(
            run=run.engine_run,
            strategy=strategy,
            nodes=self._nodes.by_names(options.nodes),
            max_concurrency=options.max_concurrency,
            client=run.client,
            priority=options.priority,
            share=options.share,
            problem=problem,
            allocation_timeout_s=options.allocation_timeout_s,
            goes_on=run.goes_on,
            groups=manifest.groups,
            costs=Counter(manifest.demands[number].cost for number in manifest.demand_of),
            permit=self._permit_of(run),
            next_rank=self._ranks.next_rank,
        )
        self._gather([opened])

    def _hold(self, run: RunState, keys: list[str], wanted: set[Hashable]) -> None:
        manifest = run.manifest
        shared = [{"resources": d.cost.to_amounts()} if d.cost.amounts else {} for d in manifest.demands]
        new = [key for key in keys if key not in self._runs.functions and not is_barrier(key)]
        for key in new:
            position = position_of(key)
            function = FunctionState(run, key, position)
            run.functions[position] = self._runs.functions[key] = function
            run.alive += 1
            self._tasks.hold_first(key, shared[manifest.demand_of[position]], manifest.retries[position])
        run.wanted |= {k for k in keys if k in wanted}
        if run.keeps_going:
            run.missing |= {k for k in new if not self._tasks.is_in_memory(k)}
        else:
            run.missing = {k for k in run.wanted if not self._tasks.is_in_memory(k)}
        self._ranks.order(run)

    # ------------------------------------------------------------------ what becomes of its functions

    def function_changed(self, function: FunctionState, event: life.LifeEvent) -> None:
        """Begin, go on with or end the run of a function to which something has happened."""
        run = function.run
        if isinstance(event, life.Placed):
            if run.status == PENDING:
                run.status = RUNNING
                self._observers.run_began(run)
        elif isinstance(event, life.Ended):
            if not run.over:
                run.failures.pop(function.position, None)  # computed again, and well this time
            self._settled(run, function.key)
        elif isinstance(event, life.ResultLost):
            if function.key in run.wanted and not run.over:
                run.missing.add(function.key)
        elif isinstance(event, (life.FailedForGood, life.GivenUp)):
            if event.failure is not None:
                failure = event.failure
                self._failed(
                    run, function.position, RunFailure(failure.exception, failure.traceback, failure.text)
                )
        elif isinstance(event, life.Rejected):
            self._failed(run, function.position, RunFailure(refusal=event.refusal, text=str(event.error)))
        elif isinstance(event, life.ArgumentFailed):
            run.skipped[function.position] = event.by
            self._settled(run, function.key)

    def refuse(self, run: RunState, position: int, refusal: tuple[dict[str, str], str | None]) -> None:
        """End a run that handoff cannot go on with; of tasks of Dask's own, fail one."""
        self._failed(run, position, RunFailure(refusal=refusal), ends=not run.is_of_tasks)

    def data_lost(self, keys: Iterable[Key], node: str) -> None:
        """Dask is about to forget data that was scattered, with all that waits for it: fail these runs."""
        for key in keys:
            error = HandoffError(
                f"{key!r}, which was scattered and cannot be computed again, is lost with node {node!r}; "
                "scatter it anew, and with broadcast=True to have it on several nodes"
            )
            failure = RunFailure(exception=pickle.dumps(error), text=str(error))
            forgotten = self._going_with(key)
            ending = {f.run.token for f in forgotten if f.key in f.run.missing or f.key in f.run.wanted}
            for function in forgotten:
                if function.run.token in ending and function.run.watched:
                    self._failed(function.run, function.position, failure, ends=True)

    def _going_with(self, key: Key) -> list[FunctionState]:
        """The functions that Dask forgets with data that is lost, the first to take it first."""
        found, look_at = [], [key]
        for one in look_at:
            for dependent in self._tasks.dependents(one):
                if dependent not in look_at and not self._tasks.has_ended(dependent):
                    look_at.append(dependent)
                    function = self._runs.functions.get(dependent)
                    if function is not None:
                        found.append(function)
        return found

    def _failed(self, run: RunState, position: int, failure: RunFailure, *, ends: bool = False) -> None:
        """Note that a function has failed for good, and end its run unless that goes on."""
        ends = ends or not run.goes_on
        if run.over or (run.failures and ends and not run.keeps_going):
            return
        run.failures[position] = failure
        if ends:
            if run.watched:
                self.end(run, FAILED)
        elif run.keeps_going:
            if len(run.failures) == 1:
                self._keep_rest(run)
            self._settled(run, run.functions[position].key)

    def _settled(self, run: RunState, key: str) -> None:
        """A function has a result, or will have none."""
        run.missing.discard(key)
        if key in run.kept:
            run.kept.discard(key)
            self._later(self._tasks.let_go, [key])
        if not run.missing and not run.over:
            self.end(run, FAILED if run.failures and not run.is_of_tasks else FINISHED)

    def _keep_rest(self, run: RunState) -> None:
        """Let what the client does not want run all the same, although what needs it may have failed."""
        rest = {key for key in run.missing if key not in run.wanted}
        if rest:
            run.kept |= rest
            self._tasks.keep(rest)

    def not_placed(self, key: str) -> None:
        """A function is gone of which the engine has just decided: whoever permitted it may know."""
        self._observers.placement_void(key)

    # ------------------------------------------------------------------ end

    def end(self, run: RunState, status: str) -> None:
        """A run is over: nothing further of it starts, its client is told."""
        run.status = status
        run.ended = time()
        if run.kept:
            kept, run.kept = run.kept, set()
            self._later(self._tasks.let_go, kept)
        if status != FINISHED and not run.is_of_tasks:
            self._gather([RunClosed(run=run.engine_run)])
            if run.watched:
                # Not from within a transition: what is queued is cancelled in the next turn.
                self._later(self._drop_rest, run)
        self._observers.run_ended(run)

    def _drop_rest(self, run: RunState) -> None:
        """Release what a failed or cancelled run still wants of Dask."""
        reason = "another function has failed" if run.status == FAILED else "the execution was cancelled"
        self._tasks.drop(run.wanted, run.client, reason)

    def forgotten(self, function: FunctionState) -> None:
        """Dask has forgotten a function."""
        run = function.run
        self._runs.functions.pop(function.key, None)
        run.alive -= 1
        if run.is_of_tasks:
            run.missing.discard(function.key)
        if run.watched and not run.over and function.key in run.missing:
            # Somebody has cancelled its future: the run could not finish.
            self.end(run, CANCELLED)
        if run.alive == 0:
            if not run.over:
                self.end(run, CANCELLED if run.failed is None else FAILED)
            self._forget(run)

    def _forget(self, run: RunState) -> None:
        if self._runs.by_token.pop(run.token, None) is not None:
            self._runs.of_engine[run.engine_run] -= 1
            if not self._runs.of_engine[run.engine_run]:
                del self._runs.of_engine[run.engine_run]
                self._gather([RunClosed(run=run.engine_run)])
            self._observers.run_forgotten(run)

    def withdrawn(self, token: str) -> bool:
        """The graph of a run will not come; whether it was still expected."""
        self._runs.announcing.pop(token, None)
        expected = self._runs.announced.pop(token, None) is not None
        self._observers.run_withdrawn(token)
        return expected

    def client_left(self, client: str) -> None:
        """What a client had is cancelled with it."""
        for run in list(self._runs.open()):
            # Dask knows who else wants a task of its own, and forgets it when nobody does.
            if run.client == client and not run.is_of_tasks and not run.is_detached:
                self.end(run, CANCELLED)
        announced = [t for t, a in self._runs.announced.items() if a.client == client]
        for token in [*announced, *(t for t, c in self._runs.announcing.items() if c == client)]:
            self.withdrawn(token)

    def clear(self) -> None:
        """Every task of Dask's is gone at once."""
        for run in list(self._runs.by_token.values()):
            if not run.over:
                self.end(run, CANCELLED)
            self._forget(run)
        self._runs.functions.clear()


def _token_of(mark: Manifest | str) -> str:
    return mark if isinstance(mark, str) else mark.token
