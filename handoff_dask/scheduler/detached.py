"""Runs that outlive their client: what is kept of them, and how other clients get at them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from distributed.protocol import pickle
from toolz import countby

from handoff_dask.errors import NotFoundError
from handoff_dask.record.status import FINISHED
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import Runs, RunState
from handoff_dask.scheduler.tasks import Tasks

#: Seconds between two looks for a graph that is on its way.
SOON_S = 0.02


class DetachedRuns(Observer):
    """Keeps the results of detached runs, of the last ones that have ended too.

    Parameters
    ----------
    runs, nodes, tasks
        What is known of runs and workers; Dask's tasks.
    ended
        The last runs that are over.
    later
        Calls a function in the next turn of the scheduler's event loop.
    """

    def __init__(
        self,
        runs: Runs,
        nodes: Nodes,
        tasks: Tasks,
        ended: Callable[[], list[RunState]],
        later: Callable[..., object],
    ) -> None:
        self._runs = runs
        self._nodes = nodes
        self._tasks = tasks
        self._ended = ended
        self._later = later
        #: Those that are over and kept, the latest last.
        self._retained: deque[RunState] = deque()

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What clients may ask."""
        return {"executions": self.executions, "attach": self.attach}

    def run_opened(self, run: RunState) -> None:
        """Want what a detached run is to give, whoever leaves."""
        if run.is_detached:
            self._tasks.keep(run.wanted)

    def run_ended(self, run: RunState) -> None:
        """Keep the last ones."""
        if not run.is_detached:
            return
        if run.status != FINISHED:
            # What has ended well stays; nothing else of it is to start.
            rest = [k for k in run.wanted if not self._tasks.is_in_memory(k)]
            self._later(self._tasks.let_go, rest)
        self._retained.append(run)
        while len(self._retained) > run.manifest.options.retained_detached:
            self._later(self._tasks.let_go, self._retained.popleft().wanted)

    def cleared(self) -> None:
        """Every task of Dask's is gone at once."""
        self._retained.clear()

    # ------------------------------------------------------------------ requests

    def executions(self, client: str) -> list[dict[str, Any]]:
        """What the cluster runs and remembers, the latest first."""
        known = {run.token: run for run in [*self._ended(), *self._runs.by_token.values()]}
        listed = [run for run in known.values() if run.watched]
        return [
            {
                "dag_id": run.manifest.dag_id,
                "token": run.token,
                "client": run.client,
                "status": run.status,
                "counts": countby(lambda f: f.status, run.functions.values()),
                "submitted": run.submitted,
                "ended": run.ended,
                "is_detached": run.is_detached,
            }
            for run in sorted(listed, key=lambda run: -run.submitted)
        ]

    async def attach(self, client: str, listener: str, dag: str | None, token: str | None) -> list[Any]:
        """Tell another session of a run too; all that it must know of it now.

        Raises
        ------
        NotFoundError
            If the cluster does not have it any more.
        """
        # Its graph may be on its way: Dask takes it apart in a thread.
        while any(t == token or a.manifest.dag_token == dag for t, a in self._runs.announced.items()):
            await asyncio.sleep(SOON_S)
        found = [
            run
            for run in self._runs.by_token.values()
            if run.watched and (run.token == token or run.manifest.dag_token == dag)
        ]
        if not found:
            raise NotFoundError("execution", token or dag, "the cluster does not have it any more")
        run = found[-1]
        if not run.over:
            run.listeners[listener] = client
        manifest, producers = run.manifest, run.producers()
        facts = {
            "token": run.token,
            "dag_id": manifest.dag_id,
            "ids": manifest.ids,
            "keys": [run.functions[n].key if n in run.functions else "" for n in range(len(manifest))],
            "names": manifest.names,
            "costs": [run.cost(n) for n in range(len(manifest))],
            "args": [producers.get(n, []) for n in range(len(manifest))],
            "wanted": [n for n, f in run.functions.items() if f.key in run.wanted],
            "strategy_name": run.strategy_name,
            "on_failure": manifest.options.on_failure,
            "outcome": run.outcome(self._nodes.as_recorded()),
            "over": run.over,
        }
        return [pickle.dumps(facts), run.exceptions()]
