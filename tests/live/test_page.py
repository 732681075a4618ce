"""The page ``/handoff`` on the scheduler's HTTP server, and its JSON."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import dask
import pytest
from distributed import Client, Event
from distributed.utils_test import gen_cluster
from tornado import web
from tornado.httpclient import AsyncHTTPClient

import handoff_dask as handoff
from handoff_dask.live import page, views

HTTP = {"dashboard_address": "127.0.0.1:0"}
clustered = partial(
    gen_cluster, client=True, scheduler_kwargs=HTTP, config={"distributed.scheduler.validate": True}
)
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "line\nbreak\r\ttab\x00\x1b[31m\u202e\ud800",
    "</style><style>* { display: none }",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt;",
    "x" * 10_000,
]


async def fetch(scheduler, path, **options):
    """The answer of the scheduler's HTTP server, errors too."""
    url = f"http://127.0.0.1:{scheduler.http_server.port}{path}"
    return await AsyncHTTPClient(force_instance=True).fetch(url, raise_error=False, **options)


async def fetch_json(scheduler, path):
    answer = await fetch(scheduler, path)
    assert answer.code == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    return json.loads(answer.body)


class Document(HTMLParser):
    """What a browser would find in a page: elements with their attributes, and texts."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def attributes(self, tag, name):
        return [
            attributes[name] for found, attributes in self.elements if found == tag and name in attributes
        ]


async def document(scheduler, path="/handoff"):
    answer = await fetch(scheduler, path)
    assert answer.code == 200
    return Document(answer.body.decode())


def wait_for(name, *args):
    Event(name).wait()
    return name


def boom(*args):
    raise ValueError("<b>boom</b>")


class Rude:
    """An id that cannot be shown."""

    def __repr__(self):
        raise RuntimeError("no")


class Waiting:
    """One function runs on node 1, two wait for room there, one for its arguments."""

    def __init__(self, session):
        self.session = session

    async def __aenter__(self):
        dag = handoff.DAG("busy")
        dag.add_function(handoff.Function("holds", [], wait_for, extra_args=["go"], cost={"cpu": 2}))
        for i in (1, 2):
            dag.add_function(handoff.Function(("next", i), [], int, cost={"cpu": 2}, priority=-i))
        dag.add_function(handoff.Function("last", ["holds"], str))
        self.execution = await self.session.submit(dag)
        while self.execution.status != "running":
            await self.session.ask("ping")
        return self.execution

    async def __aexit__(self, *exc_info):
        await Event("go").set()
        await self.execution


# ---------------------------------------------------------------------- where it is served


@clustered()
async def test_page_is_one_of_the_applications_of_dasks_http_server(c, s, a, b):
    """Breaks where a version of Dask serves HTTP in another way."""
    before = await fetch(s, "/handoff")
    async with handoff.Handoff(c), handoff.Handoff(c):
        answer = await fetch(s, "/handoff")

        assert (before.code, answer.code) == (404, 200)
        assert [type(app) for app in s.http_application.applications].count(page.Pages) == 1
        assert (await fetch(s, "/health")).body == b"ok"
        assert (await fetch(s, "/sitemap.json")).code == 200
        assert (await fetch(s, "/handoff/")).effective_url.endswith("/handoff")


@clustered()
async def test_page_is_found_behind_other_applications(c, s, a, b):
    """Bokeh's dashboard is one: it answers all that it does not know with an error."""
    s.http_application.add_application(web.Application([("/status", web.RequestHandler)]))
    async with handoff.Handoff(c):
        assert (await fetch(s, "/handoff")).code == 200


@clustered(scheduler_kwargs={**HTTP, "http_prefix": "/cluster"})
async def test_prefix_of_the_dashboard_holds_for_the_page(c, s, a, b):
    async with handoff.Handoff(c):
        found = await document(s, "/cluster/handoff")

    assert {link.partition("/")[0] for link in found.attributes("a", "href")} == {"handoff"}


@clustered()
async def test_link_stands_where_that_of_the_dashboard_does(c, s, a, b):
    with dask.config.set({"distributed.dashboard.link": "https://hub/user/proxy/{port}/status"}):
        assert page.page_link(c) == f"https://hub/user/proxy/{s.http_server.port}/handoff"


@clustered()
async def test_answer_without_the_plugin_says_so(c, s, a, b):
    async with handoff.Handoff(c):
        await c.unregister_scheduler_plugin("handoff")
        answer = await fetch(s, "/handoff")

    assert (answer.code, answer.reason) == (503, "handoff is not started on this scheduler")


@pytest.mark.parametrize("bokeh", ["with", "without"])
@pytest.mark.parametrize("flag", ["--dashboard", "--no-dashboard"])
def test_real_scheduler_serves_the_page(flag, bokeh, tmp_path):
    """With Bokeh if it is installed here, and without it in any case."""
    file = tmp_path / "scheduler.json"
    block = "" if bokeh == "with" else "sys.modules['bokeh'] = None; "
    command = f"import sys; {block}from distributed.cli.dask_scheduler import main; main()"
    options = [flag, "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    options += ["--preload", "handoff_dask.preload", "--scheduler-file", str(file)]
    process = subprocess.Popen([sys.executable, "-c", command, *options], stderr=subprocess.DEVNULL)
    try:
        with Client(scheduler_file=str(file), timeout=30) as client:
            link = page.page_link(client)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(link) as answer:
            text = answer.read().decode()
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait()

    assert "No worker has reported what it offers." in text


# ---------------------------------------------------------------------- what it says


@clustered()
async def test_nodes_as_json(c, s, a, b):
    async with handoff.Handoff(c) as session:
        await session.register_node(str(b.name), {"cpu": 2, "memory": "1 GB", "zone": "eu", "price": 0.5})
        async with Waiting(session) as execution:
            nodes = (await fetch_json(s, "/handoff/api/nodes"))["nodes"]

    token = execution.compiled.manifest.token
    assert [node["name"] for node in nodes] == ["0", "1"]
    (running,) = nodes[1].pop("running")
    assert running.pop("since") > 0
    assert running == {
        "dag_id": "busy",
        "token": token,
        "function_id": "holds",
        "key": f"wait_for-{token}-0",
        "cost": {"cpu": 2},
    }
    assert nodes[1] == {
        "name": "1",
        "address": b.address,
        "status": "ready",
        "capabilities": {"cpu": 2, "memory": 1000, "zone": "eu", "price": 0.5},
        "used": {"cpu": 2, "memory": 0, "price": 0},
        "available": {"cpu": 0, "memory": 1000, "price": 0.5},
        "threads": 2,
        "threads_used": 1,
        "price": 0.5,
        "reserved_for": None,
        "running_count": 1,
    }


@clustered()
async def test_what_waits_as_json(c, s, a, b):
    async with handoff.Handoff(c) as session, Waiting(session) as execution:
        (kind,) = (await fetch_json(s, "/handoff/api/waiting"))["waiting"]

    token = execution.compiled.manifest.token
    assert kind.pop("since") > 0
    assert kind == {
        "dag_id": "busy",
        "token": token,
        "function_id": "('next', 1)",
        "key": f"int-{token}-1",
        "cost": {"cpu": 2},
        "count": 2,
        "functions": ["('next', 1)", "('next', 2)"],
        "cause": "room",
        "nodes": {"0": "needs cpu 2, has 1", "1": "needs cpu 2, 0 of 2 free"},
    }


@clustered()
async def test_runs_as_json(c, s, a, b):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError):
            await session.execute(
                handoff.DAG("broken")
                .add_function(handoff.Function("a", [], int))
                .add_function(handoff.Function("b", ["a"], boom, max_retries=0))
                .add_function(handoff.Function("c", ["b"], int))
            )
        async with Waiting(session):
            runs = (await fetch_json(s, "/handoff/api/runs"))["runs"]

    assert [
        (r["dag_id"], r["status"], r["functions"], r["states"], r["failed"], r["error"]) for r in runs
    ] == [
        ("busy", "running", 4, {"running": 1, "waiting": 2, "pending": 1}, None, None),
        (
            "broken",
            "failed",
            3,
            {"finished": 1, "failed": 1, "cancelled": 1},
            "b",
            "ValueError('<b>boom</b>')",
        ),
    ]
    assert runs[0]["ended"] is None
    assert runs[1]["submitted"] < runs[1]["ended"] < runs[0]["submitted"]


@clustered()
async def test_one_run_as_json(c, s, a, b):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(
            handoff.DAG("pair")
            .add_function(handoff.Function("a", [], int, cost={"cpu": 1}, node=str(b.name)))
            .add_function(handoff.Function("b", ["a"], str))
        )
        await execution
        run = await fetch_json(s, f"/handoff/api/runs/{execution.compiled.manifest.token}")

    assert (run["dag_id"], run["status"], run["strategy"]) == ("pair", "finished", "first_available")
    assert run["edges"] == [{"source": "a", "target": "b"}]
    assert [(f["id"], f["name"], f["node"], f["status"], f["cost"]) for f in run["functions"]] == [
        ("a", "int", "1", "finished", {"cpu": 1}),
        ("b", "str", run["functions"][1]["node"], "finished", {}),
    ]
    assert run["nodes"]["1"]["threads"] == 2
    moments = [run["functions"][0][name] for name in ("ready", "placed", "start", "stop")]
    assert None not in moments


@clustered()
async def test_page_shows_all_of_it(c, s, a, b):
    async with handoff.Handoff(c) as session, Waiting(session):
        found = await document(s)

    assert "Functions running 1 Functions waiting 2 DAGs running 1" in found.text
    assert "cpu 2 of 2" in found.text
    assert "('next', 1)" in found.text
    assert "1: needs cpu 2, 0 of 2 free" in found.text
    assert "0 of 4, 1 running, 2 waiting" in found.text


@clustered()
async def test_report_of_a_run_also_while_it_runs(c, s, a, b):
    async with handoff.Handoff(c) as session:
        async with Waiting(session) as execution:
            token = execution.compiled.manifest.token
            during = await document(s, f"/handoff/runs/{token}")
            (link,) = [x for x in (await document(s)).attributes("a", "href") if token in x]
        after = await document(s, f"/{link}")

    assert "busy running" in during.text
    assert "busy finished" in after.text


@clustered()
async def test_failed_function_has_its_traceback_in_the_report(c, s, a, b):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([handoff.Function("a", [], boom, max_retries=0)])
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        found = await document(s, f"/handoff/runs/{execution.compiled.manifest.token}")

    assert re.search(r"test_page\.py.* in boom .*ValueError\('<b>boom</b>'\)", found.text)
    assert ("b", {}) not in found.elements


@clustered()
async def test_unplaceable_function_says_why(c, s, a, b):
    with dask.config.set({"handoff.allocation-timeout": "10ms"}):
        async with handoff.Handoff(c) as session:
            with pytest.raises(handoff.AllocationError):
                await session.execute([handoff.Function("a", [], int, cost={"cpu": 9})])
            (run,) = (await fetch_json(s, "/handoff/api/runs"))["runs"]

    assert run["status"] == "failed"
    assert "0: needs cpu 9, has 1" in run["error"]


# ---------------------------------------------------------------------- safety


@clustered()
async def test_hostile_texts_are_shown_and_not_obeyed(c, s, a, b):
    async with handoff.Handoff(c) as session:
        clean = await document(s)
        s.http_application.applications[-1].forget()
        await session.register_node(str(b.name), {"cpu": 2, HOSTILE[0]: 3, "zone": HOSTILE[1]})
        dag = handoff.DAG(HOSTILE[0])
        dag.add_function(handoff.Function("holds", [], wait_for, extra_args=["go"], cost={"cpu": 2}))
        for i, text in enumerate(HOSTILE):
            dag.add_function(handoff.Function(text, [], int, cost={"cpu": 2, HOSTILE[0]: i / 8}))
        execution = await session.submit(dag)
        while execution.status != "running":
            await session.ask("ping")
        answer = await fetch(s, "/handoff")
        report = await document(s, f"/handoff/runs/{execution.compiled.manifest.token}")
        kinds = (await fetch_json(s, "/handoff/api/waiting"))["waiting"]
        await Event("go").set()
        await execution

    found = Document(answer.body.decode())
    added = {tag for tag, _ in found.elements} - {tag for tag, _ in clean.elements}
    assert added == {"code", "li", "ul"}
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in found.text
    assert "line\\nbreak\\r\\ttab\\x00\\x1b[31m\\u202e\\ud800" in found.text
    assert "{{ 7 * 7 }} {% raw %} &lt;b&gt;" in found.text
    assert len(answer.body) < 40_000
    assert "img" not in {tag for tag, _ in report.elements}
    assert {kind["function_id"] for kind in kinds} == set(HOSTILE)


@clustered()
async def test_browser_may_run_the_pages_script_and_ask_nobody_else(c, s, a, b):
    async with handoff.Handoff(c):
        answer = await fetch(s, "/handoff")

    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='$", policy)
    assert "connect-src 'self'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert b"http" not in re.sub(rb"http-equiv|https?://127\.0\.0\.1", b"", answer.body)


@clustered()
async def test_page_is_for_reading(c, s, a, b):
    async with handoff.Handoff(c):
        codes = [
            (await fetch(s, f"/handoff{path}", method=method, allow_nonstandard_methods=True)).code
            for method in ("POST", "PUT", "DELETE")
            for path in ("", "/api/nodes", "/api/runs/0a", "/runs/0a")
        ]

    assert set(codes) == {405}


@pytest.mark.parametrize("path", ["/handoff/runs/0a", "/handoff/api/runs/0a"])
def test_unknown_run_is_not_found(path):
    @clustered()
    async def test(c, s, a, b):
        async with handoff.Handoff(c):
            answer = await fetch(s, path)

        assert (answer.code, answer.reason) == (404, "This execution is not known here any more")

    test()


@clustered()
async def test_id_that_cannot_be_shown_appears_by_its_key(c, s, a, b):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(handoff.DAG("rude").add_function(handoff.Function(Rude(), [], int)))
        await execution
        token = execution.compiled.manifest.token
        run = await fetch_json(s, f"/handoff/api/runs/{token}")

    assert [f["id"] for f in run["functions"]] == [f"int-{token}-0"]


# ---------------------------------------------------------------------- cost


@clustered()
async def test_nothing_is_put_together_when_nobody_looks(c, s, a, b):
    async with handoff.Handoff(c) as session:
        looks = []
        seen = s.plugins["handoff"].views
        seen.overview = lambda: looks.append(1) or views.Views.overview(seen)
        await session.execute([handoff.Function("a", [], int)])
        unseen = len(looks)
        for _ in range(5):
            await fetch(s, "/handoff")

    assert (unseen, len(looks)) == (0, 1)


@clustered()
async def test_last_runs_are_kept_whatever_dask_forgets(c, s, a, b):
    async with handoff.Handoff(c) as session:
        for number in range(views.KEPT_RUNS + 2):
            await session.execute(handoff.DAG(number).add_function(handoff.Function("a", [], int)))
            await session.forget(number)
        runs = (await fetch_json(s, "/handoff/api/runs"))["runs"]
        last = await fetch_json(s, f"/handoff/api/runs/{runs[-1]['token']}")

    assert [run["dag_id"] for run in runs] == [str(i) for i in range(views.KEPT_RUNS + 1, 1, -1)]
    assert (last["status"], [f["status"] for f in last["functions"]]) == ("finished", ["finished"])


@clustered()
async def test_large_runs_push_out_older_ones(c, s, a, b):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(views, "KEPT_FUNCTIONS", 5)
        async with handoff.Handoff(c) as session:
            for name, size in (("small", 1), ("middle", 3), ("large", 4)):
                dag = handoff.DAG(name)
                for i in range(size):
                    dag.add_function(handoff.Function(i, [], int))
                await session.execute(dag)
                await session.forget(name)
            runs = (await fetch_json(s, "/handoff/api/runs"))["runs"]

    assert [run["dag_id"] for run in runs] == ["large"]


# ---------------------------------------------------------------------- the client's record


@clustered()
async def test_clients_record_is_that_of_the_scheduler(c, s, a, b):
    """Reports written by the client and by the scheduler say the same."""
    async with handoff.Handoff(c) as session:
        execution = await session.submit(
            handoff.DAG("both")
            .add_function(handoff.Function("a", [], int, cost={"cpu": 1}))
            .add_function(handoff.Function("b", ["a"], boom, max_retries=0))
            .add_function(handoff.Function("c", ["a", "b"], max))
        )
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        here = await execution.record()
        there = s.plugins["handoff"].views.record(execution.compiled.manifest.token)

    assert [f.status for f in here.functions] == ["finished", "failed", "cancelled"]
    assert "ValueError: <b>boom</b>" in here.functions[1].error
    without_errors = [[replace(f, error=None) for f in record.functions] for record in (here, there)]
    assert without_errors[0] == without_errors[1]
    assert replace(here, functions=()) == replace(there, functions=())
    assert {name: node["threads"] for name, node in here.nodes.items()} == {"0": 1, "1": 2}
