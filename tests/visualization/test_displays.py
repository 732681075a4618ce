"""What DAGs, executions and results show of themselves in a notebook, and when they are printed."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from sample_records import HOSTILE, SUBMITTED, function, hostile, record, sample

import handoff_dask as handoff
from handoff_dask.visualization.displays import record_summary


class Fragment(HTMLParser):
    """The elements of a display, and the text that a reader sees."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


ELEMENTS = {
    "div",
    "span",
    "strong",
    "table",
    "tr",
    "th",
    "td",
    "a",
    "svg",
    "g",
    "title",
    "rect",
    "path",
    "text",
}


def checked(html):
    """A display that is well formed, and made of our own elements and attributes only."""
    fragment = Fragment(html)
    assert fragment.open == []
    assert {tag for tag, _ in fragment.elements} <= ELEMENTS | {"line"}
    assert not [a for _, attributes in fragment.elements for a in attributes if a.startswith("on")]
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)
    return fragment


def result_of(known):
    return handoff.ExecutionResult(known.dag_id, {}, {}, {}, known)


def fan():
    dag = handoff.DAG("fan").add_function(handoff.Function("load", [], int, cost={"cpu": 1}, duration=2))
    for name in "abc":
        dag.add_function(handoff.Function(f"fit {name}", ["load"], str, cost={"cpu": 2, "memory": "4 GB"}))
    return dag.add_function(handoff.Function("report", ["fit a", "fit b", "fit c"], list, node="n"))


def test_a_dag_says_what_it_is():
    dag = fan()

    assert repr(dag) == "<DAG 'fan': 5 functions>"
    assert str(dag).splitlines() == [
        "DAG fan",
        "  functions     5",
        "  arguments     6, 3 deep",
        "  codes         str ×3, int ×1, list ×1",
        "  largest cost  cpu 2, memory 4 GB",
        "  pinned        1 to a node or to other functions",
        "  expected      2 s in all (1 durations are known)",
    ]
    shown = checked(dag._repr_html_())
    assert [t for t in shown.texts if t in dag.functions] == ["load", "fit a", "fit b", "fit c", "report"]
    assert len([1 for tag, _ in shown.elements if tag == "path"]) == 6


def test_a_dag_that_is_not_valid_says_why():
    dag = handoff.DAG("broken").add_function(handoff.Function("a", ["b"], int))

    assert str(dag).splitlines()[0] == "DAG broken: not valid"
    assert "refers to 'b', which is not in the DAG" in str(dag)
    assert " not valid" in checked(dag._repr_html_()).texts


def test_a_dag_in_a_circle_is_drawn():
    dag = handoff.DAG("circle")
    for a, b in ("xy", "yz", "zx"):
        dag.add_function(handoff.Function(a, [b], int))

    checked(dag._repr_html_())
    assert "not valid" in str(dag)


def test_an_empty_dag_is_shown():
    assert str(handoff.DAG("none")) == "DAG none\n  functions  0"
    checked(handoff.DAG("none")._repr_html_())


def test_a_result_says_how_it_went():
    known = sample(60)
    result = result_of(known)
    lines = str(result).splitlines()

    assert re.fullmatch(r"Result of DAG pipeline: finished in \d[\d.]* s", lines[0])
    assert [line.split("  ")[1].strip() for line in lines[1:]] == [
        "functions",
        "lower bound",
        "nodes",
        "strategy",
    ]
    assert re.search(r"set by .* it took 1\.\d\d times as long", lines[2])
    assert "\n" not in repr(result)
    shown = checked(result._repr_html_())
    started = [f for f in known.functions if f.start is not None]
    bars = [a for tag, a in shown.elements if tag == "rect" and a.get("height") == "7"]
    assert len(bars) == len(started)


def test_a_large_execution_is_drawn_by_node():
    shown = checked(record_summary("Result of DAG", sample(2000)).html())

    assert len([1 for tag, _ in shown.elements if tag == "path"]) == 6
    assert "functions that run at once; the height of a row is the maximum of its node" in shown.texts


def test_an_execution_that_runs_shows_its_graph_and_what_it_waits_for():
    known = record(
        function("done"),
        function("runs", args=("done",), status="running", stop=None),
        function("waits", args=("done",), status="waiting", cause="room", node=None, start=None, stop=None),
        function("last", args=("runs", "waits"), status="pending", node=None, start=None, stop=None),
        status="running",
        submitted=SUBMITTED,
    )
    summary = record_summary("Execution of DAG", known, now=SUBMITTED + 3)

    assert str(summary).splitlines()[:2] == [
        "Execution of DAG dag: running for 3 s",
        "  functions    4: 1 finished, 1 running, 1 waiting, 1 pending",
    ]
    assert ("waiting for", "room (1)") in summary.rows
    shown = checked(summary.html())
    assert [t for t in shown.texts if t in ("done", "runs", "waits", "last")] == [
        "done",
        "runs",
        "waits",
        "last",
    ]


def test_an_execution_that_has_failed_names_the_function():
    known = record(function("ok"), function("boom", status="failed", error="no"), status="failed", ended=9.0)
    text = str(record_summary("Execution of DAG", known, error="ValueError: no"))

    assert "failed     boom on node a" in text
    assert "error      ValueError: no" in text


@pytest.mark.parametrize("picture", ["dag", "graph", "timeline", "curves"])
def test_hostile_texts_stay_texts(picture):
    """Ids, names, nodes, causes and labels are shown as they are, and nothing of them is markup."""
    if picture == "dag":
        dag = handoff.DAG(HOSTILE[0])
        for text in HOSTILE[:20]:
            dag.add_function(handoff.Function(text, [], int, cost={"cpu": 1, "<b>": 2}, node=text or None))
        html, printed = dag._repr_html_(), str(dag)
    else:
        known = hostile()
        if picture == "graph":
            known = replace(known, status="running")
        if picture == "curves":
            copies = [replace(f, id=(n, f.id)) for n in range(40) for f in known.functions]
            known = replace(known, functions=tuple(copies))
        summary = record_summary("Execution of DAG", known, now=3.0, error=HOSTILE[3])
        html, printed = summary.html(), str(summary)

    shown = checked(html)
    assert any("<script>" in text for text in shown.texts)
    assert all(c.isprintable() for c in printed.replace("\n", ""))
    assert len(printed.splitlines()) < 12


class Rude:
    """An id that cannot be shown."""

    def __repr__(self):
        raise RuntimeError("no")


def test_ids_that_cannot_be_shown_are_named_by_their_type():
    dag = handoff.DAG(Rude()).add_function(handoff.Function(Rude(), [], int))

    assert str(dag).splitlines()[0] == "DAG <Rude>"
    assert checked(dag._repr_html_()).texts.count("<Rude>") == 2
    assert str(record_summary("Result of DAG", record(function(Rude()), dag_id=Rude()))).startswith(
        "Result of DAG <Rude>: finished"
    )


def test_displays_have_a_bounded_size():
    """However many functions, nodes and names there are."""
    functions = tuple(
        function(n, name=f"name {n % 3000}", args=(n - 1,) if n % 7 else (), node=f"node {n % 500}")
        for n in range(20_000)
    )
    nodes = {f"node {n}": {"cpu": 1} for n in range(500)}
    known = record(*functions, nodes=nodes, submitted=0.0, ended=2.0)
    for shown in (known, replace(known, status="running", ended=None)):
        summary = record_summary("Execution of DAG", shown)
        assert len(summary.html()) < 60_000
        assert len(str(summary)) < 1_500

    dag = handoff.DAG("wide")
    for f in functions:
        dag.add_function(handoff.Function(f.id, f.args, f"package:name{f.id % 3000}"))
    assert len(dag._repr_html_()) < 60_000
    assert len(str(dag)) < 1_500
