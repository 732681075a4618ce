"""Costs that are callables: asked on the scheduler before each attempt."""

from __future__ import annotations

import pytest
from clusters import engine_of, live, nothing_claimed

import handoff_dask as handoff
from handoff_dask import AllocationError, Argument, Function, InvalidFunctionError, telemetry
from handoff_dask.graph.check import check


def fails_at_first(*values):
    if handoff.current().attempt == 1:
        raise ValueError("not yet")
    return handoff.current().cost


def claims_of(scheduler):
    """What is claimed of memory from now on, in turn, in megabytes."""
    claimed = []
    ledger = engine_of(scheduler)._ledger
    take = ledger.take

    def watched(node, amounts):
        claimed.append(dict(amounts).get("memory", 0) // 1_000_000)
        take(node, amounts)

    ledger.take = watched
    return claimed


@live(2)
async def test_it_is_asked_by_attempt_and_by_the_size_of_the_arguments(client, scheduler, worker):
    session = await handoff.start(client)
    await session.update_node_resources("0", {"memory": 4000})
    claimed = claims_of(scheduler)

    def cost(attempt, inputs):
        known = {key: nbytes // 1_000_000 for key, nbytes in inputs.items()}
        assert known == {"big": 3, "inline": 3, "given": 2, ("small", 1): 0}, known
        return {"cpu": 0.5, "memory": 100 * attempt + known["big"]}

    dag = [
        Function("given", [], None, type="input"),
        Function("big", [], bytes, extra_args=[3_000_000]),
        Function(("small", 1), [], int),
        Function("inline", ["big"], len, type="inline"),
        Function(
            "f", ["big", ("small", 1), "inline"], fails_at_first, extra_args=[Argument("given")], cost=cost
        ),
    ]

    result = await session.execute(dag, inputs={"given": bytes(2_000_000)})

    assert result["f"] == {"cpu": 0.5, "memory": 203}
    assert [mb for mb in claimed if mb] == [103, 203]
    record = {f.id: f for f in result.record.functions}["f"]
    assert record.cost == {"cpu": 0.5, "memory": 203}
    assert [cost["memory"] for cost in record.claimed] == [103, 203]
    await nothing_claimed(scheduler)


@live(2)
async def test_every_event_tells_the_cost_of_its_own_attempt(client, scheduler, worker):
    session = await handoff.start(client)
    await session.update_node_resources("0", {"memory": 4000})
    told = []

    def hear(event, measurements, metadata, config):
        cost = metadata["cost"] if "cost" in metadata else measurements["amounts"]
        told.append((event[-1], cost["memory"]))

    events = [("handoff", "execution", "function", end) for end in ("start", "retry", "stop")]
    events += [("handoff", "resources", what) for what in ("claim", "release")]
    telemetry.attach_many("costs", events, hear)
    try:
        by_attempt = Function("f", [], fails_at_first, cost=lambda attempt, inputs: {"memory": 100 * attempt})
        await session.execute([by_attempt])
        await nothing_claimed(scheduler)
    finally:
        telemetry.detach("costs")

    for event, costs in {"start": [100, 200], "retry": [100], "stop": [200]}.items():
        assert [cost for name, cost in told if name == event] == costs
    assert [cost for name, cost in told if name == "claim"] == [100, 200]
    assert [cost for name, cost in told if name == "release"] == [100, 200][
        : told.count(("release", 100)) + 1
    ]


@live(2)
async def test_what_no_node_has_is_refused_at_first_and_cut_later(client, scheduler, worker):
    session = await handoff.start(client)
    await session.update_node_resources("0", {"memory": 300})
    claimed = claims_of(scheduler)

    with pytest.raises(AllocationError, match="needs memory 500 MB, has 300 MB") as refused:
        await session.execute([Function("f", [], int, cost=lambda attempt, inputs: {"memory": 500})])
    assert (refused.value.function_id, refused.value.cost) == ("f", {"memory": 500})
    result = await session.execute(
        [Function("f", [], fails_at_first, cost=lambda attempt, inputs: {"memory": 200 * attempt})]
    )

    assert (claimed, result["f"]) == ([200, 300], {"memory": 300})
    await nothing_claimed(scheduler)


def raises(attempt, inputs):
    raise KeyError("no such size")


@pytest.mark.parametrize(
    ("cost", "why"),
    [
        (raises, r"its cost\(attempt, inputs\) raised KeyError: 'no such size'"),
        (lambda attempt, inputs: 3, "3 is not a mapping"),
        (lambda attempt, inputs: {"memory": -1}, "memory: -1 is not an amount"),
        (lambda attempt, inputs: {"cpu": "two"}, "cpu is counted"),
        (lambda attempt, inputs: exit(), "raised SystemExit"),
    ],
)
def test_a_callable_that_gives_no_cost_fails_its_own_execution(cost, why):
    @live(2)
    async def check(client, scheduler, worker):
        session = await handoff.start(client)
        with pytest.raises(AllocationError, match=why) as refused:
            await session.execute([Function("a", [], int), Function("f", ["a"], abs, cost=cost)])
        assert refused.value.function_id == "f"
        assert (await session.execute([Function("g", [], int)]))["g"] == 0
        await nothing_claimed(scheduler)

    check()


@live(2)
async def test_items_of_maps_are_asked_one_by_one_and_grow(client, scheduler, worker):
    session = await handoff.start(client)
    await session.update_node_resources("0", {"memory": 4000})
    claimed = claims_of(scheduler)
    listing = handoff.task(lambda: [1, 2])
    asked = handoff.task(lambda n: fails_at_first(), cost=lambda attempt, inputs: {"memory": 10 * attempt})
    growing = handoff.task(needs, cost={"memory": handoff.growing(100)})
    with handoff.DAG("maps") as dag:
        numbers = listing()
        one, other = asked.expand(numbers), growing.expand(numbers)

    result = await session.execute(dag)

    assert result[one.id] == [{"memory": 20}] * 2
    assert result[other.id] == [1, 2]
    assert set(claimed) == {0, 10, 20, 100, 200}
    await nothing_claimed(scheduler)


def needs(n):
    if handoff.current().attempt == 1:
        raise MemoryError("not enough")
    return n


@live(1, 1)
async def test_a_strategy_of_the_users_own_sees_what_was_answered(client, scheduler, *workers):
    session = await handoff.start(client)

    def select(function, nodes):
        return {0.25: nodes[0].name, 0.5: nodes[-1].name}[function.cost["cpu"]]

    quarter, half = lambda a, i: {"cpu": 0.25}, lambda a, i: {"cpu": 0.5}
    dag = [Function("quarter", [], int, cost=quarter), Function("half", [], int, cost=half)]

    result = await session.execute(dag, allocation_strategy=select)

    assert result.allocations == {"quarter": "0", "half": "1"}


@live(1, 2)
async def test_functions_that_share_a_node_are_asked_and_grow_too(client, scheduler, *workers):
    session = await handoff.start(client)
    dag = [
        Function("a", [], int, cost=lambda attempt, inputs: {"cpu": 1}),
        Function("b", ["a"], abs, cost=lambda attempt, inputs: {"cpu": 1}, node=("collocated", "a")),
        Function("c", ["b"], abs, cost=lambda attempt, inputs: {"cpu": 5}, node=("collocated", "a")),
    ]

    result = await session.execute(dag[:2])
    assert result.allocations["a"] == result.allocations["b"]
    with pytest.raises(AllocationError, match="needs cpu 5"):
        await session.execute(dag)
    await session.update_node_resources("0", {"memory": 300})
    await session.update_node_resources("1", {"memory": 4000})
    growing = Function("b", ["a"], needs, cost={"memory": handoff.growing(200)}, node=("collocated", "a"))
    result = await session.execute([Function("a", [], int, node="0"), growing])
    assert result.record.functions[1].cost == {"memory": 300}
    await nothing_claimed(scheduler)


def test_local_executions_and_checks_know_no_cost_beforehand():
    dag = [Function("f", [], int, cost=lambda attempt, inputs: {"cpu": 100})]

    assert handoff.execute_local(dag)["f"] == 0
    assert check(dag, {"a": {"cpu": 1}}).ok
    assert handoff.visualization.dag_graph(dag).nodes[0]["cost"] == {}


def too_few(attempt):
    return {}


def too_many(attempt, inputs, node):
    return {}


@pytest.mark.parametrize("cost", [too_few, too_many, "cpu", 3])
def test_what_cannot_be_asked_is_refused(cost):
    with pytest.raises(InvalidFunctionError, match="its cost is wrong"):
        Function("f", [], int, cost=cost)
