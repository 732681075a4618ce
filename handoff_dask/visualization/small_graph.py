"""A small picture of a graph, drawn without graphviz: layers from left to right."""

from __future__ import annotations

import html
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from toolz import countby, frequencies, groupby, topk

from handoff_dask.visualization.palette import colour
from handoff_dask.visualization.summary import STATUS_COLOURS, id_text
from handoff_dask.visualization.texts import shortened, visible

__all__ = ["Item", "colours_of", "small_graph"]

#: A graph of at most so many functions is drawn function by function.
SINGLE = 24
#: At most so many columns, boxes in one column, names, and arrows.
COLUMNS, ROWS, NAMES, ARROWS = 9, 8, 24, 150
#: Sizes in pixels.
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 124, 26, 34, 9, 6
#: Characters in a box.
TEXT = 16


class Item(NamedTuple):
    """A function, as far as the picture needs it."""

    id: Hashable
    name: str
    args: Sequence[Hashable]
    #: Empty before an execution.
    status: str = ""


@dataclass(slots=True)
class _Box:
    label: str
    colour: str
    column: int
    title: str
    count: int = 1
    done: int = 0
    failed: int = 0
    row: float = 0.0
    members: list[Hashable] = field(default_factory=list)

    @property
    def x(self) -> float:
        return MARGIN + self.column * (WIDTH + GAP_X)

    @property
    def y(self) -> float:
        return MARGIN + self.row * (HEIGHT + GAP_Y)


def small_graph(items: Iterable[Item]) -> str:
    """An ``<svg>`` element of bounded size; empty if there are no functions.

    Parameters
    ----------
    items
        The functions, producers before consumers.  Small graphs show each of them, larger ones
        groups of functions with the same code.
    """
    functions = list(items)
    if not functions:
        return ""
    boxes = _boxes(functions)
    shown, hidden = _placed(boxes)
    arrows = _arrows(functions, {i: box for box in boxes for i in box.members}, {id(box) for box in shown})
    width = max(box.x for box in shown) + WIDTH + MARGIN
    height = max(box.y for box in shown) + HEIGHT + MARGIN
    parts = [*arrows, *map(_drawn, shown)]
    if hidden:
        height += 16
        parts.append(
            f'<text x="{MARGIN}" y="{height - 6:.0f}" fill="currentColor" fill-opacity=".65">'
            f"and {sum(box.count for box in hidden):,} more functions in {len(hidden):,} groups</text>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="graph of functions" '
        f'font-family="system-ui, sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for each code's name: the most frequent names have colours that no other has."""
    ordered = sorted(frequencies(names).items(), key=lambda pair: (-pair[1], pair[0]))
    return {name: colour(number) for number, (name, _) in enumerate(ordered)}


def _boxes(functions: Sequence[Item]) -> list[_Box]:
    levels = _levels(functions)
    colours = colours_of(f.name for f in functions)
    if len(functions) <= SINGLE:
        keys = {f.id: (f.id, levels[f.id]) for f in functions}
    elif max(levels.values()) < COLUMNS and len({(f.name, levels[f.id]) for f in functions}) <= 3 * NAMES:
        keys = {f.id: (f.name, levels[f.id]) for f in functions}
    else:
        numbers = frequencies(f.name for f in functions)
        frequent = set(topk(NAMES, numbers, key=lambda name: (numbers[name], name)))
        keys = {f.id: (f.name if f.name in frequent else None, 0) for f in functions}
    boxes = []
    for (key, _), members in groupby(lambda f: keys[f.id], functions).items():
        single = len(functions) <= SINGLE
        name = members[0].name
        label = id_text(key) if single else "others" if key is None else name
        statuses = countby(lambda f: f.status, members)
        boxes.append(
            _Box(
                label=label,
                colour=STATUS_COLOURS["pending"] if key is None and not single else colours[name],
                column=min(levels[f.id] for f in members),
                title=f"{label}: {name}" if single else f"{label}: {len(members):,} functions",
                count=len(members),
                done=statuses.get("finished", 0),
                failed=statuses.get("failed", 0),
                members=[f.id for f in members],
            )
        )
    return boxes


def _levels(functions: Sequence[Item]) -> dict[Hashable, int]:
    """``{id: arguments on the longest way to it}``; an unknown argument counts for nothing."""
    levels: dict[Hashable, int] = {}
    for function in functions:
        levels[function.id] = 1 + max((levels.get(arg, -1) for arg in function.args), default=-1)
    return levels


def _placed(boxes: list[_Box]) -> tuple[list[_Box], list[_Box]]:
    """Give boxes their places; those that are shown, and those for which there is none."""
    ranks = {column: n for n, column in enumerate(sorted({box.column for box in boxes}))}
    squeeze = max(1.0, len(ranks) / COLUMNS)
    for box in boxes:
        box.column = int(ranks[box.column] / squeeze)
    columns = groupby(lambda box: box.column, boxes)
    shown: list[_Box] = []
    hidden: list[_Box] = []
    for column in columns.values():
        ordered = column if len(column) <= ROWS else sorted(column, key=lambda box: -box.count)
        shown += ordered[:ROWS]
        hidden += ordered[ROWS:]
    tallest = max(min(len(column), ROWS) for column in columns.values())
    for column in groupby(lambda box: box.column, shown).values():
        for n, box in enumerate(column):
            box.row = n + (tallest - len(column)) / 2
    return shown, hidden


def _arrows(functions: Sequence[Item], box_of: Mapping[Hashable, _Box], shown: set[int]) -> list[str]:
    pairs: dict[tuple[int, int], tuple[_Box, _Box]] = {}
    for function in functions:
        target = box_of[function.id]
        for arg in function.args:
            source = box_of.get(arg)
            if source is not None and source is not target and {id(source), id(target)} <= shown:
                pairs[id(source), id(target)] = source, target
        if len(pairs) >= ARROWS:
            break
    return [_arrow(source, target) for source, target in pairs.values()]


def _arrow(source: _Box, target: _Box) -> str:
    style = 'fill="none" stroke="currentColor" stroke-opacity=".38"'
    if target.column > source.column:
        x, y, to_x, to_y = source.x + WIDTH, source.y + HEIGHT / 2, target.x, target.y + HEIGHT / 2
        bend = (to_x - x) / 2
        middle = f"{x + bend:.0f} {y:.0f}, {to_x - bend:.0f} {to_y:.0f}"
    else:  # groups by name may be mutual: around the outside, dashed
        x, y, to_x, to_y = source.x + WIDTH, source.y + HEIGHT / 2, target.x + WIDTH, target.y + HEIGHT / 2
        middle = f"{x + 26:.0f} {y:.0f}, {to_x + 26:.0f} {to_y:.0f}"
        style += ' stroke-dasharray="3 2"'
    return f'<path d="M {x:.0f} {y:.0f} C {middle}, {to_x:.0f} {to_y:.0f}" {style}/>'


def _drawn(box: _Box) -> str:
    number = f"×{box.count:,}" if box.count > 1 else ""
    label = shortened(visible(box.label), TEXT - (len(number) + 1 if number else 0))
    done = ""
    if box.done or box.failed:
        for share, at, fill in (
            (box.done / box.count, 0.0, STATUS_COLOURS["finished"]),
            (box.failed / box.count, box.done / box.count, STATUS_COLOURS["failed"]),
        ):
            if share:
                done += (
                    f'<rect x="{box.x + at * WIDTH:.1f}" y="{box.y + HEIGHT - 3:.1f}" '
                    f'width="{share * WIDTH:.1f}" height="3" fill="{fill}"/>'
                )
    return (
        f"<g><title>{html.escape(visible(box.title))}</title>"
        f'<rect x="{box.x:.0f}" y="{box.y:.1f}" width="{WIDTH}" height="{HEIGHT}" rx="3" '
        f'fill="{box.colour}" fill-opacity=".16" stroke="{box.colour}" stroke-opacity=".8"/>{done}'
        f'<text x="{box.x + 7:.0f}" y="{box.y + 16.5:.1f}" fill="currentColor">{html.escape(label)}</text>'
        f'<text x="{box.x + WIDTH - 6:.0f}" y="{box.y + 16.5:.1f}" text-anchor="end" fill="currentColor" '
        f'fill-opacity=".65">{number}</text></g>'
    )
