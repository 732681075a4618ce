"""``handoff.devices()`` inside functions, on nodes with pretended devices."""

from __future__ import annotations

import threading

from clusters import live, nothing_claimed

import handoff_dask as handoff
from handoff_dask import Function

_together = threading.Barrier(3, timeout=20)


def seen():
    _together.wait()
    return handoff.devices()["gpu"]


def asked():
    return handoff.devices(), handoff.current().devices


@live(4)
async def test_functions_that_run_at_once_have_different_devices(client, scheduler, worker):
    session = await handoff.start(client)
    await session.update_node_resources("0", {"gpu": 2})

    halves = [Function(n, [], seen, cost={"gpu": 0.5}) for n in ("a", "b")]
    result = await session.execute([*halves, Function("c", [], seen, cost={"gpu": 1})])

    assert sorted(result.results.values()) == [[0], [0], [1]]
    assert result["a"] == result["b"]
    result = await session.execute([Function(i, [], asked, cost={"gpu": i}) for i in range(3)])
    assert result.results == {i: ({"gpu": [*range(i)]},) * 2 if i else ({}, {}) for i in range(3)}
    await nothing_claimed(scheduler)


@live(1)
async def test_whoever_claims_none_has_none(client, scheduler, worker):
    session = await handoff.start(client)

    assert (await session.execute([Function("f", [], asked)])).results == {"f": ({}, {})}
    assert handoff.devices() == {}
    assert handoff.execute_local([Function("f", [], handoff.devices)]).results == {"f": {}}
