"""Executions with a cache: what runs, what is read, and by whom."""

from __future__ import annotations

import asyncio
import pathlib

import pytest
from clusters import all_forgotten, live, nothing_claimed
from stage import until

import handoff_dask as handoff
from handoff_dask import Argument, Cache, File, Function
from handoff_dask.reuse.cache import DamagedCacheWarning
from handoff_dask.testing import capture_telemetry


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


def double(value):
    ran.append(("double", value))
    return 2 * value


def total(*values):
    ran.append("total")
    return sum(values)


def mean(*values):
    ran.append("mean")
    return sum(values) / len(values)


def tagged(value, source, target):
    ran.append("tagged")
    return value + 1


def read(path):
    ran.append("read")
    with open(path) as file:
        return file.read()


def write(text, folder):
    ran.append("write")
    path = pathlib.Path(folder) / "out.txt"
    path.write_text(text.upper())
    return File(path)


def files(last=total, **fields):
    dag = handoff.DAG("files")
    for n in range(4):
        dag.add_function(Function(("load", n), [], load, extra_args=[n], cost={"cpu": 1}))
        dag.add_function(Function(("double", n), [("load", n)], double, cost={"cpu": 1}))
    return dag.add_function(Function("last", [("double", n) for n in range(4)], last, **fields))


ALL = {("load", n): n for n in range(4)} | {("double", n): 2 * n for n in range(4)} | {"last": 12}


def entries(folder):
    return sorted(pathlib.Path(folder).glob("entries/*/*"))


@live(1, 1)
async def test_nothing_runs_twice(c, s, a, b, tmp_path):
    async with handoff.Handoff(c) as session:
        first = await session.execute(files(), cache=tmp_path)
        assert (first.results, first.reused) == (ALL, set())
        ran.clear()
        again = await session.execute(files(), cache=str(tmp_path))
        assert (again.results, again.reused) == (ALL, set(ALL))
        assert (ran, again.timings, again.allocations) == ([], {}, {})
        assert {f.status for f in again.record.functions} == {"reused"}
        execution = await session.submit(files(), cache=Cache(tmp_path))
        assert await execution.get_result("last") == 12
        assert {i: v async for i, v in execution.as_completed()} == ALL
        assert await session.get_result("files", "last") == 12
    assert ran == []


@live(1, 1)
async def test_only_what_has_changed_runs(c, s, a, b, tmp_path):
    async with handoff.Handoff(c) as session:
        await session.execute(files(), cache=tmp_path)
        ran.clear()
        result = await session.execute(files(mean), cache=tmp_path)
        assert ran == ["mean"]
        assert result.results == {**ALL, "last": 3}
        assert result.reused == set(ALL) - {"last"}
        assert set(result.timings) == set(result.allocations) == {"last"}
        ran.clear()
        result = await session.execute(files(mean, version=2), cache=tmp_path, outputs=["last"])
        assert (ran, result.results) == (["mean"], {"last": 3})
        assert result.reused == set(ALL) - {"last"}
        await nothing_claimed(s)
        assert await session.execute(files(cache=False), cache=tmp_path)
        assert ran.pop() == "total"
    await all_forgotten(s)


@live(1, 1)
async def test_a_failed_run_goes_on_where_it_was(c, s, a, b, tmp_path):
    def breaks(*values):
        raise ValueError("no")

    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError):
            await session.execute(files(breaks), cache=tmp_path, max_retries=0)
        ran.clear()
        result = await session.execute(files(), cache=tmp_path)
    assert (ran, result.results) == (["total"], ALL)


@live(1, 1)
async def test_failures_are_not_kept(c, s, a, b, tmp_path):
    def seen(*values):
        return [type(v).__name__ for v in values]

    dag = [
        Function("bad", [], load_if, extra_args=[5], max_retries=0),
        Function("seen", ["bad"], seen, accept_failed=True),
    ]
    allowed.clear()
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, cache=tmp_path, on_failure="return")
        assert result.results == {"seen": ["Failed"]}
        allowed.append(5)
        result = await session.execute(dag, cache=tmp_path, on_failure="return")
        assert (result.results, result.reused) == ({"bad": 5, "seen": ["int"]}, set())


allowed = Ran()


def load_if(n):
    if n not in allowed:
        raise ValueError("not yet")
    return n


@live(1, 1)
async def test_one_flipped_byte_in_each_entry(c, s, a, b, tmp_path):
    """Damage is never returned, whether the caller or a function needs the value."""
    async with handoff.Handoff(c) as session:
        await session.execute(files(), cache=tmp_path)
        for last, outputs in ((total, None), (mean, ["last"])):
            whole = entries(tmp_path)
            for n, path in enumerate(whole):
                data = bytearray(path.read_bytes())
                data[(n * 37) % len(data)] ^= 1
                path.write_bytes(data)
            ran.clear()
            with pytest.warns(DamagedCacheWarning, match="is computed again"):
                result = await session.execute(files(last), cache=tmp_path, outputs=outputs)
            expected = {**ALL, "last": 3 if last is mean else 12}
            assert result.results == {i: expected[i] for i in outputs or ALL}
            ran.clear()
            # What was not needed is not read, and stays damaged.
            again = await session.execute(files(last), cache=tmp_path, outputs=outputs)
            assert (again.results, ran) == (result.results, [])
        await nothing_claimed(s)


@live(1, 1)
async def test_entries_that_go_after_the_run_began(c, s, a, b, tmp_path):
    """What was there when it was looked for, and is gone when a node reads it."""
    async with handoff.Handoff(c) as session:
        await session.execute(files(), cache=tmp_path)
        for path in entries(tmp_path):
            path.write_bytes(b"")
        ran.clear()
        with pytest.warns(DamagedCacheWarning):
            result = await session.execute(files(mean), cache=tmp_path, outputs=["last"])
        assert result.results == {"last": 3}
        assert sorted(map(str, ran)) == sorted(map(str, [*(i for i in ALL_RUN), "mean"]))


ALL_RUN = [("load", n) for n in range(4)] + [("double", n) for n in range(4)]


@live(1, 1)
async def test_arguments_on_their_way_order_and_inline_functions(c, s, a, b, tmp_path):
    def dag(last):
        return [
            Function("a", [], load, extra_args=[1], node="0"),
            Function("half", ["a"], lambda v: v / 2, type="inline"),
            Function("b", [Argument("a", (tagged,)), "half"], last, node="1", after=["first"]),
            Function("first", [], load, extra_args=[9]),
        ]

    async with handoff.Handoff(c) as session:
        first = await session.execute(dag(total), cache=tmp_path)
        ran.clear()
        again = await session.execute(dag(mean), cache=tmp_path)
        assert ran == ["tagged", "mean"]
        ran.clear()
        third = await session.execute(dag(mean), cache=tmp_path)
    assert (first.results["b"], again.results["b"], third.results["b"]) == (2.5, 1.25, 1.25)
    assert (ran, third.reused) == ([], {"a", "b", "first"})


@live(1, 1)
async def test_what_is_reused_needs_no_node(c, s, a, b, tmp_path):
    """A cluster without the large node can go on with what was computed there."""
    async with handoff.Handoff(c) as session:
        await session.register_node("1", {"gpu": 1, "cpu": 1})

        def dag(last):
            return [
                Function("a", [], load, extra_args=[1], cost={"gpu": 1}, node="1"),
                Function("b", ["a"], last, cost={"cpu": 1}),
            ]

        await session.execute(dag(total), cache=tmp_path)
        await session.register_node("1", {"cpu": 1})
        result = await session.execute(dag(mean), cache=tmp_path)
    assert result.results == {"a": 1, "b": 1}


@live(1, 1)
async def test_telemetry_tells_what_is_reused(c, s, a, b, tmp_path):
    async with handoff.Handoff(c) as session:
        await session.execute(files(), cache=tmp_path)
        with capture_telemetry() as captured:
            await session.execute(files(mean), cache=tmp_path)
            await session.execute(files(), cache=tmp_path)
    reused = captured.of(("handoff", "execution", "function", "reused"))
    assert len(reused) == 8 + 9
    assert {e.metadata["function_id"] for e in reused[:8]} == set(ALL) - {"last"}
    starts = captured.of(("handoff", "execution", "function", "start"))
    assert [e.metadata["function_id"] for e in starts] == ["last"]
    assert {e.metadata["function_id"] for e in captured.of(("handoff", "allocation"))} == {"last"}


@live(1, 1)
async def test_runs_at_once_share_a_cache(c, s, a, b, tmp_path):
    async with handoff.Handoff(c) as session:
        results = await asyncio.gather(*(session.execute(files(), cache=tmp_path) for _ in range(4)))
        assert all(r.results == ALL for r in results)


@live(1, 1)
async def test_files_and_inputs(c, s, a, b, tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("one")
    dag = [
        Function("source", [], None, type="input"),
        Function("text", ["source"], read),
        Function("out", ["text"], write, extra_args=[str(tmp_path)]),
    ]
    async with handoff.Handoff(c) as session:

        async def run():
            ran.clear()
            result = await session.execute(dag, inputs={"source": File(source)}, cache=tmp_path / "cache")
            return list(ran), pathlib.Path(result.results["out"]).read_text()

        assert await run() == (["read", "write"], "ONE")
        assert await run() == ([], "ONE")
        source.write_text("two")
        assert await run() == (["read", "write"], "TWO")
        (tmp_path / "out.txt").write_text("spoiled")
        with pytest.warns(DamagedCacheWarning, match="out.txt"):
            assert await run() == (["write"], "TWO")


@live(1)
async def test_what_cannot_be_kept_is_no_failure(c, s, a, tmp_path):
    def makes():
        return (n for n in range(3))

    dag = [Function("a", [], makes), Function("b", ["a"], list)]
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, cache=tmp_path, outputs=["b"])
    assert result.results == {"b": [0, 1, 2]}


@pytest.mark.parametrize("cache", [3, "", "nowhere://x"])
def test_other_caches_are_refused(cache):
    with pytest.raises(handoff.ValidationError, match="cache"):
        handoff.execute_local([], cache=cache)


def test_in_this_process(tmp_path):
    first = handoff.execute_local(files(), cache=tmp_path)
    ran.clear()
    second = handoff.execute_local(files(mean), cache=tmp_path)
    assert (first.results, ran, second.results["last"]) == (ALL, ["mean"], 3)
    assert second.reused == set(ALL) - {"last"} == set(ALL) - set(second.timings)
    for path in entries(tmp_path):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.warns(DamagedCacheWarning):
        assert handoff.execute_local(files(), cache=tmp_path).results == ALL


@live(1, 1)
async def test_a_result_that_is_lost_with_its_node_is_read_not_computed(c, s, a, b, tmp_path, stage):
    dag = [
        stage.function("slow", node="1", cost={"cpu": 1}, priority=9),
        Function("made", [], load, extra_args=[4], cost={"cpu": 1}),
        Function("both", ["made", "slow"], lambda made, slow: made),
    ]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag, cache=tmp_path, outputs=["both"])
        await stage.sees("slow")
        (made,) = [task for key, task in s.tasks.items() if key.startswith("load")]
        await until(lambda: made.state == "memory")
        (holder,) = made.who_has
        await s.remove_worker(holder.address, stimulus_id="test-kill")
        stage.cue("slow")
        result = await execution
    assert result.results == {"both": 4}
    assert ran == [("load", 4)]
