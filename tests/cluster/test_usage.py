"""What functions have used: measured, told, and made into suggestions."""

from __future__ import annotations

import time

import numpy as np
from clusters import live

import handoff_dask as handoff
from handoff_dask import CostSuggestion, Function, Usage, suggest_costs, telemetry
from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.record.result import ExecutionResult


def busy(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def holds(megabytes):
    held = np.ones(int(megabytes * 125_000))
    time.sleep(0.3)
    return int(held[0])


@live(2)
async def test_usage_is_in_the_result_and_in_the_stop_event(client, scheduler, worker):
    session = await handoff.start(client)
    told = {}

    def hear(event, measurements, metadata, config):
        told[metadata["function_id"]] = measurements

    telemetry.attach("usage", ("handoff", "execution", "function", "stop"), hear)
    try:
        dag = [
            Function("busy", [], busy, extra_args=[0.2]),
            Function("timed", [], busy, extra_args=[0.2], timeout=30),
            Function("idle", [], time.sleep, extra_args=[0.1]),
            Function("own", ["busy"], lambda _: busy(0.2), isolated=True),
            Function("held", ["own"], lambda _: holds(200), isolated=True),
            Function("shared", ["held"], lambda _: holds(200)),
        ]
        result = await session.execute(dag)
    finally:
        telemetry.detach("usage")

    usage = result.usage
    assert set(usage) == {"busy", "timed", "idle", "own", "held", "shared"}
    assert {i: u.exact for i, u in usage.items() if u.exact} == {"own": True, "held": True}
    for name in ("busy", "timed", "own"):
        assert 0.2 <= usage[name].cpu_s < 2
    assert usage["idle"].cpu_s < 0.1
    assert 195 < usage["held"].peak_memory_mb < 260
    assert usage["shared"].peak_memory_mb > 150
    for name in usage:
        used = Usage(*(told[name][key] for key in ("cpu_s", "peak_memory_mb", "exact")))
        assert used == usage[name]
    suggested = suggest_costs(result)
    assert suggested["busy"].runs == 2
    assert not suggested["busy"].exact


def measured(name, seconds, cpu_s, peak_mb, exact=True, **cost):
    return FunctionRecord(
        id=(name, seconds), name=name, cost=cost, start=10.0, stop=10.0 + seconds,
        usage=Usage(cpu_s=cpu_s, peak_memory_mb=peak_mb, exact=exact),
    )  # fmt: skip


def result_of(*functions):
    record = ExecutionRecord(dag_id="d", status="finished", functions=functions)
    return ExecutionResult("d", {}, {}, {}, record)


def test_suggestions_are_what_the_largest_run_needed():
    one = result_of(measured("fit", 2.0, 5.0, 310.2, cpu=1, memory=500), measured("load", 0.01, 0.01, 5.0))
    other = result_of(measured("fit", 4.0, 4.0, 820.0, cpu=1, memory=2000), FunctionRecord(id="x", name="x"))

    suggested = suggest_costs(one, other)

    assert dict(suggested) == {
        "fit": CostSuggestion(
            name="fit", runs=2, cost={"cpu": 2.5, "memory": 820}, asked={"cpu": 1, "memory": 2000}
        ),
        "load": CostSuggestion(name="load", runs=1, cost={"memory": 5}),
    }
    assert str(suggested).splitlines() == [
        "fit: cpu 2.5, memory 820 (asked: cpu 1, memory 2000; 2 runs)",
        "load: memory 5 (asked: nothing; 1 run)",
    ]
    assert str(suggest_costs()) == "nothing was measured"
    guess = suggest_costs(result_of(measured("f", 1.0, 0.5, 7.0, exact=False)))
    assert str(guess["f"]).endswith("1 run; an estimate, measured in shared processes)")
