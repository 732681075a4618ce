"""Functions that execute DAGs of their own: what they hold meanwhile, and whose end is whose."""

from __future__ import annotations

import dask
import pytest
from clusters import all_forgotten, engine_of, live, nothing_claimed
from distributed import Client, get_client
from stage import until

import handoff_dask as handoff
from handoff_dask import Function

#: What the functions of a test leave for it.
seen: dict[str, object] = {}


@pytest.fixture(autouse=True)
def nothing_seen():
    seen.clear()


def executes(dag, note=None, **options):
    """Execute a DAG inside a function, by its worker's client."""
    try:
        return sum(handoff.execute(dag, client=get_client(), **options).results.values())
    except BaseException as error:
        seen[note] = error
        raise


def outer(name, dag, *, cost=None, **options):
    return Function(name, [], executes, extra_args=[dag, name], kwargs=options, cost=cost)


def one():
    return 1


ONE = [Function(i, [], one, cost={"cpu": 1}) for i in range(4)]


@pytest.mark.parametrize("depth", [1, 3])
@live(2, 2)
async def test_ancestors_do_not_hold_the_cores_that_their_functions_need(c, s, a, b, depth):
    for _ in range(depth):
        dag = [outer(i, ONE, cost={"cpu": 1}) for i in range(3)]
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, timeout=30)
        assert result.results == dict.fromkeys(range(3), 4)
        await nothing_claimed(s)


@live(3)
async def test_who_has_waited_goes_on_only_where_there_is_room(c, s, a, stage):
    """Others have taken the cores meanwhile; what has not begun by then comes after it."""
    inner = [stage.function("inner", value=1, cost={"cpu": 2})]
    async with handoff.Handoff(c) as session:
        await session.update_node_resources("0", {"cpu": 2})
        mine = await session.submit([outer("outer", inner, cost={"cpu": 2})])
        await stage.sees("inner")
        others = [stage.function(name, cost={"cpu": 2}) for name in ("other", "third")]
        other = await session.submit(others)
        stage.cue("inner")
        await stage.sees("other")
        used = engine_of(s).nodes
        await until(lambda: used()["0"].used["cpu"] == 4_000_000, lambda: used()["0"])
        assert mine.status == "running"
        stage.cue("other")
        assert (await mine).results == {"outer": 1}
        await stage.sees("third")
        stage.cue("third")
        await other
        await nothing_claimed(s)


@live(2)
async def test_several_that_go_on_at_once_do_so_one_after_the_other(c, s, a):
    async with handoff.Handoff(c) as session:
        await session.update_node_resources("0", {"cpu": 1})
        dag = [outer(i, [Function("in", [], one, cost={"cpu": 1})], cost={"cpu": 1}) for i in range(4)]
        assert (await session.execute(dag, timeout=30)).results == dict.fromkeys(range(4), 1)
        await nothing_claimed(s)


# ---------------------------------------------------------------------- deadlocks


@live(2, 2)
async def test_what_can_never_start_because_of_its_ancestors_is_refused(c, s, a, b):
    inner = [Function("inner", [], one, cost={"memory": 600})]
    async with handoff.Handoff(c) as session:
        for node in "01":
            await session.update_node_resources(node, {"memory": 1000})
        dag = [outer(name, inner, cost={"memory": 600}) for name in ("outer", "second")]
        # One of them would do: its function goes to the other node.
        assert (await session.execute(dag[:1], timeout=30)).results == {"outer": 1}
        # Two hold what both need.
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await session.execute(dag, timeout=30, max_retries=0)
        cause = caught.value.__cause__
        assert isinstance(cause, handoff.AllocationError)
        assert "can never start because of what functions hold that wait for its execution" in str(cause)
        assert "holds memory 600 of" in str(cause)
        await nothing_claimed(s)


@live(2)
async def test_a_node_that_comes_in_time_ends_a_deadlock(c, s, a):
    inner = [Function("inner", [], one, cost={"licence": 1})]
    async with handoff.Handoff(c) as session:
        await session.update_node_resources("0", {"licence": 1})
        with dask.config.set({"handoff.allocation-timeout": 20}):
            execution = await session.submit([outer("outer", inner, cost={"licence": 1})])
        plugin = s.plugins["handoff"]
        await until(lambda: plugin.nested._since, lambda: "no deadlock was seen")
        await session.update_node_resources("0", {"licence": 2})
        assert (await execution).results == {"outer": 1}


# ---------------------------------------------------------------------- parents and children


async def _inner_is_cancelled(session, s, stage, end):
    execution = await session.submit([outer("outer", [stage.function("inner", value=1)], cost={"cpu": 1})])
    await stage.sees("inner")
    await end(execution)
    await until(lambda: "outer" in seen, lambda: "the inner execution goes on")
    assert isinstance(seen["outer"], handoff.ExecutionCancelledError)
    stage.cue("inner")
    await nothing_claimed(s)
    await all_forgotten(s)


@live(2, 2)
async def test_who_is_cancelled_takes_its_executions_along(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        await _inner_is_cancelled(session, s, stage, lambda execution: execution.cancel())


@live(2, 2)
async def test_who_fails_takes_its_executions_along(c, s, a, b, stage):
    async def fail(execution):
        stage.cue("bad")
        with pytest.raises(handoff.FunctionFailedError):
            await execution

    async with handoff.Handoff(c) as session:
        dag = [
            outer("outer", [stage.function("inner", value=1)]),
            stage.function("bad", value=ValueError("x"), max_retries=0),
        ]
        execution = await session.submit(dag)
        await stage.sees("inner", "bad")
        await fail(execution)
        await until(lambda: "outer" in seen, lambda: "the inner execution goes on")
        assert isinstance(seen["outer"], handoff.ExecutionCancelledError)
        stage.cue("inner")
        await nothing_claimed(s)


@live(2, 2)
async def test_who_leaves_takes_its_executions_along(c, s, a, b, stage):
    async with Client(s.address, asynchronous=True) as mine:
        session = await handoff.Handoff(mine).start()
        await session.submit([outer("outer", [stage.function("inner", value=1)])])
        await stage.sees("inner")
    await until(lambda: "outer" in seen, lambda: "the inner execution goes on")
    stage.cue("inner")
    await nothing_claimed(s)
    await all_forgotten(s)


def submits_and_raises(dag, note):
    seen[note] = seen.get(note, 0) + 1
    handoff.session_for(get_client()).submit(dag)
    raise ValueError(note)


def submits(dag):
    handoff.session_for(get_client()).submit(dag)
    return 1


@live(2, 2)
async def test_an_attempt_that_raises_takes_its_executions_along(c, s, a, b, stage):
    """Else each of its attempts would leave one."""
    async with handoff.Handoff(c) as session:
        dag = [Function("f", [], submits_and_raises, extra_args=[[stage.function("inner")], "tried"])]
        with pytest.raises(handoff.FunctionFailedError):
            await session.execute(dag, max_retries=2)
        assert seen["tried"] == 3
        runs = s.plugins["handoff"].runs
        await until(lambda: not list(runs.open()), lambda: [r.dag_id for r in runs.open()])
        for _ in range(3):
            stage.cue("inner")
        await nothing_claimed(s)


@live(2, 2)
async def test_what_a_function_leaves_behind_that_ends_well_goes_on(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        await session.execute([Function("f", [], submits, extra_args=[[stage.function("inner")]])])
        await stage.sees("inner")
        assert [run.status for run in s.plugins["handoff"].runs.open()] == ["running"]
        stage.cue("inner")
        await nothing_claimed(s)
