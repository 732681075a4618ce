"""The page ``/handoff`` on the HTTP server of Dask's scheduler, and the same as JSON.

Read-only.  Everything is put together when somebody looks; a page that nobody looks at costs
nothing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
from distributed.core import Status
from distributed.metrics import monotonic
from tornado import web

from handoff_dask.errors import NotFoundError
from handoff_dask.protocol.names import NAME
from handoff_dask.scheduler.views import Views
from handoff_dask.visualization import execution_graph
from handoff_dask.visualization.dot import seconds_text
from handoff_dask.visualization.page import page
from handoff_dask.visualization.page_data import cost_text
from handoff_dask.visualization.texts import plain, shortened, visible

if TYPE_CHECKING:
    from distributed import Scheduler

    from handoff_dask.record.execution import ExecutionRecord

logger = logging.getLogger(__name__)

#: Seconds for which all who look see the same.
FRESH_S = 0.25
#: Seconds between two looks of the page at the scheduler.
REFRESH_S = 2.0
#: Characters of an id or a cost that the page shows.
SHOWN = 80
#: Running functions that the page shows of a node, and runs.
RUNNING = 6


def install_page(scheduler: Scheduler) -> None:
    """Serve the page from the scheduler's HTTP server, with or without Bokeh's dashboard.

    Dask has no route that is added later; applications are: its own dashboard and Jupyter come
    this way, and are asked in turn for what no route of Dask's answers.
    """
    try:
        routing = scheduler.http_application
        if not any(isinstance(application, Pages) for application in routing.applications):
            routing.add_application(Pages(scheduler))
    except Exception:  # executions do not need the page
        logger.warning("handoff's page cannot be shown by this version of Dask", exc_info=True)


def remove_page(scheduler: Scheduler) -> None:
    """Serve it no longer."""
    applications = scheduler.http_application.applications
    applications[:] = [known for known in applications if not isinstance(known, Pages)]


class Pages(web.Application):
    """What is served under ``/handoff``, whatever the prefix of the scheduler's dashboard."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._seen: tuple[float, dict[str, Any]] | None = None
        #: Reports are written one at a time, in a thread beside the scheduler's.
        self.writing = asyncio.Lock()
        super().__init__(
            [
                (rf".*/{NAME}", OverviewPage),
                (rf".*/{NAME}/", ToOverview),
                (rf".*/{NAME}/runs/([0-9a-f]+)", ReportPage),
                (rf".*/{NAME}/api/(nodes|shared|runs|waiting|pipelines)", ListJSON),
                (rf".*/{NAME}/api/runs/([0-9a-f]+)", RunJSON),
            ]
        )

    @property
    def views(self) -> Views:
        """The plugin's views.

        Raises
        ------
        HTTPError
            503 where the plugin has been taken away, or the scheduler has closed.
        """
        if self._scheduler.status != Status.running:
            # Its process may live on, and connections that browsers keep open with it.
            raise web.HTTPError(503, reason="This scheduler has closed")
        plugin: Any = self._scheduler.plugins.get(NAME)
        if plugin is None:
            raise web.HTTPError(503, reason="handoff is not started on this scheduler")
        views: Views = plugin.views
        return views

    def overview(self) -> dict[str, Any]:
        """The scheduler's state, at most :data:`FRESH_S` old: many who look cost little more than one."""
        now = monotonic()
        if self._seen is None or now - self._seen[0] > FRESH_S:
            self._seen = (now, self.views.overview())
        return self._seen[1]

    def forget(self) -> None:
        """Let the next look be a new one."""
        self._seen = None


class Handler(web.RequestHandler):
    """What all have in common: nothing is kept by browsers, nothing is guessed by them."""

    application: Pages

    def set_default_headers(self) -> None:
        """Called by tornado before each answer, errors too."""
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")

    def record(self, token: str) -> ExecutionRecord:
        """A run's record; 404 if the run is not known."""
        try:
            return self.application.views.record(token)
        except NotFoundError as error:
            raise web.HTTPError(404, reason="This execution is not known here any more") from error

    def send(self, value: Any) -> None:
        """Answer with JSON."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(value, allow_nan=False))


class OverviewPage(Handler):
    """Nodes, what runs, what waits, the last DAGs."""

    def get(self) -> None:
        """The page as it is now; its script asks again."""
        style, script = _style(), _asset("page.js")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        self.set_header(
            "Content-Security-Policy",
            "default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; "
            f"form-action 'none'; script-src 'sha256-{digest}'",
        )
        overview = self.application.overview()
        self.finish(
            _template().render(
                overview=overview, style=style, script=script, refresh_s=REFRESH_S, shown=RUNNING
            )
        )


class ToOverview(Handler):
    """The page's address with a slash behind it, where its links would not work."""

    def get(self) -> None:
        """Go to the page."""
        self.redirect(f"../{NAME}")


class ReportPage(Handler):
    """The report of a run, also while it runs."""

    async def get(self, token: str) -> None:
        """The report as it is now."""
        record = self.record(token)
        async with self.application.writing:
            self.finish(await asyncio.to_thread(page, record))


class ListJSON(Handler):
    """Nodes, what they share, runs, or what waits."""

    def get(self, what: str) -> None:
        """A list of objects."""
        overview = self.application.overview()
        self.send({"time": overview["time"], what: overview[what]})


class RunJSON(Handler):
    """One run and its functions."""

    async def get(self, token: str) -> None:
        """An object; ``nodes`` are those there were, ``functions`` and ``edges`` the graph."""
        record = self.record(token)
        async with self.application.writing:
            self.send(await asyncio.to_thread(_run_data, token, record))


def _run_data(token: str, record: ExecutionRecord) -> dict[str, Any]:
    graph = execution_graph(record).to_dict()
    known = {
        function.id: {
            name: getattr(function, name)
            for name in ("ready", "placed", "attempts", "cause", "nbytes", "duration_s", "error")
        }
        for function in record.functions
    }
    return {
        "token": token,
        "dag_id": record.dag_id,
        "status": record.status,
        "strategy": record.strategy,
        "submitted": record.submitted,
        "ended": record.ended,
        "nodes": plain(record.nodes),
        "functions": [{**node, **known[node["id"]]} for node in graph["nodes"]],
        "edges": graph["edges"],
    }


# ---------------------------------------------------------------------- the template


@cache
def _asset(name: str) -> str:
    # As the browser will hash it: with line feeds alone.
    text = files("handoff_dask.scheduler").joinpath(f"assets/{name}").read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


@cache
def _style() -> str:
    report = files("handoff_dask.visualization").joinpath("assets/report.css")
    return report.read_text(encoding="utf-8") + _asset("page.css")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(
        seconds=lambda seconds: seconds_text(max(0.0, seconds)),
        text=lambda text: shortened(visible(text), SHOWN),
        long=lambda text: shortened(visible(text), 4 * SHOWN),
        cost=lambda cost: shortened(visible(cost_text(cost)), SHOWN),
        share=_share,
        amounts=_amounts,
        labels=_labels,
    )
    return environment.from_string(_asset("page.html"))


def _share(used: float, total: float) -> str:
    """A width for a bar."""
    return f"{min(100.0, 100 * used / total) if total else 0:.1f}"


def _amounts(node: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """``(resource, used, of how much)``."""
    return [
        (name, node["used"].get(name, 0), total)
        for name, total in node["capabilities"].items()
        if not isinstance(total, (bool, str, list)) and name != "price"
    ]


def _labels(node: Mapping[str, Any]) -> dict[str, Any]:
    return {
        n: v for n, v in node["capabilities"].items() if isinstance(v, (bool, str, list)) and v is not False
    }
