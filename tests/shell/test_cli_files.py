"""What commands are given, and ``dask handoff check`` and ``graph``; how they are found."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest
from commands import environment, error_of, run

import handoff_dask as handoff
from handoff_dask.cli import cluster
from handoff_dask.cli import handoff as command
from handoff_dask.cli.parsing import parse_nodes
from handoff_dask.visualization import dag_graph

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


ROOT = Path(__file__).resolve().parent.parent.parent


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


# ---------------------------------------------------------------------- how it is found


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
