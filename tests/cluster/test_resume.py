"""Executions that go on from what an earlier one has left on the cluster."""

from __future__ import annotations

from pathlib import Path

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


RATE = [2]


def scaled(n):
    ran.append(("scaled", n))
    return n * RATE[0]


@live(1, 1)
async def test_what_is_changed_after_the_submission_is_not_taken_for_what_ran(c, s, a, b):
    """A list that the code reads, and one that is a value, are changed in place while it runs."""
    values = [1]

    def dag():
        return [
            Function("scaled", [], scaled, extra_args=[1]),
            Function("sum", [], sum, extra_args=[values]),
            Function("plain", [], load, extra_args=[7]),
            Function("last", ["scaled", "sum", "plain"], broken, max_retries=0),
        ]

    RATE[:] = [2]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag())
        RATE[:] = [3]
        values.append(2)
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        ran.clear()
        result = await session.execute(dag()[:-1], resume=execution)
    assert result.reused == {"plain"}
    assert (result.results["scaled"], result.results["sum"]) == (3, 3)


@live(1, 1)
async def test_a_file_that_has_changed_since_is_read_again(c, s, a, b, tmp_path):
    path = tmp_path / "one"
    path.write_text("old")

    def dag(last=broken):
        content = Function("read", [], lambda file: Path(file).read_text(), extra_args=[handoff.File(path)])
        return [content, Function("last", ["read"], last, max_retries=0)]

    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag())
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        await execution.fingerprints_noted()
        assert (await session.execute(dag(len), resume=execution)).reused == {"read"}
        path.write_text("newer")
        result = await session.execute(dag(len), resume=execution)
    assert (result.reused, result.results["last"]) == (frozenset(), 5)


@live(1, 1)
async def test_what_ended_well_and_soon_can_be_resumed_too(c, s, a, b):
    async with handoff.Handoff(c) as session:
        first = await session.execute(job(mended))
        ran.clear()
        result = await session.execute(job(mended), resume="job")
        assert (ran, result.results, result.reused) == ([], first.results, {*LOADED, "last"})
        execution = await session.submit(job(mended), resume="job")
        assert (await execution).reused == {*LOADED, "last"}
        result = await session.execute(job(mended, extra=7), resume=execution)
    assert result.reused == {("load", 0)}


@live(1, 1)
async def test_what_an_earlier_run_reused_is_reused_again(c, s, a, b):
    """A bug that is mended at the third try: what the first run has computed is not lost."""
    async with handoff.Handoff(c) as session:
        one = await session.submit(job(broken))
        with pytest.raises(handoff.FunctionFailedError):
            await one
        two = await session.submit(job(raising), resume=one)
        with pytest.raises(handoff.FunctionFailedError):
            await two
        ran.clear()
        for earlier in (two, "job"):
            result = await session.execute(job(mended), resume=earlier)
            assert result.reused >= set(LOADED)
    assert ran == ["mended"]


def raising(*values):
    raise KeyError("still not")


@live(1, 1)
async def test_why_it_would_run_again(c, s, a, b):
    async with handoff.Handoff(c) as session, handoff.Handoff(c) as other:
        execution = await session.submit(job(broken))
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        assert {i: r.kind for i, r in (await session.why_rerun(job(mended), resume=execution)).items()} == {
            **dict.fromkeys(LOADED, "reused"),
            "last": "new",
        }
        ran.clear()
        changed = job(broken, extra=7).add_function(Function("more", [], load, cache=False, extra_args=[1]))
        for reasons in (
            await session.why_rerun(changed, resume="job"),
            await other.why_rerun(changed, resume="job"),
        ):
            assert {i: (r.kind, str(r)) for i, r in reasons.items()} == {
                ("load", 0): ("reused", "its result is on the cluster"),
                ("load", 1): ("value", "extra_args[0] has changed"),
                ("load", 2): ("value", "extra_args[0] has changed"),
                "last": ("argument", "its argument ('load', 1), its argument ('load', 2) have changed"),
                "more": ("off", "it has cache=False"),
            }
        assert str((await session.why_rerun(job(broken), resume="job"))["last"]) == (
            "its result is no longer on the cluster"
        )
        assert ran == []
        for options in ({}, {"cache": "memory://x", "resume": "job"}):
            with pytest.raises(handoff.errors.ValidationError, match="either cache= or resume="):
                await session.why_rerun(job(broken), **options)
        with pytest.raises(handoff.NotFoundError):
            await session.why_rerun(job(broken), resume="nobody")


def test_why_it_would_run_again_from_a_script():
    """The plain function, with a default session; a value has changed."""
    with handoff.start(nodes={"a": {"cpu": 1}}):
        execution = handoff.submit(
            handoff.DAG("script").add_function(Function("a", [], load, extra_args=[1]))
        )
        execution.result()
        again = [Function("a", [], load, extra_args=[2])]
        assert handoff.why_rerun(again, resume="script")["a"].names == ("extra_args[0]",)
        assert handoff.why_rerun(again, resume=execution)["a"].kind == "value"
        assert handoff.why_rerun(again, cache="memory://nothing")["a"].kind == "new"
