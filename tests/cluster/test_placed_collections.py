"""Arrays and frames on real workers: what is made at a cost is placed, and nothing else is."""

from __future__ import annotations

import dask
import dask.array as da
import pandas as pd
import pytest
from clusters import all_forgotten, live, nothing_claimed
from dask.utils import key_split
from stage import until

import handoff_dask as handoff
from handoff_dask.testing import capture_telemetry

dd = pytest.importorskip("dask.dataframe")
GPU = {"worker_kwargs": {"resources": {"gpu": 1}}}


def double(part):
    return part * 2


def frame():
    return dd.from_pandas(pd.DataFrame({"x": range(8), "y": [0, 1] * 4}), npartitions=4)


async def placed(captured, scheduler):
    """The code of what was placed, once all that was claimed is known to be returned."""

    def balanced():
        claims, releases = (
            [e for e in captured if e.event[1:] == ("resources", what)] for what in ("claim", "release")
        )
        return len(claims) == len(releases)

    await nothing_claimed(scheduler)
    await until(balanced, lambda: "not told of every release")
    found = [e.metadata["function_id"] for e in captured if e.event[1:] == ("allocation", "function")]
    return sorted(map(key_split, found))


@live(2, 2, **GPU)
async def test_partitions_of_a_frame_are_placed(c, s, a, b):
    with capture_telemetry() as captured:
        async with handoff.Handoff(c, dask_tasks="place"):
            before = frame() + 1
            with handoff.cost({"gpu": 1}):
                middle = before.map_partitions(double)
            assert (await c.compute((middle + 1).x.sum())) == 80
            assert await placed(captured, s) == ["double"] * 4
            kept = c.persist(middle)
            assert (await c.compute(kept.x.sum())) == 72
            del kept, middle
            await all_forgotten(s)


@live(2, 2, **GPU)
async def test_a_shuffle_of_dask_goes_where_dask_sends_it(c, s, a, b):
    """P2P restricts what takes the shards to workers of its own choice."""
    with capture_telemetry() as captured:
        async with handoff.Handoff(c, dask_tasks="place"):
            before = frame()
            with handoff.cost({"gpu": 1}), dask.config.set({"dataframe.shuffle.method": "p2p"}):
                shuffled = before.shuffle("y")
            assert len(await c.compute(shuffled)) == 8
            # Dask finds out at first to which of the parts each row belongs.
            assert await placed(captured, s) == ["operation"] * 4 + ["shuffle-transfer"] * 4
            with dask.annotate(resources={"gpu": 1}):
                ones = da.ones((8, 8), chunks=(2, 8))
                turned = ones.rechunk((8, 2), method="p2p")
            assert (await c.compute(turned.sum())) == 64


@live(2, 2, **GPU)
async def test_blocks_of_an_array_between_two_others_are_placed(c, s, a, b):
    """dask#7036, dask#10325."""
    with capture_telemetry() as captured:
        async with handoff.Handoff(c, dask_tasks="place"):
            before = da.ones((4, 4), chunks=2) + 1
            with handoff.cost({"gpu": 1}):
                middle = before.map_blocks(double)
            assert (await c.compute((middle + 1).sum())) == 80
            assert await placed(captured, s) == ["double"] * 4
