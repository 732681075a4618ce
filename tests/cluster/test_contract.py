"""Small promises that were broken once."""

from __future__ import annotations

import asyncio
import enum
import pickle
import threading
import traceback

import dask
import numpy as np
import pytest
from clusters import live, nothing_claimed
from distributed import Client, LocalCluster

import handoff_dask as handoff
from handoff_dask import Argument, Function


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        yield cluster


@pytest.fixture
def session(cluster):
    with Client(cluster) as client, handoff.Handoff(client) as session:
        yield session


def one(function_id="a", code=int, **fields):
    return handoff.DAG("one").add_function(Function(function_id, [], code, **fields))


def fail():
    raise ValueError("as it should")


def between(value, source, target, *extra):
    return value, source, target, *extra


def test_failures_carry_their_cause_and_nothing_of_dasks_own(session):
    with pytest.raises(handoff.FunctionFailedError) as caught:
        session.execute(one(code=fail), max_retries=0)

    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), repr(again.__cause__)) == (str(caught.value), "ValueError('as it should')")
    assert "During handling" not in "".join(traceback.format_exception(caught.value))


def test_a_short_timeout_hides_no_end(session):
    execution = session.submit(one())
    execution.result()

    assert execution.result(timeout=0).results == {"a": 0}
    assert session.await_completion(execution, timeout=0) == {"a": 0}


@pytest.mark.parametrize("timeout", [-1, "soon", float("nan")])
def test_timeouts_are_checked_before_anything_waits(session, timeout):
    execution = session.submit(one())
    for wait in (execution.result, lambda t: execution.get_result("a", t)):
        with pytest.raises(handoff.ValidationError, match="give seconds"):
            wait(timeout)
    with pytest.raises(handoff.ValidationError, match="give seconds"):
        session.get_result("one", "a", timeout)
    with pytest.raises(handoff.ValidationError, match="give seconds"):
        session.await_completion(execution, timeout)


def test_what_is_no_execution_is_not_waited_for(session):
    with pytest.raises(handoff.ValidationError, match="'one' is no execution"):
        session.await_completion("one")


def test_pairs_come_one_by_one_for_for_next_and_async_for(session):
    async def gathered():
        return [pair async for pair in session.submit(one()).as_completed()]

    assert next(session.submit(one()).as_completed()) == ("a", 0)
    assert list(session.submit(one()).as_completed()) == [("a", 0)]
    assert asyncio.run(gathered()) == [("a", 0)]


def test_functions_that_await_pairs_let_go_of_their_threads(session):
    def inner():
        return sorted(session_of_worker().submit(one()).as_completed())

    def session_of_worker():
        from handoff_dask import session_for

        return session_for()

    many = [Function(i, [], inner) for i in range(9)]
    assert session.execute(many, timeout=30).results == {i: [("a", 0)] for i in range(9)}


@pytest.mark.parametrize("wrong", [[], {}])
def test_ids_that_cannot_be_hashed_are_refused(session, wrong):
    calls = [
        lambda: session.get_result(wrong, "a"),
        lambda: session.get_result("one", wrong),
        lambda: session.store_result(wrong, "a", 1),
        lambda: session.store_value(wrong, "a", 1),
        lambda: session.get_local_value("one", wrong),
        lambda: session.get_value("one", wrong),
        lambda: session.register_data_location("one", wrong, "0"),
        lambda: session.lookup_data_location(wrong, "a"),
        lambda: session.forget(wrong),
    ]
    for call in calls:
        with pytest.raises(handoff.ValidationError, match="cannot be an id"):
            call()


class Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        (1, np.int64(1)),
        (np.int32(1), 1.0),
        (("a", 1), ("a", True)),
        (Colour.RED, "red"),
        (1.5, np.float32(1.5)),
    ],
)
def test_equal_ids_are_one(session, stored, asked):
    session.store_result(stored, "value", 1)
    session.store_result("kept", stored, 2)
    assert (session.get_result(asked, "value"), session.get_value("kept", asked)) == (1, 2)
    session.forget(asked)
    session.forget("kept")
    with pytest.raises(handoff.NotFoundError):
        session.get_result(stored, "value")


def test_a_failure_told_twice_is_told_alike(session):
    execution = session.submit(one(code=fail), max_retries=0)

    def told():
        with pytest.raises(handoff.FunctionFailedError) as caught:
            execution.result()
        return len(traceback.format_exception(caught.value))

    assert told() == told() == told()


def test_dag_ids_of_all_kinds_are_forgotten(session):
    for dag_id in [("a", "pair"), np.int64(7)]:
        session.execute(handoff.DAG(dag_id).add_function(Function("a", [], int)))
    for dag_id in [np.int64(7), ("a", "pair")]:
        session.forget(dag_id)
        with pytest.raises(handoff.NotFoundError):
            session.get_result(dag_id, "a")


def test_transfers_run_wherever_dask_runs_the_dag(cluster):
    dag = (
        handoff.DAG("moved")
        .add_function(Function("a", [], int))
        .add_function(Function("b", [Argument("a", (between, 1), (between, 2))], between, extra_args=[3, 4]))
    )

    def moved(node):
        return (((0, node, node, 1), node, node, 2), 3, 4)

    assert dag.compute(scheduler="sync")["b"] == moved("local")
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as plain, Client(plain) as client:
        # No plugin is there to say where the two run.
        assert client.compute(dag).result()["b"] == moved("0")


def test_what_is_no_client_is_refused():
    for call in (handoff.Handoff, handoff.start, lambda c: handoff.execute(one(), client=c)):
        with pytest.raises(handoff.ValidationError, match="client is 5"):
            call(5)


def test_nodes_are_those_of_an_embedded_cluster_alone(session):
    with pytest.raises(handoff.ValidationError, match="both given"):
        handoff.Handoff(session.client, nodes={"a": {"cpu": 1}})


def test_stop_ends_the_session_of_the_current_client_too(cluster):
    with Client(cluster):
        execution = handoff.submit(one())
        execution.result()
        handoff.stop()

        with pytest.raises(handoff.SessionEndedError):
            execution.explain("a")
        assert handoff.execute(one()).results == {"a": 0}
        handoff.stop()


def test_embedded_clusters_are_neither_doubled_nor_used_when_over():
    nodes = {"only": {"cpu": 1}}
    session = handoff.start(nodes=nodes)
    assert handoff.start(nodes=dict(nodes)) is session is handoff.start()

    other = handoff.start(allocator="fastest")
    assert (other.nodes, other.execute(one()).allocations) == (nodes, {"a": "only"})
    execution = other.submit(one())
    handoff.stop()

    for session_is_over in (lambda: session.execute(one()), lambda: other.execute(one()), execution.result):
        with pytest.raises(handoff.HandoffError, match="has been stopped"):
            session_is_over()


def test_embedded_clusters_end_one_by_one():
    one_node, two_nodes = {"a": {"cpu": 1}}, {"b": {"cpu": 2}, "c": {"cpu": 3}}
    first, second = handoff.start(nodes=one_node), handoff.start(nodes=two_nodes)
    with handoff.Handoff(nodes=one_node) as own:
        assert own is not first

        def nodes_of(session):
            return {name: {"cpu": has["cpu"]} for name, has in session.discover_nodes().items()}

        assert nodes_of(handoff) == nodes_of(second) == two_nodes
        assert nodes_of(first) == nodes_of(own) == one_node
        assert handoff.start(nodes=dict(one_node)) is first
        assert handoff.start(nodes=two_nodes) is second
        handoff.stop()
        with pytest.raises(handoff.SessionEndedError):
            second.discover_nodes()
        first.register_local_node({"cpu": 4})
        assert [nodes_of(s) for s in (first, own)] == [{"a": {"cpu": 4}}, one_node]
        assert [s.execute(one()).allocations for s in (first, own)] == [{"a": "a"}] * 2
        first.stop()
        assert own.execute(one()).allocations == {"a": "a"}
        again = handoff.start(nodes=one_node)
        assert again is not first
        assert nodes_of(again) == one_node
        handoff.stop()


def test_a_session_that_could_not_start_may_start_later(session, monkeypatch):
    async def refuse(*args, **kwargs):
        raise OSError("not now")

    with monkeypatch.context() as patched:
        other = handoff.Handoff(session.client)
        patched.setattr(session.client, "register_plugin", refuse)
        with pytest.raises(OSError, match="not now"):
            other.start()

    assert other.execute(one()).results == {"a": 0}
    other.stop()


# Dask's own worker finds its state invalid when a result cannot be read.
@live(2, 2, config={"distributed.worker.validate": False})
async def test_results_that_cannot_travel_fail_who_needs_them(c, s, a, b):
    dag = handoff.DAG("stuck").add_function(Function("lock", [], threading.Lock, node="0"))
    dag.add_function(Function("there", ["lock"], str, node="1"))
    dag.add_function(Function("there too", ["lock"], str, node="1", cost={"cpu": 1}))

    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError, match="Could not serialize") as caught:
            await session.execute(dag, outputs=["there", "there too"], timeout=20)
        assert caught.value.function_id in ("there", "there too")
        assert (caught.value.node, caught.value.attempts) == ("1", 1)
        assert isinstance(caught.value.__cause__, TypeError)
        await nothing_claimed(s)

        result = await session.execute(one(node="1", cost={"cpu": 2}), timeout=20)
        assert result.results == {"a": 0}


@live(1)
async def test_results_that_cannot_be_fetched_are_named(c, s, a):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(one().add_function(Function("lock", [], threading.Lock)))

        with pytest.raises(
            handoff.HandoffError, match="function 'lock' of DAG 'one' cannot be fetched"
        ) as caught:
            await execution
        assert isinstance(caught.value.__cause__, TypeError)
        assert await execution.get_result("a") == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [("allocation-timeout", "soon"), ("allocation-timeout", -1), ("max-retries", "x"), ("retained-dags", -1)],
)
def test_settings_are_checked(session, setting, value):
    with (
        dask.config.set({f"handoff.{setting}": value}),
        pytest.raises(handoff.ValidationError, match=f"handoff.{setting} in Dask's config is {value!r}"),
    ):
        session.execute(one())


class Bare:
    """A store that knows nothing of this package's errors."""

    def __init__(self):
        self.values = {}

    def store(self, dag_id, i, value):
        self.values[dag_id, i] = value

    def get(self, dag_id, i):
        return self.values[dag_id, i]

    def has(self, dag_id, i):
        return (dag_id, i) in self.values

    def clear(self, dag_id):
        self.values = {key: value for key, value in self.values.items() if key[0] != dag_id}

    def locations(self, dag_id):
        return {}


def test_what_a_users_own_store_lacks_is_not_found(session):
    with handoff.Handoff(session.client, result_store=Bare()) as other:
        with pytest.raises(handoff.NotFoundError, match="no value 'b'"):
            other.get_local_value("one", "b")
        other.store_value("one", "b", 1)
        assert other.get_local_value("one", "b") == 1


@live(1)
async def test_pictures_of_finished_executions_need_no_awaiting(c, s, a):
    async with handoff.Handoff(c) as session:
        execution = await session.submit(one())
        result = await execution

        graph = handoff.visualization.execution_graph(execution)
        assert graph.to_dict() == handoff.visualization.execution_graph(result).to_dict()


def test_a_unit_alone_is_no_size():
    with pytest.raises(handoff.InvalidFunctionError, match="'GB' is not a size"):
        Function("a", [], int, cost={"memory": "GB"})
