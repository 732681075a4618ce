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


def data(sessions: list[dict[str, Any]]) -> str:
    """Seconds and megabytes of DAGs that pass large results, stock Dask beside handoff."""
    rows = [row for session in sessions for row in session["rows"]]
    good = [row for row in rows if row["status"] == "ok"]
    lines = [
        _line("DAG", "functions", "stock Dask", "moved", "handoff", "moved", "time ratio", "bytes ratio"),
        "|---|" + "--:|" * 7,
    ]
    ratios: dict[str, list[float]] = {"seconds": [], "megabytes": []}
    for name, functions in dict.fromkeys((row["dag"], row["functions"]) for row in good):
        here = [row for row in good if row["dag"] == name]
        cells = []
        for system in ("dask", "handoff"):
            seconds = [row["seconds"] for row in here if row["system"] == system]
            cells += [_median_and_slowest(seconds), f"{_median(here, system, 'megabytes'):,.0f} MB"]
        for field, found in ratios.items():
            found.append(_median(here, "handoff", field) / max(_median(here, "dask", field), 1e-9))
        cells += [_ratio(found[-1]) for found in ratios.values()]
        lines.append(_line(name, functions, *cells))
    means = (f"**{_ratio(geometric_mean(found))}**" for found in ratios.values())
    lines += [_line("**geometric mean**", *[""] * 5, *means), "", _about_hosts(rows), _made_on(sessions)]
    failures = [f"\n{row['system']} on {row['dag']}: {row['status']}." for row in rows if row not in good]
    return "\n".join([*lines, *failures]) + "\n"


def _about_hosts(rows: list[Row]) -> str:
    repeats = max(row["repeat"] for row in rows) + 1
    text = f"Seconds: the median of {repeats}, in brackets the slowest. Four hosts of two cores"
    if rows[-1]["network"] == "loopback":
        return f"{text} on the loopback device, without limits: only the bytes mean something."
    slow = f", one of them of {rows[-1]['slow']}" if rows[-1]["slow"] else ""
    return f"{text} in network namespaces, with links of {rows[-1]['rate']}{slow}; megabytes that they sent."


def _median_and_slowest(seconds: list[float]) -> str:
    return f"{median(seconds):.1f} s ({max(seconds):.1f})" if seconds else "–"


def throughput(sessions: list[dict[str, Any]]) -> str:
    """Runs of functions that do nothing: the slowest of handoff over the median of stock Dask."""
    rows = [row for session in sessions for row in session["rows"]]
    good = [row for row in rows if row["status"] == "ok"]
    head = ("functions that do nothing", "cluster", "stock Dask", "handoff", "slowest / stock Dask's median")
    lines = [_line(*head), "|---|---|--:|--:|--:|"]
    for where, graph, count in dict.fromkeys((r["where"], r["graph"], r["count"]) for r in good):
        here = [r for r in good if (r["where"], r["graph"], r["count"]) == (where, graph, count)]
        stock, ours = (
            [s for r in here if r["system"] == system for s in r["seconds"]] for system in ("dask", "handoff")
        )
        ratio = _ratio(max(ours) / median(stock)) if stock and ours else "–"
        cells = (_median_and_slowest(stock), _median_and_slowest(ours), ratio)
        lines.append(_line(f"{count:,} {graph}", where, *cells))
    runs = max((len(row["seconds"]) for row in good), default=0)
    told = f"Seconds: the median of series of {runs} runs in a row on one cluster, in brackets the slowest."
    lines += ["", told]
    failures = [f"\n{r['system']} on {r['graph']}: {r['status']}." for r in rows if r not in good]
    return "\n".join([*lines, _made_on(sessions), *failures]) + "\n"


def workers(sessions: list[dict[str, Any]]) -> str:
    """Many workers in one process: seconds, and the share of the time between functions."""
    rows = [row for session in sessions for row in session["rows"]]
    good = [row for row in rows if row["status"] == "ok"]
    lines = [
        _line("workers", "ideal", "stock Dask", "idle", "handoff", "idle", "handoff / stock Dask"),
        "|--:|" + "--:|" * 6,
    ]
    for count, ideal_s, late_s in dict.fromkeys((r["workers"], r["ideal_s"], r["late_s"]) for r in good):
        here = [r for r in good if (r["workers"], r["ideal_s"], r["late_s"]) == (count, ideal_s, late_s)]
        cells = []
        for system in ("dask", "handoff"):
            seconds = [row["seconds"] for row in here if row["system"] == system]
            cells += [_median_and_slowest(seconds), f"{_median(here, system, 'idle'):.1%}"]
        ratio = _median(here, "handoff", "seconds") / _median(here, "dask", "seconds")
        label = f"{count}, messages {late_s * 1000:.0f} ms late" if late_s else count
        lines.append(_line(label, f"{ideal_s:.1f} s", *cells, _ratio(ratio)))
    about = "Chains of naps of 0.5 s, all workers in one process; idle: between two functions on one worker."
    failures = [f"\n{r['system']} on {r['workers']} workers: {r['status']}." for r in rows if r not in good]
    return "\n".join([*lines, "", about, _made_on(sessions), *failures]) + "\n"


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
