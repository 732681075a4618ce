"""``dask handoff run``: results, failures, interruptions."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

from click.testing import CliRunner
from commands import environment, error_of, run
from distributed import Event

import handoff_dask as handoff
from handoff_dask.cli import cluster
from handoff_dask.cli import handoff as command

if sys.version_info >= (3, 11):
    pass
else:
    pass


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
        "failed": {},
        "skipped": {},
        "reused": [],
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
    assert said["failed"] == {"x": "ValueError: no way"}
    assert said["error"].endswith("ValueError: no way")


def test_run_that_keeps_going(file, on_cluster):
    text = f"{file}:partly"
    stopped = error_of("run", text, *on_cluster, code=1)
    out, err = run("run", text, "--keep-going", *on_cluster, code=1)

    assert stopped.endswith("(1 function failed, 1 that needs it was skipped)")
    assert out == "good: 7\n"
    assert "failed: x: ValueError: no way\n" in err
    assert err.rstrip().endswith("ValueError: no way (1 function failed, 1 that needs it was skipped)")

    said = json.loads(run("run", text, "--keep-going", "--json", "--quiet", *on_cluster, code=1)[0])
    assert (said["status"], said["results"]) == ("failed", {"good": 7})
    assert (said["failed"], said["skipped"]) == ({"x": "ValueError: no way"}, {"after": "x"})


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
