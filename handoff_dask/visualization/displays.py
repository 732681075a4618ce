"""The displays of DAGs, executions and results in a notebook, and their texts when printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from toolz import countby, frequencies, groupby, merge_with

from handoff_dask.errors import ValidationError
from handoff_dask.graph.dag import DAG
from handoff_dask.graph.functions import Function
from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.record.lower_bound import lower_bounds
from handoff_dask.record.result import ExecutionResult
from handoff_dask.record.time_split import span_of
from handoff_dask.resources import amount_of
from handoff_dask.visualization.dot import seconds_text
from handoff_dask.visualization.small_graph import Item, small_graph
from handoff_dask.visualization.small_timeline import small_timeline
from handoff_dask.visualization.summary import STATUS_COLOURS, Summary, id_text, listed
from handoff_dask.visualization.texts import dag_name

__all__ = ["add_displays", "amounts_text", "counts_summary", "dag_summary", "record_summary"]

#: The lower bound of a larger execution takes too long for a display.
MOST_BOUND = 20_000
#: Names of codes that a text lists.
NAMES = 5

#: The id of a DAG that was given none.


def dag_summary(dag: DAG, *, picture: bool = True) -> Summary:
    """A DAG before it runs.

    Parameters
    ----------
    dag
        The DAG; it need not be valid.
    picture
        Whether to draw its graph.
    """
    functions = list(dag.functions.values())
    problem = _problem(dag)
    order = [dag.functions[i] for i in dag.order()] if problem is None else functions
    regular = [f for f in functions if f.type == "regular"]
    rows = [("functions", _functions_text(functions))]
    if functions:
        edges = sum(len(set(f.dependencies)) for f in functions)
        rows.append(("arguments", f"{edges:,}" + (f", {_depth(order):,} deep" if not problem else "")))
        rows.append(("codes", _codes_text(functions)))
    if costs := _largest(regular):
        rows.append(("largest cost", amounts_text(costs)))
    if pinned := sum(f.node is not None for f in regular):
        rows.append(("pinned", f"{pinned:,} to a node or to other functions"))
    durations = [float(f.duration) for f in regular if f.duration is not None]
    if durations:
        known = "" if len(durations) == len(regular) else f" ({len(durations):,} durations are known)"
        rows.append(("expected", f"{seconds_text(sum(durations))} in all{known}"))
    if problem is not None:
        rows.append(("problem", problem))
    return Summary(
        kind="DAG",
        name=_dag_name(dag.id, functions),
        state="" if problem is None else "not valid",
        colour=STATUS_COLOURS["failed"],
        rows=rows,
        picture=small_graph(Item(f.id, f.name, f.dependencies) for f in order) if picture else "",
    )


def _dag_name(dag_id: Any, functions: Sequence[Any]) -> str:
    """A DAG's id; where it has none of the user's, the name of its last function."""
    return id_text(dag_name(dag_id, id_text(functions[-1].id) if functions else None))


def record_summary(
    kind: str,
    record: ExecutionRecord,
    *,
    picture: bool = True,
    now: float | None = None,
    error: str | None = None,
) -> Summary:
    """An execution as far as it has come.

    Parameters
    ----------
    kind
        ``"Execution of DAG"`` or ``"Result of DAG"``.
    record
        What is known of it.
    picture
        Whether to draw it: its timeline once it is over, its graph before.
    now
        Seconds since the epoch, while it runs.
    error
        What it failed with.
    """
    regular = [f for f in record.functions if f.status != "none"]
    counts = countby(lambda f: f.status, regular)
    begin, end = span_of(record)
    is_over = record.ended is not None or record.status in ("finished", "failed", "cancelled")
    lasted = end - begin if is_over or now is None or record.submitted is None else now - record.submitted
    started = [f for f in regular if f.node is not None and f.start is not None]
    rows = [("functions", _counts_text(counts))]
    if is_over and record.status == "finished" and 0 < len(regular) <= MOST_BOUND:
        rows += _bound_rows(record, lasted)
    if used := sorted({f.node for f in started if f.node is not None}):
        rows.append(("nodes", f"{len(used):,} used of {max(len(used), len(record.nodes)):,}: {listed(used)}"))
    waiting = [f for f in regular if f.status == "waiting" and f.cause]
    if not is_over and waiting:
        causes = countby(lambda f: f.cause, waiting)
        rows.append(("waiting for", ", ".join(f"{cause} ({n:,})" for cause, n in causes.items())))
    rows.append(("strategy", record.strategy))
    if failed := [f for f in regular if f.status == "failed"]:
        where = f" on node {id_text(failed[0].node)}" if failed[0].node else ""
        named = id_text(failed[0].id) + where if len(failed) == 1 else listed([id_text(f.id) for f in failed])
        rows.append(("failed", named))
    if error:
        rows.append(("error", error))
    state = f"{record.status} {'in' if is_over else 'for'} {seconds_text(max(lasted, 0.0))}"
    return Summary(
        kind=kind,
        name=_dag_name(record.dag_id, record.functions),
        state=state if started or not is_over else record.status,
        colour=STATUS_COLOURS.get(record.status, STATUS_COLOURS["pending"]),
        rows=rows,
        counts={status: counts[status] for status in STATUS_COLOURS if status in counts},
        table=_nodes_table(record, started, end - begin) if is_over else None,
        picture=_picture(record, is_over) if picture else "",
    )


def counts_summary(
    kind: str, name: str, status: str, counts: Mapping[str, int], error: str | None = None
) -> Summary:
    """An execution of which only the number of functions by status is known."""
    return Summary(
        kind=kind,
        name=name,
        state=status,
        colour=STATUS_COLOURS.get(status, STATUS_COLOURS["pending"]),
        rows=[("functions", _counts_text(counts)), *([("error", error)] if error else [])],
        counts={status: counts[status] for status in STATUS_COLOURS if status in counts},
    )


def amounts_text(costs: Mapping[str, Any]) -> str:
    """A cost or capabilities in one line.

    Examples
    --------
    >>> amounts_text({"cpu": 2, "memory": 16000, "zone": "a"})
    'cpu 2, memory 16 GB, zone a'
    """
    parts = []
    for name, value in costs.items():
        if name == "memory" and isinstance(value, (int, float)) and not isinstance(value, bool):
            text = f"{value / 1000:.3g} GB" if value >= 1000 else f"{value:.3g} MB"
        else:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
        parts.append(f"{id_text(name)} {id_text(text)}")
    return ", ".join(parts)


def add_displays() -> None:
    """Give DAGs and results the methods by which Python and notebooks show them."""

    def display(self: DAG) -> str:
        return dag_summary(self).html()

    def text(self: DAG) -> str:
        return str(dag_summary(self, picture=False))

    def result_display(self: ExecutionResult) -> str:
        return record_summary("Result of DAG", self.record).html()

    def result_text(self: ExecutionResult) -> str:
        return str(record_summary("Result of DAG", self.record, picture=False))

    methods: dict[type, dict[str, Any]] = {
        DAG: {"_repr_html_": display, "__str__": text},
        ExecutionResult: {"_repr_html_": result_display, "__str__": result_text},
    }
    for owner, added in methods.items():
        for name, method in added.items():
            setattr(owner, name, method)


def _problem(dag: DAG) -> str | None:
    try:
        dag.validate()
    except ValidationError as error:
        return str(error)
    return None


def _functions_text(functions: Sequence[Function]) -> str:
    numbers = frequencies(f.type for f in functions)
    others = [f"{n:,} {kind}" for kind, n in numbers.items() if kind != "regular"]
    return f"{len(functions):,}" + (f", of which {' and '.join(others)}" if others else "")


def _codes_text(functions: Sequence[Function]) -> str:
    numbers = sorted(frequencies(f.name for f in functions).items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [f"{id_text(name)} ×{n:,}" for name, n in numbers[:NAMES]]
    more = f" and {len(numbers) - NAMES:,} more" if len(numbers) > NAMES else ""
    return ", ".join(shown) + more


def _depth(order: Sequence[Function]) -> int:
    levels: dict[Any, int] = {}
    for function in order:
        levels[function.id] = 1 + max((levels.get(arg, 0) for arg in function.dependencies), default=0)
    return max(levels.values(), default=0)


def _largest(functions: Iterable[Function]) -> dict[str, Any]:
    """The largest amount of each resource that one of the functions costs."""
    distinct = {function.needs for function in functions if function.cost}
    amounts = merge_with(max, *(dict(cost.amounts) for cost in distinct)) if distinct else {}
    return {name: amount_of(units) for name, units in amounts.items()}


def _counts_text(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    shown = [f"{counts[status]:,} {status}" for status in STATUS_COLOURS if counts.get(status)]
    return f"{total:,}: {', '.join(shown)}" if len(shown) > 1 else (shown[0] if shown else "none")


def _bound_rows(record: ExecutionRecord, lasted: float) -> list[tuple[str, str]]:
    bounds = lower_bounds(record)
    if not bounds or bounds[0].seconds <= 0:
        return []
    bound = bounds[0]
    ratio = f"; it took {lasted / bound.seconds:.2f} times as long" if lasted > 0 else ""
    limit = "the longest path" if bound.resource is None else str(bound)
    return [("lower bound", f"{seconds_text(bound.seconds)}, set by {limit}{ratio}")]


def _nodes_table(
    record: ExecutionRecord, started: Sequence[FunctionRecord], span: float
) -> tuple[Sequence[str], list[Sequence[str]]]:
    rows: list[Sequence[str]] = []
    by_node: dict[str, list[FunctionRecord]] = groupby(lambda f: f.node, started)
    for node in sorted({*record.nodes, *by_node}):
        functions = by_node.get(node, [])
        busy = sum(
            max(0.0, f.stop - f.start) for f in functions if f.start is not None and f.stop is not None
        )
        at_once = f"{busy / span:.1f}" if span > 0 and functions else "–"
        rows.append((id_text(node), f"{len(functions):,}", seconds_text(busy) if functions else "–", at_once))
    return ("node", "functions", "running time", "at once (mean)"), rows


def _picture(record: ExecutionRecord, is_over: bool) -> str:
    if is_over:
        return small_timeline(record)
    return small_graph(Item(f.id, f.name, f.args, f.status) for f in record.functions)
