"""The event log: replayed it gives the same decisions, and it proves that what was promised was kept."""

from __future__ import annotations

import json
import random

import dask
import pytest
from clusters import live
from distributed import Worker

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask.errors import ValidationError
from handoff_dask.simulation.audit import Audit, audit

tries: dict[object, int] = {}


def add(*args):
    return 1 + sum(args)


def flaky(name, *args):
    tries[name] = tries.get(name, 0) + 1
    if tries[name] < 3:
        raise LookupError(name)
    return add(*args)


def prefers_last(function, nodes):
    return nodes[-1].name if nodes else None


def jobs(seed, **fields):
    """A random DAG: costs, pins, groups, functions that need several attempts."""
    rng, dag = random.Random(seed), []
    for n in range(60):
        args = rng.sample(range(n), min(n, rng.randrange(3)))
        cost = rng.choice([None, {"cpu": 1}, {"cpu": 0.5, "memory": 10}, {"licence": 1}])
        node = rng.choice([None, None, None, "0"]) if cost != {"licence": 1} else None
        code = (lambda *a, _n=(seed, n): flaky(_n, *a)) if rng.random() < 0.1 else add
        dag.append(
            Function(n, args, code, cost=cost, node=node, duration=rng.choice([None, 0.001, 0.2]), **fields)
        )
    return dag


async def record(c, s, workers):
    """Execute several DAGs, and lose a node meanwhile."""
    tries.clear()
    async with handoff.Handoff(c) as session:
        for node in "02":
            await session.update_node_resources(node, {"licence": 1})
        await session.execute(jobs(1))
        runs = [
            await session.submit(jobs(2), max_concurrency=2),
            await session.submit(jobs(3), allocator=prefers_last),
            await session.submit(jobs(4), allocation_strategy="load_balanced"),
            await session.submit([Function(n, [], add) for n in range(200)]),
        ]
        await session.get_result(runs[0], 3, timeout=20)
        await workers[1].close()
        async with Worker(s.address, nthreads=2, name="late"):
            for run in runs:
                assert (await run).results


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "events.jsonl"

    @live(2, 2, 2)
    async def recorded(c, s, *workers):
        with dask.config.set({"handoff.event-log": str(path)}):
            await record(c, s, workers)
        s.plugins["handoff"].log.flush()

    recorded()
    return path


@pytest.fixture
def lines(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_every_promise_was_kept_and_a_new_engine_decides_the_same(log):
    report = audit(str(log))
    assert not report.findings, str(report)
    assert (report.complete, report.runs, report.functions) == (True, 5, 60 * 4 + 200)
    assert report.attempts >= 440
    assert report.placements >= report.attempts
    assert "every promise was kept" in str(report)


@live(2)
async def test_without_the_setting_nothing_is_written(c, s, a):
    async with handoff.Handoff(c) as session:
        await session.execute([Function(1, [], add)])
        assert s.plugins["handoff"].log is None
        assert s.plugins["handoff"].driver.log is None


@live(2)
async def test_the_log_ends_at_its_limit(c, s, a, tmp_path):
    path = tmp_path / "events.jsonl"
    with dask.config.set({"handoff.event-log": str(path), "handoff.event-log-limit": "10 kB"}):
        async with handoff.Handoff(c) as session:
            assert (await session.execute([Function(n, [], add) for n in range(100)])).results
    assert 5_000 < path.stat().st_size <= 10_100
    report = audit(str(path))
    assert (report.complete, report.findings) == (False, [])
    assert "not complete" in str(report)


@live(2)
async def test_a_log_that_cannot_be_written_stops_nobody(c, s, a, tmp_path):
    with dask.config.set({"handoff.event-log": str(tmp_path / "nowhere" / "events")}):
        async with handoff.Handoff(c) as session:
            assert (await session.execute([Function(1, [], add)])).results == {1: 1}


# ---------------------------------------------------------------------- what an audit finds


def found(lines):
    reading = Audit()
    for line in lines:
        reading.read(line)
    return reading.report.findings


def changed(lines, change):
    """A copy of the log in which something is otherwise."""
    copy = json.loads(json.dumps(lines))
    assert any(change(line) for line in copy)
    return copy


def placements(line):
    return [d["Place"] for d in line.get("turn", {}).get("decisions", ()) if "Place" in d]


def test_other_decisions_are_found(lines):
    def change(line):
        for place in placements(line):
            place["node"] = "2" if place["node"] == "0" else "0"
            return True
        return False

    assert any("a new engine decides otherwise" in finding for finding in found(changed(lines, change)))


def test_too_little_room_is_found(lines):
    """The node had less than it was thought to have."""

    def change(line):
        events = [e["NodeJoined"] for e in line.get("turn", {}).get("events", ()) if "NodeJoined" in e]
        for event in events:
            event["threads"] = 1
        return bool(events)

    copy = json.loads(json.dumps(lines))
    assert [change(line) for line in copy]
    assert any("units of threads, and has 1" in finding for finding in found(copy))


def test_a_pin_that_was_not_heeded_is_found(lines):
    def change(line):
        for event in line.get("turn", {}).get("events", ()):
            demand = event.get("FunctionReady", {}).get("demand", {}).get("Demand", {})
            if demand.get("pin"):
                demand["pin"] = "2"
                return True
        return False

    assert any("is pinned to '2'" in finding for finding in found(changed(lines, change)))


def test_arguments_that_were_not_there_are_found(lines):
    def change(line):
        life = line.get("life", [None, ""])
        if life[1] == "Ended":
            line.clear()
            return True
        return False

    assert any("before" in finding and "had ended" in finding for finding in found(changed(lines, change)))


def test_attempts_beyond_what_was_promised_are_found(lines):
    def change(line):
        for facts in line.get("run", {}).get("functions", {}).values():
            facts[1] = 0
        return "run" in line

    copy = json.loads(json.dumps(lines))
    assert [change(line) for line in copy]
    assert any("times, and may be 1" in finding for finding in found(copy))


def test_what_is_no_log_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("no json\n")
    with pytest.raises(ValidationError, match="is no event log"):
        audit(str(path))
    path.write_text('{"turn": {"now": 1, "events": []}}\n')
    with pytest.raises(ValidationError, match="its first line is missing"):
        audit(str(path))
    path.write_text('{"log": {"settings": {"Bomb": {}}}}\n')
    with pytest.raises(ValidationError, match="cannot be read"):
        audit(str(path))
