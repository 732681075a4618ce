"""The commands ``dask handoff …``."""

from __future__ import annotations

import importlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from distributed import Event

import handoff_dask as handoff
from handoff_dask.cli import cluster, top
from handoff_dask.cli import handoff as command
from handoff_dask.cli.parsing import parse_nodes
from handoff_dask.visualization import dag_graph

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent

PIPELINE = """
from __future__ import annotations
import dataclasses
import handoff_dask as handoff

@dataclasses.dataclass
class Box:
    content: int

def pack(value):
    return Box(2 * value)

def unpack(box):
    return box.content

def boom():
    raise ValueError("no\\nway")

dag = (
    handoff.DAG("sums")
    .add_function(handoff.Function("n", [], None, type="input"))
    .add_function(handoff.Function(("pack", 1), ["n"], pack, cost={"cpu": 1}, node="big"))
    .add_function(handoff.Function("unpack", [("pack", 1)], unpack, duration=2, node="small"))
)
broken = [handoff.Function("x", [], boom, max_retries=0)]
large = [handoff.Function(("x", 1), [], boom, cost={"gpus": 2}, duration=3)]
circle = [handoff.Function("a", ["b"], abs), handoff.Function("b", ["a"], abs)]
number = 3

class Makers:
    @staticmethod
    def one():
        return handoff.Function("only", [], int, extra_args=["7"])

def fails():
    raise RuntimeError("cannot build")
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file with DAGs."""
    path = tmp_path / "pipeline.py"
    path.write_text(PIPELINE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return str(path)


@pytest.fixture(scope="module")
def session():
    """A session on a cluster of two nodes."""
    with handoff.Handoff(
        nodes={"big": {"cpu": 4, "memory": 8000}, "small": {"cpu": 1, "memory": 500, "zone": "eu"}}
    ) as session:
        yield session


@pytest.fixture
def on_cluster(session):
    return ["--scheduler", session.scheduler_address]


def run(*arguments, code=0):
    """Run a command; what it wrote to standard output and to standard error."""
    result = CliRunner().invoke(command, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def error_of(*arguments, code):
    """The line on standard error with which a command failed."""
    (line,) = [line for line in run(*arguments, code=code)[1].splitlines() if line.startswith("Error: ")]
    return line.removeprefix("Error: ")


numbers = itertools.count()


def wait_for(name, *args):
    Event(name).wait()
    return name


@pytest.fixture
def busy(session):
    """A DAG of which one function runs, two wait and one is not ready."""
    over = f"over-{next(numbers)}"
    dag = handoff.DAG("busy")
    dag.add_function(handoff.Function("holds", [], wait_for, extra_args=[over], cost={"cpu": 3}))
    dag.add_function(handoff.Function(("next", 1), [], str, cost={"cpu": 3}, priority=-1, duration=60))
    dag.add_function(handoff.Function(("next", 2), [], int, cost={"cpu": 3}, priority=-2, duration=60))
    dag.add_function(handoff.Function("after", ["holds", ("next", 1)], max))
    execution = session.submit(dag)
    while execution.status != "running":
        cluster.ask(session, "ping")
    yield execution
    session.sync(Event(over, client=session.client).set)
    execution.result()


# ---------------------------------------------------------------------- run


def test_run_prints_what_the_dag_comes_to(file, on_cluster):
    out, err = run("run", file, "--input", "n=21", *on_cluster)

    assert out == "unpack: 42\n"
    assert re.search(
        r"^to watch it: http://127\.0\.0\.1:\d+/handoff or dask handoff top --scheduler tcp://", err
    )
    assert re.search(r"^sums finished in .*: 1 on big, 1 on small$", err, re.MULTILINE)


def test_run_as_json(file, on_cluster):
    out, _ = run(
        "run", f"{file}:dag", "--input", "n=21", "--output", "('pack', 1)", "--json", "--quiet", *on_cluster
    )

    said = json.loads(out)
    timings = said.pop("timings")
    assert said.pop("makespan_s") > 0
    assert said == {
        "dag_id": "sums",
        "status": "finished",
        "error": None,
        "results": {"('pack', 1)": "Box(content=42)"},
        "allocations": {"('pack', 1)": "big"},
    }
    assert timings["('pack', 1)"]["attempts"] == 1


def test_new_nodes_find_what_stands_beside_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_it.py").write_text("def seven():\n    return 7\n")
    (tmp_path / "uses.py").write_text(
        "import handoff_dask as handoff\nimport beside_it\n"
        "dag = [handoff.Function('seven', [], beside_it.seven)]\n"
    )
    try:
        out, err = run("run", str(tmp_path / "uses.py"), "--nodes", "lone:cpu=0.5")
    finally:
        sys.modules.pop("beside_it", None)

    assert out == "seven: 7\n"
    assert ": 1 on lone" in err


def test_run_quietly(file, on_cluster):
    assert run("run", f"{file}:Makers.one", "--quiet", *on_cluster) == ("", "")


def test_function_that_fails(file, on_cluster, tmp_path):
    report = tmp_path / "report.html"
    error = error_of("run", f"{file}:broken", "--report", str(report), *on_cluster, code=1)

    assert re.fullmatch(r"function 'x' failed on node '\w+' after 1 attempt: ValueError: no way", error)
    assert re.search(r"in boom\n.*ValueError: no\nway</pre>", report.read_text(), re.DOTALL)


def test_failure_as_json(file, on_cluster):
    said = json.loads(run("run", f"{file}:broken", "--json", *on_cluster, code=1)[0])

    assert (said["status"], said["results"]) == ("failed", {})
    assert said["error"].endswith("ValueError: no way")


def test_function_that_fits_nowhere(file, on_cluster):
    error = error_of("run", f"{file}:large", *on_cluster, code=3)

    assert "function ('x', 1) (cost {'gpus': 2}) cannot be placed" in error


def test_dag_that_takes_too_long(tmp_path, on_cluster, session):
    slow = tmp_path / "slow.py"
    slow.write_text(
        "from distributed import Event\nimport handoff_dask as handoff\n"
        "def wait():\n    Event('slow').wait()\n"
        "dag = [handoff.Function('wait', [], wait)]\n"
    )
    try:
        error = error_of("run", str(slow), "--timeout", "0.1", *on_cluster, code=1)
    finally:
        session.sync(Event("slow", client=session.client).set)

    assert "has not ended within 0.1 s; it has been cancelled" in error


def test_traceback_on_request(file, on_cluster):
    result = CliRunner().invoke(command, ["--traceback", "run", f"{file}:broken", *on_cluster])

    assert isinstance(result.exception, handoff.FunctionFailedError)
    assert isinstance(result.exception.__cause__, ValueError)


def test_interrupted_run_cancels_the_dag(tmp_path, session):
    begun, may_end = tmp_path / "begun", tmp_path / "may-end"
    (tmp_path / "long.py").write_text(
        "import pathlib, time\nimport handoff_dask as handoff\n"
        "def wait():\n"
        f"    pathlib.Path({str(begun)!r}).touch()\n"
        f"    while not pathlib.Path({str(may_end)!r}).exists():\n        time.sleep(0.01)\n"
        "dag = handoff.DAG('interrupted').add_function(handoff.Function('wait', [], wait))\n"
    )
    program = [sys.executable, "-m", "handoff_dask.cli", "run", str(tmp_path / "long.py")]
    process = subprocess.Popen(
        [*program, "--scheduler", session.scheduler_address],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        may_end.touch()
        process.kill()
    (status,) = [r["status"] for r in cluster.overview_of(session)["runs"] if r["dag_id"] == "interrupted"]

    assert (process.returncode, status) == (130, "cancelled")
    assert err.splitlines()[-1] == "Error: interrupted"


# ---------------------------------------------------------------------- what FILE[:NAME] may be


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (":nothing", "has no 'nothing'"),
        (":dag.nothing", "has no 'dag.nothing'"),
        (":number", "is int; it must be or return a DAG or functions"),
        (":fails", "fails() raises RuntimeError: cannot build"),
        (":circle", "in a circle: 'a' -> 'b'"),
        (".missing.py", "there is no file"),
    ],
)
def test_target_that_is_wrong(file, name, text):
    assert text in error_of("check", file + name, code=2)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import handoff_dask\n1 / 0", "cannot be loaded: ZeroDivisionError: division by zero ({file}:2)"),
        ("def f(:", "cannot be loaded: SyntaxError"),
        ("raise SystemExit(3)", "ends the process while it is loaded (3)"),
        ("x = 1", "has no DAG on its top level; name what makes one: {file}:NAME"),
        (
            "from handoff_dask import DAG\na, b = DAG(), DAG()",
            "has several DAGs; name one: {file}:a, {file}:b",
        ),
    ],
)
def test_file_that_is_wrong(source, text, tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(source)

    assert text.format(file=path) in error_of("check", str(path), code=2)


def test_only_dag_needs_no_name(tmp_path):
    path = tmp_path / "one.py"
    path.write_text("from handoff_dask import DAG\nthe_only_one = also = DAG('one')")

    assert run("check", str(path))[0].startswith("DAG 'one': 0 functions")


def test_module_that_can_be_imported(tmp_path, monkeypatch):
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "jobs.py").write_text("from handoff_dask import DAG\ndef build():\n    return DAG('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    assert run("check", "some_package.jobs:build")[0].startswith("DAG 'imported'")
    assert "No module named 'some_package.nothing'" in error_of("check", "some_package.nothing", code=2)
    assert "it is no name of a module" in error_of("check", "no-such/thing", code=2)


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no node is named"),
        (":cpu=4", "names no node"),
        ("a:cpu=4;a:cpu=2", "'a' is named twice"),
        ("a:cpu=", "'cpu=' is no capability"),
        ("a:cpu=-1", "node 'a'"),
        ("a:memory=8", None),
        ("a:memory=many", "node 'a'"),
        ("{", "no JSON"),
        ('{"a": 3}', "write nodes as"),
    ],
)
def test_nodes_as_they_are_typed(text, message):
    if message is None:
        assert parse_nodes(text) == {"a": {"memory": 8}}
    else:
        with pytest.raises(handoff.ValidationError, match=re.escape(message)):
            parse_nodes(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "FILE", "--nodes", "a:cpu=1,y="], "'y=' is no capability"),
        (["run", "FILE", "--nodes", "a:cpu=1", "--scheduler", "tcp://127.0.0.1:9"], "both given"),
        (["check", "FILE", "--nodes", "a:cpu=1", "--scheduler", "tcp://127.0.0.1:9"], "both given"),
        (["run", "FILE", "--input", "n"], "write ID=VALUE"),
        (["run", "FILE", "--input", "other=1"], "no function 'other'"),
        (["run", "FILE", "--output", "other"], "no function 'other'"),
        (["run", "FILE", "--strategy", "slowest"], "slowest"),
        (["run", "FILE", "--max-concurrency", "0"], "--max-concurrency"),
        (["nodes"], "give --scheduler"),
        (["explain", "n"], "give --scheduler"),
        (["top"], "give --scheduler"),
    ],
)
def test_wrong_options_end_with_two(arguments, message, file):
    assert message in error_of(*[file if a == "FILE" else a for a in arguments], code=2)


def test_missing_input_ends_with_two(file, on_cluster):
    assert "'n'" in error_of("run", file, *on_cluster, code=2)


def test_cluster_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.1)

    assert "tcp://127.0.0.1:9" in error_of("nodes", "--scheduler", "tcp://127.0.0.1:9", code=4)


# ---------------------------------------------------------------------- check, graph


def test_check_against_nodes_that_are_typed(file):
    out, _ = run("check", file, "--nodes", "big:cpu=4;small:cpu=1")

    assert out.splitlines() == [
        "DAG 'sums': 2 functions on 2 nodes",
        "each function fits somewhere",
        "at best 2 s, set by the path 'unpack'",
        "no duration is known for 1 of 2: ('pack', 1)",
    ]


def test_check_against_a_cluster(file, on_cluster):
    out, err = run("check", f"{file}:large", "--json", *on_cluster, code=3)

    said = json.loads(out)
    assert (said["ok"], said["node_count"], said["lower_bound_s"]) == (False, 2, 3)
    assert said["unplaceable"][0]["function_id"] == "('x', 1)"
    assert set(said["unplaceable"][0]["reasons"]) == {"big", "small"}
    assert said["bounds"][0]["path"] == ["('x', 1)"]
    assert err == "Error: 1 function fits on no node\n"


def test_check_without_a_cluster_is_about_this_machine(file):
    assert "on 1 node" in run("check", f"{file}:Makers.one")[0]


def test_graph_as_dot_as_json_and_in_a_file(file, tmp_path):
    path = tmp_path / "out.dot"
    out, _ = run("graph", f"{file}:large")
    run("graph", f"{file}:large", "--out", str(path))
    data = json.loads(run("graph", file, "--json")[0])

    assert (
        out
        == path.read_text()
        == dag_graph([handoff.Function(("x", 1), [], boom, cost={"gpus": 2})]).to_dot()
    )
    assert [node["id"] for node in data["nodes"]] == ["n", "('pack', 1)", "unpack"]


def boom():
    """Bears the name of the one in the file."""


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

    assert {"time", "nodes", "runs", "waiting"} == set(said)
    assert said["runs"][0]["dag_id"] == "busy"


def overview(nodes=2, waiting=3, runs=4):
    """A made-up one with long and hostile texts."""
    long = "節点\x1b[31m\n" + "x" * 300
    function = {
        "function_id": long,
        "dag_id": long,
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
        "token": "0", "dag_id": long, "status": "failed", "strategy": "own", "submitted": 0.0, "ended": 2.0,
        "functions": 4, "states": {"finished": 3, "failed": 1}, "failed": long, "error": long,
    }  # fmt: skip
    return {"time": 3.0, "nodes": [node] * nodes, "waiting": [kind] * waiting, "runs": [run] * runs}


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


# ---------------------------------------------------------------------- how it is found


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_entry_point_is_a_group_of_dasks_command_line(file):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["dask_cli"]["handoff"].partition(":")
    group = getattr(importlib.import_module(module), name)
    program = textwrap.dedent(f"""
        import dask.cli, importlib
        dask.cli.cli.add_command(importlib.import_module({module!r}).{name})
        dask.cli.cli(["handoff", "check", {file!r} + ":large"])
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment()
    )

    assert isinstance(group, click.Group)
    assert group.name == "handoff"
    assert (done.returncode, done.stderr) == (3, "Error: 1 function fits on no node\n")


def test_module_is_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "handoff_dask.cli", "--help"],
        capture_output=True, text=True, check=True, env=environment(),
    )  # fmt: skip

    assert done.stdout.startswith("Usage: dask handoff [OPTIONS] COMMAND")
    assert "3 a function" in done.stdout


@pytest.mark.parametrize("name", sorted(command.commands))
def test_every_command_and_option_has_help(name):
    out, _ = run(name, "--help")

    assert out.startswith(f"Usage: handoff {name} ")
    assert [p.name for p in command.commands[name].params if isinstance(p, click.Option) and not p.help] == []
