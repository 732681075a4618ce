"""A page about an execution: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection
from datetime import datetime, timezone  # noqa: TID251  says when something was, reads no clock
from functools import cache
from importlib.resources import files
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import jinja2

from handoff_dask.errors import HandoffError
from handoff_dask.record.execution import ExecutionRecord
from handoff_dask.visualization import rendering
from handoff_dask.visualization.dot import seconds_text
from handoff_dask.visualization.graph import ExecutionGraph, record_of
from handoff_dask.visualization.page_data import errors_of, json_for_html, layers_data, page_data, summary_of
from handoff_dask.visualization.texts import visible

__all__ = ["page", "report"]

SECTIONS = ("summary", "timeline", "graph", "functions")
#: How many of the lines that functions printed and logged are shown, the last ones.
LOG_LINES = 500
#: Seconds after which the page's graph is drawn without graphviz.
LAYOUT_S = 2.0


def report(result: Any, path: str | PathLike[str]) -> str:
    """Write one self-contained HTML page about an execution.

    Errors, where the time went beside the lower bound of the makespan, the timeline and the use of
    resources of each node, the graph, and a table of functions to sort and filter.  It needs no
    network, prints, and follows the reader's choice of a light or dark page.  Observable Plot draws
    it and DataTables makes its table; both come with the package.  The graph is drawn by graphviz
    where its program ``dot`` is there, else more simply.

    Parameters
    ----------
    result
        An ``ExecutionResult``, an ``Execution`` (also while it runs), or an ``ExecutionRecord``.
    path
        The file to write.

    Returns
    -------
    str
        The path.

    Raises
    ------
    ValidationError
        If there is no record behind ``result``.
    """
    text = page(record_of(result))
    Path(path).write_text(text, encoding="utf-8", newline="\n")
    return fspath(path)


def page(record: ExecutionRecord, sections: Collection[str] = SECTIONS) -> str:
    """The page as text; with fewer sections, a part of it."""
    data = page_data(record)
    svg = None
    if "graph" in sections:
        graph = ExecutionGraph(record.dag_id, record.functions)
        svg = _svg(graph)
        if svg is None:
            data["layers"] = layers_data(graph)
    libraries = ["vendor/d3.min.js", "vendor/plot.umd.min.js"]
    if "functions" in sections:
        libraries.append("vendor/dataTables.min.js")
    scripts = [_asset(name) for name in (*libraries, "assets/report.js")]
    errors, more_errors = errors_of(record)
    logs = [visible(line.expandtabs()) for line in str(record.logs).splitlines()]
    return _template().render(
        logs=logs[-LOG_LINES:],
        more_logs=max(0, len(logs) - LOG_LINES),
        sections=sections,
        summary=summary_of(record),
        errors=errors,
        more_errors=more_errors,
        svg=svg,
        data=json_for_html(data),
        style=_asset("assets/report.css"),
        scripts=scripts,
        # Whatever an id might smuggle in, the browser runs these scripts and no others.
        hashes=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
    )


def _svg(graph: ExecutionGraph) -> str | None:
    if not rendering.can_draw():
        return None
    try:
        return rendering.svg(graph.to_dot(), patience_s=LAYOUT_S)
    except HandoffError:
        return None  # the page draws it more simply: a report of a failed run must not fail too


@cache
def _asset(name: str) -> str:
    # As the browser will hash it: with line feeds alone.
    return (
        files("handoff_dask.visualization").joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["seconds"] = seconds_text
    environment.filters["moment"] = _moment
    return environment.from_string(_asset("assets/report.html"))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
