"""The benchmarks' own parts; they are run in full by ``make bench``."""

from __future__ import annotations

import random

import pytest

from benchmarks import tables
from benchmarks.generate import scenarios
from benchmarks.overheads import Job, layered
from benchmarks.scenarios import FOLDER, HANDFUL, Scenario, Task, load, read, write
from benchmarks.simulated import best_known, outcome

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
