"""What a result says of itself, and what a refusal says: the same as is said beforehand."""

from __future__ import annotations

import pytest
from clusters import live
from codes import same
from stage import until

import handoff_dask as handoff
from handoff_dask import Collocated, Function


@live(2, 2)
async def test_where_the_time_went(c, s, a, b, stage):
    dag = [stage.function(n, cost={"cpu": 2}, node="0", priority=-i) for i, n in enumerate("fg")]
    dag.append(stage.quick("sum", ["f", "g"], node="1"))
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await stage.sees("f")
        stage.cue("f")
        await stage.sees("g")
        stage.cue("g")
        result = await execution
    split = result.time_split
    assert split.path[-1] == "sum"
    assert sum(split.along_path.values()) == pytest.approx(split.makespan_s)
    assert result.makespan_s == pytest.approx(split.makespan_s)
    assert split.functions["g"]["waiting for pin"] > 0
    lasted = {i: t.stop - t.start for i, t in result.timings.items()}
    # Pins do not count for the bound: one after the other is forced by the arguments alone.
    assert 0 < result.lower_bound_s <= result.makespan_s
    assert result.lower_bound_s >= max(lasted["f"], lasted["g"]) + lasted["sum"] - 1e-9
    moved = {f.id: f.transfer_s for f in result.record.functions}
    assert moved["f"] is moved["g"] is None
    assert 0 < moved["sum"] < result.makespan_s


@live(2)
async def test_a_result_of_nothing_measures_nothing(c, s, a):
    async with handoff.Handoff(c) as session:
        result = await session.execute([Function("f", [], same)], outputs=[])
    assert (result.lower_bound_s, result.time_split.path) == (None, ())


REFUSED = {
    "misspelt": (
        {"cost": {"gpus": 2}},
        "'gpus' is offered by no node; did you mean 'gpu'?; nearest is node '0'; "
        "0: needs gpus 2, has 0; 1: needs gpus 2, has 0",
    ),
    "too much": ({"cost": {"cpu": 5}}, "nearest is node '1'; 1: needs cpu 5, has 4; 0: needs cpu 5, has 2"),
    "pinned": (
        {"node": "1o", "cost": {"cpu": 1}},
        "it is pinned to node '1o', which is not there (did you mean '1'?); nearest is node '0'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_says_what_may_be_meant(case):
    fields, message = REFUSED[case]

    @live(2, 4)
    async def run(c, s, a, b):
        async with handoff.Handoff(c) as session:
            await session.update_node_resources("1", {"gpu": 1})
            with pytest.raises(handoff.AllocationError) as raised:
                await session.submit([Function("f", [], same, **fields)])
            nodes = await session.discover_nodes()
        assert message in str(raised.value)
        nearest = {"misspelt": "0", "too much": "1", "pinned": "0"}[case]
        assert next(iter(raised.value.reasons)) == nearest
        assert set(raised.value.reasons) == {"0", "1"}
        assert raised.value.cost == fields["cost"]
        report = handoff.DAG().add_function(Function("f", [], same, **fields)).check(nodes)
        assert report.unplaceable[0].nearest == nearest

    run()


@live(4)
async def test_a_confinement_to_a_node_that_is_not_there_says_so(c, s, a):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.AllocationError) as raised:
            await session.submit([Function("f", [], same)], resources=[{"node": "here"}])
    assert "the execution's resources name 'here', which is not there" in str(raised.value)


@live(4)
async def test_a_pin_to_an_address_that_is_not_there_says_so(c, s, a):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.AllocationError) as raised:
            await session.submit([Function("f", [], same, node="tcp://127.0.0.1:1")])
        assert "it is pinned to node 'tcp://127.0.0.1:1', which is not there" in str(raised.value)
        with pytest.raises(handoff.AllocationError) as raised:
            await session.submit([Function("f", [], same, node=a.address, cost={"cpu": 5})])
    assert str(raised.value).startswith(
        "function 'f' (cost {'cpu': 5}) cannot be placed; 0: needs cpu 5, has 4"
    )


@live(4)
async def test_a_group_is_refused_as_one(c, s, a):
    dag = [
        Function("f", [], same, cost={"cpu": 3}),
        Function("g", [], same, node=Collocated("f"), cost={"cpu": 5}),
    ]
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.AllocationError) as raised:
            await session.submit(dag)
    assert "with those that share its node it needs {'cpu': 5}; 0: needs cpu 5, has 4" in str(raised.value)


@live(2)
async def test_the_same_is_said_when_it_is_found_out_later(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        await session.update_node_resources("0", {"gpus": 1})
        execution = await session.submit([stage.function("f"), stage.quick("g", ["f"], cost={"gpus": 1})])
        await stage.sees("f")
        await session.register_node("0", {"gpu": 1})
        stage.cue("f")
        with pytest.raises(handoff.AllocationError, match="did you mean 'gpu'"):
            await execution
        await until(lambda: execution.status == "failed")


def test_a_session_is_asked_for_its_nodes():
    from handoff_dask.testing import small_cluster

    dag = handoff.DAG("d").add_function(Function("f", [], same, cost={"cpu": 2}, duration=3))
    with small_cluster({"a": {"cpu": 1}, "b": {"cpu": 2}}) as session:
        report = dag.check(session)
    assert (report.ok, report.node_count, report.lower_bound_s) == (True, 2, 3)
