"""``dask handoff nodes``, ``explain`` and ``top``: looking at a cluster."""

from __future__ import annotations

import io
import json
import re
import sys
import types

import pytest
from commands import error_of, run

from handoff_dask.cli import top

if sys.version_info >= (3, 11):
    pass
else:
    pass


# ---------------------------------------------------------------------- looking at a cluster


def test_nodes_as_a_table_and_as_json(on_cluster, busy):
    out, _ = run("nodes", *on_cluster)
    data = json.loads(run("nodes", "--json", *on_cluster)[0])

    assert [re.split(r"\s{2,}", line)[:4] for line in out.splitlines()] == [
        ["NODE", "STATUS", "IN USE", "THREADS"],
        ["big", "ready", "cpu 3/4, memory 0/8000", "1/4"],
        ["small", "ready", "cpu 0/1, memory 0/500", "0/4"],
    ]
    assert [(node["name"], node["used"]["cpu"], node["running_count"]) for node in data] == [
        ("big", 3, 1),
        ("small", 0, 0),
    ]


def test_what_all_nodes_share_is_said_and_listed(on_cluster):
    said, _ = run("shared", "licences=8", "ports=1.5", *on_cluster)
    listed = json.loads(run("shared", "--json", *on_cluster)[0])
    try:
        assert said.split() == ["NAME", "IN", "USE", "OF", "licences", "0", "8", "ports", "0", "1.5"]
        assert listed[0] == {"name": "licences", "amount": 8, "used": 0}
        assert run("nodes", *on_cluster)[0].endswith("shared by all nodes: licences 0/8, ports 0/1.5\n")
        assert "shared by all nodes: licences 0/8" in run("top", "--once", *on_cluster)[0]
        assert "no amount of a resource" in error_of("shared", "licences", *on_cluster, code=2)
        assert "declares it" in error_of("shared", "cpu=8", *on_cluster, code=2)
    finally:
        run("shared", "licences=0", "ports=0", *on_cluster)


def test_logs_of_a_dag(on_cluster, busy):
    assert run("logs", "busy", *on_cluster)[0] == ""
    assert json.loads(run("logs", "busy", "holds", "--json", *on_cluster)[0]) == []
    assert "no execution on this cluster is called so" in error_of("logs", "bussy", *on_cluster, code=2)
    assert "did you mean 'holds'" in error_of("logs", "busy", "hold", *on_cluster, code=2)


def test_explain_each_state_of_a_function(on_cluster, busy):
    said = {name: run("explain", name, *on_cluster)[0] for name in ("holds", "('next', 2)", "after")}

    assert said["holds"] == "busy: holds is on node big\n"
    assert said["after"] == "busy: after waits for its arguments: ('next', 1), holds\n"
    lines = said["('next', 2)"].splitlines()
    assert re.fullmatch(r"busy: \('next', 2\) has waited .* s \(room\)", lines[0])
    assert lines[1:] == [
        "  1 function with the same demand goes before it",
        "  big: needs cpu 3, 1 of 4 free",
        "  small: needs cpu 3, has 1",
    ]


def test_explain_all_that_waits(on_cluster, busy):
    everything = run("explain", *on_cluster)[0]
    of_this = run("explain", "--dag", "busy", *on_cluster)[0]
    of_none = run("explain", "--dag", "other", *on_cluster)[0]

    assert (
        everything
        == of_this
        == (
            "busy: 2 waiting (room): ('next', 1), ('next', 2)\n"
            "  big: needs cpu 3, 1 of 4 free\n"
            "  small: needs cpu 3, has 1\n"
        )
    )
    assert of_none == "nothing waits for a node\n"


def test_explain_as_json(on_cluster, busy):
    (said,) = json.loads(run("explain", "after", "--json", *on_cluster)[0])

    assert (said["status"], said["missing"]) == ("pending", ["('next', 1)", "holds"])


def test_explain_what_is_not_there(on_cluster, busy):
    assert "'nothing'" in error_of("explain", "nothing", *on_cluster, code=2)
    assert "'holds'" in error_of("explain", "holds", "--dag", "other", *on_cluster, code=2)


def test_top_once(on_cluster, busy):
    out, _ = run("top", "--once", *on_cluster)

    lines = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert lines[0] == ["2 nodes, 1 running, 2 waiting, 1 DAG running"]
    assert ["big", "cpu ██████░░ 3/4", "memory ░░░░░░░░ 0/8000", "1/4", "holds"] in lines
    assert ["2", "('next', 1), ('next', 2)", "busy", "cpu 3", "room"] in [line[:-1] for line in lines]
    assert ["busy", "running", "░░░░░░░░ 0/4", "1", "2", "0"] in [line[:6] for line in lines]


def test_top_as_json_has_what_the_page_has(on_cluster, busy):
    said = json.loads(run("top", "--json", *on_cluster)[0])

    assert {"time", "nodes", "outsiders", "pipelines", "runs", "shared", "waiting"} == set(said)
    assert said["runs"][0]["dag_id"] == "busy"


def overview(nodes=2, waiting=3, runs=4):
    """A made-up one with long and hostile texts."""
    long = "節点\x1b[31m\n" + "x" * 300
    function = {
        "function_id": long,
        "dag_id": long,
        "name": long,
        "key": "k",
        "token": "0",
        "cost": {"cpu": 1},
        "since": 1.0,
    }
    node = {
        "name": long, "address": long, "status": "paused", "capabilities": {"cpu": 4, "zone": "eu"},
        "used": {"cpu": 1}, "threads": 4, "threads_used": 1, "running_count": 1, "running": [function],
    }  # fmt: skip
    kind = {**function, "count": 3, "functions": [long], "cause": "room", "nodes": {}}
    run = {
        "token": "0", "dag_id": long, "name": long, "status": "failed", "strategy": "own",
        "submitted": 0.0, "ended": 2.0,
        "functions": 4, "states": {"finished": 3, "failed": 1}, "failed": long, "error": long,
    }  # fmt: skip
    lists = {"nodes": [node] * nodes, "waiting": [kind] * waiting, "runs": [run] * runs}
    return {"time": 3.0, **lists, "shared": [{"name": "licences", "amount": 8, "used": 3}]}


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("height", [8, 24, None])
def test_top_keeps_within_the_terminal(width, height):
    lines = top.lines_of(overview(30, 30, 30), width, height)

    assert max(map(len, lines)) <= width
    assert all(line.isprintable() for line in lines)
    assert height is None or len(lines) <= height
    if height == 24:
        assert sum(line.startswith("and ") and line.endswith(" more") for line in lines) == 3


def test_top_draws_until_the_keyboard_ends_it(monkeypatch):
    out = io.StringIO()
    looks = iter([overview(), overview(nodes=0, waiting=0, runs=0)])

    def look():
        try:
            return next(looks)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(top, "sys", types.SimpleNamespace(stdout=out))
    monkeypatch.setattr(top.time, "sleep", lambda seconds: None)
    top.watch(look, "tcp://somewhere", 1.0)

    text = out.getvalue()
    assert text.startswith(top.ENTER)
    assert text.endswith(top.LEAVE)
    assert text.count(top.HOME) == 2
    assert "no worker has reported what it offers" in text
