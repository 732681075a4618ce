"""What ``dask handoff top`` shows: nodes, what waits and why, DAGs, as lines of text."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from handoff_dask.cli.tables import amounts, bar, cut, number, shared_text, table
from handoff_dask.visualization.dot import seconds_text
from handoff_dask.visualization.page_data import cost_text
from handoff_dask.visualization.texts import visible

#: Into the other screen of a terminal, without a cursor; and back.
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
#: To the upper left; the rest of a line, and of the screen, is wiped out.
HOME, WIPE_LINE, WIPE = "\x1b[H", "\x1b[K", "\x1b[J"

Overview = Mapping[str, Any]


def lines_of(overview: Overview, width: int, height: int | None = None) -> list[str]:
    """The view as lines of at most ``width`` columns, and at most ``height`` of them."""
    nodes, waiting, runs = overview["nodes"], overview["waiting"], overview["runs"]
    head = ", ".join(
        [
            _counted(len(nodes), "node"),
            f"{sum(node['running_count'] for node in nodes)} running",
            f"{sum(kind['count'] for kind in waiting)} waiting",
            _counted(sum(run["ended"] is None for run in runs), "DAG") + " running",
        ]
    )
    parts = [
        [*_nodes(nodes, width), *_shared(overview["shared"], width)],
        _waiting(waiting, overview["time"], width),
        _runs(runs, overview["time"], width),
    ]
    lines = [cut(head, width)]
    room = None if height is None else height - len(lines)
    for number_left, part in zip(range(len(parts), 0, -1), parts, strict=True):
        # Each part may take an equal share of what those before it have left.
        share = None if room is None else max(3, room // number_left)
        shown = ["", *_fitting(part, None if share is None else share - 1)]
        lines += shown
        room = None if room is None else room - len(shown)
    return lines if height is None else lines[:height]


def _fitting(part: list[str], height: int | None) -> list[str]:
    if height is None or len(part) <= height:
        return part
    return [*part[: height - 1], f"and {len(part) - height + 1} more"]


def _nodes(nodes: list[dict[str, Any]], width: int) -> list[str]:
    if not nodes:
        return ["no worker has reported what it offers"]
    rows = [
        [
            node["name"] if node["status"] == "ready" else f"{node['name']} ({node['status']})",
            "  ".join(
                f"{name} {bar(used, total)} {number(used)}/{number(total)}"
                for name, used, total in amounts(node)
            ),
            f"{node['threads_used']}/{node['threads']}",
            ", ".join(function["function_id"] for function in node["running"]),
        ]
        for node in nodes
    ]
    return table(["NODE", "CLAIMED", ">THREADS", "RUNNING"], rows, width)


def _shared(shared: list[dict[str, Any]], width: int) -> list[str]:
    if not shared:
        return []
    return [cut(f"shared by all nodes: {shared_text(shared)}", width)]


def _waiting(waiting: list[dict[str, Any]], now: float, width: int) -> list[str]:
    if not waiting:
        return ["nothing waits for a node"]
    rows = [
        [
            str(kind["count"]),
            ", ".join(kind["functions"]),
            kind["name"],
            cost_text(kind["cost"]) or "nothing",
            kind["cause"] or "about to be placed",
            _since(now, kind["since"]),
        ]
        for kind in waiting
    ]
    return table([">WAITING", "FUNCTIONS", "DAG", "COST", "WHY", ">LONGEST"], rows, width)


def _runs(runs: list[dict[str, Any]], now: float, width: int) -> list[str]:
    if not runs:
        return ["no DAG has been executed yet"]
    rows = []
    for run in runs:
        states, total = run["states"], run["functions"]
        done = states.get("finished", 0)
        rows.append(
            [
                run["name"],
                run["status"],
                f"{bar(done, total)} {done}/{total}",
                *(str(states.get(state, 0)) for state in ("running", "waiting", "failed")),
                _since(run["ended"] or now, run["submitted"]),
                run["error"] or "",
            ]
        )
    columns = ["DAG", "STATUS", "FINISHED", ">RUNNING", ">WAITING", ">FAILED", ">TOOK", "ERROR"]
    return table(columns if any(row[-1] for row in rows) else columns[:-1], _without_empty(rows), width)


def _without_empty(rows: list[list[str]]) -> list[list[str]]:
    return rows if any(row[-1] for row in rows) else [row[:-1] for row in rows]


def _since(now: float, moment: float) -> str:
    return seconds_text(max(0.0, now - moment))


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def styled(lines: list[str]) -> list[str]:
    """The lines with their headings set off."""
    headings = ("NODE ", "WAITING ", "DAG ")
    return [
        click.style(line, bold=True) if i == 0 or line.startswith(headings) else line
        for i, line in enumerate(lines)
    ]


def watch(look: Callable[[], Overview], where: str, interval_s: float) -> None:
    """Show the view again and again, until the keyboard ends it."""
    out = sys.stdout
    out.write(ENTER)
    try:
        while True:
            began = time.monotonic()
            columns, rows = shutil.get_terminal_size()
            # The last column stays empty: some terminals wrap there.
            title = cut(f"handoff on {visible(where)}, {time.strftime('%H:%M:%S')}; Ctrl-C ends", columns - 1)
            lines = [title, *styled(lines_of(look(), columns - 1, rows - 1))]
            out.write(
                HOME + "".join(f"{line}{WIPE_LINE}\n" for line in lines[:-1]) + lines[-1] + WIPE_LINE + WIPE
            )
            out.flush()
            time.sleep(max(0.1, interval_s - (time.monotonic() - began)))
    except KeyboardInterrupt:
        pass
    finally:
        out.write(LEAVE)
        out.flush()


def terminal_width() -> int:
    """Columns that a line may take: many where nobody's terminal limits it."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 200


def print_once(overview: Overview) -> None:
    """Print the view."""
    for line in lines_of(overview, terminal_width()):
        click.echo(line)
