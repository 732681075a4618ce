"""Costs that grow after a want of memory."""

from __future__ import annotations

import pickle
import time

import pytest
from clusters import live, nothing_claimed
from stage import Stage

import handoff_dask as handoff
from handoff_dask import Function, FunctionFailedError, MemoryExceededError, ValidationError, growing
from handoff_dask.resources import Cost


def needs(megabytes):
    """Runs out of memory in its first two attempts."""
    if handoff.current().attempt < 3:
        raise MemoryError("not enough")
    return megabytes


def holds(megabytes):
    return len(bytearray(int(megabytes * 1_000_000)))


@live(2)
async def test_each_attempt_claims_more(client, scheduler, worker):
    session = await handoff.start(client)
    await session.update_node_resources("0", {"memory": 4000})
    claimed = []
    engine = scheduler.plugins["handoff"].driver.engine
    take = engine._ledger.take

    def watched(node, amounts):
        claimed.append(dict(amounts).get("memory", 0) // 1_000_000)
        take(node, amounts)

    engine._ledger.take = watched
    cost = {"memory": growing(100, factor=3)}

    result = await session.execute([Function("f", [], needs, extra_args=[7], cost=cost)])

    assert (result["f"], result.timings["f"].attempts) == (7, 3)
    assert claimed == [100, 300, 900]
    await nothing_claimed(scheduler)


@live(2)
async def test_an_isolated_function_that_needs_much_ends_well(client, scheduler, worker):
    session = await handoff.start(client)
    await session.update_node_resources("0", {"memory": 4000})
    cost = {"memory": growing("150 MB", factor=6)}

    result = await session.execute([Function("f", [], holds, extra_args=[600], cost=cost, isolated=True)])

    assert result["f"] == 600_000_000
    assert result.usage["f"].peak_memory_mb > 550
    await nothing_claimed(scheduler)


@pytest.mark.parametrize(("most", "why"), [(None, "no node has more memory"), (250, "up to 250 MB only")])
def test_it_never_claims_more_than_there_is(most, why):
    @live(2)
    async def check(client, scheduler, worker):
        session = await handoff.start(client)
        await session.update_node_resources("0", {"memory": 300})
        cost = {"memory": growing(200, upto=most)}
        function = Function("f", [], hoards, cost=cost, isolated=True, max_retries=1)

        with pytest.raises(FunctionFailedError, match=why) as failed:
            await session.execute([function])

        assert isinstance(failed.value.__cause__, MemoryExceededError)
        assert failed.value.__cause__.claimed == (most or 300)
        await nothing_claimed(scheduler)

    check()


def hoards():
    """Takes more and more, until it is ended."""
    held = []
    for _ in range(200):
        held.append(bytearray(5_000_000))
        time.sleep(0.01)
    return len(held)


@live(2)
async def test_other_failures_leave_it_as_it_is(client, scheduler, worker):
    session = await handoff.start(client)
    await session.update_node_resources("0", {"memory": 300})
    stage = Stage()
    wrong = stage.quick("f", value=ValueError("memory"), cost={"memory": growing(200)}, max_retries=1)

    with pytest.raises(FunctionFailedError, match="ValueError"):
        await session.execute([wrong])

    assert stage.started == ["f", "f"]
    assert not next(iter(scheduler.plugins["handoff"].views.ended()))._changed
    stage.close()


def test_it_is_a_number_that_says_how_it_grows():
    amount = growing("500 MB", upto="4 GB")

    assert (amount, amount.factor, amount.upto) == (500, 2.0, 4000)
    assert repr(pickle.loads(pickle.dumps(amount))) == "growing(500, factor=2, upto=4000)"
    assert Cost.parse({"memory": amount}) == Cost.parse({"memory": 500})


@pytest.mark.parametrize(
    "wrong", [(0,), (-1,), ("500",), (500, 1), (500, float("inf")), (500, "2"), (500, 2, 100)]
)
def test_what_cannot_grow_is_refused(wrong):
    with pytest.raises(ValidationError):
        growing(*wrong)
