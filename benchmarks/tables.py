"""Results as Markdown."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, median
from typing import Any

Row = dict[str, Any]

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

TITLES = {
    "dask": "stock Dask",
    "dask-ranked": "stock Dask, paths as `priority=`",
    "handoff": "handoff",
    "handoff-cold": "handoff, nothing known",
    "handoff-warm": "handoff, second run",
}


def geometric_mean(values: Iterable[float]) -> float:
    """The mean of ratios.

    Examples
    --------
    >>> geometric_mean([0.5, 2.0])
    1.0
    """
    logarithms = [math.log(value) for value in values]
    return math.exp(fmean(logarithms)) if logarithms else math.nan


def makespans(sessions: list[dict[str, Any]]) -> str:
    """The table of makespans over their lower bound, and what it comes to."""
    rows = [row for session in sessions for row in session["rows"]]
    good = [row for row in rows if row["status"] == "ok"]
    if not good:
        return "No course has ended well.\n"
    systems = [s for s in TITLES if any(row["system"] == s for row in good)]
    names = sorted({row["scenario"] for row in good})
    ratios = _ratios(good)
    best = {row["scenario"]: row["best_s"] / row["bound_s"] for row in good}
    sizes = {row["scenario"]: row["functions"] for row in good}
    lines = [_line("scenario", "functions", *(TITLES[s] for s in systems), "best schedule known")]
    lines.append("|---|--:" + "|--:" * (len(systems) + 1) + "|")
    for name in names:
        cells = [_ratio(ratios.get((name, system))) for system in systems]
        lines.append(_line(name, sizes[name], *cells, _ratio(best[name])))
    complete = [name for name in names if all((name, system) in ratios for system in systems)]
    means = [geometric_mean(ratios[name, system] for name in complete) for system in systems]
    last = [*map(_ratio, means), _ratio(geometric_mean(best[name] for name in complete))]
    lines.append(_line("**geometric mean**", "", *(f"**{cell}**" for cell in last)))
    lines += ["", *_summary(good, ratios, complete, systems, best), "", _made_on(sessions)]
    return "\n".join([*lines, *_failures(rows)]) + "\n"


def _ratios(rows: list[Row]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row["scenario"], row["system"]), []).append(row["makespan_s"] / row["bound_s"])
    return {key: median(values) for key, values in found.items()}


def _summary(
    rows: list[Row],
    ratios: dict[tuple[str, str], float],
    names: list[str],
    systems: list[str],
    best: dict[str, float],
) -> Iterable[str]:
    courses = Counter((row["system"], row["scenario"]) for row in rows).values()
    yield (
        "Seconds from submission to the last result, over the lower bound; the median of"
        f" {min(courses)}{f' to {max(courses)}' if max(courses) > min(courses) else ''}."
    )
    for system in systems[1:] if systems[0] == "dask" else []:
        against = [ratios[n, "dask"] / ratios[n, system] for n in names]
        yield (
            f"{TITLES[system]} is {geometric_mean(against):.2f} times as fast as stock Dask in geometric"
            f" mean ({min(against):.2f} to {max(against):.2f}),"
            f" and takes {geometric_mean(ratios[n, system] / best[n] for n in names):.2f} times as long as"
            " the best schedule known."
        )
    idle = [f"{TITLES[s]} {_mean_idle(rows, s):.1%}" for s in systems]
    yield "Avoidable idleness (share of the time in which a ready function had room and did not run): "
    yield f"{', '.join(idle)}."
    fullest = [f"{TITLES[s]} {max(r['fullest'] for r in rows if r['system'] == s):.2f}" for s in systems]
    yield f"Highest use of any resource of any node, over what the node has: {', '.join(fullest)}."


def _mean_idle(rows: list[Row], system: str) -> float:
    return fmean(row["avoidable"] for row in rows if row["system"] == system)


def _failures(rows: list[Row]) -> list[str]:
    return [f"\n{r['system']} on {r['scenario']}: {r['status']}." for r in rows if r["status"] != "ok"]


def overheads(sessions: list[dict[str, Any]]) -> str:
    """Functions per second, and seconds to submit."""
    rows = [row for session in sessions for row in session["rows"] if row["status"] == "ok"]
    running = [row for row in rows if row["what"] == "running"]
    submitted = [row for row in rows if row["what"] == "submission"]
    return "\n".join([*_running(running), "", *_submission(submitted), "", _made_on(sessions)]) + "\n"


def _running(rows: list[Row]) -> Iterable[str]:
    yield _line("functions that do nothing", "stock Dask", "handoff", "handoff / stock Dask")
    yield "|---|--:|--:|--:|"
    for graph, count in dict.fromkeys((row["graph"], row["count"]) for row in rows):
        here = [row for row in rows if (row["graph"], row["count"]) == (graph, count)]
        dask, ours = (_median(here, system, "per_second") for system in ("dask", "handoff"))
        yield _line(f"{count:,} {graph}, per second", f"{dask:,.0f}", f"{ours:,.0f}", _ratio(ours / dask))


def _submission(rows: list[Row]) -> Iterable[str]:
    yield _line("seconds to submit", "plain Dask", "stock Dask with costs", "handoff", "handoff / plain Dask")
    yield "|---|--:|--:|--:|--:|"
    systems = ("dask-plain", "dask", "handoff")
    labels = {"returned_s": "until the call returns", "known_s": "until the scheduler has them"}
    counts = sorted({row["count"] for row in rows})
    for field, label in labels.items():
        each = {
            count: [_median([r for r in rows if r["count"] == count], system, field) for system in systems]
            for count in counts
        }
        for count, (plain, costs, ours) in each.items():
            cells = map(_ratio, (plain, costs, ours, ours / plain))
            yield _line(f"{count:,} functions, {label}", *cells)
        if len(counts) > 1:
            few, many = counts[0], counts[-1]
            growth = [_ratio((b / many) / (a / few)) for a, b in zip(each[few], each[many], strict=True)]
            yield _line(f"time per function at {many:,} over that at {few:,}", *growth, "")


def _median(rows: list[Row], system: str, field: str) -> float:
    values = [row[field] for row in rows if row["system"] == system]
    return median(values) if values else math.nan


def _made_on(sessions: list[dict[str, Any]]) -> str:
    m = sessions[-1]["machine"]
    loads = [row["load"] for session in sessions for row in session["rows"]]
    return (
        f"{m['cpu']}, {m['cores']} cores, {m['system']}; Python {m['python']}, dask {m['dask']},"
        f" distributed {m['distributed']}, handoff {m['handoff']}; load average {min(loads)} to {max(loads)}."
    )


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def put_into(path: Path, text: str) -> None:
    """Exchange what stands between the marks of a document.

    Raises
    ------
    SystemExit
        If the marks are not there.
    """
    document = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(document):
        raise SystemExit(f"{path.name} has no {BEGIN} … {END}; put them where the table belongs")
    replacement: Callable[[re.Match[str]], str] = lambda _: f"{BEGIN}\n{text.strip()}\n{END}"  # noqa: E731
    path.write_text(pattern.sub(replacement, document), encoding="utf-8")
