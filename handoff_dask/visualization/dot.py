"""Graphs in graphviz's language, DOT.

Ids never become names in DOT: functions are ``f0``, ``f1``, … there, and what users write appears
in labels only, quoted here.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from handoff_dask.visualization.grouping import Group, Groups
from handoff_dask.visualization.palette import OTHER, colour, tint
from handoff_dask.visualization.texts import shortened, visible

__all__ = ["of_functions", "of_groups", "quoted", "seconds_text"]

#: Readable on white and on black.
INK = "#7d7d7d"
FONT = "Helvetica,Arial,sans-serif"

#: How a function in a state is drawn, beside the plain border of a finished one.
STATUS_STYLE: dict[str, dict[str, str]] = {
    "pending": {"style": "filled,dotted"},
    "waiting": {"style": "filled,dashed"},
    "running": {"penwidth": "3"},
    "failed": {"shape": "octagon", "color": "#c00000", "penwidth": "3"},
    "cancelled": {"shape": "octagon", "style": "filled,dashed"},
    "skipped": {"shape": "octagon", "style": "filled,dotted"},
    "reused": {"shape": "box", "style": "filled,rounded", "fillcolor": "#ffffff"},
}
TYPE_STYLE: dict[str, dict[str, str]] = {
    "inline": {"shape": "ellipse", "style": "filled,dashed", "fillcolor": "#ffffff"},
    "input": {"shape": "note", "style": "filled", "fillcolor": "#ffffff"},
}
#: What a status or a type looks like, in words for the legend.
MEANINGS = {
    "pending": "dotted border: its arguments are missing",
    "waiting": "dashed border: waits for a node",
    "running": "thick border: runs",
    "finished": "plain box: finished",
    "failed": "octagon, thick red border: failed",
    "cancelled": "octagon, dashed border: cancelled",
    "reused": "rounded white box: not run, its result was known",
    "skipped": "octagon, dotted border: skipped, it needs what failed",
    "inline": "dashed ellipse: inline, runs inside those that take it",
    "input": "box with a folded corner: input",
}
#: Nodes named in the label of a group, and in a legend.
NAMED = 3
LEGEND = 40
#: Up to so many groups the picture goes down; beyond, it would be too wide and goes right.
TALL = 20
#: Stripes of a group's box; graphviz refuses very thin ones.
THINNEST = 0.004


def quoted(text: str) -> str:
    r"""A string of DOT that stands for exactly this text, whatever is in it.

    Backslashes would begin escapes (``\N`` is the node's name), ampersands entities.

    Examples
    --------
    >>> print(quoted('say "hi" \\N & go'))
    "say \"hi\" \\N &amp; go"
    """
    text = visible(text).replace("&", "&amp;")
    # What visible() wrote out has backslashes of its own, shown as they are.
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def seconds_text(seconds: float) -> str:
    """Seconds for people.

    Examples
    --------
    >>> seconds_text(0.0012), seconds_text(2.5), seconds_text(754)
    ('1.2 ms', '2.5 s', '12.6 min')
    """
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= (size if unit == "s" else 2 * size):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"


def of_functions(nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, str]]) -> str:
    """Every function by itself, those of one node in one frame."""
    names = {node["id"]: f"f{number}" for number, node in enumerate(nodes)}
    places = sorted({node["node"] for node in nodes if node["node"] is not None})
    colours = {place: colour(number) for number, place in enumerate(places)}

    def lines() -> Iterator[str]:
        for number, place in enumerate(places):
            yield f"  subgraph cluster_{number} {{"
            frame = {"label": quoted(shortened(place, 48)), "color": quoted(colours[place])}
            yield f"    graph [{_listed(frame)}]"
            for node in nodes:
                if node["node"] == place:
                    yield f"    {names[node['id']]} [{_function(node, colours)}]"
            yield "  }"
        for node in nodes:
            if node["node"] is None:
                yield f"  {names[node['id']]} [{_function(node, colours)}]"
        for edge in edges:
            yield f"  {names[edge['source']]} -> {names[edge['target']]}"
        kinds = [*(node["status"] for node in nodes), *(node["type"] for node in nodes)]
        yield from _legend(colours, kinds)

    return _digraph(lines(), "LR")


def of_groups(groups: Groups) -> str:
    """Groups of functions; the stripes of a box say which share of it ran on which node."""
    counts: dict[str, int] = {}
    for group in groups.groups:
        for place, number in group.nodes.items():
            if place is not None:
                counts[place] = counts.get(place, 0) + number
    colours = {place: colour(number) for number, place in enumerate(sorted(counts))}

    def lines() -> Iterator[str]:
        for number, group in enumerate(groups.groups):
            yield f"  f{number} [{_group(group, colours)}]"
        most = max(groups.edges.values(), default=1)
        for (source, target), number in groups.edges.items():
            width = 1 + 2 * number / most
            yield f'  f{source} -> f{target} [label="  {number}", penwidth={width:.1f}]'
        kinds = [kind for group in groups.groups for kind in (*group.statuses, *group.types)]
        yield from _legend(colours, kinds, stripes=True)

    return _digraph(lines(), "TB" if len(groups.groups) <= TALL else "LR")


def _digraph(lines: Iterable[str], direction: str) -> str:
    head = [
        "digraph {",
        f'  graph [rankdir={direction}, bgcolor="transparent", fontname="{FONT}", fontsize=13,'
        f' fontcolor="{INK}", style="rounded", penwidth=1.5, nodesep=0.15, ranksep=0.5,'
        # Layouts of thousands of functions end before they are the best possible.
        " nslimit=40, nslimit1=40]",
        f'  node [shape=box, style=filled, fillcolor="#e8e8e8", color="{INK}", fontcolor="#000000",'
        f' fontname="{FONT}", fontsize=11, margin="0.12,0.06", height=0.3]',
        f'  edge [color="{INK}", fontcolor="{INK}", fontname="{FONT}", fontsize=10, arrowsize=0.7]',
    ]
    return "\n".join([*head, *lines, "}"]) + "\n"


def _listed(attributes: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in attributes.items())


def _function(node: Mapping[str, Any], colours: Mapping[str, str]) -> str:
    first = quoted(shortened(node["label"], 32))[1:-1]
    rest = []
    if node["name"] not in node["label"]:
        rest.append(shortened(node["name"], 32))
    if node["start"] is not None and node["stop"] is not None:
        rest.append(seconds_text(max(0.0, node["stop"] - node["start"])))
    if node["status"] in ("failed", "cancelled", "skipped", "reused"):
        rest.append(node["status"])
    second = quoted(", ".join(rest))[1:-1]
    facts = [f"{name}: {node[name]}" for name in ("name", "node", "status", "cost") if node[name]]
    style = {
        "label": f'"{first}\\n{second}"' if second else f'"{first}"',
        "tooltip": quoted(shortened(", ".join([node["label"], *facts]), 400)),
    }
    if node["node"] is not None:
        style["fillcolor"] = quoted(tint(colours[node["node"]]))
    drawn = {**STATUS_STYLE.get(node["status"], {}), **TYPE_STYLE.get(node["type"], {})}
    style.update({name: quoted(value) for name, value in drawn.items()})
    return _listed(style)


def _group(group: Group, colours: Mapping[str, str]) -> str:
    count = "1 function" if group.count == 1 else f"{group.count} functions"
    if group.seconds:
        count += f", {seconds_text(group.seconds / group.count)} each"
    placed = [(place, number) for place, number in sorted(group.nodes.items(), key=_by_number) if place]
    where = ", ".join(f"{shortened(place, 16)} ×{number}" for place, number in placed[:NAMED])
    if len(placed) > NAMED:
        more = len(placed) - NAMED
        where += f", {more} more node" + ("s" if more > 1 else "")
    unusual = ", ".join(f"{n} {s}" for s, n in group.statuses.items() if s not in ("finished", "none"))
    rows = [shortened(group.name, 32), count, where, unusual]
    style = {
        "label": '"' + "\\n".join(quoted(row)[1:-1] for row in rows if row) + '"',
        "tooltip": quoted(", ".join(f"{place}: {number}" for place, number in placed[:LEGEND]) or group.name),
    }
    if group.types.total() == group.types["input"] + group.types["inline"]:
        kind = "input" if group.types["input"] else "inline"
        style.update({name: quoted(value) for name, value in TYPE_STYLE[kind].items()})
    elif placed:
        style.update(_stripes(sorted(placed), colours))
    if group.statuses["failed"]:
        style.update(color='"#c00000"', penwidth="3")
    return _listed(style)


def _by_number(item: tuple[str | None, int]) -> tuple[int, str]:
    return -item[1], str(item[0])


def _stripes(placed: Sequence[tuple[str, int]], colours: Mapping[str, str]) -> dict[str, str]:
    total = sum(number for _, number in placed)
    shares = [(tint(colours[place]), number / total) for place, number in placed]
    wide = [(c, share) for c, share in shares if share >= THINNEST]
    if len(wide) < 2:
        return {"fillcolor": quoted(wide[0][0] if wide else tint(OTHER))}
    # The last share is left to graphviz, for the sum must not exceed 1.
    stripes = [f"{c};{share:.3f}" for c, share in wide[:-1]] + [wide[-1][0]]
    return {"style": "striped", "fillcolor": quoted(":".join(stripes))}


def _legend(colours: Mapping[str, str], kinds: Iterable[str], *, stripes: bool = False) -> Iterator[str]:
    """A table of what colours and borders mean; HTML-like, hence escaped as HTML."""
    present = set(kinds)
    rows = [
        f'<tr><td bgcolor="{tint(c)}" border="1" width="24" height="14" fixedsize="true"> </td>'
        f'<td align="left">{_html(place)}</td></tr>'
        for place, c in list(colours.items())[:LEGEND]
    ]
    if len(colours) > LEGEND:
        rows.append(_words(f"and {len(colours) - LEGEND} more nodes"))
    if stripes:
        rows.append(_words("one box: functions with the same code"))
        rows += [_words("thick red border: some failed")] if "failed" in present else []
        rows += [_words(MEANINGS[kind]) for kind in ("inline", "input") if kind in present]
    else:
        rows += [_words(text) for kind, text in MEANINGS.items() if kind in present]
    if not rows:
        return
    table = f'<table border="0" cellborder="0" cellspacing="3">{_words("Legend")}{"".join(rows)}</table>'
    look = f'shape=plain, style="", fontcolor="{INK}", fontsize=10, tooltip="Legend"'
    yield f"  legend [{look}, label=<{table}>]"


def _words(text: str) -> str:
    return f'<tr><td></td><td align="left">{html.escape(text)}</td></tr>'


def _html(text: str) -> str:
    # HTML-like labels know the escapes too (\N is the node's name) and no way to write a backslash
    # before a letter, other than to set it apart.
    backslash = '<font point-size="10">\\</font>'
    return html.escape(visible(shortened(text, 48))).replace("\\", backslash)
