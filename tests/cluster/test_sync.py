"""The same from a thread, with a client that waits; and the functions of the module."""

from __future__ import annotations

import asyncio
import operator
import threading
from concurrent.futures import ThreadPoolExecutor

import dask
import pytest
from distributed import Client, LocalCluster
from stage import until_sync

import handoff_dask as handoff
from handoff_dask import Function


@pytest.fixture(scope="module")
def cluster():
    config = {"distributed.scheduler.validate": True, "distributed.worker.validate": True}
    with (
        dask.config.set(config),
        LocalCluster(
            n_workers=2, threads_per_worker=4, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster):
    with Client(cluster) as client:
        yield client


def doubled(name="sums"):
    dag = handoff.DAG(name).add_function(Function("a", [], int, extra_args=[21], cost={"cpu": 1}))
    return dag.add_function(Function("b", ["a"], operator.mul, extra_args=[2], cost={"cpu": 1}))


def test_methods_wait(client, stage):
    with handoff.Handoff(client) as session:
        assert session.execute(doubled()).results == {"a": 21, "b": 42}
        execution = session.submit([stage.function("a", value=1), stage.function("b", ["a"], value=2)])
        stage.sees_sync("a")
        with pytest.raises(TimeoutError):
            execution.result(timeout=0.05)
        with pytest.raises(TimeoutError):
            session.await_completion(execution, timeout=0.05)
        with pytest.raises(TimeoutError):
            execution.get_result("b", timeout=0.05)
        assert execution.status == "running"
        stage.cue("a")
        assert execution.get_result("a") == 1
        assert execution.futures["a"].result() == 1
        stage.cue("b")
        assert execution.result().results == {"a": 1, "b": 2}
        assert session.await_completion(execution) == {"a": 1, "b": 2}


def test_pairs_come_in_a_thread_too(client, stage):
    with handoff.Handoff(client) as session:
        execution = session.submit([stage.function(n) for n in "abc"])
        stage.cue("c")
        came = []
        for pair in execution.as_completed():
            came.append(pair)
            stage.cue({"c": "a", "a": "b", "b": "b"}[pair[0]])
        assert came == [("c", "c"), ("a", "a"), ("b", "b")]
        failing = session.submit([stage.quick("bad", value=ValueError("no"), max_retries=0)])
        with pytest.raises(handoff.FunctionFailedError):
            list(failing.as_completed())


def test_a_timeout_cancels(client, stage):
    with handoff.Handoff(client) as session:
        with pytest.raises(TimeoutError):
            session.execute([stage.function("a")], timeout=0.05)
        execution = session.submit([stage.function("b")], timeout=0.05)
        with pytest.raises(TimeoutError):
            execution.result()
        assert execution.status == "cancelled"
        stage.close()


def test_cancel_waits_until_it_is_so(client, stage):
    with handoff.Handoff(client) as session:
        execution = session.submit([stage.function("a"), stage.quick("b", ["a"])])
        stage.sees_sync("a")
        execution.cancel()
        assert execution.status == "cancelled"
        with pytest.raises(handoff.ExecutionCancelledError):
            execution.result()
        with pytest.raises(handoff.ExecutionCancelledError):
            execution.get_result("b")
        execution.cancel()
        stage.cue("a")
        assert stage.started == ["a"]


def test_an_execution_can_be_awaited_in_another_loop(client):
    with handoff.Handoff(client) as session:
        execution = session.submit(doubled())

        async def elsewhere():
            return await execution

        assert asyncio.run(elsewhere()).results == {"a": 21, "b": 42}


def test_the_module_uses_the_current_client(client):
    assert handoff.execute(doubled()).results == {"a": 21, "b": 42}
    assert handoff.execute_distributed(doubled()).results == {"a": 21, "b": 42}
    execution = handoff.submit(doubled())
    assert handoff.await_completion(execution) == {"a": 21, "b": 42}
    assert handoff.get_result("sums", "b") == 42
    assert set(handoff.discover_nodes()) == {"0", "1"}
    assert client.status == "running"


def test_start_and_stop(client):
    session = handoff.start(client)
    assert isinstance(session, handoff.Handoff)
    assert handoff.start(client) is session
    assert handoff.start() is session
    assert handoff.execute(doubled()).results == {"a": 21, "b": 42}
    assert handoff.execute(doubled(), client=client).results == {"a": 21, "b": 42}
    handoff.stop()
    handoff.stop()
    assert client.submit(operator.add, 1, 2).result() == 3
    again = handoff.start(client)
    assert again is not session
    assert handoff.execute(doubled()).results == {"a": 21, "b": 42}
    handoff.stop()


def test_stop_cancels_what_still_runs(client, stage):
    session = handoff.start(client)
    execution = session.submit([stage.function("a"), stage.quick("b", ["a"])])
    stage.sees_sync("a")
    handoff.stop()
    assert execution.status == "cancelled"
    stage.cue("a")
    with pytest.raises(handoff.ExecutionCancelledError):
        execution.result()
    assert stage.started == ["a"]


def test_a_stopped_session_says_so(client):
    session = handoff.Handoff(client)
    session.start()
    session.stop()
    with pytest.raises(handoff.HandoffError, match="stopped"):
        session.execute(doubled())
    session.stop()


def test_a_session_whose_client_is_closed_says_so(cluster):
    client = Client(cluster, set_as_default=False)
    session = handoff.Handoff(client)
    session.start()
    execution = session.submit(doubled())
    execution.result()
    client.close()
    with pytest.raises(handoff.HandoffError, match="client"):
        session.execute(doubled())
    session.stop()


def test_threads_of_one_client_execute_at_once(client, stage):
    with handoff.Handoff(client) as session, ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(session.execute, [stage.function(n, cost={"cpu": 1})]) for n in "abcd"]
        stage.sees_sync(*"abcd")
        stage.close()
        assert [run.result(20).results for run in runs] == [{n: n} for n in "abcd"]


def test_start_from_many_threads_is_one_start(client):
    barrier = threading.Barrier(4)

    def begin(_):
        barrier.wait()
        return handoff.start(client)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(map(id, pool.map(begin, range(4))))) == 1
    handoff.stop()


def test_dask_compute_uses_the_client(client, stage):
    dag = handoff.DAG().add_function(stage.quick("a", value=3, cost={"cpu": 1}))
    handoff.start(client)
    assert dask.compute(dag) == ({"a": 3},)
    assert dag.compute() == {"a": 3}
    assert set(stage.nodes().values()) <= {"0", "1"}
    handoff.stop()


def test_two_clients_have_sessions_of_their_own(cluster, client, stage):
    with Client(cluster, set_as_default=False) as other:
        mine, theirs = handoff.Handoff(client), handoff.Handoff(other)
        one = mine.submit([stage.function("one", cost={"cpu": 4}, node="0")])
        stage.sees_sync("one")
        two = theirs.submit([stage.function("two", cost={"cpu": 4}, node="0")])
        assert two.status == "pending"
        stage.cue("one", "two")
        assert (one.result().results, two.result().results) == ({"one": "one"}, {"two": "two"})
        assert stage.started == ["one", "two"]
        mine.stop()
        theirs.stop()


def test_a_client_that_leaves_takes_its_dags_along(cluster, client, stage):
    with handoff.Handoff(client) as session:
        with Client(cluster, set_as_default=False) as other:
            theirs = handoff.Handoff(other)
            theirs.submit([stage.function("long", cost={"cpu": 4}, node="1"), stage.quick("next", ["long"])])
            stage.sees_sync("long")
            assert not session.resources_available("1", {"cpu": 1})
        stage.cue("long")
        until_sync(lambda: session.resources_available("1", {"cpu": 4}))
        assert stage.started == ["long"]
