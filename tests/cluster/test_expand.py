"""Maps over lists that are known only when their functions have ended."""

from __future__ import annotations

from typing import Any

import dask
import numpy
import pytest
from clusters import live, nothing_claimed
from distributed import get_worker

import handoff_dask as handoff
from handoff_dask import DAG, telemetry


@handoff.task
def listing(count: int, prefix: str = "p") -> list[str]:
    return [f"{prefix}{n}" for n in range(count)]


@handoff.task(cost={"cpu": 1}, max_retries=2)
def clean(path: str, suffix: Any = "") -> str:
    return f"{path}{suffix}"


@handoff.task
def merge(parts: list[str]) -> str:
    return " ".join(parts)


def job(count: int = 3) -> tuple[DAG, Any, Any]:
    with DAG("job") as dag:
        parts = clean.expand(listing(count), suffix=listing.options(id="suffix")(1, "s"))
        total = merge(parts)
    return dag, parts, total


@live(2, 2)
async def test_items_are_functions_of_the_run(c, s, a, b):
    """In results, allocations, timings, the record, explanations, telemetry; placed by the task's cost."""
    told: list[Any] = []
    dag, parts, total = job()
    ids = [("clean", n) for n in range(3)]
    telemetry.attach("t", ("handoff", "execution", "function", "stop"), lambda *e: told.append(e[2]))
    try:
        async with handoff.AsyncHandoff(c) as session:
            execution = await session.submit(dag)
            result = await execution
            explanation = await session.explain(execution, ("clean", 1))
            fetched = await session.get_result(execution, ("clean", 2))
            by_id = await session.get_result("job", ("clean", 0))
            record = await execution.record()
    finally:
        telemetry.detach("t")
    assert result[parts] == result[ids] == [f"p{n}['s0']" for n in range(3)]
    assert result[total] == "p0['s0'] p1['s0'] p2['s0']"
    assert (fetched, by_id) == ("p2['s0']", "p0['s0']")
    assert set(result.results) == set(result.allocations) == set(result.timings)
    assert set(result.results) == {"listing", "suffix", "clean", "merge", *ids}
    assert explanation.status == "finished"
    costs = {t["function_id"]: t["cost"] for t in told if t["function_id"] in ids}
    assert costs == {key: {"cpu": 1} for key in ids}
    order = [f.id for f in record.functions]
    assert max(map(order.index, ids)) < order.index("clean")
    by_status = {f.id: f.status for f in record.functions}
    assert set(by_status.values()) == {"finished"}
    takes = {f.id: f.args for f in record.functions}
    assert set(ids) <= set(takes["clean"])
    graph = handoff.visualization.execution_graph(result)
    assert {node["label"] for node in graph.nodes} >= {repr(i) for i in ids}


@live(2)
async def test_only_what_was_asked_for_is_kept(c, s, *workers):
    """With outputs, items go with what takes their results; nothing stays on the cluster."""
    dag, _, total = job()
    async with handoff.AsyncHandoff(c) as session:
        result = await session.execute(dag, outputs=[total])
        assert result.results == {"merge": "p0['s0'] p1['s0'] p2['s0']"}
        assert set(result.allocations) >= {("clean", 0), "clean"}
        await nothing_claimed(s)
        assert [f"{key}".split("-")[0] for key, task in s.tasks.items() if task.state == "memory"] == [
            "merge"
        ]


@live(1, 1)
async def test_empty_lists_nested_maps_and_several_lists(c, s, *workers):
    """An empty list gives an empty one; a map of a map; lists that are known already."""
    with DAG() as dag:
        empty = clean.options(id="empty").expand(listing(0))
        outer = clean.expand(clean.expand(listing(2)), ["x", "y"])
    async with handoff.AsyncHandoff(c) as session:
        result = await session.execute(dag)
    assert result[empty] == []
    assert result[outer] == ["p0x", "p1y"]
    assert result[("clean-2", 1)] == "p1y"
    assert handoff.execute_local(dag)[outer] == ["p0x", "p1y"]


def fails_on(path: str, which: str, always: bool = False) -> str:
    found = handoff.current()
    assert found is not None
    if path == which and (always or found.attempt == 1):
        raise ValueError(f"{found.function_id} {found.attempt}")
    return path


@live(2)
async def test_items_are_retried_and_fail_by_their_own_ids(c, s, *workers):
    """One item is tried again; one that fails for good fails the execution."""
    code = handoff.task(fails_on, max_retries=1)
    with DAG() as dag:
        parts = code.expand(listing(3), which="p1")
    with DAG() as failing:
        code.expand(listing(3), which="p1", always=True)
    async with handoff.AsyncHandoff(c) as session:
        result = await session.execute(dag)
        assert result[parts] == ["p0", "p1", "p2"]
        assert [result.timings["fails_on", n].attempts for n in range(3)] == [1, 2, 1]
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await session.execute(failing)
    assert caught.value.function_id == ("fails_on", 1)
    assert caught.value.attempts == 2


@live(2)
async def test_what_is_wrong_is_told(c, s, *workers):
    """Lists of other lengths, what is no list, and items that no node could hold."""
    with DAG() as uneven:
        clean.expand(listing(2), listing(3))
    with DAG() as number:
        clean.expand(merge(listing(2)), handoff.task(len)(listing(2)))
    with DAG() as large:
        clean.options(cost={"cpu": 99}).expand(listing(2))
    with DAG() as wrong:
        clean.expand(listing(2), suffx=1)
    async with handoff.AsyncHandoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError, match="lengths 2, 3"):
            await session.execute(uneven, max_retries=0)
        with pytest.raises(handoff.FunctionFailedError, match="argument 1 is of type int"):
            await session.execute(number, max_retries=0)
        with pytest.raises(handoff.AllocationError, match="99"):
            await session.execute(large)
        with pytest.raises(handoff.InvalidFunctionError, match="suffx"):
            await session.execute(wrong)
    assert not large.check({"a": {"cpu": 4}}).ok
    with DAG():
        a = listing(1)
        beside = clean.options(node=handoff.Collocated(a))
        with pytest.raises(handoff.InvalidFunctionError, match="collocated"):
            beside.expand(a)
    with DAG(), pytest.raises(handoff.ValidationError, match="something to map over"):
        clean.expand()
    assert clean.expand(["a", "b"]) == ["a", "b"]


@live(1, 1)
async def test_large_elements_go_without_their_list(c, s, *workers):
    """An item gets its element, not the whole list; a large constant is kept once for all of them."""
    constant = numpy.ones(200_000)

    def arrays() -> list[Any]:
        return [numpy.full(100_000, n) for n in range(4)]

    def largest(array: Any, other: Any) -> tuple[Any, int]:
        worker = get_worker()
        return array[0], max(worker.state.tasks[k].nbytes or 0 for k in worker.data if "element" in str(k))

    with DAG() as dag:
        found = handoff.task(largest).expand(handoff.task(arrays)(), other=constant)
    async with handoff.AsyncHandoff(c) as session:
        result = await session.execute(dag, outputs=[found])
    assert [value for value, _ in result[found]] == [0, 1, 2, 3]
    assert {nbytes for _, nbytes in result[found]} <= {800_000, 800_112, 800_128}


@live(1, 1)
async def test_a_collection_of_dasks(c, s, *workers):
    """Dask computes it with the plugin and without; items have no results there."""
    dag, _, total = job()
    async with handoff.AsyncHandoff(c):
        computed = await c.compute(dag)
    assert computed[total.id] == "p0['s0'] p1['s0'] p2['s0']"
    assert set(computed) == {"listing", "suffix", "clean", "merge"}
    assert dask.compute(dag, scheduler="sync") == (computed,)


@live(1, 1)
async def test_results_as_they_come(c, s, *workers):
    """Items come among the others."""
    dag, _, _ = job(5)
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit(dag)
        found = [i async for i, _ in execution.as_completed()]
    assert sorted(map(repr, found)) == sorted(map(repr, [
        "listing", "suffix", "clean", "merge", *[("clean", n) for n in range(5)],
    ]))  # fmt: skip
    assert found.index("merge") == len(found) - 1


def wait_for(event: str, path: str) -> str:
    from distributed import Event

    Event(event).wait(30)
    return path


@live(1, 2)
async def test_a_node_that_goes(c, s, a, b):
    """The one that has the lists and has made the items, and some items: what is lost is done again."""
    from distributed import Event

    code = handoff.task(wait_for)
    with DAG() as dag:
        parts = code.expand(["go"] * 4, listing(4))
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit(dag)
        while not (record := {f.id: f for f in (await execution.record()).functions}).get(("wait_for", 3)):
            pass
        maker = record["expand", "wait_for"].node
        lost = a if str(a.name) == maker else b
        await s.remove_worker(lost.address, stimulus_id="test-kill")
        await Event("go").set()
        result = await execution.result(timeout=60)
    assert result[parts] == ["p0", "p1", "p2", "p3"]
