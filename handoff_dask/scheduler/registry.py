"""The scheduler's register of runs: how each is opened, ordered, ended and forgotten."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, NamedTuple

from distributed.metrics import time

from handoff_dask.placement.events import RunClosed, RunOpened
from handoff_dask.placement.strategies import Strategy
from handoff_dask.protocol.manifest import Manifest, position_of
from handoff_dask.record.status import CANCELLED, FAILED, FINISHED
from handoff_dask.scheduler.runs import Function, Run
from handoff_dask.scheduler.user_strategies import load

if TYPE_CHECKING:
    from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin

#: The worker restriction of a held task: no worker has such an address.
HELD = {"handoff://held"}


class Announced(NamedTuple):
    """A run whose graph has not arrived yet."""

    client: str
    manifest: Manifest
    strategy: Strategy
    #: Cancelled before its graph has come.
    cancelled: bool = False


class Registry:
    """Runs by token, functions by Dask key."""

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        #: Runs that Dask has not forgotten.
        self.runs: dict[str, Run] = {}
        self.functions: dict[str, Function] = {}
        #: By token.
        self.announced: dict[str, Announced] = {}

    # ------------------------------------------------------------------ begin

    def graph_arrived(self, marks: dict[str, Manifest | str], wanted: set[Hashable], client: str) -> None:
        """Hold the functions of a graph before Dask assigns any."""
        by_token: dict[str, list[str]] = {}
        manifests: dict[str, Manifest] = {}
        for key, mark in marks.items():
            token = mark if isinstance(mark, str) else mark.token
            if token not in by_token:
                by_token[token] = []
                if not isinstance(mark, str):
                    manifests[token] = mark
            by_token[token].append(key)
        for token, keys in by_token.items():
            announced, is_new = self.announced.pop(token, None), token not in self.runs
            if announced is not None:
                self._open(announced.manifest, client, announced.strategy, watched=True)
            elif is_new:
                self._open(manifests[token], client, load(manifests[token]), watched=False)
            self._hold(self.runs[token], keys, wanted)
            if is_new:
                self._plugin.announcer.run_started(self.runs[token])
            if announced is not None and announced.cancelled:
                self.end(self.runs[token], CANCELLED)
            self._plugin.values.has_news(token)

    def _open(self, manifest: Manifest, client: str, strategy: Strategy, *, watched: bool) -> None:
        if not self.runs:
            self._plugin.foreign.begin()
            self._plugin.patience.begin()
        run = Run(manifest, client, submitted=time(), watched=watched)
        self.runs[manifest.token] = run
        options = manifest.options
        opened = RunOpened(
            run=run.token,
            strategy=strategy,
            nodes=self._plugin.nodes.by_names(options.nodes),
            max_concurrency=options.max_concurrency,
            allocation_timeout_s=options.allocation_timeout_s,
            groups=manifest.groups,
            permit=self._plugin.tracking.permit_of(run),
            next_rank=self._plugin.foresight.next_rank,
        )
        self._plugin.driver.gather([opened])

    def _hold(self, run: Run, keys: list[str], wanted: set[Hashable]) -> None:
        tasks = self._plugin.scheduler.tasks
        manifest = run.manifest
        shared = [{"resources": d.cost.to_amounts()} if d.cost.amounts else {} for d in manifest.demands]
        for key in keys:
            if key in self.functions:
                continue
            position = position_of(key)
            function = Function(run, key, position)
            run.functions[position] = self.functions[key] = function
            run.alive += 1
            task = tasks[key]
            task.worker_restrictions = HELD
            # The ledger decides; Dask's own count on the worker must not hold anything back.
            task.resource_restrictions = {}
            task.annotations = shared[manifest.demand_of[position]]
            task.retries = manifest.retries[position]
        run.wanted |= {k for k in keys if k in wanted}
        run.missing = {k for k in run.wanted if tasks[k].state != "memory"}
        self._plugin.foresight.order(run)

    # ------------------------------------------------------------------ end

    def end(self, run: Run, status: str) -> None:
        """A run is over: nothing further of it starts, its client is told."""
        run.status = status
        run.ended = time()
        if status != FINISHED:
            self._plugin.driver.gather([RunClosed(run=run.token)])
            if run.watched:
                # Not from within a transition: what is queued is cancelled in the next turn.
                self._plugin.scheduler.loop.add_callback(self._drop_rest, run)
        self._plugin.announcer.run_ended(run)
        self._plugin.requests.run_ended(run)
        self._plugin.values.has_news(run.token)
        self._plugin.views.run_ended(run)
        self._plugin.numbers.run_ended(status)

    def _drop_rest(self, run: Run) -> None:
        """Release what a failed or cancelled run still wants of Dask."""
        scheduler = self._plugin.scheduler
        tasks = scheduler.tasks
        rest = [k for k in run.wanted if k in tasks and tasks[k].state not in ("memory", "erred")]
        if not rest or run.client not in scheduler.clients:
            return
        # Scheduler.stimulus_cancel would do both, but calls itself once for each link of a chain.
        scheduler.client_releases_keys(keys=rest, client=run.client, stimulus_id=f"handoff-cancel-{time()}")
        reason = "another function has failed" if run.status == FAILED else "the execution was cancelled"
        scheduler.report(
            {"op": "cancelled-keys", "keys": rest, "reason": reason, "msg": ""}, client=run.client
        )

    def forgotten(self, function: Function) -> None:
        """Dask has forgotten a function."""
        run = function.run
        self.functions.pop(function.key, None)
        self._plugin.overdue.given_up.discard(function.key)
        run.alive -= 1
        if run.watched and not run.over and function.key in run.missing:
            # Somebody has cancelled its future: the run could not finish.
            self.end(run, CANCELLED)
        if run.alive == 0:
            if not run.over:
                self.end(run, CANCELLED if run.failed is None else FAILED)
            self._forget(run)

    def _forget(self, run: Run) -> None:
        if run.token not in self.runs:
            return
        self._plugin.announcer.forget(run.token)
        del self.runs[run.token]
        self._plugin.driver.forget_groups(run.manifest.groups)
        self._plugin.foresight.forget(run.token)
        self._plugin.driver.gather([RunClosed(run=run.token)])
        if not self.runs:
            self._plugin.foreign.end()
            self._plugin.patience.end()

    def client_left(self, client: str) -> None:
        """What a client had is cancelled with it."""
        for run in list(self.runs.values()):
            if run.client == client and not run.over:
                self.end(run, CANCELLED)
        for token in [t for t, a in self.announced.items() if a.client == client]:
            del self.announced[token]
            self._plugin.values.has_news(token)

    def clear(self) -> None:
        """Every task of Dask's is gone at once."""
        for run in list(self.runs.values()):
            if not run.over:
                self.end(run, CANCELLED)
            self._forget(run)
        self.functions.clear()
