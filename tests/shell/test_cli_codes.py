"""``dask handoff``: exit codes, lists of problems, files that cannot be written, readers that leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from commands import environment, error_of, run

import handoff_dask as handoff
from handoff_dask.cli import cluster
from handoff_dask.cli import handoff as command
from handoff_dask.errors import SchedulerLostError

WRONG = """
import handoff_dask as handoff

def train(data, rate):
    return data

functions = [
    handoff.Function("load", [], dict),
    handoff.Function("load", [], list),
    handoff.Function("train", ["laod"], train, cost={"gpus": 2}),
    handoff.Function("a", ["b"], abs),
    handoff.Function("b", ["a"], abs),
    handoff.Function("pinned", ["load"], len, node="bog", cost={"cpu": 1}),
]
"""
LONG = """
import handoff_dask as handoff
functions = [handoff.Function(f"number {n}", [], int) for n in range(5000)]
"""


@pytest.fixture
def wrong(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(WRONG)
    return f"{path}:functions"


# ---------------------------------------------------------------------- check


def test_check_lists_all_that_is_wrong(wrong):
    """What cannot be executed, what fits nowhere, outputs that are not there; not the first alone."""
    arguments = ["check", wrong, "--nodes", "big:cpu=4,gpu=1", "--output", "trian"]
    out, err = run(*arguments, code=2)

    assert out.splitlines()[1:] == [
        "cannot be executed:",
        "  the DAG already has a function 'load'; give the second one another id",
        "  function 'train' refers to 'laod', which is not in the DAG; did you mean 'load'?",
        "  functions depend on each other in a circle: 'a' -> 'b' -> 'a'; take one of these arguments away",
        "  function 'train': its call gives 1 value by position (1 result, 0 of extra_args), but "
        "train(data, rate) does not fit: nothing is given for 'rate'; mend args, extra_args or kwargs",
        "  the DAG has no function 'trian'; did you mean 'train'?",
        "fits nowhere:",
        "  'train' (cost {'gpus': 2}): nearest is node 'big': has no 'gpus'",
        "  'pinned' (cost {'cpu': 1}): nearest is node 'big': it is pinned to node 'bog', which is not there "
        "(did you mean 'big'?)",
        "'gpus' is offered by no node; did you mean 'gpu'?",
    ]
    assert err == "Error: 5 problems; the DAG cannot be executed\n"
    said = json.loads(run(*arguments, "--json", code=2)[0])
    assert (len(said["problems"]), len(said["unplaceable"]), said["ok"]) == (5, 2, False)


def test_one_problem_is_the_error(file):
    assert error_of("check", file, "--output", "unpakc", code=2) == (
        "the DAG has no function 'unpakc'; did you mean 'unpack'?"
    )


def test_a_field_that_is_misspelt(tmp_path):
    path = tmp_path / "fields.py"
    path.write_text("from handoff_dask import Function\ndag = [Function('a', [], int, max_retry=3)]")

    assert "function 'a': it has no field 'max_retry'; did you mean 'max_retries'?" in error_of(
        "run", str(path), code=2
    )


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("big:cpu=four", "cpu is 'four'; give a number"),
        ("big:cpu=4,gpu", "gpu is True; give a number"),
        ("big:cpu=4 memory=8GB", "'cpu=4 memory=8GB' is no capability"),
        ("big:cpu=4,has cuda", "'has cuda' is no capability"),
        ("big:cpu=4;small", "'small' says nothing of a node"),
        ("big cpu=4", "'big cpu=4' names no node"),
        ("big:cpu=4,cpu=8", "cpu is given twice"),
        ("big:cpu=4,disk=500GB", "disk=500GB would be a label"),
        ("big:memory=8", None),
        ('{"big": {"cpu": "4"}}', "cpu is '4'; give a number"),
        ("big:cpu=4,zone=eu-1,memory=8 GB", None),
    ],
)
def test_nodes_with_a_wrong_word(nodes, message, file):
    """Refused before anything runs; nothing is taken for a label that was meant as an amount."""
    if message is None:
        run("check", f"{file}:Makers.one", "--nodes", nodes)
    else:
        for name in ("check", "run"):
            assert message in error_of(name, f"{file}:Makers.one", "--nodes", nodes, code=2)


# ---------------------------------------------------------------------- explain, after the end


def test_explain_after_the_end(file, on_cluster):
    run("run", file, "--input", "n=21", "--quiet", *on_cluster)
    run("run", f"{file}:partly", "--keep-going", "--quiet", *on_cluster, code=1)

    assert run("explain", "unpack", *on_cluster)[0].splitlines()[-2:] == [
        "sums: unpack ran on node small",
        "  first_available chose the only node that had room",
    ]
    failed = run("explain", "x", *on_cluster)[0].splitlines()[-2]
    assert failed.endswith(r": x failed on node big: ValueError('no\nway')")
    assert run("explain", "after", *on_cluster)[0].endswith(
        ": after was skipped: x failed: ValueError('no\\nway')\n"
    )
    said = json.loads(run("explain", "unpack", "--json", *on_cluster)[0])[-1]
    assert (said["status"], said["node"]) == ("finished", "small")
    assert "did you mean 'unpack'?" in error_of("explain", "unpakc", *on_cluster, code=2)


# ---------------------------------------------------------------------- reports


def test_a_report_that_cannot_be_written_is_refused_before_the_run(file, tmp_path, on_cluster):
    began = tmp_path / "began"
    path = tmp_path / "marks.py"
    path.write_text(
        "import pathlib\nimport handoff_dask as handoff\n"
        f"dag = [handoff.Function('mark', [], pathlib.Path({str(began)!r}).touch)]\n"
    )
    nowhere = str(tmp_path / "nowhere" / "report.html")

    assert "there is no folder" in error_of("run", str(path), "--report", nowhere, *on_cluster, code=2)
    assert "there is no folder" in error_of("graph", str(path), "--out", nowhere, code=2)
    assert not began.exists()
    assert "nothing to report yet" in error_of(
        "run", str(path), "--report", str(tmp_path / "r.html"), "--detach", *on_cluster, code=2
    )


def test_a_report_that_fails_does_not_hide_why_the_run_failed(file, tmp_path, on_cluster, monkeypatch):
    """A full disk, say."""

    def no_room(record, path):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr("handoff_dask.cli.running.report", no_room)
    report = str(tmp_path / "report.html")
    _, err = run("run", f"{file}:broken", "--report", report, "--quiet", *on_cluster, code=1)
    out, told = run("run", f"{file}:Makers.one", "--report", report, *on_cluster, code=1)

    assert "is not written: OSError: [Errno 28] No space left" in err
    assert err.splitlines()[-1].startswith("Error: function 'x' failed on node")
    assert out == "only: 7\n"
    assert told.splitlines()[-1].startswith("Error: the report ")


# ---------------------------------------------------------------------- exit codes


def program(*arguments, **options):
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "handoff_dask.cli", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        **options,
    )


def test_a_reader_that_leaves_is_no_error(tmp_path):
    """As in ``dask handoff graph … | head -1``: no message, exit code 0."""
    path = tmp_path / "long.py"
    path.write_text(LONG)
    nobody, ours = os.pipe()
    os.close(nobody)
    process = program("graph", f"{path}:functions", stdout=ours)
    os.close(ours)

    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)


def test_what_came_of_a_run_is_told_although_the_reader_has_left(file, on_cluster):
    nobody, ours = os.pipe()
    os.close(nobody)
    process = program("run", f"{file}:partly", "--keep-going", "--quiet", "--json", *on_cluster, stdout=ours)
    os.close(ours)
    err = process.communicate(timeout=60)[1]

    assert (process.returncode, err.count("\n")) == (1, 1)
    assert err.startswith("Error: function 'x' failed")


def test_exit_codes_of_the_program(file, on_cluster, monkeypatch):
    """Each of the documented ones, but 130, which is tested with an interruption."""
    monkeypatch.setattr(cluster, "CONNECT_S", 0.1)
    codes = {
        0: ["run", f"{file}:Makers.one", *on_cluster],
        1: ["run", f"{file}:broken", *on_cluster],
        2: ["run", f"{file}:nothing", *on_cluster],
        3: ["run", f"{file}:large", *on_cluster],
        4: ["run", f"{file}:Makers.one", "--scheduler", "tcp://127.0.0.1:9"],
    }
    found = {code: CliRunner().invoke(command, arguments).exit_code for code, arguments in codes.items()}

    assert found == {code: code for code in codes}
    assert CliRunner().invoke(command, ["nonsense"]).exit_code == 2
    assert CliRunner().invoke(command, ["run", "--nonsense"]).exit_code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (handoff.ValidationError("wrong"), 2),
        (FileNotFoundError(2, "No such file", "x"), 2),
        (OSError("Timed out trying to connect"), 4),
        (ConnectionRefusedError(111, "refused"), 4),
        (SchedulerLostError("gone"), 4),
        (handoff.ExecutionCancelledError("d"), 1),
        (TimeoutError("too long"), 1),
    ],
)
def test_errors_end_with_their_code(error, code, monkeypatch, file):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr("handoff_dask.cli.commands.load_dag", fails)
    assert CliRunner().invoke(command, ["graph", file]).exit_code == code
