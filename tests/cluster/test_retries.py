"""How functions that failed are tried again: after which exceptions, when, and where."""

from __future__ import annotations

import time

import pytest
from clusters import live, nothing_claimed
from distributed import get_worker
from stage import until

import handoff_dask as handoff
from handoff_dask import Argument, Function, Retry

#: ``{name: [(when, node), …]}`` of each attempt.
tried: dict[str, list[tuple[float, str]]] = {}


@pytest.fixture(autouse=True)
def nothing_tried():
    tried.clear()


def fails(name, times, error=OSError):
    """Fail so many times, then give the node."""
    node = str(get_worker().name)
    tried.setdefault(name, []).append((time.monotonic(), node))
    if len(tried[name]) <= times:
        raise error(f"attempt {len(tried[name])}")
    return node


def fails_on_its_way(value, source, target, name, times):
    fails(name, times)
    return value


class Passing(Exception):
    pass


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [
        (Retry(2), 3),
        (Retry(2, on=OSError), 1),
        (Retry(2, on=(OSError, Passing)), 3),
        (Retry(2, not_on=Passing), 1),
        (Retry(0, on=Passing), 1),
    ],
)
@pytest.mark.parametrize("accepted", [False, True])
@live(1)
async def test_only_what_is_worth_it_is_tried_again(c, s, a, retry, attempts, accepted):
    dag = [Function("f", [], fails, extra_args=["f", 9, Passing], retry=retry)]
    if accepted:
        dag.append(Function("g", ["f"], repr, accept_failed=True))
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await session.execute(dag, on_failure="continue" if accepted else "stop")
        await nothing_claimed(s)
    assert (len(tried["f"]), caught.value.attempts) == (attempts, attempts)
    assert isinstance(caught.value.__cause__, Passing)


@live(1)
async def test_the_options_of_an_execution(c, s, a):
    dag = [Function("f", [], fails, extra_args=["f", 9]), Function("g", [], int, max_retries=1)]
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError):
            await session.execute(dag, retry=Retry(1))
        with pytest.raises(handoff.ValidationError, match="both given"):
            await session.execute(dag, retry=Retry(1), max_retries=1)
        with pytest.raises(handoff.ValidationError, match="give a Retry"):
            await session.submit(dag, retry=2)
    assert len(tried["f"]) == 2


@live(1)
async def test_it_holds_nothing_while_it_waits(c, s, a, stage):
    """The other function takes the only core while the first one waits for its second attempt."""
    dag = [
        Function("f", [], fails, extra_args=["f", 2], cost={"cpu": 1}, priority=1,
                 retry=Retry(2, delay=0.3, factor=3)),
        stage.function("other", cost={"cpu": 1}),
    ]  # fmt: skip
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await until(lambda: bool(stage.story))
        assert "retry" in str(await execution.explain("f"))
        stage.cue("other")
        result = await execution
    first, second, third = [when for when, _ in tried["f"]]
    assert second - first >= 0.3
    assert third - second >= 0.9
    assert result.timings["f"].attempts == 3


@live(1)
async def test_what_waits_is_cancelled_with_its_run(c, s, a):
    dag = [Function("f", [], fails, extra_args=["f", 9], retry=Retry(9, delay=30, factor=1))]
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        await until(lambda: "f" in tried)
        await execution.cancel()
        with pytest.raises(handoff.ExecutionCancelledError):
            await execution
        await nothing_claimed(s)


@live(1, 1, 1)
async def test_each_attempt_goes_elsewhere(c, s, a, b, third):
    async with handoff.Handoff(c) as session:
        await session.execute([Function("f", [], fails, extra_args=["f", 4], cost={"cpu": 1})], max_retries=9)
        await session.execute(
            [Function("g", [], fails, extra_args=["g", 4], retry=Retry(9, elsewhere=False))]
        )
        await session.execute([Function("h", [], fails, extra_args=["h", 2], node="1")])
    nodes = {name: [node for _, node in of] for name, of in tried.items()}
    assert sorted(nodes["f"][:3]) == ["0", "1", "2"]
    assert nodes["g"] == ["0"] * 5
    assert nodes["h"] == ["1"] * 3


@live(2, 1)
async def test_elsewhere_is_where_it_could_ever_run(c, s, a, b, stage):
    """It waits for another node although there is room where it failed; the big one has no other node."""
    async with handoff.Handoff(c) as session:
        await session.register_node("0", {"cpu": 2})
        await session.register_node("1", {"cpu": 1})
        holds = await session.submit([stage.function("holds", cost={"cpu": 1}, node="1")])
        await until(lambda: bool(stage.story))
        big = await session.execute([Function("big", [], fails, extra_args=["big", 1], cost={"cpu": 2})])
        assert big.allocations == {"big": "0"}
        small = await session.submit([Function("f", [], fails, extra_args=["f", 1], cost={"cpu": 1})])
        await until(lambda: "f" in tried)
        await until(lambda: small.status == "running" and session is not None)
        why = await small.explain("f")
        while why.status != "waiting":
            why = await small.explain("f")
        assert "it has failed there" in str(why)
        assert why.nodes["0"].cause == "failed there"
        stage.cue("holds")
        assert (await small).allocations == {"f": "1"}
        await holds


@live(1, 1)
async def test_what_avoids_a_node_goes_there_once_there_is_no_other(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        await session.register_node("0", {"cpu": 1})
        holds = await session.submit([stage.function("holds", cost={"cpu": 1}, node="1")])
        await until(lambda: bool(stage.story))
        execution = await session.submit([Function("f", [], fails, extra_args=["f", 1], cost={"cpu": 1})])
        await until(lambda: "f" in tried)
        while (await execution.explain("f")).status != "waiting":
            pass
        await session.register_node("1", {"cpu": 0.5})
        assert (await execution).allocations == {"f": "0"}
        stage.cue("holds")
        await holds


@live(1, 1)
async def test_what_is_done_on_the_way_has_the_retries_of_who_takes_it(c, s, a, b):
    way = Argument("a", (fails_on_its_way, "there", 1), (fails_on_its_way, "back", 2))
    dag = [
        Function("a", [], int, extra_args=[7], node="0"),
        Function("b", [way], int, node="1", max_retries=2),
    ]
    async with handoff.Handoff(c) as session:
        result = await session.execute(dag, max_retries=0)
    assert result.results["b"] == 7
    assert (len(tried["there"]), len(tried["back"])) == (2, 3)


def test_in_this_process(monkeypatch):
    waits = []
    monkeypatch.setattr("threading.Event.wait", lambda self, timeout=None: waits.append(timeout))
    counts = []

    def flaky(error):
        counts.append(1)
        if len(counts) < 3:
            raise error("no")
        return 7

    dag = [Function("f", [], flaky, extra_args=[OSError], retry=Retry(2, delay=1, factor=3))]
    assert handoff.execute_local(dag).results == {"f": 7}
    assert waits == [1, 3]
    counts.clear()
    with pytest.raises(handoff.FunctionFailedError):
        handoff.execute_local([Function("f", [], flaky, extra_args=[KeyError])], retry=Retry(5, on=OSError))
    assert len(counts) == 1


@pytest.mark.parametrize("kind", ["inline", "input"])
@pytest.mark.parametrize("field", ["retry", "max_retries"])
def test_who_cannot_be_tried_again(kind, field):
    fields = {"retry": Retry(0)} if field == "retry" else {"max_retries": 0}
    with pytest.raises(handoff.ValidationError, match=f"and a {field}"):
        Function("f", [], None if kind == "input" else int, type=kind, **fields)
    with pytest.raises(handoff.ValidationError, match="give one of them"):
        Function("f", [], int, retry=Retry(1), max_retries=1)
