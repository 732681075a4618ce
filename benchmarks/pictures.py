"""Timelines of stock Dask and handoff on one scenario, from real runs, on one time axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.makespans import one_course
from benchmarks.scenarios import Scenario, load, threads_of, write
from benchmarks.tables import TITLES
from benchmarks.turns import OUT
from handoff_dask.simulation.problem import ranks_of

#: What is drawn unless others are asked for.
USUAL = ("fat-critical-path", "epigenomics")
SYSTEMS = ("dask", "handoff")

#: ``{function: (node, start, stop)}``.
Spans = Mapping[str, Sequence[Any]]

#: Pixels: of the whole, of the names at the left, of what is above a panel, of one core.
WIDTH, LEFT, RIGHT, HEAD, CORE, GAP = 960, 64, 24, 34, 7, 5

#: The longest path, all others where there is one kind, and the kinds (Okabe and Ito's colours, softened).
PATH, OTHER, IDLE, INK = "#d1495b", "#9db4c8", "#f0f1f3", "#2b2f36"
KINDS = ("#4c86b8", "#e0a030", "#4ba58a", "#8fc3e6", "#c9794a", "#b58bb0", "#d9cf5b", "#8d8d8d")


def draw(only: Sequence[str], repeats: int, folder: Path) -> None:
    """Run scenarios on both systems, in turn, and write one picture of each: of the median runs."""
    folder.mkdir(parents=True, exist_ok=True)
    for scenario in load(only or USUAL):
        path = write(scenario, OUT / "running")
        runs: dict[str, list[dict[str, Any]]] = {system: [] for system in SYSTEMS}
        for _ in range(repeats):
            for system in SYSTEMS:
                run = one_course(system, path, scenario.bound_s)
                if run["status"] != "ok":
                    raise SystemExit(f"{system} on {scenario.name}: {run['status']}")
                runs[system].append(run)
        chosen = [_median(each) for each in runs.values()]
        picture = folder / f"{scenario.name}.svg"
        picture.write_text(svg(scenario, chosen), encoding="utf-8")
        for system, each in runs.items():
            took = ", ".join(f"{run['makespan_s']:.2f}" for run in each)
            print(f"{picture.name}: {system} {took} s", flush=True)


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(runs, key=lambda run: run["makespan_s"])[len(runs) // 2]


def svg(scenario: Scenario, rows: Sequence[Mapping[str, Any]]) -> str:
    """One panel for each row, under each other."""
    longest_s = max(row["makespan_s"] for row in rows)
    scale = (WIDTH - LEFT - RIGHT) / (longest_s * 1.02)
    colours = _colours(scenario)
    top = 34.0
    body = [*_legend(scenario, colours)]
    for row in rows:
        body += _panel(scenario, row, colours, top, scale)
        top += HEAD + _height(scenario) + 12
    body += _axis(scenario, top, scale, longest_s)
    height = top + 40
    label = f"What ran when on each node: {' and '.join(TITLES[row['system']] for row in rows)}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}"'
        f' font-family="system-ui, sans-serif" font-size="12" fill="{INK}" role="img"'
        f' aria-label="{escape(label)}">\n'
        f'<rect width="100%" height="100%" rx="6" fill="#ffffff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _height(scenario: Scenario) -> float:
    return sum(threads_of(offer) * CORE + GAP for offer in scenario.nodes.values())


def _kind(key: str) -> str:
    return key.rpartition("-")[0]


def _colours(scenario: Scenario) -> dict[str, str]:
    """By kind; where there is one only, that of the longest path differs."""
    kinds = list(dict.fromkeys(_kind(task.id) for task in scenario.tasks))
    if len(kinds) > 1:
        return {kind: KINDS[n % len(KINDS)] for n, kind in enumerate(kinds)}
    return {"on the longest path": PATH, "all others": OTHER}


def _colour_of(scenario: Scenario, colours: Mapping[str, str]) -> dict[str, str]:
    if PATH not in colours.values():
        return {task.id: colours[_kind(task.id)] for task in scenario.tasks}
    ranks = ranks_of(scenario.simulated()[0])
    path = {max(ranks, key=ranks.__getitem__)}
    for task in sorted(scenario.tasks, key=lambda t: -ranks[t.id]):
        if path.intersection(task.args):
            path.add(task.id)
    return {task.id: PATH if task.id in path else OTHER for task in scenario.tasks}


def _legend(scenario: Scenario, colours: Mapping[str, str]) -> Iterator[str]:
    left = float(LEFT)
    for label, colour in [*colours.items(), ("idle core", IDLE)]:
        yield f'<rect x="{left:.0f}" y="13" width="12" height="10" fill="{colour}" stroke="#c8ccd2"/>'
        yield f'<text x="{left + 17:.0f}" y="22">{escape(label)}</text>'
        left += 34 + 6.6 * len(label)


def _panel(
    scenario: Scenario, row: Mapping[str, Any], colours: Mapping[str, str], top: float, scale: float
) -> Iterator[str]:
    end = LEFT + row["makespan_s"] * scale
    title = f"{TITLES[row['system']]}: {row['makespan_s']:.1f} s"
    yield f'<text x="{LEFT}" y="{top + 22:.0f}" font-size="15" font-weight="600">{escape(title)}</text>'
    top += HEAD
    bottom = top + _height(scenario) - GAP
    boxes: dict[str, list[str]] = {}
    colour_of = _colour_of(scenario, colours)
    for name, offer in scenario.nodes.items():
        cores = threads_of(offer)
        middle = top + cores * CORE / 2 + 4
        yield f'<text x="{LEFT - 8}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>'
        width = WIDTH - LEFT - RIGHT
        yield f'<rect x="{LEFT}" y="{top:.1f}" width="{width}" height="{cores * CORE}" fill="{IDLE}"/>'
        for key, core, count in _lanes(scenario, row["spans"], name, cores):
            _, start, stop = row["spans"][key]
            x, w = LEFT + start * scale, max(0.6, (stop - start) * scale - 0.5)
            y, h = top + core * CORE + 0.3, count * CORE - 0.6
            boxes.setdefault(colour_of[key], []).append(f"M{x:.1f} {y:.1f}h{w:.1f}v{h:.1f}h{-w:.1f}z")
        top += cores * CORE + GAP
    for colour, paths in boxes.items():
        yield f'<path fill="{colour}" d="{"".join(paths)}"/>'
    start = bottom - _height(scenario)
    yield f'<path stroke="{INK}" stroke-width="1.5" d="M{end:.1f} {start:.1f}V{bottom:.1f}"/>'


def _lanes(scenario: Scenario, spans: Spans, node: str, cores: int) -> Iterator[tuple[str, int, int]]:
    """``(function, first core, how many side by side)``: a function may come in several pieces."""
    free_at = [0.0] * cores
    costs = {task.id: threads_of(task.cost) for task in scenario.tasks}
    here = sorted((start, stop, key) for key, (where, start, stop) in spans.items() if where == node)
    for start, stop, key in here:
        # Those that are free first, from the top; clocks may differ by a little.
        order = sorted(range(cores), key=lambda c: (max(0.0, free_at[c] - start), c))
        taken = sorted(order[: costs[key]])
        for core in taken:
            free_at[core] = stop
        first = taken[0]
        for core, following in zip(taken, [*taken[1:], -1], strict=True):
            if following != core + 1:
                yield key, first, core - first + 1
                first = following


def _axis(scenario: Scenario, top: float, scale: float, longest_s: float) -> Iterator[str]:
    yield f'<path stroke="{INK}" d="M{LEFT} {top:.1f}H{WIDTH - RIGHT}"/>'
    for second in range(0, int(longest_s) + 1, 2 if longest_s < 24 else 5):
        x = LEFT + second * scale
        yield f'<path stroke="{INK}" d="M{x:.1f} {top:.1f}v4"/>'
        yield f'<text x="{x:.1f}" y="{top + 18:.0f}" text-anchor="middle">{second} s</text>'
    x = LEFT + scenario.bound_s * scale
    yield f'<path stroke="{INK}" stroke-dasharray="4 3" d="M{x:.1f} 40V{top:.1f}"/>'
    text = f"no schedule ends before {scenario.bound_s:.1f} s"
    yield f'<text x="{x + 5:.1f}" y="{top + 34:.0f}" text-anchor="middle" font-size="11">{text}</text>'
