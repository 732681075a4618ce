"""Why a function waits, and why one ran where it did: one test for every cause."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import dask
import pytest
from clusters import live, settled
from codes import Colour, plus
from distributed import Client
from distributed.core import Status
from stage import until

import handoff_dask as handoff
from handoff_dask import Argument, Collocated, Function
from handoff_dask.client.explanations import ArgumentState, Holder, NodeReason
from handoff_dask.placement.explanation import CAUSES


def reasons_of(explanation, **nodes):
    """``{node: cause}`` of what stands in the way."""
    found = {node: None if why is None else why.cause for node, why in explanation.nodes.items()}
    assert explanation.status == "waiting"
    json.dumps(explanation.to_dict())
    return found


def holder(name, dag="d"):
    return Holder("function", dag, name)


@live(4)
async def test_an_argument_is_missing(c, s, a, stage):
    dag = handoff.DAG("d").add_function(stage.function(Colour.RED)).add_function(stage.function("other"))
    dag.add_function(stage.quick("between", [Colour.RED], cost={"cpu": 1}))
    dag.add_function(stage.quick("last", ["between", Colour.RED, "other"]))
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await stage.sees(Colour.RED, "other")
        stage.cue("other")
        await until(execution.futures["other"].done)
        why = await execution.explain("last")
        assert (why.status, why.node) == ("pending", None)
        missing = ArgumentState(Colour.RED, "running", "0"), ArgumentState("between", "pending")
        assert why.arguments == missing
        assert str(why) == (
            "'last' of DAG 'd' waits for <Colour.RED: 1> (running on '0'), 'between' (pending)"
        )
        running = await execution.explain(Colour.RED)
        assert (running.status, running.node, running.candidates) == ("running", "0", 1)
        stage.close()
        await execution
        json.dumps(why.to_dict())


@live(4, 2)
async def test_room(c, s, a, b, stage):
    """On each node: what is asked, what is free, and who holds it."""
    dag = handoff.DAG("d").add_function(stage.function("big", cost={"cpu": 3}, priority=2))
    dag.add_function(stage.function("small", cost={"cpu": 1.5}, priority=1))
    dag.add_function(stage.quick("waits", cost={"cpu": 2}))
    async with handoff.Handoff(c) as session:
        assert await session.resource_tracker.request("1", {"cpu": 0.25})
        execution = await session.submit(dag)
        await settled(s, room=1)
        why = await execution.explain("waits")
        assert reasons_of(why) == {"0": "room", "1": "room"}
        assert why.cause == "room"
        assert why.nodes["0"] == NodeReason(
            "room", "cpu", 2, 4, 1, (holder("big"),), "needs cpu 2, 1 of 4 free"
        )
        one = why.nodes["1"]
        assert (one.free, one.holders[0]) == (0.25, holder("small"))
        assert (one.holders[1].kind, one.holders[1].name) == ("client", c.id)
        assert "held by 'small' of DAG 'd', client" in str(why)
        assert str(why).startswith("'waits' of DAG 'd' has waited ")
        # Anybody may ask, by the DAG's id.
        async with Client(s.address, asynchronous=True) as other, handoff.Handoff(other) as asks:
            again = await asks.explain("d", "waits")
            assert (again.nodes, again.dag_id) == (why.nodes, "d")
        assert (await session.explain("d", "waits")).nodes == why.nodes
        stage.close()
        await execution


@live(4)
async def test_room_that_a_cancelled_function_still_holds(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        gone = await session.submit(handoff.DAG("gone").add_function(stage.function("f", cost={"cpu": 4})))
        await stage.sees("f")
        await gone.cancel()
        execution = await session.submit([stage.quick("g", cost={"cpu": 1})])
        await settled(s, room=1)
        why = await execution.explain("g")
        assert reasons_of(why) == {"0": "room"}
        assert why.nodes["0"].holders == (Holder("thread", "gone", "f"),)
        assert "the thread of 'f' of DAG 'gone', which was cancelled" in str(why)
        stage.close()
        await execution


@live(2)
async def test_a_thread(c, s, a, stage):
    dag = handoff.DAG("d").add_function(stage.function("f", priority=1))
    dag.add_function(stage.function("g", priority=1)).add_function(stage.quick("waits"))
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await settled(s, thread=1)
        why = await execution.explain("waits")
        assert reasons_of(why) == {"0": "thread"}
        reason = why.nodes["0"]
        assert (reason.needed, reason.capability, reason.free) == (1, 2, 0)
        assert set(reason.holders) == {holder("f"), holder("g")}
        stage.close()
        await execution


@live(2, 2)
async def test_pin_label_amount_and_confinement(c, s, a, b, stage):
    """A node that could never hold it says why, beside one that is full."""
    async with handoff.Handoff(c) as session:
        await session.update_node_resources("1", {"gpu": 1, "zone": "eu"})
        dag = handoff.DAG("d").add_function(stage.function("f", cost={"cpu": 2, "zone": "eu"}, priority=1))
        dag.add_function(stage.quick("pinned", cost={"cpu": 1}, node="1"))
        dag.add_function(stage.quick("labelled", cost={"cpu": 1, "zone": "eu"}))
        dag.add_function(stage.quick("gpu", cost={"cpu": 1, "gpu": 1}))
        execution = await session.submit(dag)
        await settled(s, pin=1, room=2)
        for name, cause in {"pinned": "pin", "labelled": "label", "gpu": "amount"}.items():
            assert reasons_of(await execution.explain(name)) == {"0": cause, "1": "room"}
        assert (await execution.explain("gpu")).nodes["0"] == NodeReason(
            "amount", "gpu", 1, 0, 0, text="needs gpu 1, has 0"
        )
        confined = [{"node": "1", "capabilities": {"cpu": 2}}]
        other = await session.submit([stage.quick("o", cost={"cpu": 1})], resources=confined)
        await settled(s, pin=1, room=3)
        assert reasons_of(await other.explain("o")) == {"0": "confined", "1": "room"}
        stage.close()
        await execution
        await other


@live(4, 4)
async def test_collocation(c, s, a, b, stage):
    dag = handoff.DAG("d").add_function(stage.function("root", cost={"cpu": 1}))
    dag.add_function(stage.function("blocks", ["root"], node="0", cost={"cpu": 3}, priority=1))
    dag.add_function(stage.quick("beside", ["root"], node=Collocated("root"), cost={"cpu": 2}))
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        stage.cue("root")
        await stage.sees("blocks")
        await settled(s, collocation=1)
        why = await execution.explain("beside")
        assert reasons_of(why) == {"0": "room", "1": "collocation"}
        assert str(why.nodes["1"]) == "its group is on '0'"
        stage.close()
        await execution


@live(4)
async def test_max_concurrency(c, s, a, stage):
    dag = [stage.function("f", priority=1), stage.quick("g")]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, max_concurrency=1)
        await settled(s, max_concurrency=1)
        why = await execution.explain("g")
        assert reasons_of(why) == {"0": "max_concurrency"}
        assert "as many as it may" in str(why)
        stage.close()
        await execution


@live(4)
async def test_a_node_is_kept_for_another_function(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        driver = s.plugins["handoff"].driver
        backfill = driver.engine._backfill
        backfill._settings = replace(backfill._settings, aging_floor_s=0.0)
        first = await session.submit([stage.function("holds", cost={"cpu": 2}, duration=0.05)])
        await stage.sees("holds")
        dag = handoff.DAG("big").add_function(stage.quick("big", cost={"cpu": 4}, duration=0.05))
        big = await session.submit(dag)

        def is_kept():
            driver.flush()
            return driver.engine.nodes()["0"].reserved_for is not None

        await until(is_kept)
        other = await session.submit([stage.quick("small", cost={"cpu": 1}, duration=1000.0)])
        await settled(s, room=1, reservation=1)
        why = await other.explain("small")
        assert reasons_of(why) == {"0": "reservation"}
        assert why.nodes["0"].holders == (Holder("function", "big", "big"),)
        assert "kept for 'big' of DAG 'big'" in str(why)
        stage.cue("holds")
        for execution in (first, big, other):
            await execution


@live(4)
async def test_the_strategy_declines(c, s, a, stage):
    def later(function, nodes):
        return nodes[0].name if function.id != "g" or nodes[0].running == 0 else None

    dag = [stage.function("f", priority=1), stage.quick("g")]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, allocation_strategy=later)
        await settled(s, strategy=1)
        assert reasons_of(await execution.explain("g")) == {"0": "strategy"}
        stage.close()
        await execution


class Refuses:
    """Lets one function run at a time."""

    running = 0

    def register(self, node, caps):
        pass

    def available(self, node, req):
        return not self.running

    def request(self, node, req):
        granted = self.available(node, req)
        self.running += granted
        return granted

    def release(self, node, req):
        self.running -= 1

    def get_capabilities(self, node=None):
        return {}


@live(4)
async def test_the_tracker_refuses(c, s, a, stage):
    async with handoff.Handoff(c, resource_tracker=Refuses()) as session:
        first = await session.submit([stage.function("f")])
        await stage.sees("f")
        execution = await session.submit([stage.quick("g")])
        await settled(s, tracker=1)
        assert reasons_of(await execution.explain("g")) == {"0": "tracker"}
        stage.close()
        await first
        await execution


# Dask's own watch over the memory would let it go on again.
@live(2, 2, config={"distributed.worker.memory.pause": False})
async def test_a_node_takes_nothing_new(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        first = await session.submit([stage.function("f", node="0", cost={"cpu": 2})])
        await stage.sees("f")
        b.status = Status.paused
        await until(lambda: not s.plugins["handoff"].driver.engine.nodes()["1"].accepting)
        execution = await session.submit([stage.quick("g", cost={"cpu": 1})])
        await settled(s, room=1)
        assert reasons_of(await execution.explain("g")) == {"0": "room", "1": "not accepting"}
        b.status = Status.running
        await execution
        stage.close()
        await first


@live(1, 1)
async def test_a_node_is_being_restarted(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function("f", node="1"), stage.quick("g", ["f"], node="0")])
        await stage.sees("f")
        plugin = s.plugins["handoff"]
        # As when its nanny sees it die.
        plugin.nodes.find("0").has_nanny = True
        plugin.log_event(a.address, {"action": "remove-worker", "expected": False})
        stage.cue("f")
        await until(lambda: plugin.driver.engine.waiting == 1)
        assert reasons_of(await execution.explain("g")) == {"0": "returning", "1": "pin"}
        await execution.cancel()


@live(1)
async def test_no_node_could_ever_hold_it(c, s, a, stage):
    with dask.config.set({"handoff.allocation-timeout": "60s"}):
        async with handoff.Handoff(c) as session:
            execution = await session.submit([stage.quick("g", cost={"gpu": 1})])
            await settled(s, **{"no nodes": 1})
            why = await execution.explain("g")
            assert (why.cause, reasons_of(why)) == ("no nodes", {"0": "amount"})
            await session.update_node_resources("0", {"gpu": 1})
            await execution


@live(4, 4)
async def test_why_it_ran_where_it_did(c, s, a, b, stage):
    dag = handoff.DAG("d").add_function(stage.function("f", cost={"cpu": 4}, priority=1))
    dag.add_function(stage.function("g", cost={"cpu": 4})).add_function(stage.quick("h", cost={"cpu": 3}))
    dag.add_function(Function("in", [], None, type="input")).add_function(
        Function("inline", ["in"], int, type="inline")
    )
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, inputs={"in": 1}, allocation_strategy="load_balanced")
        await settled(s, room=1)
        stage.cue("f")
        await until(execution.futures["h"].done)
        first, last = await execution.explain("f"), await execution.explain("h")
        assert (first.status, first.node, first.candidates) == ("finished", "0", 2)
        assert (first.cause, last.cause, last.attempts) == ("", "room", 1)
        assert (
            str(first)
            == "'f' of DAG 'd' ran on node '0'; load_balanced chose the best of 2 nodes that had room"
        )
        assert str(last).startswith(
            "'h' of DAG 'd' ran on node '0'; load_balanced chose the only node that had room, after "
        )
        assert str(last).endswith(" s for room")
        stage.close()
        result = await execution
        by_result = await session.explain(result, "h")
        assert (by_result.node, by_result.cause, by_result.candidates) == ("0", "room", None)
        assert by_result.waited_s == pytest.approx(last.waited_s, abs=0.05)
        for name in ("in", "inline"):
            with pytest.raises(handoff.NotFoundError, match="no scheduled function"):
                await execution.explain(name)
        with pytest.raises(handoff.NotFoundError, match="'nobody'"):
            await execution.explain("nobody")
        with pytest.raises(handoff.NotFoundError, match="no execution 'unheard of'"):
            await session.explain("unheard of", "f")
        async with Client(s.address, asynchronous=True) as other, handoff.Handoff(other) as asks:
            with pytest.raises(handoff.NotFoundError, match="no function 'nobody'"):
                await asks.explain("d", "nobody")


@live(4)
async def test_failed_and_cancelled(c, s, a, stage):
    dag = handoff.DAG("d").add_function(stage.quick("bad", value=ValueError("no good"), max_retries=1))
    dag.add_function(stage.quick("after", ["bad"]))
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        bad, after = await execution.explain("bad"), await execution.explain("after")
        assert (bad.status, bad.node, bad.attempts) == ("failed", "0", 2)
        assert "no good" in bad.problem
        assert "'bad' of DAG 'd' failed on node '0'" in str(bad)
        assert (after.status, after.node) == ("cancelled", None)
        assert str(after).startswith("'after' of DAG 'd' was cancelled; 'bad' failed: ")
        cancelled = await session.submit(handoff.DAG("e").add_function(stage.function("f")))
        await stage.sees("f")
        await cancelled.cancel()
        gone = await cancelled.explain("f")
        assert (gone.status, gone.problem) == ("cancelled", "the execution was cancelled")
        stage.cue("f")


@live(1)
async def test_refused(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        dag = [stage.function("f"), stage.function("g", ["f"], cost={"cpu": 1})]
        execution = await session.submit(dag)
        await stage.sees("f")
        await session.update_node_resources("0", {"cpu": 0.5})
        stage.cue("f")
        with pytest.raises(handoff.AllocationError):
            await execution
        why = await execution.explain("g")
        assert (why.status, why.problem) == ("failed", "0: needs cpu 1, has 0.5")


@live(2)
async def test_sent_ahead(c, s, a, stage):
    """Those behind others hold nothing; the one that runs does."""
    async with handoff.Handoff(c) as session:
        dag = handoff.DAG("d")
        for n in range(30):
            dag.add_function(stage.function(f"f{n}", duration=0.001, cost={"cpu": 1}))
        execution = await session.submit(dag)
        await stage.counts(2)
        plugin = s.plugins["handoff"]
        ahead = [f for f in plugin.runs.functions.values() if f.is_on_node and f.fact("prefetched")]
        why = await execution.explain(f"f{ahead[0].position}")
        assert (why.status, why.sent_ahead) == ("running", True)
        assert "behind others like it" in str(why)
        other = await session.submit([stage.quick("o", cost={"cpu": 1})])
        await until(lambda: plugin.driver.engine.waiting >= 1)
        holders = (await other.explain("o")).nodes["0"].holders
        assert {h.function_id for h in holders} == set(stage.started)
        stage.cue(*dag.functions)
        await execution
        await other


@live(2, 2)
async def test_an_argument_on_its_way(c, s, a, b, stage):
    """What changes an argument is a function of its own, and is named by its id."""
    dag = handoff.DAG("d").add_function(stage.quick("p", value=3))
    dag.add_function(stage.quick("q", [Argument("p", (plus, 1), None)]))
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag)
        [transfer] = [i for i in result.results if isinstance(i, tuple)]
        why = await session.explain(result.dag_id, transfer)
        assert (why.status, why.function_id[0], why.node) == (
            "finished",
            "serialize",
            result.allocations["q"],
        )


class Large:
    """A value that says it has 60 MB."""

    def __sizeof__(self):
        return 60_000_000


@live(1, 1, config={"distributed.scheduler.bandwidth": "1 MB"})
async def test_a_function_that_waits_for_the_node_that_has_its_data(c, s, a, b, stage):
    """To move 60 MB takes a minute here, and its node has room in half a minute."""
    dag = [
        stage.quick("large", node="0", value=Large()),
        stage.function("hold", ["large"], node="0", cost={"cpu": 1}, duration=30, priority=1),
        stage.quick("waits", ["large"], cost={"cpu": 1}),
    ]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, outputs=["hold", "waits"])
        await stage.sees("hold")
        await settled(s, data=1)
        why = await execution.explain("waits")
        assert (why.status, why.cause) == ("waiting", "data")
        assert {node: reason.cause for node, reason in why.nodes.items()} == {"0": "room", "1": "data"}
        assert re.search(r"60(\.\d+)? s", str(why.nodes["1"]))
        stage.cue("hold")
        assert (await execution).allocations["waits"] == "0"


def test_there_is_a_test_for_every_cause():
    """A cause that no test of these files names is a cause that nobody has seen explained."""
    here = Path(__file__)
    named = {
        node.value
        for name in (here.name, "test_shared_resources.py", "test_retries.py", "test_memory_stays_low.py")
        for node in ast.walk(ast.parse(here.with_name(name).read_text("utf-8")))
        if isinstance(node, ast.Constant)
    }

    assert set(CAUSES) <= named
