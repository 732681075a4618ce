"""Arguments that change on their way, and functions that share a node."""

from __future__ import annotations

import asyncio

import pytest
from clusters import live
from distributed import Event, get_worker

import handoff_dask as handoff
from handoff_dask.testing import capture_telemetry

Argument, Collocated, Function = handoff.Argument, handoff.Collocated, handoff.Function


#: Two nodes, ``"0"`` and ``"1"``, of four cores each.
cluster = live(4, 4)


def here():
    return str(get_worker().name)


def pack(value, source, target, *extra):
    return ("packed", value, source, target, here(), *extra)


def unpack(value, source, target, *extra):
    return ("unpacked", value, source, target, here(), *extra)


def keep(*values):
    return values


def take_element(value, source, target, position):
    return value[position]


def source(value=5):
    return value


@pytest.mark.parametrize(("producer", "consumer"), [("0", "1"), ("1", "0"), ("0", "0")])
@cluster
async def test_both_sides_run_where_they_belong(c, s, a, b, producer, consumer):
    dag = handoff.DAG().add_function(Function("p", [], source, node=producer))
    dag.add_function(Function("c", [Argument("p", (pack, "x"), (unpack, "y", 2))], keep, node=consumer))
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag)
    packed = ("packed", 5, producer, consumer, producer, "x")
    unpacked = ("unpacked", packed, producer, consumer, consumer, "y", 2)
    serialize, deserialize = ("serialize", 0, "p", "c"), ("deserialize", 0, "p", "c")
    assert result.results == {"p": 5, serialize: packed, deserialize: unpacked, "c": (unpacked,)}
    assert result.allocations == {"p": producer, serialize: producer, deserialize: consumer, "c": consumer}


@pytest.mark.parametrize("sides", [(None, None), ((pack,), None), (None, (unpack,))])
@cluster
async def test_a_side_that_is_absent_is_not_there(c, s, a, b, sides):
    dag = handoff.DAG().add_function(Function("p", [], source, node="0"))
    dag.add_function(Function("c", [Argument("p", *sides)], keep, node="1"))
    with capture_telemetry(("handoff", "execution", "function")) as captured:
        async with handoff.Handoff(c) as session:
            result = await session.execute(dag)
    moved = [
        (role, 0, "p", "c") for role, side in zip(("serialize", "deserialize"), sides, strict=True) if side
    ]
    assert set(result.results) == {"p", "c", *moved}
    told = captured.of(("handoff", "execution", "function", "start"))
    assert {e.metadata["function_id"] for e in told} == {"p", "c", *moved}


@cluster
async def test_one_element_of_a_tuple_travels(c, s, a, b):
    """A producer of several values, each for one consumer."""
    dag = handoff.DAG().add_function(Function("three", [], source, extra_args=[("a", "b", "c")], node="0"))
    for i in range(3):
        dag.add_function(Function(i, [Argument("three", (take_element, i))], str.upper, node="1"))
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, outputs=[0, 1, 2])
    assert result.results == {0: "A", 1: "B", 2: "C"}


@cluster
async def test_the_same_producer_twice_and_an_input(c, s, a, b):
    dag = handoff.DAG().add_function(Function("in", [], None, type="input"))
    dag.add_function(Function("p", ["in"], source, node="1"))
    args = [Argument("p", (pack,)), "p", Argument("in", None, (unpack,)), Argument("p", None, (unpack,))]
    dag.add_function(Function("c", args, keep, node="0"))
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, inputs={"in": 9}, outputs=["c"])
    packed, plain, given, unpacked = result.results["c"]
    assert packed == ("packed", 9, "1", "0", "1")
    assert plain == 9
    assert (given[:2], given[3:]) == (("unpacked", 9), ("0", "0"))
    assert unpacked == ("unpacked", 9, "1", "0", "0")


@cluster
async def test_a_consumer_is_bound_when_its_first_serialiser_can_start(c, s, a, b):
    """The consumer's node is chosen early, its cost is claimed only when it starts."""
    dag = handoff.DAG().add_function(Function("p", [], source, node="0", cost={"cpu": 4}))
    dag.add_function(Function("gate", [], lambda: Event("gate").wait(20), node="1"))
    dag.add_function(Function("c", [Argument("p", (pack,)), "gate"], keep, cost={"gpu": 1, "cpu": 4}))
    async with handoff.Handoff(c) as session:
        await session.register_node("1", {"cpu": 4, "gpu": 1})
        execution = await session.submit(dag)
        packed = await execution.get_result(("serialize", 0, "p", "c"), timeout=10)
        assert packed == ("packed", 5, "0", "1", "0")
        # Bound, but not started: its node is free for others.
        assert await session.resources_available("1", {"gpu": 1, "cpu": 4})
        await Event("gate").set()
        assert (await execution).allocations["c"] == "1"


@cluster
async def test_serialisers_run_again_when_the_consumers_node_goes(c, s, a, b):
    """What was packed for a node that is gone is packed again for the next."""
    dag = handoff.DAG().add_function(Function("p", [], source, node="0"))
    dag.add_function(Function("gate", [], lambda: Event("gate").wait(20), node="0"))
    dag.add_function(Function("c", [Argument("p", (pack,), (unpack,)), "gate"], keep, cost={"gpu": 1}))
    async with handoff.Handoff(c) as session:
        await session.register_node("1", {"cpu": 4, "gpu": 1})
        execution = await session.submit(dag)
        first = await execution.get_result(("serialize", 0, "p", "c"), timeout=10)
        await session.register_node("0", {"cpu": 4, "gpu": 1})
        await b.close()
        await Event("gate").set()
        result = await execution.result(timeout=15)
    assert first == ("packed", 5, "0", "1", "0")
    again = ("packed", 5, "0", "0", "0")
    assert result.results["c"] == (("unpacked", again, "0", "0", "0"), True)
    assert result.results["serialize", 0, "p", "c"] == again


@cluster
async def test_a_lost_producer_is_computed_and_packed_again(c, s, a, b):
    dag = handoff.DAG().add_function(Function("p", [], source, cost={"disk": 1}))
    dag.add_function(Function("gate", [], lambda: Event("gate").wait(20), node="1"))
    dag.add_function(Function("c", [Argument("p", (pack,)), "gate"], keep, node="1"))
    async with handoff.Handoff(c) as session:
        await session.register_node("0", {"disk": 1})
        execution = await session.submit(dag)
        await execution.get_result(("serialize", 0, "p", "c"), timeout=10)
        await session.register_node("1", {"disk": 1})
        await a.close()
        await Event("gate").set()
        result = await execution.result(timeout=15)
    assert result.results["c"] == (("packed", 5, "1", "1", "1"), True)
    assert result.allocations["p"] == "1"


@cluster
async def test_a_serialiser_that_raises_fails_the_dag_by_its_own_id(c, s, a, b):
    def refuse(value, source, target):
        raise ValueError(f"cannot pack {value}")

    dag = handoff.DAG().add_function(Function("p", [], source))
    dag.add_function(Function("c", [Argument("p", (refuse,))], keep))
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError, match="cannot pack 5") as caught:
            await session.execute(dag, max_retries=1)
    assert caught.value.function_id == ("serialize", 0, "p", "c")
    assert caught.value.attempts == 2


@cluster
async def test_transfers_along_a_chain(c, s, a, b):
    def add(value, source, target):
        return value + 1

    dag = handoff.DAG().add_function(Function(0, [], source, extra_args=[0], node="0"))
    for i in range(1, 6):
        dag.add_function(Function(i, [Argument(i - 1, (add,), (add,))], source, node=str(i % 2)))
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag)
    assert {i: result.results[i] for i in range(6)} == {i: 2 * i for i in range(6)}


# ---------------------------------------------------------------------- sharing a node


@pytest.mark.parametrize("strategy", ["first_available", "load_balanced", "cost_optimized", "fastest"])
@cluster
async def test_a_group_shares_a_node_whatever_the_strategy(c, s, a, b, strategy):
    dag = handoff.DAG().add_function(Function("root", [], here, cost={"cpu": 1}))
    dag.add_function(Function("mate", [], here, node=Collocated("root"), cost={"cpu": 4}))
    dag.add_function(Function("mate's mate", ["mate"], lambda _: here(), node=("collocated", "mate")))
    for i in range(6):
        dag.add_function(Function(i, [], here, cost={"cpu": 2}))
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, allocation_strategy=strategy)
    assert result.results == result.allocations
    assert len({result.allocations[i] for i in ("root", "mate", "mate's mate")}) == 1


@cluster
async def test_a_pinned_root_takes_its_group_along(c, s, a, b):
    dag = handoff.DAG().add_function(Function("root", [], here, node="1"))
    dag.add_function(Function("mate", [Argument("root", (pack,))], keep, node=Collocated("root")))
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag)
    assert set(result.allocations.values()) == {"1"}
    assert result.results["mate"] == (("packed", "1", "1", "1", "1"),)


@cluster
async def test_a_group_needs_one_node_that_can_hold_each_member(c, s, a, b):
    """Node 0 could hold the root, node 1 the mate, and none both: refused at once."""
    dag = handoff.DAG().add_function(Function("root", [], here, cost={"gpu": 1}))
    dag.add_function(Function("mate", [], here, node=Collocated("root"), cost={"fpga": 1}))
    async with handoff.Handoff(c) as session:
        await session.register_node("0", {"gpu": 1})
        await session.register_node("1", {"fpga": 1})
        with pytest.raises(handoff.AllocationError) as caught:
            await session.submit(dag)
        assert caught.value.function_id in ("root", "mate")
        assert set(caught.value.reasons) == {"0", "1"}
        assert not s.tasks
        await session.update_node_resources("1", {"gpu": 1})
        result = await session.execute(dag)
    assert result.results == {"root": "1", "mate": "1"}


@cluster
async def test_a_bound_group_waits_for_its_node(c, s, a, b):
    """Once the first has started, the others wait for that node although another one is idle."""
    dag = handoff.DAG().add_function(Function("root", [], here, cost={"cpu": 1}))
    dag.add_function(Function("mate", ["root"], lambda _: here(), node=Collocated("root"), cost={"cpu": 4}))
    blocker = handoff.DAG().add_function(
        Function("block", [], lambda: Event("gate").wait(20), node="0", cost={"cpu": 3})
    )
    async with handoff.Handoff(c) as session:
        blocking = await session.submit(blocker)
        execution = await session.submit(dag)
        assert await execution.get_result("root", timeout=10) == "0"
        while s.plugins["handoff"].driver.engine.waiting != 1:
            await asyncio.sleep(0.01)
        assert await session.resources_available("1", {"cpu": 4})
        assert execution.futures["mate"].status == "pending"
        await Event("gate").set()
        assert (await execution).allocations == {"root": "0", "mate": "0"}
        await blocking


@cluster
async def test_a_group_moves_together_when_its_node_goes(c, s, a, b):
    dag = handoff.DAG().add_function(Function("root", [], here))
    dag.add_function(Function("gate", [], lambda: Event("gate").wait(20), node="1"))
    dag.add_function(Function("mate", ["root", "gate"], lambda *_: here(), node=Collocated("root")))
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        assert await execution.get_result("root", timeout=10) == "0"
        await a.close()
        await Event("gate").set()
        result = await execution.result(timeout=15)
    assert result.results["mate"] == result.allocations["mate"] == result.allocations["root"] == "1"
