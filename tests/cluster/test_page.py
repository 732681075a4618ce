"""The page ``/handoff`` on the scheduler's HTTP server, and its JSON."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request

import dask
import pytest
from distributed import Client
from pages import (
    HTTP,
    Waiting,
    boom,
    clustered,
    document,
    fetch,
    fetch_json,
)
from tornado import web

import handoff_dask as handoff
from handoff_dask.client.page_link import page_link
from handoff_dask.scheduler import page
from handoff_dask.worker.cores import THREADS

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
        assert page_link(c) == f"https://hub/user/proxy/{s.http_server.port}/handoff"


@clustered()
async def test_answer_without_the_plugin_says_so(c, s, a, b):
    async with handoff.Handoff(c):
        plugin = s.plugins["handoff"]
        await c.unregister_scheduler_plugin("handoff")
        answer = await fetch(s, "/handoff")
    # Dask closes only what is registered; the metrics of this one must not outlive the test.
    await plugin.close()

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
            link = page_link(client)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(link) as answer:
            text = answer.read().decode()
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait()

    assert "No worker has reported what it offers." in text


# ---------------------------------------------------------------------- what it says


@clustered()
async def test_nodes_as_json(c, s, a, b, monkeypatch):
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
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
        "name": "busy",
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
        "notes": [],
    }


@clustered()
async def test_what_waits_as_json(c, s, a, b):
    async with handoff.Handoff(c) as session, Waiting(session) as execution:
        (kind,) = (await fetch_json(s, "/handoff/api/waiting"))["waiting"]

    token = execution.compiled.manifest.token
    assert kind.pop("since") > 0
    assert kind == {
        "dag_id": "busy",
        "name": "busy",
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

    assert re.search(r"pages\.py.* in boom .*ValueError\('<b>boom</b>'\)", found.text)
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
