"""Resource trackers: users' own on the scheduler, and the cluster's as clients see it."""

from __future__ import annotations

import asyncio
import operator
import threading
import time

import dask
import pytest
from clusters import live
from distributed import Client, Event, Worker

import handoff_dask as handoff

#: Two nodes, ``"0"`` and ``"1"``, of four cores each.
cluster = live(4, 4)


def dag_of(count=4, code=operator.neg, **fields):
    dag = handoff.DAG()
    for i in range(count):
        dag.add_function(handoff.Function(i, [], code, extra_args=[i], **fields))
    return dag


class Recorder(handoff.SimpleResourceTracker):
    """A tracker that writes down what it is told, and refuses what its subclasses do not want."""

    log: list = []

    def __init__(self):
        super().__init__()
        type(self).log = []

    def register(self, node, caps):
        self.log.append(("register", node, caps["cpu"]))
        super().register(node, caps)

    def request(self, node, req):
        granted = self.wants(node, req) and super().request(node, req)
        self.log.append(("request" if granted else "refuse", node, req))
        return granted

    def release(self, node, req):
        self.log.append(("release", node, req))
        super().release(node, req)

    def wants(self, node, req):
        return True

    @classmethod
    def count(cls, what):
        return sum(1 for entry in cls.log if entry[0] == what)


class NotOnZero(Recorder):
    def wants(self, node, req):
        return node != "0"


class OneAtATime(Recorder):
    def wants(self, node, req):
        return not any(self.in_use(n) for n in self.get_capabilities())


class Moody(Recorder):
    calls = 0

    def wants(self, node, req):
        type(self).calls += 1
        return type(self).calls > 5


@cluster
async def test_a_tracker_is_told_nodes_and_placements(c, s, a, b):
    async with handoff.Handoff(c, resource_tracker=Recorder) as session:
        await session.register_node("1", {"cpu": 8})
        result = await session.execute(dag_of(2, cost={"cpu": 3, "memory": 5}))
    assert result.results == {0: 0, 1: -1}
    told = Recorder.log
    assert told[:3] == [("register", "0", 4), ("register", "1", 4), ("register", "1", 8)]
    cost = {"cpu": 3, "memory": 5}
    placements = sorted(told[3:], key=repr)
    nodes = sorted(result.allocations.values())
    assert placements == sorted(
        [*(("request", n, cost) for n in nodes), *(("release", n, cost) for n in nodes)], key=repr
    )


@cluster
async def test_what_one_node_is_refused_runs_on_another(c, s, a, b):
    async with handoff.Handoff(c, resource_tracker=NotOnZero()) as session:
        result = await session.execute(dag_of(6, cost={"cpu": 2}))
        with_own = await session.execute(
            dag_of(2, cost={"cpu": 2}), allocation_strategy=lambda f, nodes: nodes[0].name
        )
    assert set(result.allocations.values()) == set(with_own.allocations.values()) == {"1"}
    assert NotOnZero.count("request") == NotOnZero.count("release") == 8


@cluster
async def test_what_is_refused_waits_for_a_release(c, s, a, b):
    async with handoff.Handoff(c, resource_tracker=OneAtATime()) as session:
        result = await session.execute(dag_of(6, cost={"cpu": 1}))
    assert result.results == {i: -i for i in range(6)}
    order = [entry[0] for entry in OneAtATime.log if entry[0] in ("request", "release")]
    assert order == ["request", "release"] * 6


@cluster
async def test_a_tracker_that_has_changed_its_mind_is_asked_again_though_nothing_happens(c, s, a, b):
    Moody.calls = 0
    async with handoff.Handoff(c, resource_tracker=Moody()) as session:
        execution = await session.submit(dag_of(1, cost={"cpu": 1}))
        assert (await execution).results == {0: 0}
    assert Moody.calls == 6


@cluster
async def test_failures_and_lost_attempts_are_released_too(c, s, a, b):
    def fail(x):
        raise ValueError(x)

    async with handoff.Handoff(c, resource_tracker=Recorder) as session:
        with pytest.raises(handoff.FunctionFailedError):
            await session.execute(dag_of(1, fail, cost={"cpu": 1}), max_retries=2)
        assert (Recorder.count("request"), Recorder.count("release")) == (3, 3)

        gate = Event("gate")
        waiting = await session.submit(dag_of(2, lambda i: Event("gate").wait(10), cost={"cpu": 4}))
        while s.plugins["handoff"].driver.engine.placed < 2:
            await asyncio.sleep(0.01)
        await a.close(executor_wait=False)
        await gate.set()
        assert set((await waiting).allocations.values()) == {"1"}
    assert Recorder.count("request") == Recorder.count("release") == 6


@cluster
async def test_a_cancelled_function_is_released_when_its_thread_ends(c, s, a, b):
    async with handoff.Handoff(c, resource_tracker=Recorder) as session:
        execution = await session.submit(dag_of(1, lambda i: Event("gate").wait(10), cost={"cpu": 1}))
        while not any(w.state.executing for w in (a, b)):
            await asyncio.sleep(0.01)
        await execution.cancel()
        assert (Recorder.count("request"), Recorder.count("release")) == (1, 0)
        await Event("gate").set()
        while not Recorder.count("release"):
            await asyncio.sleep(0.01)
    assert (Recorder.count("request"), Recorder.count("release")) == (1, 1)


class Raising(Recorder):
    def wants(self, node, req):
        raise SystemExit("no more")


class Async(Recorder):
    async def request(self, node, req):
        return True


class Waits(Recorder):
    def wants(self, node, req):
        time.sleep(1)


class RaisesLater(Recorder):
    def release(self, node, req):
        raise KeyError(node)


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        (Raising, "SystemExit: no more"),
        (Async, "coroutine"),
        (Waits, "resource tracker 'Waits' did not answer within 0.3 s"),
    ],
)
@cluster
async def test_a_tracker_that_raises_fails_the_dag_alone(c, s, a, b, tracker, message):
    with dask.config.set({"handoff.answer-timeout": 0.3}):
        async with (
            Client(s.address, asynchronous=True) as other,
            handoff.Handoff(other) as beside,
            handoff.Handoff(c, resource_tracker=tracker) as session,
        ):
            with pytest.raises(handoff.AllocationError, match=message):
                await session.execute(dag_of(2, cost={"cpu": 1}))
            assert (await beside.execute(dag_of(2))).results == {0: 0, 1: -1}
    s.plugins["handoff"].driver.engine.check()


@cluster
async def test_that_a_release_raises_changes_nothing(c, s, a, b, caplog):
    async with handoff.Handoff(c, resource_tracker=RaisesLater()) as session:
        assert (await session.execute(dag_of(2))).results == {0: 0, 1: -1}
    assert "resource tracker 'RaisesLater' raised in release" in caplog.text


@cluster
async def test_what_is_no_tracker_is_refused(c, s, a, b):
    class Locked(Recorder):
        def __getstate__(self):
            raise TypeError("a lock cannot travel")

    class Unreadable(Recorder):
        def __reduce__(self):
            return operator.truediv, (1, 0)

    for wrong in (3, object, Locked()):
        with pytest.raises(handoff.ValidationError, match=r"resource.tracker"):
            handoff.Handoff(c, resource_tracker=wrong)
    with pytest.raises(handoff.ValidationError, match="cannot be used on the scheduler: ZeroDivisionError"):
        await handoff.Handoff(c, resource_tracker=Unreadable()).start()


class RefusesNodes(Recorder):
    def register(self, node, caps):
        raise ValueError(f"no {node}")


@cluster
async def test_a_start_that_fails_leaves_the_cluster_as_it_was(c, s, a, b):
    before = (set(s.plugins), dict(s.handlers), dict(s.stream_handlers), dict(s.worker_plugins))
    for _ in range(2):
        with pytest.raises(handoff.ValidationError, match="cannot be used on the scheduler: ValueError"):
            await handoff.Handoff(c, resource_tracker=RefusesNodes).start()
        assert (set(s.plugins), dict(s.handlers), dict(s.stream_handlers), dict(s.worker_plugins)) == before
        assert "handoff" not in a.plugins
        assert "handoff" not in b.plugins
    # Where others use it already, it stays.
    async with Client(s.address, asynchronous=True) as other, handoff.Handoff(other) as beside:
        with pytest.raises(handoff.ValidationError):
            await handoff.Handoff(c, resource_tracker=RefusesNodes).start()
        assert (await beside.execute(dag_of(2))).results == {0: 0, 1: -1}


# ---------------------------------------------------------------------- the cluster's tracker


@cluster
async def test_claims_of_a_client_count_for_every_placement(c, s, a, b):
    async with handoff.Handoff(c) as session:
        tracker = session.resource_tracker
        assert isinstance(tracker, handoff.ResourceTracker)
        assert await tracker.request("0", {"cpu": 3})
        assert not await tracker.request("0", {"cpu": 1.5})
        assert [await tracker.available("0", {"cpu": n}) for n in (1, 2)] == [True, False]
        assert not await session.resources_available("0", {"cpu": 2})
        result = await session.execute(dag_of(4, cost={"cpu": 2}))
        assert set(result.allocations.values()) == {"1"}

        await tracker.release("0", {"cpu": 1})
        assert [await tracker.available("0", {"cpu": n}) for n in (2, 3)] == [True, False]
        await tracker.release("0", {"cpu": 50})
        assert [await tracker.available("0", {"cpu": n}) for n in (4, 5)] == [True, False]
        await tracker.release("0", {"cpu": 1})
        assert not await tracker.available("0", {"cpu": 5})

        assert (await tracker.get_capabilities())["0"]["cpu"] == 4
        assert (await tracker.get_capabilities(a.address))["cpu"] == 4
        await tracker.register("0", {"gpu": 1, "zone": "eu"})
        assert await tracker.request(a.address, {"gpu": 1, "zone": "eu"})
        assert not await tracker.request("0", {"gpu": 1})
        assert not await tracker.request("0", {"zone": "us"})


@cluster
async def test_an_unknown_node_is_not_available_and_cannot_be_claimed(c, s, a, b):
    async with handoff.Handoff(c) as session:
        tracker = session.resource_tracker
        assert not await tracker.available("nowhere", {"cpu": 1})
        for ask in (tracker.request, tracker.release):
            with pytest.raises(handoff.NotFoundError, match="nowhere"):
                await ask("nowhere", {"cpu": 1})
        with pytest.raises(handoff.NotFoundError, match="nowhere"):
            await tracker.get_capabilities("nowhere")
        for ask in (tracker.request, tracker.release, tracker.available):
            with pytest.raises(handoff.ValidationError, match="cpu"):
                ask("0", {"cpu": -1})


@cluster
async def test_claims_go_with_their_client_and_only_its_own(c, s, a, b):
    async with handoff.Handoff(c) as session:
        assert await session.resource_tracker.request("0", {"cpu": 1})
        async with Client(s.address, asynchronous=True) as other:
            theirs = handoff.Handoff(other).resource_tracker
            assert await theirs.request("0", {"cpu": 3})
            await theirs.release("1", {"cpu": 4})
            assert not await session.resource_tracker.request("0", {"cpu": 1})
            await session.resource_tracker.release("0", {"cpu": 4})
            waiting = await session.submit(dag_of(1, cost={"cpu": 4}, node="0"))
            assert not await theirs.available("0", {"cpu": 2})
        # The other client has gone, and with it what it claimed.
        assert (await waiting).allocations == {0: "0"}
        assert await session.resource_tracker.available("0", {"cpu": 4})


@cluster
async def test_a_claim_belongs_to_the_name_of_its_node(c, s, a, b):
    """A worker that comes back under its name has the claims that were made on it."""
    async with handoff.Handoff(c) as session:
        tracker = session.resource_tracker
        assert await tracker.request("0", {"cpu": 3})
        await a.close()
        assert not await tracker.available("0", {"cpu": 1})
        async with Worker(s.address, name="0", nthreads=4):
            assert [await tracker.available("0", {"cpu": n}) for n in (1, 2)] == [True, False]
            await tracker.release("0", {"cpu": 3})
            assert await tracker.available("0", {"cpu": 4})


def test_two_threads_never_hold_more_than_there_is():
    """Claims from many threads of a blocking client: the node's cores are never exceeded."""
    with handoff.Handoff(nodes={"only": {"cpu": 3}}) as session:
        tracker, granted, lock, most = session.resource_tracker, [0], threading.Lock(), []

        def claim():
            for _ in range(5):
                if tracker.request("only", {"cpu": 1}):
                    with lock:
                        granted[0] += 1
                        most.append(granted[0])
                    with lock:
                        granted[0] -= 1
                    tracker.release("only", {"cpu": 1})

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= max(most) <= 3
        assert tracker.available("only", {"cpu": 3})
        assert not tracker.available("only", {"cpu": 4})
