"""The scheduler's state for people: nodes, runs and what waits, as plain data ready for JSON.

Everything is put together when somebody asks, and nothing before.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from heapq import nsmallest
from operator import attrgetter
from typing import Any

from distributed.metrics import monotonic, time
from toolz import countby, groupby, merge_with, topk

from handoff_dask.errors import NotFoundError
from handoff_dask.graph.arguments import did_you_mean, nearest
from handoff_dask.placement.explanation import NodeState
from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.record.logs import LogLine, Logs
from handoff_dask.record.status import CANCELLED, PENDING, RUNNING, WAITING
from handoff_dask.record.usage import Usage
from handoff_dask.resources import amount_of
from handoff_dask.scheduler.engine_driver import EngineDriver
from handoff_dask.scheduler.nodes import Nodes, WorkerInfo
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState, RunFailure, Runs, RunState
from handoff_dask.scheduler.sentences import obstacles, sentence, status_now
from handoff_dask.scheduler.streams import Pipelines
from handoff_dask.scheduler.tasks import Tasks
from handoff_dask.visualization.texts import dag_name, id_texts, plain

#: Ended runs that can be looked at: at most so many, and of so many functions together.
KEPT_RUNS = 20
KEPT_FUNCTIONS = 50_000
#: Functions that a view lists of a node, and kinds of waiting functions.
LISTED = 50
#: Functions of one kind that are named.
NAMED = 10

_status = attrgetter("status")


@dataclass(slots=True)
class Ended:
    """A run that is over, and the nodes there were then."""

    run: RunState
    nodes: dict[str, WorkerInfo]


class Views(Observer):
    """What can be seen from outside.

    Parameters
    ----------
    runs, nodes, tasks, driver, pipelines
        What is known of runs and workers; Dask's tasks; of the engine; of pipelines.
    """

    def __init__(
        self, runs: Runs, nodes: Nodes, tasks: Tasks, driver: EngineDriver, pipelines: Pipelines
    ) -> None:
        self._runs = runs
        self._nodes = nodes
        self._tasks = tasks
        self._driver = driver
        self._pipelines = pipelines
        self._ended: deque[Ended] = deque()

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What clients may ask."""
        return {
            "progress": self.progress, "overview": self.overview, "explain": self.explain, "logs": self.logs,
        }  # fmt: skip

    def run_ended(self, run: RunState) -> None:
        """Keep the last runs, however soon Dask forgets them."""
        if run.is_of_tasks:
            return
        self._ended.append(Ended(run, dict(self._nodes.by_name)))
        total = sum(len(ended.run.functions) for ended in self._ended)
        while len(self._ended) > KEPT_RUNS or (total > KEPT_FUNCTIONS and len(self._ended) > 1):
            total -= len(self._ended.popleft().run.functions)

    def ended(self) -> list[RunState]:
        """The last runs that are over, the latest last."""
        return [ended.run for ended in self._ended]

    # ------------------------------------------------------------------ one run

    def progress(self, client: str, token: str) -> tuple[dict[str, int], dict[str, int], float]:
        """How many functions of a run stand where, and what the waiting ones wait for.

        Returns
        -------
        tuple
            ``({status: count}, {cause: count}, seconds that counting took)``.

        Raises
        ------
        NotFoundError
            If the run is not known (any more).
        """
        began = monotonic()
        announced = self._runs.announced.get(token)
        if announced is not None:  # its graph is on its way
            return {PENDING: len(announced.manifest)}, {}, 0.0
        run = self._runs.by_token.get(token)
        if run is None:
            raise NotFoundError("execution", token, "it has been forgotten")
        states = Counter(map(_status, run.functions.values()))
        causes = self._causes(run) if states[WAITING] else {}
        return dict(states), causes, monotonic() - began

    def _causes(self, run: RunState) -> dict[str, int]:
        """Functions of equal demand wait together, so it is enough to ask about one of them."""
        demand_of = run.manifest.demand_of
        waiting = [f for f in run.functions.values() if f.status == WAITING and not f.not_before]
        later = sum(1 for f in run.functions.values() if f.status == WAITING and f.not_before)
        counts = Counter(demand_of[f.position] for f in waiting)
        one_of = {demand_of[f.position]: f.key for f in waiting}
        causes: Counter[str] = Counter({"retry": later} if later else {})
        for demand, count in counts.items():
            causes[self._driver.engine.waiting_cause(one_of[demand])] += count
        return dict(causes)

    def record(self, token: str) -> ExecutionRecord:
        """A run as far as it has come, for pictures and reports; ids are texts there.

        Raises
        ------
        NotFoundError
            If the run is not among the last ones.
        """
        run, nodes = self._find(token)
        texts, producers = self._ids(run), run.producers()
        functions = [
            FunctionRecord(
                id=texts[f.position],
                name=run.manifest.names[f.position],
                args=tuple(texts[p] for p in producers.get(f.position, ())),
                cost=run.cost(f.position),
                claimed=tuple(run.claimed(f.position)),
                status=status_now(f),
                node=f.fact("node"),
                ready=f.ready,
                placed=f.fact("placed"),
                start=f.fact("start"),
                stop=f.fact("stop"),
                attempts=f.attempts,
                cause=f.fact("cause") or "",
                nbytes=f.fact("nbytes"),
                usage=None if f.fact("used") is None else Usage(*f.fact("used")),
                duration_s=run.manifest.durations.get(f.position),
                error=_error(run, f.position),
            )
            for f in sorted(run.functions.values(), key=attrgetter("position"))
        ]
        capabilities = self._nodes.capabilities
        return ExecutionRecord(
            dag_id=self._dag(run),
            status=run.status,
            functions=tuple(functions),
            nodes={
                name: {**capabilities(node).to_dict(), "threads": node.threads}
                for name, node in nodes.items()
            },
            strategy=run.strategy_name,
            submitted=run.submitted,
            ended=run.ended,
            logs=Logs([LogLine(texts[line[0]], *line[1:]) for line in run.logs]),
        )

    def _find(self, token: str) -> tuple[RunState, dict[str, WorkerInfo]]:
        for ended in self._ended:
            if ended.run.token == token:
                return ended.run, ended.nodes
        run = self._runs.by_token.get(token)
        if run is None:
            raise NotFoundError("execution", token, f"it is not among the last {KEPT_RUNS}")
        return run, self._nodes.by_name

    def _ids(self, run: RunState) -> list[str]:
        """Texts for the functions' ids; their keys where a ``repr`` of the user's fails."""
        if run.texts is None:
            ids = [run.id_of(position) for position in range(len(run.manifest))]
            try:
                by_id = id_texts(ids)
                run.texts = [by_id[i] for i in ids]
            except Exception:  # whatever the user's __repr__ and __hash__ raise
                run.texts = run.manifest.keys()
        return run.texts

    def _dag(self, run: RunState) -> str:
        return run.engine_run if run.is_of_tasks else _text(run.dag_id, run.token)

    # ------------------------------------------------------------------ all of it

    def overview(self, client: str = "") -> dict[str, Any]:
        """Nodes, runs and what waits, at one moment."""
        return {
            "time": time(),
            "nodes": self.nodes(),
            "shared": self.shared(),
            "outsiders": self._nodes.outsiders(),
            "runs": self.runs(),
            "waiting": self.waiting(),
            "pipelines": self._pipelines.overview(),
        }

    def shared(self) -> list[dict[str, Any]]:
        """What the whole cluster shares: how much there is, and how much is in use; by name."""
        return [
            {"name": name, "amount": amount_of(total), "used": amount_of(used)}
            for name, (total, used) in self._driver.engine.shared().items()
        ]

    def nodes(self) -> list[dict[str, Any]]:
        """Each node: what it has, what of it is in use, and what runs there; in name order."""
        notes = self._nodes.notes()
        states = sorted(self._driver.engine.nodes().values(), key=lambda node: node.name)
        return [
            {
                "name": node.name,
                "address": node.address,
                "status": self._status(node),
                "capabilities": plain(node.capabilities.to_dict()),
                "used": {name: amount_of(units) for name, units in node.used.items()},
                "available": node.available(),
                "threads": node.threads,
                "threads_used": node.threads_used,
                "price": node.price,
                "reserved_for": self._named(node.reserved_for),
                "running_count": len(node.placed),
                "running": self._running(node.placed),
                "notes": notes.get(node.name, []),
            }
            for node in states
        ]

    def _status(self, node: NodeState) -> str:
        if node.returning or not node.accepting:
            return "returning" if node.returning else "paused"
        return "sick" if node.name in self._nodes.sick() else "ready"

    def _running(self, keys: Iterable[Hashable]) -> list[dict[str, Any]]:
        functions = [f for key in keys if (f := self._function(key)) is not None]
        functions.sort(key=lambda f: f.fact("placed") or 0.0)
        return [{**self._about(f), "since": f.fact("start") or f.fact("placed")} for f in functions[:LISTED]]

    def runs(self) -> list[dict[str, Any]]:
        """Runs that are open and the last that have ended, the latest first.

        Tasks of Dask's own that one client has submitted are one row, however many graphs they came in.
        """
        ended = [e.run for e in self._ended]
        known = {run.token for run in ended}
        open_ = [run for run in self._runs.by_token.values() if run.token not in known]
        rows = [self._run(run) for run in [*ended, *open_] if not run.is_of_tasks]
        of_tasks = groupby(attrgetter("engine_run"), (run for run in open_ if run.is_of_tasks))
        rows += [self._together([self._run(run) for run in group]) for group in of_tasks.values()]
        return sorted(rows, key=lambda row: -row["submitted"])

    @staticmethod
    def _together(rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The rows of several runs as that of the latest, with the numbers of all."""
        going_on = any(row["ended"] is None for row in rows)
        return {
            **rows[-1],
            "status": RUNNING if going_on else rows[-1]["status"],
            "submitted": rows[0]["submitted"],
            "ended": None if going_on else max(row["ended"] for row in rows),
            "states": merge_with(sum, *(row["states"] for row in rows)),
            **{name: sum(row[name] for row in rows) for name in ("functions", "failures", "skipped")},
        }

    def _name(self, run: RunState) -> str:
        """How a run's DAG is shown."""
        if run.is_of_tasks or not len(run.manifest):
            return self._dag(run)
        spawned = run.manifest.spawned
        return str(dag_name(self._dag(run), self._ids(run)[spawned[0][0] - 1 if spawned else -1]))

    def _run(self, run: RunState) -> dict[str, Any]:
        return {
            "token": run.token,
            "dag_id": self._dag(run),
            "name": self._name(run),
            "status": run.status,
            "strategy": run.strategy_name,
            "submitted": run.submitted,
            "ended": run.ended,
            "functions": len(run.functions),
            "share": self._share(run),
            "states": countby(status_now, run.functions.values()),
            "failed": None if run.failed is None else self._ids(run)[run.failed],
            "failures": len(run.failures),
            "skipped": len(run.skipped),
            "error": self._problem(run),
        }

    def _share(self, run: RunState) -> float | None:
        """The largest fraction that an open run holds of anything the cluster has."""
        if run.over:
            return None
        holdings = self._driver.engine.holdings()
        return next((holding.share for holding in holdings if holding.run == run.engine_run), None)

    def _problem(self, run: RunState) -> str | None:
        return self._problem_of(run.problem)

    @staticmethod
    def _problem_of(first: RunFailure) -> str | None:
        if first.refusal is not None:
            reasons, problem = first.refusal
            return "; ".join(
                [*([problem] if problem else []), *(f"{n}: {why}" for n, why in reasons.items())]
            )
        return first.text.strip().rpartition("\n")[2] or None

    def waiting(self) -> list[dict[str, Any]]:
        """What waits and why: functions of one run and one demand together, the most first."""
        waiting = (f for f in self._runs.functions.values() if f.status == WAITING)
        groups = groupby(lambda f: (f.run.engine_run, f.run.demand(f.position), f.not_before > 0), waiting)
        return [self._kind(group) for group in topk(LISTED, groups.values(), key=len)]

    def _kind(self, group: list[FunctionState]) -> dict[str, Any]:
        foremost = nsmallest(NAMED, group, key=_order)
        first = foremost[0]
        why = self._driver.engine.explain(first.key, now=monotonic())
        return {
            **self._about(first),
            "count": len(group),
            "since": min(f.ready or time() for f in group),
            "functions": [self._ids(f.run)[f.position] for f in foremost],
            "cause": "retry" if first.not_before else why.cause,
            "nodes": obstacles(why),
        }

    # ------------------------------------------------------------------ one function

    def explain(self, client: str, function: str, dag: str | None = None) -> list[dict[str, Any]]:
        """Where the functions of this id (or Dask key) stand.

        In the runs that are open; where none of these has it, in those that have ended.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        self._driver.flush()
        found: list[FunctionState] = []
        for run in self._known():
            if dag is None or dag in (self._dag(run), run.token):
                texts = self._ids(run)
                found += [f for p, f in run.functions.items() if function in (texts[p], f.key)]
        if not found:
            known = [text for run in self._known() for text in self._ids(run)]
            hint = nearest(function, known)
            raise NotFoundError("function", function, hint or "no execution on this cluster has it")
        open_ = [f for f in found if not f.run.over]
        return [self._explained(f) for f in open_ or found]

    def _known(self) -> list[RunState]:
        """Every run that is open or among the last that have ended."""
        runs = {run.token: run for run in self.ended()}
        return list({**runs, **self._runs.by_token}.values())

    def logs(self, client: str, dag: str, function: str | None = None) -> list[dict[str, Any]]:
        """What the functions of the latest run of a DAG printed and logged; its id as text, or its token.

        Raises
        ------
        NotFoundError
            If there is no such run, or it has no such function.
        """
        runs = [run for run in self._known() if dag in (self._dag(run), run.token)]
        if not runs:
            raise NotFoundError("execution", dag, "no execution on this cluster is called so")
        run = max(runs, key=attrgetter("submitted"))
        texts = self._ids(run)
        if function is not None and function not in texts:
            raise NotFoundError("function", function, did_you_mean(function, texts))
        names = ("attempt", "node", "time", "source", "text")
        lines = [{"function_id": texts[p], **dict(zip(names, rest, strict=True))} for p, *rest in run.logs]
        return [line for line in lines if function in (None, line["function_id"])]

    def _explained(self, f: FunctionState) -> dict[str, Any]:
        why = self._driver.engine.explain(f.key, now=monotonic())
        about = self._about(f)
        missing = self._missing(f) if f.status == PENDING else []
        return {
            **about,
            "status": status_now(f),
            "node": f.fact("node"),
            "waited_s": why.waited_s,
            "cause": why.cause if f.status == WAITING else f.fact("cause") or "",
            "ahead": why.ahead,
            "nodes": obstacles(why),
            "missing": missing,
            "words": sentence(f, why, about["function_id"], missing, self._why_not(f)),
        }

    def _why_not(self, f: FunctionState) -> str | None:
        """Why a function has not ended well, once its run is over or its turn has passed."""
        run = f.run
        if f.position in run.failures:
            return self._problem_of(run.failures[f.position])
        because = run.skipped.get(f.position, run.failed)
        if because is None:
            return "the execution was cancelled" if run.status == CANCELLED else None
        failure = run.failures.get(because)
        why = None if failure is None else self._problem_of(failure)
        return f"{self._ids(run)[because]} failed" + (f": {why}" if why else "")

    def _missing(self, f: FunctionState) -> list[str]:
        """Ids of the arguments that are not there yet."""
        task = self._tasks.get(f.key)
        ours = [] if task is None else [self._function(t.key) for t in task.waiting_on or ()]
        return sorted(self._ids(g.run)[g.position] for g in ours if g is not None)

    def _about(self, f: FunctionState) -> dict[str, Any]:
        return {
            "dag_id": self._dag(f.run),
            "name": self._name(f.run),
            "token": f.run.token,
            "function_id": self._ids(f.run)[f.position],
            "key": f.key,
            "cost": plain(f.run.cost(f.position)),
        }

    def _function(self, key: Any) -> FunctionState | None:
        return self._runs.functions.get(key)

    def _named(self, key: Hashable) -> str | None:
        function = self._function(key)
        return None if function is None else self._ids(function.run)[function.position]


def _error(run: RunState, position: int) -> str | None:
    """Traceback and exception of a function that has raised."""
    failure = run.failures.get(position)
    return failure.text or None if failure is not None and failure.refusal is None else None


def _order(f: FunctionState) -> tuple[float, float, int]:
    return -f.run.manifest.priorities.get(f.position, 0.0), -f.rank, f.position


def _text(value: Hashable, otherwise: str) -> str:
    try:
        return id_texts([value])[value]
    except Exception:  # whatever the user's __repr__ and __hash__ raise
        return otherwise
