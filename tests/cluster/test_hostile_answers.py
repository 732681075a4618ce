"""Strategies and trackers that answer anything: their own session is told, and nobody else is harmed."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from clusters import live, nothing_claimed

import handoff_dask as handoff
from handoff_dask import AllocationError, Function
from tests.hostile.anything import MAKERS, object_without

#: Seconds within which each of these executions ends, one way or the other.
ENDS_S = 20.0

#: What a strategy or tracker may answer beside: values that look nearly right.
NEARLY = (
    lambda: "0",
    lambda: "nobody",
    lambda: b"0",
    lambda: 0,
    lambda: ["0"],
    lambda: {"f": "0"},
    lambda: {"f": 0},
    lambda: {"g": "0"},
    lambda: {("f",): "0"},
    dict,
    lambda: True,
    lambda: False,
    lambda: object_without("__repr__"),
    lambda: type("Odd", (dict,), {"items": object_without})(f="0"),
)
ANSWERS = (*NEARLY, *MAKERS)


class Selects:
    """A strategy that answers with one of these."""

    def __init__(self, number: int) -> None:
        self.number = number

    def select(self, function, nodes):
        return ANSWERS[self.number]()


class Allocates(Selects):
    """The same, asked once for the whole DAG."""

    select = None

    def allocate(self, functions, capabilities):
        return ANSWERS[self.number]()


class Costs(Selects):
    """A cost that is asked."""

    def __call__(self, attempt, inputs):
        return ANSWERS[self.number]()


def asks(kind, number):
    """An execution that asks somebody who answers with one of these."""
    if kind is Costs:
        return {"dag": [Function("f", [], int, cost=Costs(number))]}
    return {"dag": [Function("f", [], int)], "allocator": kind(number)}


some_and_all = pytest.mark.parametrize(
    "count", [len(NEARLY), pytest.param(len(ANSWERS), marks=pytest.mark.slow, id="all")]
)


@some_and_all
@pytest.mark.parametrize("kind", [Selects, Allocates, Costs])
def test_whatever_is_answered_on_the_scheduler(kind, count):
    @live(2)
    async def scene(client, scheduler, worker):
        async with handoff.Handoff(client) as session:
            for number in range(count):
                execution = await session.submit(**asks(kind, number))
                with suppress(AllocationError):
                    assert (await execution.result(timeout=ENDS_S)).results == {"f": 0}
                assert (await session.execute([Function("calm", [], int)], timeout=ENDS_S)).results == {
                    "calm": 0
                }
            await nothing_claimed(scheduler)

    scene()


class Tracker(handoff.SimpleResourceTracker):
    """A tracker that answers with one of these."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def request(self, node, req):
        return ANSWERS[self.number]()

    def available(self, node, req):
        return ANSWERS[self.number]()

    def get_capabilities(self, node=None):
        return ANSWERS[self.number]()


@some_and_all
def test_whatever_a_tracker_answers(count):
    @live(2)
    async def scene(client, scheduler, worker):
        calm = await handoff.Handoff(client).start()
        for number in range(count):
            async with (
                await type(client)(scheduler.address, asynchronous=True, set_as_default=False) as own,
                handoff.Handoff(own, resource_tracker=Tracker(number)) as session,
            ):
                execution = await session.submit([Function("f", [], int)])
                try:
                    # Some answers are false: no room now.
                    result = await asyncio.wait_for(execution.result(), 0.2)
                except asyncio.TimeoutError:
                    await execution.cancel()
                except AllocationError:
                    pass
                else:
                    assert result.results == {"f": 0}
                assert (await calm.execute([Function("calm", [], int)], timeout=ENDS_S)).results == {
                    "calm": 0
                }
        await nothing_claimed(scheduler)

    scene()
