"""No node ever holds more than it has: told by the functions themselves, in live runs."""

from __future__ import annotations

import random
import threading
import time
from fractions import Fraction

import pytest
from clusters import live, nothing_claimed, settled
from distributed import get_worker, wait

import handoff_dask as handoff
from handoff_dask import Collocated, Function
from handoff_dask.resources import UNITS, Capabilities, Cost

#: ``(start or stop, moment, node, function id)``, from all workers: they are in this process.
noted: list[tuple[float, int, str, object]] = []
lock = threading.Lock()

NODES = {
    "0": {"cpu": 4, "memory": 1000, "gpu": 1, "zone": "eu"},
    "1": {"cpu": 2.5, "memory": 4000, "licence": 2, "zone": "us", "ssd": True},
    "2": {"cpu": 1, "memory": 300, "zone": ["eu", "us"]},
    "3": {"cpu": 8, "memory": 2000, "gpu": 2, "ssd": True},
}
THREADS = {"0": 4, "1": 6, "2": 2, "3": 3}


@pytest.fixture(autouse=True)
def nothing_noted():
    noted.clear()


def runs(name, seconds, *args):
    """Note when it runs and where; only within that does the node hold its cost."""
    node = str(get_worker().name)
    with lock:
        noted.append((time.monotonic(), 1, node, name))
    if seconds:
        time.sleep(seconds)
    with lock:
        noted.append((time.monotonic(), -1, node, name))
    return name


def most_held(costs):
    """``{node: {resource: the most that was held at once}}``, threads among them, exactly."""
    held: dict[tuple[str, str], int] = {}
    most: dict[str, dict[str, Fraction]] = {}
    for _, sign, node, name in sorted(noted, key=lambda note: note[:2]):
        for resource, units in [*Cost.parse(costs[name]).amounts, ("threads", UNITS)]:
            held[node, resource] = held.get((node, resource), 0) + sign * units
            seen = most.setdefault(node, {})
            seen[resource] = max(seen.get(resource, Fraction(0)), Fraction(held[node, resource], UNITS))
    assert not any(held.values())
    return most


def assert_never_more(costs, nodes=NODES, threads=THREADS):
    for node, most in most_held(costs).items():
        has = {n: Fraction(u, UNITS) for n, u in Capabilities.parse(nodes[node]).amounts.items()}
        has["threads"] = Fraction(threads[node])
        over = {n: (amount, has.get(n)) for n, amount in most.items() if amount > has.get(n, 0)}
        assert not over, f"node {node} held more than it has: {over}"


def assert_told_never_more(result, costs, nodes=NODES, threads=THREADS):
    """The times that users are told show the same."""
    noted[:] = [
        (moment, sign, result.allocations[i], i)
        for i, timing in result.timings.items()
        for moment, sign in ((timing.start, 1), (timing.stop, -1))
    ]
    assert_never_more(costs, nodes, threads)


def random_cost(rng):
    choices = [
        {"cpu": rng.choice([0.1, 0.25, 1 / 3, 0.5, 1, 2])},
        {"cpu": rng.choice([0.2, 1, 4]), "memory": rng.choice([10, 250.5, "900 MB"])},
        {"gpu": rng.choice([0.3, 0.5, 1]), "cpu": 0.5},
        {"licence": 1, "cpu": 0.7},
        {"ssd": True, "memory": rng.randrange(1, 1500)},
        {"zone": rng.choice(["eu", "us"]), "cpu": rng.choice([0.5, 1])},
        {"memory": rng.choice([300, 700])},
        None,
    ]
    return rng.choice(choices)


def random_dag(seed, size, seconds):
    rng = random.Random(seed)
    functions: list[Function] = []
    plain = []
    for n in range(size):
        args = rng.sample(range(max(0, n - 20), n), k=min(n, rng.choice([0, 0, 1, 2, 3])))
        fields = {}
        cost = random_cost(rng)
        kind = rng.random()
        if kind < 0.1:
            cost, fields["node"] = {"cpu": rng.choice([0.5, 1])}, rng.choice([*NODES])
        elif kind < 0.2 and plain:
            cost, fields["node"] = {"cpu": rng.choice([0.1, 1])}, Collocated(rng.choice(plain))
        elif cost is None or set(cost) == {"cpu"}:
            plain.append(n)
        if rng.random() < 0.1:
            fields["priority"] = rng.randrange(-2, 3)
        functions.append(Function(n, args, Runs(n, seconds(rng)), cost=cost, **fields))
    return functions


class Runs:
    """:func:`runs`, by itself with its name."""

    def __init__(self, name, seconds):
        self.name, self.seconds, self.__name__ = name, seconds, "runs"

    def __call__(self, *args):
        return runs(self.name, self.seconds)


async def register(session):
    for node, has in NODES.items():
        await session.register_node(node, has)


@pytest.mark.parametrize("strategy", ["first_available", "load_balanced", "cost_optimized", "fastest"])
@live(*THREADS.values())
async def test_three_hundred_functions_of_random_costs(c, s, w0, w1, w2, w3, strategy):
    dag = random_dag(strategy, 300, lambda rng: rng.choice([0, 0.001, 0.005, 0.02]))
    costs = {f.id: f.cost for f in dag}
    async with handoff.Handoff(c) as session:
        await register(session)
        result = await session.execute(dag, allocation_strategy=strategy, timeout=60)
        await nothing_claimed(s)
    assert len(noted) == 600
    assert result.results == {f.id: f.id for f in dag}
    assert {name: node for _, sign, node, name in noted} == result.allocations
    assert_never_more(costs)
    assert_told_never_more(result, costs)


@live(*THREADS.values())
async def test_short_functions_that_are_sent_ahead(c, s, w0, w1, w2, w3):
    """Behind a running one on the worker itself, where nobody else looks."""
    costs = [{"cpu": 1}, {"cpu": 0.5, "memory": 200}, {"gpu": 0.5}, None]
    dag = [Function(n, [], Runs(n, 0), cost=costs[n % 4], duration=0.001) for n in range(1200)]
    async with handoff.Handoff(c) as session:
        await register(session)
        execution = await session.submit(dag)
        result = await execution
        functions = s.plugins["handoff"].runs.functions
        ahead = sum(functions[key].fact("prefetched") for key in execution.compiled.keys.values())
        await nothing_claimed(s)
    assert ahead > 100
    assert len(noted) == 2400
    assert_never_more({f.id: f.cost for f in dag})
    assert_told_never_more(result, {f.id: f.cost for f in dag})


@live(*THREADS.values())
async def test_short_ones_of_which_some_are_long_after_all(c, s, w0, w1, w2, w3):
    seconds = [0.2 if n % 97 == 50 else 0 for n in range(500)]
    dag = [Function(n, [], Runs(n, seconds[n]), cost={"cpu": 1, "memory": 50}) for n in range(500)]
    async with handoff.Handoff(c) as session:
        await register(session)
        result = await session.execute(dag, timeout=60)
        await nothing_claimed(s)
    assert len(result.results) == 500
    assert_never_more({f.id: f.cost for f in dag})


@live(*THREADS.values())
async def test_several_dags_share_what_there_is(c, s, w0, w1, w2, w3):
    dags = [
        [
            Function((d, n), [], Runs((d, n), 0.005), cost={"cpu": 0.5 + d / 2, "memory": 100 * (n % 3)})
            for n in range(40)
        ]
        for d in range(4)
    ]
    async with handoff.Handoff(c) as session:
        await register(session)
        runs = [await session.submit(dag) for dag in dags]
        await runs[3].cancel()
        for run in runs[:3]:
            await run
        await nothing_claimed(s)
    assert_never_more({f.id: f.cost for dag in dags for f in dag})


@live(2, 2, worker_kwargs={"resources": {"cpu": 2}})
async def test_plain_dask_tasks_hold_what_they_ask_for(c, s, a, b, stage):
    theirs = c.submit(runs_on_stage, stage.number, resources={"cpu": 2}, workers=[a.address], key="theirs")
    await stage.sees("theirs")
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function(n, cost={"cpu": 2}) for n in ("one", "two")])
        await stage.sees("one")
        await settled(s, room=1)
        assert stage.nodes() == {"theirs": "0", "one": "1"}
        assert not await session.resources_available("0", {"cpu": 1})
        stage.cue("theirs")
        await theirs
        await stage.sees("two")
        assert stage.nodes()["two"] == "0"
        # Dask's own count on a worker holds back none of ours; theirs waits for nobody.
        stage.close()
        await execution
        await nothing_claimed(s)


def runs_on_stage(number):
    from stage import Part

    return Part(number, "theirs")()


@live(*THREADS.values(), worker_kwargs={"resources": {"cpu": 4}})
async def test_among_plain_dask_tasks(c, s, w0, w1, w2, w3):
    """They come whenever Dask likes; ours still never hold more than there is."""
    rng = random.Random(7)
    dag = random_dag(7, 150, lambda rng: rng.choice([0, 0.003]))
    async with handoff.Handoff(c) as session:
        await register(session)
        execution = await session.submit(dag)
        theirs = [
            c.submit(time.sleep, seconds, resources=rng.choice([{"cpu": 1}, {"cpu": 2}, None]), pure=False)
            for seconds in rng.choices([0, 0.004], k=100)
        ]
        await execution
        await wait(theirs)
        await nothing_claimed(s)
    assert len(noted) == 300
    assert_never_more({f.id: f.cost for f in dag})


def when(seconds):
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def test_in_processes_of_their_own():
    """By the clock that all processes of a machine share, and by the times that users are told."""
    nodes = {"a": {"cpu": 2, "memory": 1000}, "b": {"cpu": 1.5, "memory": 500}}
    costs = [{"cpu": 1}, {"cpu": 0.5, "memory": 250}, {"cpu": 0.3}]
    dag = [Function(n, [], when, extra_args=[0.001], cost=costs[n % 3]) for n in range(1000)]
    with handoff.Handoff(nodes=nodes) as session:
        result = session.execute(dag)
    noted[:] = [
        (moment, sign, result.allocations[n], n)
        for n, interval in result.results.items()
        for moment, sign in zip(interval, (1, -1), strict=True)
    ]
    threads = {"a": 4, "b": 4}
    assert_never_more({f.id: f.cost for f in dag}, nodes, threads)
    assert_told_never_more(result, {f.id: f.cost for f in dag}, nodes, threads)


def test_the_judge_sees_too_much():
    noted[:] = [(1.0, 1, "2", "a"), (2.0, 1, "2", "b"), (3.0, -1, "2", "a"), (4.0, -1, "2", "b")]
    with pytest.raises(AssertionError, match="node 2 held more than it has"):
        assert_never_more({"a": {"cpu": 0.6}, "b": {"cpu": 0.5}})
    assert_never_more({"a": {"cpu": 0.6}, "b": {"cpu": 0.4}})
