"""Executions that go on from what an earlier one has left on the cluster."""

from __future__ import annotations

import pytest
from clusters import all_forgotten, live
from stage import until

import handoff_dask as handoff
from handoff_dask import Function


class Ran(list):
    """What has run, by name; no code depends on it."""

    def __handoff_value__(self):
        return None


ran = Ran()


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()


def load(n):
    ran.append(("load", n))
    return n


def broken(*values):
    ran.append("broken")
    raise ValueError("no")


def mended(*values):
    ran.append("mended")
    return sum(values)


def job(last, extra=1):
    dag = handoff.DAG("job")
    for n in range(3):
        dag.add_function(Function(("load", n), [], load, extra_args=[n * extra]))
    return dag.add_function(Function("last", [("load", n) for n in range(3)], last, max_retries=0))


LOADED = {("load", n): n for n in range(3)}


@pytest.mark.parametrize("by", ["execution", "id"])
@live(1, 1)
async def test_only_what_failed_runs_again(c, s, a, b, by):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(job(broken))
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        ran.clear()
        result = await session.execute(job(mended), resume=execution if by == "execution" else "job")
        assert (ran, result.results) == (["mended"], {**LOADED, "last": 3})
        assert result.reused == set(LOADED)
        assert set(result.timings) == {"last"}
        ran.clear()
        result = await session.execute(job(mended, extra=2), resume=execution, outputs=["last"])
        assert (sorted(ran, key=str), result.results) == ([("load", 4), "mended"], {"last": 6})
        del execution, result
    await all_forgotten(s)


@live(1, 1)
async def test_another_client_resumes_by_id(c, s, a, b):
    async with handoff.Handoff(c) as session, handoff.Handoff(c) as other:
        execution = await session.submit(job(broken))
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        await execution.fingerprints_noted()
        ran.clear()
        result = await other.execute(job(mended), resume="job")
    assert (ran, result.results["last"]) == (["mended"], 3)


@live(1, 1)
async def test_with_a_cache_too(c, s, a, b, tmp_path):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(job(broken), cache=tmp_path)
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        ran.clear()
        await session.execute(job(mended), resume=execution, cache=tmp_path)
        assert ran == ["mended"]
        ran.clear()
        result = await session.execute(job(mended), cache=tmp_path)
    assert (ran, result.results) == ([], {**LOADED, "last": 3})


@live(1, 1)
async def test_what_was_cancelled_can_be_resumed(c, s, a, b, stage):
    dag = [Function("a", [], load, extra_args=[1]), stage.function("slow", args=["a"])]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await until(lambda: bool(stage.story))
        await execution.cancel()
        stage.cue("slow")
        ran.clear()
        result = await session.execute(dag, resume=execution)
    assert (ran, result.results) == ([], {"a": 1, "slow": "slow"})


@live(1)
async def test_nothing_to_resume(c, s, a):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.NotFoundError, match="'nobody'"):
            await session.execute(job(mended), resume="nobody")
