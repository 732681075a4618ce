"""The page of the scheduler shows hostile texts safely, and costs little."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from distributed import Event
from pages import (
    HOSTILE,
    Document,
    Rude,
    boom,
    clustered,
    document,
    fetch,
    fetch_json,
    wait_for,
)

import handoff_dask as handoff
from handoff_dask.scheduler import views

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
