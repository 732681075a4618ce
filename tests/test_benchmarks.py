"""The benchmarks' own parts; they are run in full by ``make bench``."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import suppress

import pytest

from benchmarks import data, tables
from benchmarks.data_workflows import CORES, PASSED_MEGABYTES, chosen, derive, names
from benchmarks.data_workflows import FOLDER as WORKFLOWS
from benchmarks.data_workflows import load as load_workflow
from benchmarks.data_workflows import read as read_workflow
from benchmarks.data_workflows import write as write_workflow
from benchmarks.generate import scenarios
from benchmarks.hosts import LoopbackHosts, NamespaceHosts
from benchmarks.overheads import Job, layered
from benchmarks.scenarios import FOLDER, HANDFUL, Scenario, Task, load, read, write
from benchmarks.simulated import best_known, outcome
from benchmarks.throughput import CHAINS, chains

CPU = {"cpu": 1.0}
SMALL = Scenario(
    "small",
    {"a": {"cpu": 1}, "b": {"cpu": 1}},
    (Task("f-00000", 1.0, CPU), Task("f-00001", 2.0, CPU), Task("g-00002", 3.0, CPU, ("f-00000", "f-00001"))),
    bound_s=5.0,
    best_s=5.0,
)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_scenarios_are_whole(path):
    """Each has the bound that it says, a schedule that keeps it, and a name that tells where it is."""
    scenario = read(path)
    assert scenario.name == path.stem
    assert scenario.lower_bound() == pytest.approx(scenario.bound_s, abs=1e-4)
    assert scenario.bound_s - 1e-4 <= scenario.best_s < 2 * scenario.bound_s
    assert path.stat().st_size < 100_000


def test_usual_ones_are_there():
    assert [scenario.name for scenario in load(HANDFUL)] == sorted(HANDFUL)
    with pytest.raises(SystemExit, match="no scenario is called"):
        load(["nothing-like-that"])


def test_what_is_written_can_be_read(tmp_path):
    assert read(write(SMALL, tmp_path)) == SMALL
    assert SMALL.lower_bound() == 5.0
    assert SMALL.sinks == ["g-00002"]
    assert SMALL.scaled_to(10.0).lower_bound() == pytest.approx(10.0, abs=1e-3)


@pytest.mark.slow
def test_generated_ones_can_be_run():
    """The same seed gives the same ones; every function has a node that can hold it."""
    made = list(scenarios(6, random.Random(3), tries=1))
    assert made[:2] == list(scenarios(2, random.Random(3), tries=1))
    for scenario in made:
        assert scenario.lower_bound() == pytest.approx(8.0, abs=1e-2)
        assert 8.0 <= scenario.best_s < 20


def test_simulation_finds_what_is_best():
    assert outcome(SMALL, tries=2).planned == 1.0
    assert best_known(SMALL, tries=2) == 5.0


def test_layers_take_of_the_layer_before():
    graph = layered(300)
    assert graph["f-000099"] == []
    assert graph["f-000199"] == ["f-000099", "f-000000", "f-000001"]
    job = Job("dask", graph)
    assert (job.size, len(job.tasks), job.wanted[0], len(job.wanted)) == (300, 300, "f-000200", 100)


def test_chains_are_one_for_each_thread():
    graph = chains(100)
    assert [key for key, args in graph.items() if not args] == [f"f-{n:06d}" for n in range(CHAINS)]
    assert graph["f-000099"] == ["f-000091"]


# ---------------------------------------------------------------------- DAGs with data


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.json")), ids=lambda path: path.stem)
def test_workflows_are_whole(path, tmp_path):
    """Each fits the four hosts, passes what it should, and reads as it was written."""
    workflow = read_workflow(path)
    assert workflow.name == path.stem
    assert workflow.passed_megabytes == pytest.approx(PASSED_MEGABYTES, rel=0.01)
    assert {step.cpu for step in workflow.steps} <= {1, 2}
    assert max(step.megabytes for step in workflow.steps) < 1_000
    assert 2 < sum(step.seconds * step.cpu for step in workflow.steps) / CORES < 8.1
    assert write_workflow(workflow, tmp_path).read_bytes() == path.read_bytes()
    assert path.stat().st_size < 20_000


def test_dags_with_data_are_found_by_pattern():
    assert names()[:2] == ["chains", "tree"]
    assert chosen(["nf-*"]) == ["nf-chipseq", "nf-rnaseq"]
    assert load_workflow("chains").sinks == ["join"]
    with pytest.raises(SystemExit, match="no DAG with data is called"):
        chosen(["nothing-like-that"])


def trace():
    """One task splits, two work on a part each, one of them with all cores, and one joins."""
    files = {"left": 3_000, "right": 1_000, "a": 500, "b": 700, "log": 9_000}
    taken = {"split": (), "work_1": ("left",), "work_2": ("right",), "join": ("a", "b")}
    made = {"split": ("left", "right", "log"), "work_1": ("a",), "work_2": ("b",), "join": ()}
    parents = {"split": (), "work_1": ("split",), "work_2": ("split",), "join": ("work_1", "work_2")}
    tasks = [
        {"id": i, "name": i, "parents": list(parents[i]), "inputFiles": taken[i], "outputFiles": made[i]}
        for i in ("join", "work_2", "work_1", "split")
    ]
    ran = [{"id": i, "runtimeInSeconds": 10, "avgCPU": 190 if "work" in i else 90} for i in taken]
    sizes = [{"id": i, "sizeInBytes": size} for i, size in files.items()]
    return {"workflow": {"specification": {"tasks": tasks, "files": sizes}, "execution": {"tasks": ran}}}


def test_workflows_keep_the_proportions_of_their_traces():
    """Sizes are what dependents take, on average; times and sizes are scaled, each by one factor."""
    workflow = derive("small", trace(), "here")
    kinds = [step.id.rpartition("-")[0] for step in workflow.steps]
    assert kinds == ["split", "work", "work", "join"]
    split, one, two, join = workflow.steps
    assert (split.args, join.args) == ((), (two.id, one.id))
    assert [step.cpu for step in workflow.steps] == [1, 2, 2, 1]
    assert [step.seconds for step in workflow.steps] == pytest.approx([8 / 3] * 4, abs=1e-3)
    # Of 5,200 bytes in all: 2,000 twice, 700 and 500.  Nobody takes the log.
    unit = PASSED_MEGABYTES / 5_200
    sizes = sorted(step.megabytes for step in workflow.steps)
    assert sizes == pytest.approx([0, 500 * unit, 700 * unit, 2_000 * unit], abs=1e-3)


KINDS_OF_HOSTS = [LoopbackHosts, NamespaceHosts] if NamespaceHosts.can_be_made() else [LoopbackHosts]


@pytest.mark.parametrize("kind", KINDS_OF_HOSTS)
def test_nothing_is_left_of_hosts(kind):
    """What was started on them ends with them, also after Ctrl-C."""
    hosts = kind(2)
    words = [sys.executable, "-c", "import time; time.sleep(600)"]
    with suppress(KeyboardInterrupt), hosts:
        process = hosts.start(1, words)
        assert process.poll() is None
        raise KeyboardInterrupt
    assert process.poll() is not None
    if kind is NamespaceHosts:
        there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
        assert f"-{hosts.pid}-" not in there.stdout


@pytest.mark.slow
@pytest.mark.parametrize("system", ["dask", "handoff"])
def test_bytes_that_move_are_counted(system, tmp_path):
    """Of four results of 1 MB that are made on four hosts at once, three move to the one that takes all."""
    makes = "".join("[0,1.0,[],1.0,2],\n" for _ in range(4))
    head = '{"name":"small","source":"","notes":"","kinds":["make","join"],"steps":[\n'
    (tmp_path / "small.json").write_text(f"{head}{makes}[1,0.1,[4,3,2,1],0.0,1]\n]}}")
    with LoopbackHosts(data.HOSTS) as hosts:
        found = data.course(hosts, system, str(tmp_path / "small.json"))
    assert found["status"] == "ok"
    assert found["seconds"] > 1.0
    if system == "handoff":
        assert found["megabytes"] == pytest.approx(3.0, abs=0.1)


MACHINE = {
    "cpu": "x",
    "cores": 2,
    "system": "s",
    "python": "3",
    "dask": "1",
    "distributed": "1",
    "handoff": "0",
}


def session(rows):
    return {"what": "makespans", "machine": MACHINE, "rows": rows}


def row(system, makespan_s, **more):
    measures = {"avoidable": 0.1, "fullest": 1.0, "status": "ok", "load": 1.0}
    about = {"scenario": "small", "functions": 3, "bound_s": 5.0, "best_s": 5.0}
    return {"system": system, "makespan_s": makespan_s, **about, **measures, **more}


def test_table_has_medians_and_failures():
    rows = [row("dask", 10.0), row("handoff", 6.0), row("handoff", 5.0), row("handoff", 5.5)]
    text = tables.makespans([session([*rows, row("dask", 0.0, status="timeout")])])
    assert "| small | 3 | 2.00 | 1.10 | 1.00 |" in text
    assert "handoff is 1.82 times as fast as stock Dask" in text
    assert "dask on small: timeout." in text


def test_table_goes_between_its_marks(tmp_path):
    document = tmp_path / "README.md"
    document.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.put_into(document, "new\n")
    assert document.read_text() == f"before\n{tables.BEGIN}\nnew\n{tables.END}\nafter\n"
    document.write_text("no marks")
    with pytest.raises(SystemExit, match="has no"):
        tables.put_into(document, "new")


def test_overheads_are_compared():
    rows = [
        {"what": "running", "system": s, "graph": "layered", "count": 10, "per_second": v}
        for s, v in (("dask", 200.0), ("handoff", 300.0))
    ]
    for count in (10, 100):
        for system, seconds in (("dask-plain", 1.0), ("dask", 2.0), ("handoff", 0.5)):
            seconds *= count / 10
            times = {"returned_s": seconds / 2, "known_s": seconds}
            rows.append({"what": "submission", "system": system, "count": count, **times})
    text = tables.overheads([session([{**r, "status": "ok", "load": 1.0} for r in rows])])
    assert "| 10 layered, per second | 200 | 300 | 1.50 |" in text
    assert "| 100 functions, until the scheduler has them | 10.00 | 20.00 | 5.00 | 0.50 |" in text
    assert "| time per function at 100 over that at 10 | 1.00 | 1.00 | 1.00 |  |" in text


def data_row(system, seconds, megabytes, **more):
    about = {"dag": "tree", "functions": 127, "repeat": 0, "status": "ok", "load": 1.0}
    network = {"network": "namespaces", "rate": "1gbit", "slow": None}
    return {"system": system, "seconds": seconds, "megabytes": megabytes, **about, **network, **more}


def test_data_table_has_seconds_and_bytes():
    rows = [data_row("dask", s, 1000) for s in (4.0, 5.0, 7.0)]
    rows += [data_row("handoff", s, 500) for s in (2.0, 2.5, 3.0)]
    rows.append(data_row("handoff", 0, 0, dag="shuffle", status="given up"))
    text = tables.data([session(rows)])
    assert "| tree | 127 | 5.0 s (7.0) | 1,000 MB | 2.5 s (3.0) | 500 MB | 0.50 | 0.50 |" in text
    assert "links of 1gbit; megabytes that they sent." in text
    assert "handoff on shuffle: given up." in text
    slow = tables.data([session([{**r, "slow": "100mbit"} for r in rows])])
    assert "one of them of 100mbit" in slow
    assert "only the bytes mean" in tables.data([session([{**r, "network": "loopback"} for r in rows])])


def test_slowest_run_counts():
    about = {"where": "LocalCluster", "graph": "chains", "count": 3000, "status": "ok", "load": 1.0}
    rows = [
        {"system": "dask", "seconds": [2.0, 2.0, 3.0], **about},
        {"system": "handoff", "seconds": [1.0, 1.0, 4.0], **about},
    ]
    text = tables.throughput([session(rows)])
    assert "| 3,000 chains | LocalCluster | 2.0 s (3.0) | 1.0 s (4.0) | 2.00 |" in text


def test_idle_share_of_many_workers_is_told():
    about = {"workers": 40, "ideal_s": 10.0, "status": "ok", "load": 1.0}
    rows = [
        {"system": system, "seconds": seconds, "idle": idle, "late_s": late_s, **about}
        for late_s in (0.0, 0.1)
        for system, seconds, idle in (("dask", 11.0, 0.1), ("handoff", 12.1, 0.2))
    ]
    text = tables.workers([session(rows)])
    assert "| 40 | 10.0 s | 11.0 s (11.0) | 10.0% | 12.1 s (12.1) | 20.0% | 1.10 |" in text
    assert "| 40, messages 100 ms late | 10.0 s |" in text
