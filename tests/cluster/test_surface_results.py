"""Results and values by DAG id: waited for, stored, located, forgotten."""

from __future__ import annotations

import asyncio
import gc
import operator

import dask
import pytest
from clusters import live
from distributed import Client, Event
from distributed.diagnostics.plugin import SchedulerPlugin

import handoff_dask as handoff
from handoff_dask.stores import MemoryResultStore

#: Two nodes, ``"0"`` and ``"1"``, of two threads each.
cluster = live(2, 2)


def wait_for_gate(value=None):
    Event("gate").wait(20)
    return value


def fail(value=None):
    Event("gate").wait(20)
    raise ZeroDivisionError("on purpose")


def pair(dag_id="pair", code=wait_for_gate):
    """``quick``, and ``slow`` that needs the gate."""
    dag = handoff.DAG(dag_id).add_function(handoff.Function("quick", [], int, extra_args=["7"]))
    return dag.add_function(handoff.Function("slow", ["quick"], code))


async def until(condition):
    while not condition():
        gc.collect()
        await asyncio.sleep(0.01)


def in_memory(*workers):
    return sum(len(w.data) for w in workers)


@cluster
async def test_a_result_is_waited_for_while_it_may_come(c, s, a, b):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(pair())
        for of in (execution, "pair"):
            assert await session.get_result(of, "quick") == 7
            with pytest.raises(TimeoutError, match="'slow' of DAG 'pair'"):
                await session.get_result(of, "slow", timeout=0.05)
        waiting = asyncio.ensure_future(session.get_result("pair", "slow"))
        await Event("gate").set()
        assert await waiting == 7
        result = await execution
        for of in (execution, "pair", result):
            assert await session.get_result(of, "slow") == 7


@cluster
async def test_what_is_unknown_is_not_found_at_once(c, s, a, b):
    async with handoff.Handoff(c) as session:
        result = await session.execute(handoff.DAG("d").add_function(handoff.Function("f", [], int)))
        for of in ("d", result, "nobody"):
            with pytest.raises(handoff.NotFoundError):
                await session.get_result(of, "g")
        for ask in (session.get_value, session.lookup_data_location):
            for dag_id, i in (("d", "g"), ("nobody", "f")):
                with pytest.raises(handoff.NotFoundError, match=i):
                    await ask(dag_id, i)
        with pytest.raises(handoff.NotFoundError):
            session.get_local_value("d", "f")
        for ask in (
            session.store_result("d", "f", 1, origin_node="nowhere"),
            session.get_value("d", "f", from_node="nowhere"),
            session.register_data_location("d", "f", "nowhere"),
        ):
            with pytest.raises(handoff.NotFoundError, match="nowhere"):
                await ask


@cluster
async def test_another_client_reads_results(c, s, a, b):
    async with Client(s.address, asynchronous=True) as other:
        mine, theirs = handoff.Handoff(c), handoff.Handoff(other)
        execution = await mine.submit(pair())
        assert await theirs.get_result("pair", "quick") == 7
        with pytest.raises(TimeoutError, match="slow"):
            await theirs.get_result("pair", "slow", timeout=0.05)
        with pytest.raises(handoff.NotFoundError, match="no function of this id"):
            await theirs.get_result("pair", "nothing")
        waiting = asyncio.ensure_future(theirs.get_result("pair", "slow", timeout=10))
        await Event("gate").set()
        assert await waiting == await theirs.get_value("pair", "slow") == 7
        where = (await execution).allocations["slow"]
        assert await theirs.lookup_data_location("pair", "slow") == where
        await mine.stop()


@cluster
async def test_another_client_learns_that_no_result_will_come(c, s, a, b):
    async with Client(s.address, asynchronous=True) as other:
        mine, theirs = handoff.Handoff(c), handoff.Handoff(other)
        failing = await mine.submit(pair("fails", fail), max_retries=0)
        cancelled = await mine.submit(pair("cancelled", fail))
        dag = pair("no room").add_function(handoff.Function("last", ["slow"], abs, cost={"cpu": 2}))
        refused = await mine.submit(
            dag, allocation_strategy=lambda f, nodes: "nowhere" if f.id == "last" else "0"
        )
        asked = [asyncio.ensure_future(theirs.get_result(d, "slow")) for d in ("fails", "cancelled")]
        asked.append(asyncio.ensure_future(theirs.get_result("no room", "last")))
        assert await theirs.get_result("fails", "quick") == 7
        await cancelled.cancel()
        with pytest.raises(handoff.ExecutionCancelledError, match="cancelled"):
            await asked[1]
        await Event("gate").set()
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await asked[0]
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert caught.value.function_id == "slow"
        with pytest.raises(handoff.AllocationError, match="nowhere"):
            await asked[2]
        await failing.wait()
        await refused.wait()


class Unreadable:
    def __reduce__(self):
        return operator.truediv, (1, 0)


@cluster
async def test_another_client_learns_that_a_value_cannot_be_loaded(c, s, a, b):
    dag = handoff.DAG("d").add_function(handoff.Function("f", [], str, extra_args=[Unreadable()]))
    async with Client(s.address, asynchronous=True) as other:
        mine, theirs = handoff.Handoff(c), handoff.Handoff(other)
        execution = await mine.submit(dag)
        asked = asyncio.ensure_future(theirs.get_result("d", "f"))
        for waiting in (execution, asked):
            with pytest.raises(handoff.FunctionFailedError) as caught:
                await waiting
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
        await mine.stop()


@cluster
async def test_of_two_executions_the_latest_counts(c, s, a, b):
    def dag(value):
        return handoff.DAG("same").add_function(handoff.Function("f", [], int, extra_args=[value]))

    async with Client(s.address, asynchronous=True) as other:
        mine, theirs = handoff.Handoff(c), handoff.Handoff(other)
        first = await mine.submit(dag(1))
        second = await mine.submit(dag(2))
        assert [await session.get_result("same", "f") for session in (mine, theirs)] == [2, 2]
        assert await mine.get_result(first, "f") == 1
        third = await theirs.submit(dag(3))
        assert [await session.get_result("same", "f") for session in (mine, theirs)] == [3, 3]
        assert [await e.get_result("f") for e in (first, second, third)] == [1, 2, 3]


@cluster
async def test_results_do_not_pass_through_the_scheduler(c, s, a, b):
    async with handoff.Handoff(c) as session:
        dag = handoff.DAG("big").add_function(
            handoff.Function("f", [], bytes, extra_args=[100_000], node="1")
        )
        await session.execute(dag)
        await session.get_result("big", "f")
        await session.get_value("big", "f")
        await session.store_result("big", "g", b"x" * 100_000, origin_node="0")
        assert await session.get_value("big", "g", from_node="0") == b"x" * 100_000
    gathered = [event for _, event in s.get_events("all") if event.get("action") in ("gather", "scatter")]
    assert gathered == []
    assert b.transfer_outgoing_count_total == 3
    assert a.transfer_outgoing_count_total == 1


@cluster
async def test_results_pass_through_the_scheduler_where_workers_cannot_be_reached(c, s, a, b, monkeypatch):
    monkeypatch.setattr("handoff_dask.client.fetching.REACH_S", 0)
    async with handoff.Handoff(c) as session:
        result = await session.execute([handoff.Function("f", [], int, extra_args=["3"])])
        await session.store_result("d", "v", 4, origin_node="1")
        assert (result.results["f"], await session.get_value("d", "v", from_node="1")) == (3, 4)
    actions = [event.get("action") for _, event in s.get_events("all")]
    assert actions.count("gather") == 2


@cluster
async def test_stored_results_are_seen_by_all_and_outlive_who_stored_them(c, s, a, b):
    async with Client(s.address, asynchronous=True) as other:
        mine, theirs = handoff.Handoff(c), handoff.Handoff(other)
        await theirs.store_result("d", ("an", "id"), {"some": "value"}, origin_node="1")
        await theirs.store_result("d", "anywhere", 3)
        assert await mine.lookup_data_location("d", ("an", "id")) == "1"
        await theirs.store_result("d", ("an", "id"), {"some": "other"}, origin_node=a.address)
        assert await mine.lookup_data_location("d", ("an", "id")) == "0"
        with pytest.raises(handoff.NotFoundError, match="node '1' does not hold it; '0' does"):
            await mine.get_value("d", ("an", "id"), from_node="1")
    for get in (mine.get_result, mine.get_value):
        assert await get("d", ("an", "id")) == {"some": "other"}
        assert await get("d", "anywhere") == 3
    assert in_memory(a, b) == 2
    await mine.forget("d")
    await until(lambda: not in_memory(a, b))
    for ask in (mine.get_result, mine.get_value, mine.lookup_data_location):
        with pytest.raises(handoff.NotFoundError):
            await ask("d", "anywhere")


@cluster
async def test_what_was_stored_later_counts_and_so_does_what_was_computed_later(c, s, a, b):
    dag = handoff.DAG("d").add_function(handoff.Function("f", [], int, extra_args=[1]))
    async with handoff.Handoff(c) as session:
        await session.execute(dag)
        await session.store_result("d", "f", "stored")
        await session.store_result("d", "g", "beside")
        assert await session.get_result("d", "f") == await session.get_value("d", "f") == "stored"
        await session.execute(dag)
        assert await session.get_result("d", "f") == await session.get_value("d", "f") == 1
        assert await session.get_result("d", "g") == "beside"


@cluster
async def test_a_stored_value_is_lost_with_its_node(c, s, a, b):
    async with handoff.Handoff(c) as session:
        await session.store_result("d", "v", 1, origin_node="0")
        await a.close()
        for ask in (session.get_result, session.get_value, session.lookup_data_location):
            with pytest.raises(handoff.NotFoundError):
                await ask("d", "v")


@cluster
async def test_values_of_this_process(c, s, a, b):
    async with Client(s.address, asynchronous=True) as other:
        mine, theirs = handoff.Handoff(c), handoff.Handoff(other)
        await mine.store_result("p", "v", "remote", origin_node="0")
        mine.store_value("p", "v", "local")
        # The process is one, whatever session it goes through.
        assert mine.get_local_value("p", "v") == theirs.get_local_value("p", "v") == "local"
        assert await mine.get_value("p", "v") == "local"
        assert await mine.get_value("p", "v", from_node="0") == "remote"
        assert await mine.get_result("p", "v") == "remote"
        await mine.forget("p")
        with pytest.raises(handoff.NotFoundError):
            mine.get_local_value("p", "v")


@cluster
async def test_a_location_is_what_a_user_said_until_dask_knows_better(c, s, a, b):
    async with handoff.Handoff(c) as session:
        await session.register_data_location("d", "f", b.address)
        assert await session.lookup_data_location("d", "f") == "1"
        await session.execute(handoff.DAG("d").add_function(handoff.Function("f", [], int, node="0")))
        assert await session.lookup_data_location("d", "f") == "0"
        await session.forget("d")
        with pytest.raises(handoff.NotFoundError):
            await session.lookup_data_location("d", "f")


@cluster
async def test_a_location_follows_what_is_computed_again(c, s, a, b):
    dag = handoff.DAG("d").add_function(handoff.Function("f", [], int, extra_args=["5"]))
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        first = (await execution).allocations["f"]
        gone, other = (a, "1") if first == "0" else (b, "0")
        await gone.close()
        assert await session.get_result("d", "f") == 5
        assert await session.lookup_data_location("d", "f") == other
        assert await session.get_value("d", "f", from_node=other) == 5


@cluster
async def test_the_last_finished_executions_stay_and_older_ones_go(c, s, a, b):
    async def ids():
        found = []
        for n in range(5):
            try:
                found.append(await session.get_result(n, "f", timeout=1))
            except handoff.NotFoundError:
                found.append(None)
        return found

    with dask.config.set({"handoff.retained-dags": 2}):
        async with handoff.Handoff(c) as session:
            running = await session.submit(pair("running"))
            held = await session.submit(one(0))
            for n in range(5):
                await session.execute(one(n)) if n else await held
            del running
            gc.collect()
            await until(lambda: in_memory(a, b) == 4)
            assert await ids() == [0, None, None, 3, 4]
            await Event("gate").set()
            assert await session.get_result("running", "slow") == 7
            del held
            await until(lambda: in_memory(a, b) == 3)
            assert await ids() == [None, None, None, None, 4]


def one(n):
    return handoff.DAG(n).add_function(handoff.Function("f", [], int, extra_args=[n]))


@cluster
async def test_forget_drops_an_execution_at_once(c, s, a, b):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(one(1))
        result = await execution
        await session.execute(one(2))
        await session.forget(1)
        with pytest.raises(handoff.NotFoundError):
            await session.get_result(1, "f")
        with pytest.raises(handoff.NotFoundError, match="forgotten"):
            await execution.result()
        assert result.results == {"f": 1}
        assert await session.get_result(2, "f") == 2
        await until(lambda: in_memory(a, b) == 1)
        await session.forget("never known")


@cluster
async def test_a_result_that_is_held_holds_no_memory_of_workers(c, s, a, b):
    with dask.config.set({"handoff.retained-dags": 0}):
        async with handoff.Handoff(c) as session:
            result = await session.execute(one(1))
            await until(lambda: not in_memory(a, b))
    assert result.results == {"f": 1}
    assert result.record.functions[0].status == "finished"


@cluster
async def test_outputs_free_what_nothing_needs_any_more(c, s, a, b):
    """A chain of 1 MB links: never are more than two of them in memory."""
    dag, most = handoff.DAG("chain"), []
    dag.add_function(handoff.Function(0, [], bytes, extra_args=[1_000_000]))
    for n in range(1, 8):
        dag.add_function(handoff.Function(n, [n - 1], bytes))
    dag.add_function(handoff.Function("unused", [0], wait_for_gate))

    class Watch(SchedulerPlugin):
        def transition(self, *args, **kwargs):
            most.append(in_memory(a, b))

    s.add_plugin(Watch(), name="watch")
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, outputs=[7])
        result = await execution
        assert (set(result.results), len(result.results[7])) == ({7}, 1_000_000)
        assert set(result.allocations) == set(range(8))
        assert max(most) <= 2
        await until(lambda: in_memory(a, b) == 1)
        with pytest.raises(handoff.NotFoundError):
            await session.get_result("chain", 3)
        with pytest.raises(handoff.NotFoundError):
            await execution.get_result("unused")


class Disk(MemoryResultStore):
    """A store that counts, and can be made to fail."""

    broken = False

    def __init__(self):
        super().__init__()
        self.calls = []

    def store(self, dag_id, id, value):  # noqa: A002
        if self.broken:
            raise OSError("disk full")
        self.calls.append((dag_id, id, value))
        super().store(dag_id, id, value)

    def locations(self, dag_id):
        return dict.fromkeys(super().locations(dag_id), "disk")


@cluster
async def test_an_own_store_gets_what_comes_here_and_is_asked_first(c, s, a, b):
    store = Disk()
    async with handoff.Handoff(c, result_store=store) as session:
        execution = await session.submit(one(1))
        assert await execution.get_result("f") == 1
        assert store.calls == [(1, "f", 1)]
        await execution
        session.store_value(1, "mine", "local")
        await session.forget(2)
        store.store(1, "f", "from the store")
        assert await session.get_result(1, "f") == await session.get_value(1, "f") == "from the store"
        assert session.get_local_value(1, "mine") == await session.get_value(1, "mine") == "local"
        assert await session.lookup_data_location(1, "mine") == "disk"
        # Executed again, what the store has is old.
        again = await session.submit(one(1))
        assert await session.get_result(1, "f") == 1
        await again
        await session.forget(1)
        assert not store.has(1, "f")
        store.store("from an earlier session", "f", 9)
        assert await session.get_result("from an earlier session", "f") == 9


@cluster
async def test_a_store_that_fails_costs_no_result(c, s, a, b, caplog):
    store = Disk()
    store.broken = True
    async with handoff.Handoff(c, result_store=store) as session:
        assert (await session.execute(one(1))).results == {"f": 1}
        assert await session.get_result(1, "f") == 1
    assert "the result store could not keep 'f' of DAG 1" in caplog.text


@cluster
async def test_what_is_no_store_is_refused(c, s, a, b):
    class NeedsMore(Disk):
        def __init__(self, path):
            self.path = path

    for wrong in (3, {}, NeedsMore):
        with pytest.raises(handoff.ValidationError, match=r"result.store"):
            handoff.Handoff(c, result_store=wrong)
    async with handoff.Handoff(c, result_store=Disk) as session:  # a class is called
        session.store_value("stored", "v", 1)
        assert await session.lookup_data_location("stored", "v") == "disk"


def store_from_here(value):
    """In a function: its own node holds what it stores."""
    handoff.store_result("inside", "v", value)
    return handoff.lookup_data_location("inside", "v"), handoff.get_value("inside", "v")


@pytest.mark.parametrize("node", ["0", "1"])
@cluster
async def test_a_function_stores_on_its_own_node(c, s, a, b, node):
    async with handoff.Handoff(c) as session:
        result = await session.execute(
            [handoff.Function("f", [], store_from_here, extra_args=[8], node=node)]
        )
        assert result.results["f"] == (node, 8)
        assert await session.get_result("inside", "v") == 8
        await session.forget("inside")
