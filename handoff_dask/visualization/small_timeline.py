"""A small picture of what ran when on which node."""

from __future__ import annotations

import html
from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate

from toolz import groupby, take

from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.record.time_split import span_of
from handoff_dask.visualization.dot import seconds_text
from handoff_dask.visualization.lanes import lanes_of
from handoff_dask.visualization.small_graph import colours_of
from handoff_dask.visualization.summary import STATUS_COLOURS, id_text
from handoff_dask.visualization.texts import shortened, visible

__all__ = ["small_timeline"]

#: At most so many functions are drawn one by one; of more, how many run at once on each node.
SINGLE = 400
#: At most so many lanes per node, nodes, and names in the legend.
LANES, NODES, LEGEND = 8, 10, 6
#: Points of a curve.
POINTS = 200
#: Sizes in pixels.
WIDTH, LABELS, LANE, CURVE, GAP = 740, 92, 9, 26, 7


def small_timeline(record: ExecutionRecord) -> str:
    """An ``<svg>`` element of bounded size; empty if nothing has started."""
    started = [f for f in record.functions if f.node is not None and f.start is not None]
    if not started:
        return ""
    begin, end = span_of(record)
    span = max(end - begin, 1e-9)
    by_node: dict[str, list[FunctionRecord]] = groupby(lambda f: f.node, started)
    nodes = sorted({*record.nodes, *by_node})
    colours = colours_of(f.name for f in started)
    lanes = lanes_of(record)
    single = len(started) <= SINGLE and all(max(of.values(), default=0) < LANES for of in lanes.values())
    y, parts = 2.0, []
    for node in nodes[:NODES]:
        functions = by_node.get(node, [])
        if single:
            height = LANE * (1 + max(lanes.get(node, {}).values(), default=0))
            drawn = _bars(functions, lanes.get(node, {}), colours, begin, span, y)
        else:
            height = CURVE
            drawn = _curve(functions, begin, end, y)
        parts.append(_label(node, functions, y + height / 2))
        parts.append(
            f'<rect x="{LABELS}" y="{y:.1f}" width="{WIDTH - LABELS}" height="{height:.1f}" '
            'fill="currentColor" fill-opacity=".05"/>'
        )
        parts += drawn
        y += height + GAP
    if len(nodes) > NODES:
        parts.append(_note(0, y + 8, f"and {len(nodes) - NODES:,} more nodes"))
        y += 16
    parts += _axis(span, y)
    y += 20
    if single:
        parts += _legend(colours, y)
        y += 16
    else:
        parts.append(
            _note(LABELS, y + 8, "functions that run at once; the height of a row is the maximum of its node")
        )
        y += 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y:.0f}" '
        f'viewBox="0 0 {WIDTH} {y:.0f}" role="img" aria-label="timeline by node" '
        f'font-family="system-ui, sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def _bars(
    functions: Sequence[FunctionRecord],
    lanes: Mapping[Hashable, int],
    colours: Mapping[str, str],
    begin: float,
    span: float,
    y: float,
) -> list[str]:
    scale = (WIDTH - LABELS) / span
    drawn = []
    for f in functions:
        start = (f.start or begin) - begin
        lasted = max(0.0, (begin + span if f.stop is None else f.stop) - begin - start)
        failed = f' stroke="{STATUS_COLOURS["failed"]}" stroke-width="2"' if f.status == "failed" else ""
        title = html.escape(f"{id_text(f.id)}: {f.status}, {seconds_text(lasted)}")
        drawn.append(
            f'<rect x="{LABELS + start * scale:.1f}" y="{y + LANE * lanes[f.id] + 1:.1f}" '
            f'width="{max(1.0, lasted * scale - 0.5):.1f}" height="{LANE - 2}" '
            f'fill="{colours[f.name]}"{failed}><title>{title}</title></rect>'
        )
    return drawn


def _curve(functions: Sequence[FunctionRecord], begin: float, end: float, y: float) -> list[str]:
    """How many functions run at once, as an area."""
    span = max(end - begin, 1e-9)
    changes = [0] * (POINTS + 1)
    for f in functions:
        first = int(POINTS * ((f.start or begin) - begin) / span)
        last = int(POINTS * ((end if f.stop is None else f.stop) - begin) / span)
        changes[min(max(first, 0), POINTS)] += 1
        changes[min(max(last, first + 1), POINTS)] -= 1
    running = list(accumulate(changes))
    most = max([1, *running])
    step = (WIDTH - LABELS) / POINTS
    path = [f"M {LABELS} {y + CURVE:.1f}"]
    for n, number in enumerate(running[:-1]):
        path.append(f"V {y + CURVE * (1 - number / most):.1f} H {LABELS + (n + 1) * step:.1f}")
    path.append(f"V {y + CURVE:.1f} Z")
    fill = STATUS_COLOURS["running"]
    return [f'<path d="{" ".join(path)}" fill="{fill}" fill-opacity=".75"/>']


def _label(node: str, functions: Sequence[FunctionRecord], y: float) -> str:
    title = html.escape(f"{id_text(node)}: {len(functions):,} functions")
    return (
        f'<text x="{LABELS - 8}" y="{y + 4:.1f}" text-anchor="end" fill="currentColor">'
        f"<title>{title}</title>{html.escape(shortened(visible(node), 13))}</text>"
    )


def _axis(span: float, y: float) -> list[str]:
    step, parts = _step(span), []
    unit, size = ("s", 1.0) if span >= 1 else ("ms", 0.001)
    for n in range(int(span / step) + 1):
        x = LABELS + n * step / span * (WIDTH - LABELS)
        anchor = "end" if x > WIDTH - 12 else "middle"
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - GAP:.1f}" y2="{y - GAP + 4:.1f}" '
            'stroke="currentColor" stroke-opacity=".5"/>'
            f'<text x="{x:.1f}" y="{y + 9:.1f}" fill="currentColor" fill-opacity=".65" '
            f'text-anchor="{anchor}">{n * step / size:g}{"" if n else " " + unit}</text>'
        )
    return parts


def _step(span: float) -> float:
    """A round number of seconds that divides a span into five to ten parts.

    Examples
    --------
    >>> _step(23.0), _step(0.7), _step(4000.0)
    (5.0, 0.1, 500.0)
    """
    step = 10.0**-9
    while True:
        for factor in (1.0, 2.0, 5.0):
            if span / (step * factor) <= 10 / 1.25:
                return round(step * factor, 9)
        step *= 10


def _legend(colours: Mapping[str, str], y: float) -> list[str]:
    parts, x = [], float(LABELS)
    for name, fill in take(LEGEND, colours.items()):
        text = shortened(visible(name), 20)
        parts.append(f'<rect x="{x:.0f}" y="{y:.1f}" width="9" height="9" fill="{fill}"/>')
        parts.append(_note(x + 13, y + 8.5, text))
        x += 30 + 6.2 * len(text)
    if len(colours) > LEGEND:
        parts.append(_note(x, y + 8.5, f"and {len(colours) - LEGEND:,} more"))
    return parts


def _note(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.1f}" fill="currentColor" fill-opacity=".65">{html.escape(text)}</text>'
