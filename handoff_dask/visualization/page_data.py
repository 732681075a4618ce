"""What the page of a report draws, as data ready for JSON.

Times are seconds since the execution was submitted; lists of functions are columns, so that a
large page stays small.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from toolz import count, groupby, merge

from handoff_dask.graph.bounds import Bound
from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.record.lower_bound import lower_bounds
from handoff_dask.record.suggestions import suggestions_of
from handoff_dask.record.time_split import ARGUMENTS, span_of, time_split
from handoff_dask.resources import Capabilities
from handoff_dask.visualization.graph import ExecutionGraph
from handoff_dask.visualization.grouping import grouped, levels_of
from handoff_dask.visualization.lanes import activity, lanes_of
from handoff_dask.visualization.texts import dag_name, id_texts, plain, shortened, visible
from handoff_dask.visualization.utilization import Steps, resource_utilization

__all__ = ["errors_of", "json_for_html", "page_data", "summary_of"]

#: Characters of an id or a cost that the page shows.
SHOWN = 120
#: Errors that the page shows in full, and characters of each.
ERRORS = 50
#: Lower bounds that it shows.
BOUNDS = 6
TRACEBACK = 8000
#: Codes of which it shows what they asked and used.
COSTS = 40


def page_data(record: ExecutionRecord) -> dict[str, Any]:
    """All that the page draws: activity, timeline, use of resources, the table of functions."""
    begin, end = span_of(record)
    lanes = lanes_of(record)
    use = resource_utilization(record)
    moments, counts = activity(record)
    return {
        "span_s": _rounded(end - begin),
        "bound_s": _rounded(lower_bounds(record)[0].seconds),
        "path": {part: _rounded(seconds) for part, seconds in time_split(record).along_path.items()},
        "activity": {"t": [_rounded(m - begin) for m in moments], "counts": counts},
        "nodes": [
            {
                "name": shortened(visible(node), SHOWN),
                "lanes": max([_threads(record, node), *(lane + 1 for lane in of_node.values())]),
                "use": _use(use.get(node, {}), record.nodes.get(node, {}), begin),
            }
            for node, of_node in lanes.items()
        ],
        "functions": _columns(record, lanes, begin),
    }


def _threads(record: ExecutionRecord, node: str) -> int:
    threads = record.nodes.get(node, {}).get("threads", 1)
    # A node may have far more threads than it ever used; empty lanes beyond that say nothing.
    return min(int(threads), 16) if isinstance(threads, (int, float)) else 1


def _use(use: Mapping[str, Steps], capabilities: Mapping[str, Any], begin: float) -> list[dict[str, Any]]:
    amounts = {name: value for name, value in capabilities.items() if name != "threads"}
    capacity = Capabilities.parse(amounts).to_dict()
    return [
        {
            "resource": shortened(visible(name), 40),
            "capacity": capacity[name] if isinstance(capacity.get(name), (int, float)) else None,
            "t": [_rounded(moment - begin) for moment, _ in steps],
            "used": [used for _, used in steps],
        }
        for name, steps in use.items()
    ]


def _columns(
    record: ExecutionRecord, lanes: Mapping[str, Mapping[Any, int]], begin: float
) -> dict[str, list[Any]]:
    texts = id_texts(f.id for f in record.functions)
    nodes = {node: number for number, node in enumerate(lanes)}
    numbers = {f.id: number for number, f in enumerate(f for f in record.functions if f.error)}
    shown = [f for f in record.functions if f.type == "regular"]

    def column(of: Any) -> list[Any]:
        return [of(f) for f in shown]

    def since(moment: float | None) -> float | None:
        return None if moment is None else _rounded(moment - begin)

    return {
        "id": column(lambda f: shortened(visible(texts[f.id]), SHOWN)),
        "name": column(lambda f: shortened(visible(f.name), SHOWN)),
        "node": column(lambda f: nodes.get(f.node)),
        "lane": column(lambda f: lanes.get(f.node or "", {}).get(f.id)),
        "status": column(lambda f: f.status),
        "ready": column(lambda f: since(f.ready)),
        "placed": column(lambda f: since(f.placed)),
        "start": column(lambda f: since(f.start)),
        "stop": column(lambda f: since(f.stop)),
        "cause": column(lambda f: f.cause),
        "attempts": column(lambda f: f.attempts),
        "cost": column(lambda f: shortened(visible(_costs_text(f)), SHOWN)),
        "nbytes": column(lambda f: f.nbytes),
        "error": column(lambda f: numbers.get(f.id) if numbers.get(f.id, ERRORS) < ERRORS else None),
    }


def _costs_text(function: FunctionRecord) -> str:
    """What its attempts have claimed, in turn."""
    return " → ".join(map(cost_text, function.claimed or (function.cost,)))


def cost_text(cost: Mapping[str, Any]) -> str:
    """A cost or capabilities in a line.

    Examples
    --------
    >>> cost_text({"cpu": 2, "zone": "eu", "has_cuda": True})
    'cpu 2, zone eu, has_cuda'
    """
    return ", ".join(
        str(name) if value is True else f"{name} {_flat(plain(value))}" for name, value in cost.items()
    )


def _flat(value: Any) -> str:
    return "/".join(str(item) for item in value) if isinstance(value, list) else str(value)


def summary_of(record: ExecutionRecord) -> dict[str, Any]:
    """What the page says in words and small tables, as text and numbers."""
    begin, end = span_of(record)
    split, bounds = time_split(record), lower_bounds(record)
    regular = [f for f in record.functions if f.type == "regular"]
    parts = [part for part in dict.fromkeys([*split.along_path, *split.total]) if part != ARGUMENTS]
    name = dag_name(record.dag_id, regular[-1].id if regular else None)
    return {
        "dag_id": shortened(visible(id_texts([name])[name]), SHOWN),
        "status": record.status,
        "strategy": record.strategy,
        "begin": begin,
        "makespan_s": end - begin,
        "bound_s": bounds[0].seconds,
        "bounds": [(_bound_text(bound, record), bound.seconds) for bound in bounds[:BOUNDS]],
        "functions": len(regular),
        "counts": _counts(f.status for f in regular),
        "retried": count(f for f in regular if f.attempts > 1),
        "split": [(part, split.along_path.get(part, 0.0), split.total.get(part, 0.0)) for part in parts],
        "path": [shortened(visible(str(i)), 60) for i in split.path],
        "nodes": _node_rows(record, end - begin),
        "costs": _cost_rows(record),
    }


def _cost_rows(record: ExecutionRecord) -> list[dict[str, Any]]:
    """What the functions of each code asked for, beside what they have used."""
    rows: list[dict[str, Any]] = []
    for name, suggestion in suggestions_of(record.functions).items():
        measured = [f.usage for f in record.functions if f.name == name and f.usage is not None]
        rows.append(
            {
                "name": shortened(visible(name), SHOWN),
                "runs": suggestion.runs,
                "asked": shortened(visible(cost_text(suggestion.asked)), SHOWN),
                "needed": cost_text(suggestion.cost),
                "cpu_s": sum(usage.cpu_s for usage in measured),
                "peak_mb": max(usage.peak_memory_mb for usage in measured),
                "exact": suggestion.exact,
            }
        )
    return sorted(rows, key=lambda row: float(row["cpu_s"]), reverse=True)[:COSTS]


def _bound_text(bound: Bound, record: ExecutionRecord) -> str:
    if bound.resource is None:
        return "longest path"
    if len(bound.nodes) == len(record.nodes):
        return f"{visible(bound.resource)} on all nodes"
    more = f", {len(bound.nodes) - 4} more nodes" if len(bound.nodes) > 5 else ""
    nodes = bound.nodes[:4] if more else bound.nodes
    return f"{visible(bound.resource)} on " + ", ".join(shortened(visible(n), 30) for n in nodes) + more


def _counts(statuses: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for status in statuses:
        counts[status] = counts.get(status, 0) + 1
    return counts


def _node_rows(record: ExecutionRecord, makespan_s: float) -> list[dict[str, Any]]:
    use = resource_utilization(record)
    started = (f for f in record.functions if f.node is not None and f.start is not None)
    none: dict[str, list[FunctionRecord]] = {node: [] for node in use}
    ran: dict[str, list[FunctionRecord]] = merge(none, groupby(lambda f: f.node, started))
    return [
        {
            "name": shortened(visible(node), SHOWN),
            "capabilities": shortened(visible(cost_text(record.nodes.get(node, {}))), 300),
            "functions": len(functions),
            "busy_s": sum(max(0.0, (f.stop or f.start or 0.0) - (f.start or 0.0)) for f in functions),
            "used": _mean_use(use.get(node, {}), record.nodes.get(node, {}), makespan_s),
        }
        for node, functions in ran.items()
    ]


def _mean_use(use: Mapping[str, Steps], capabilities: Mapping[str, Any], makespan_s: float) -> str:
    """The share of each resource that was in use, on the mean over the makespan."""
    shares = []
    capacity = Capabilities.parse({n: v for n, v in capabilities.items() if n != "threads"}).to_dict()
    for name, steps in use.items():
        has = capacity.get(name)
        if not isinstance(has, (int, float)) or isinstance(has, bool) or not has or not makespan_s:
            continue
        area = sum(used * (after - moment) for (moment, used), (after, _) in pairwise(steps))
        shares.append(f"{visible(name)} {area / has / makespan_s:.0%}")
    return ", ".join(shares)


def errors_of(record: ExecutionRecord) -> tuple[list[dict[str, str]], int]:
    """The errors that the page shows, and how many more there are."""
    failed = [f for f in record.functions if f.error]
    texts = id_texts(f.id for f in record.functions)
    shown = [
        {
            "id": shortened(visible(texts[f.id]), SHOWN),
            "node": shortened(visible(f.node or "no node"), SHOWN),
            "attempts": "1 attempt" if f.attempts == 1 else f"{f.attempts} attempts",
            "last": shortened(visible((f.error or "").strip().rpartition("\n")[2]), 300),
            # Line by line: its line breaks stay, whatever else is unprintable is written out.
            "traceback": "\n".join(visible(line.expandtabs()) for line in _tail(f.error or "").splitlines()),
        }
        for f in failed[:ERRORS]
    ]
    return shown, len(failed) - len(shown)


def _tail(text: str) -> str:
    return text if len(text) <= TRACEBACK else "…" + text[-TRACEBACK:]


def layers_data(graph: ExecutionGraph) -> dict[str, Sequence[Any]]:
    """Where to draw the groups of a graph without graphviz: in columns, producers to the left."""
    groups = grouped(graph.nodes, graph.edges)
    names = [{"id": str(number), "name": group.name} for number, group in enumerate(groups.groups)]
    levels = levels_of(names, [{"source": str(a), "target": str(b)} for a, b in groups.edges if a < b])
    filled: dict[int, int] = {}
    places = []
    for number, group in enumerate(groups.groups):
        level = levels[str(number)]
        filled[level] = filled.get(level, 0) + 1
        text = f"{shortened(visible(group.name), 24)} ×{group.count}"
        places.append(
            {"text": text, "x": level, "y": filled[level], "failed": bool(group.statuses["failed"])}
        )
    return {"groups": places, "edges": [[a, b, number] for (a, b), number in groups.edges.items()]}


def json_for_html(data: Any) -> str:
    r"""JSON that can stand in a ``<script>`` element: no ``<``, ``>`` or ``&`` in it.

    Examples
    --------
    >>> print(json_for_html("</script>"))
    "\u003c/script\u003e"
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
