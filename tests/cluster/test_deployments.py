"""Every way to have a cluster, as real processes."""

from __future__ import annotations

import enum
import os
import signal
import subprocess
import textwrap
from pathlib import Path

import psutil
import pytest
from distributed import Client, LocalCluster
from processes import (
    busy_until,
    dies_at_first,
    gone,
    offspring,
    run,
    scheduler,
    started,
    starts,
    waits_for,
    worker,
)
from stage import until_sync

import handoff_dask as handoff
from handoff_dask import Function


class Step(enum.Enum):
    FIRST = 1
    SECOND = 2


def both(one, two):
    return [one, two]


def parallel(tmp_path, one="a", two="b", **cost):
    """Two functions that end only when both run, each on a node of its own."""
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    return [
        Function(Step.FIRST, [], busy_until, extra_args=[a, b], node=one, cost=cost),
        Function(Step.SECOND, [], busy_until, extra_args=[b, a], node=two, cost=cost),
        Function("both", [Step.FIRST, Step.SECOND], both),
    ]


# ---------------------------------------------------------------------- embedded


def test_the_embedded_cluster(tmp_path):
    before = offspring()
    nodes = {"a": {"cpu": 2, "memory": 2000}, "b": {"cpu": 6, "gpu": 1, "zone": "eu"}}
    with handoff.Handoff(nodes=nodes) as session:
        found = session.discover_nodes()
        assert found["a"] == {"cpu": 2, "memory": 2000}
        assert {n: found["b"][n] for n in nodes["b"]} == nodes["b"]

        # Python functions of two nodes run at once: in two processes, neither of them this one.
        result = session.execute(parallel(tmp_path, cpu=1))
        pids = result.results["both"]
        assert len({*pids, os.getpid()}) == 3
        assert (result.allocations[Step.FIRST], result.allocations[Step.SECOND]) == ("a", "b")

        # A node has a thread for each cpu, and at least four.
        gates = [str(tmp_path / f"gate {n}") for n in range(4)]
        execution = session.submit(
            [Function(gate, [], waits_for, extra_args=[gate], node="a") for gate in gates]
        )
        until_sync(lambda: all(starts(Path(gate)) for gate in gates))
        for gate in gates:
            Path(gate).touch()
        assert set(execution.result().results.values()) == {pids[0]}

        session.register_local_node({"cpu": 1, "disk": 5})
        assert session.discover_nodes()["a"]["disk"] == 5
        with pytest.raises(handoff.AllocationError):
            session.execute([Function("f", [], int, cost={"gpu": 2})])
    gone(*(offspring() - before), *pids)
    session.stop()


def test_the_modules_functions_start_one_by_themselves():
    script = """
        import handoff_dask as handoff, enum, os
        class Colour(enum.Enum):
            RED = 1
        def twice(x):
            return 2 * x
        dag = handoff.DAG(Colour.RED).add_function(handoff.Function(Colour.RED, [], int, extra_args=["21"]))
        dag.add_function(handoff.Function("sink", [Colour.RED], twice, cost={"cpu": 1}))
        result = handoff.execute(dag)
        print(result.results == {Colour.RED: 21, "sink": 42}, result.dag_id, set(result.allocations.values()))
        print(list(handoff.discover_nodes()), handoff.execute(dag).results["sink"])
        """
    assert run("-c", textwrap.dedent(script)).splitlines() == ["True Colour.RED {'local'}", "['local'] 42"]


SCRIPT = textwrap.dedent("""
    import os
    import handoff_dask as handoff
    print("line one", flush=True)
    def where():
        return os.getpid()
    session = handoff.start(nodes={"one": {"cpu": 1}})
    result = session.execute([handoff.Function("f", [], where)])
    print(result.results["f"] not in (os.getpid(), os.getppid()), result.allocations)
    """)


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_a_script_needs_no_main_guard(tmp_path, way):
    """It runs once: what it prints comes once."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    said = run(str(path), cwd=tmp_path) if way == "file" else run(input=SCRIPT, cwd=tmp_path)
    assert said.splitlines() == ["line one", "True {'f': 'one'}"]


def test_a_script_imports_its_neighbours_on_the_nodes_too(tmp_path):
    (tmp_path / "neighbour.py").write_text("def answer():\n    return 42\n")
    (tmp_path / "script.py").write_text(
        "import neighbour, handoff_dask as handoff\n"
        "dag = [handoff.Function('f', [], neighbour.answer), handoff.Function('g', [], 'neighbour:answer')]\n"
        "print(handoff.execute(dag).results)\n"
    )
    assert run(str(tmp_path / "script.py")) == "{'f': 42, 'g': 42}\n"


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_script_that_is_ended_leaves_no_process_behind(tmp_path, sign):
    gate = tmp_path / "gate"
    script = f"""
        import handoff_dask as handoff, processes
        session = handoff.start(nodes={{"one": {{"cpu": 1}}}})
        session.execute([handoff.Function("f", [], processes.waits_for, extra_args=[{str(gate)!r}])])
        """
    with started("-c", textwrap.dedent(script), stderr=subprocess.PIPE) as process:
        until_sync(lambda: starts(gate), patience_s=60)
        pids = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
        assert set(starts(gate)) <= pids
        process.send_signal(sign)
        _, told = process.communicate(timeout=30)
        assert process.returncode != 0
        assert ("KeyboardInterrupt" in told) == (sign == signal.SIGINT)
    gone(*pids, *starts(gate))


# ---------------------------------------------------------------------- clusters of the user's own


@pytest.fixture(scope="module")
def local_cluster():
    with LocalCluster(
        n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster:
        yield cluster


@pytest.fixture
def session(local_cluster):
    with Client(local_cluster) as client, handoff.Handoff(client) as session:
        yield session


def test_a_local_cluster(session, tmp_path):
    assert {n: has["cpu"] for n, has in session.discover_nodes().items()} == {"0": 2, "1": 2}
    result = session.execute(parallel(tmp_path, "0", "1", cpu=1))
    assert len({*result.results["both"], os.getpid()}) == 3
    assert [result.allocations[s] for s in Step] == ["0", "1"]


def test_a_worker_that_is_killed_comes_back_under_its_name(session, tmp_path):
    """A function that can only run there waits for it; what was registered it has again."""
    session.register_node("1", {"gpu": 1})
    dag = [
        Function(
            "kills", [], dies_at_first, extra_args=[str(tmp_path / "died")], cost={"gpu": 1}, max_retries=0
        ),
        Function("pinned", ["kills"], int, node="1"),
    ]
    result = session.execute(dag, timeout=60)
    assert result.allocations == {"kills": "1", "pinned": "1"}
    assert {i: t.attempts for i, t in result.timings.items()} == {"kills": 2, "pinned": 1}
    assert session.discover_nodes()["1"]["gpu"] == 1


def is_there(session, dag_id, function_id):
    try:
        session.lookup_data_location(dag_id, function_id)
    except handoff.NotFoundError:  # it has begun, and not ended
        return False
    return True


def test_a_result_that_died_with_its_node_is_computed_again(session, tmp_path):
    first, gate = tmp_path / "first", tmp_path / "gate"
    first.touch()
    dag = [
        Function("first", [], waits_for, extra_args=[str(first)], node="0"),
        Function("second", [], waits_for, extra_args=[str(gate)], node="1"),
        Function("both", ["first", "second"], both, node="1"),
    ]
    execution = session.submit(dag, outputs=["both"])
    until_sync(lambda: starts(gate) and starts(first))
    until_sync(lambda: is_there(session, execution.dag_id, "first"))
    assert session.lookup_data_location(execution.dag_id, "first") == "0"
    (pid,) = starts(first)
    os.kill(pid, signal.SIGKILL)
    until_sync(lambda: len(starts(first)) == 2)
    gate.touch()
    result = execution.result(timeout=60)
    assert result.results == {"both": [starts(first)[1], starts(gate)[0]]}
    assert result.timings["first"].attempts == 2
    assert starts(first)[1] != pid


def executes(n):
    """In a worker's own process, through the worker's own client."""
    return handoff.execute([Function("inner", [], pow, extra_args=[n, 2], cost={"cpu": 1})]).results["inner"]


def test_functions_execute_dags_in_their_processes(session):
    dag = [Function(n, [], executes, extra_args=[n]) for n in range(6)]
    result = session.execute(dag, timeout=60)
    assert result.results == {n: n**2 for n in range(6)}
    until_sync(lambda: all(session.resources_available(node, {"cpu": 2}) for node in ("0", "1")))


def test_a_session_goes_on_after_a_restart(session, tmp_path):
    gate = tmp_path / "gate"
    session.register_node("0", {"tape": 1})
    execution = session.submit([Function("f", [], waits_for, extra_args=[str(gate)], cost={"tape": 1})])
    until_sync(lambda: starts(gate))
    session.client.restart(timeout=60)
    with pytest.raises(handoff.HandoffError):
        execution.result(timeout=30)
    assert session.discover_nodes()["0"]["tape"] == 1
    result = session.execute(
        [Function("f", [], int, cost={"tape": 1}), Function("g", ["f"], int)], timeout=60
    )
    assert result.allocations["f"] == "0"


def test_the_state_of_a_cluster_can_be_dumped(session, tmp_path):
    """For a report of a defect to Dask."""
    session.execute([Function("f", [], int, cost={"cpu": 1})])
    session.client.dump_cluster_state(str(tmp_path / "state"))
    assert list(tmp_path.glob("state*"))


def test_a_scheduler_that_is_killed_is_an_error_and_no_hang(tmp_path):
    gate = tmp_path / "gate"
    with scheduler(tmp_path) as file, worker(file, "node", "--no-nanny") as one:
        with Client(scheduler_file=file) as client:
            client.wait_for_workers(1, timeout=60)
            session = handoff.Handoff(client).start()
            execution = session.submit([Function("f", [], waits_for, extra_args=[str(gate)])])
            until_sync(lambda: starts(gate))
            pid = client.run_on_scheduler(os.getpid)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(handoff.HandoffError, match="scheduler"):
                execution.result(timeout=30)
            assert execution.status == "failed"
            gate.touch()
            session.stop()
        one.wait(30)


def test_command_line_and_installation_by_the_client(tmp_path):
    with (
        scheduler(tmp_path) as file,
        worker(file, "node1", "--no-nanny", "--nthreads", "2", "--resources", "cpu=4 memory=16000"),
        Client(scheduler_file=file) as client,
    ):
        client.wait_for_workers(1, timeout=60)
        with handoff.Handoff(client) as session:
            assert session.discover_nodes() == {"node1": {"cpu": 4, "memory": 16000}}
            session.register_node("node1", {"memory": 8000, "zone": "eu"})
            assert session.discover_nodes() == {"node1": {"cpu": 4, "memory": 8000, "zone": "eu"}}
            # A worker that joins later gets what it needs without anybody's doing.
            with worker(file, "late", "--no-nanny", "--nthreads", "3", "--memory-limit", "1GB"):
                client.wait_for_workers(2, timeout=60)
                assert session.discover_nodes()["late"] == {"cpu": 3, "memory": 1000}
                result = session.execute(parallel(tmp_path, "node1", "late", cpu=3))
                assert [result.allocations[s] for s in Step] == ["node1", "late"]


def test_preloads_on_both_sides_and_a_client_that_only_submits(tmp_path):
    preload = ("--preload", "handoff_dask.preload")
    gate = tmp_path / "gate"
    with (
        scheduler(tmp_path, *preload) as file,
        worker(file, "node1", "--no-nanny", "--nthreads", "2", "--resources", "cpu=2", *preload),
        worker(file, "node2", "--nthreads", "2", "--memory-limit", "1GB", *preload),
    ):
        script = f"""
            import dask, processes, handoff_dask as handoff
            from distributed import Client
            if __name__ == "__main__":
                with Client(scheduler_file={file!r}) as client:
                    client.wait_for_workers(2, timeout=60)
                    dag = handoff.DAG().add_function(handoff.Function("f", [], int, cost={{"cpu": 1}}))
                    print(dask.compute(dag))
                    print(sorted(handoff.discover_nodes()), handoff.execute(dag).results)
                    handoff.execute([handoff.Function("g", [], processes.waits_for, node="node1",
                                     extra_args=[{str(gate)!r}], cost={{"cpu": 2}}),
                                     handoff.Function("h", ["g"], int)])
            """
        with (
            started("-c", textwrap.dedent(script), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
            Client(scheduler_file=file) as client,
        ):
            until_sync(lambda: starts(gate) or process.poll() is not None, patience_s=60)
            assert process.poll() is None, process.stderr.read()
            session = handoff.session_for(client)
            assert session.discover_nodes()["node2"] == {"cpu": 2, "memory": 1000}
            assert not session.resources_available("node1", {"cpu": 1})
            # Ctrl-C in one client cancels what it executes, and only that.
            process.send_signal(signal.SIGINT)
            said, told = process.communicate(timeout=30)
            assert process.returncode != 0
            assert "KeyboardInterrupt" in told
            assert said.splitlines() == ["({'f': 0},)", "['node1', 'node2'] {'f': 0}"]
            gate.touch()
            until_sync(lambda: session.resources_available("node1", {"cpu": 2}))
            assert session.execute([Function("f", [], int, node="node1", cost={"cpu": 2})]).results == {
                "f": 0
            }


def test_installing_twice_and_from_many_clients_is_harmless(local_cluster):
    with Client(local_cluster) as one, Client(local_cluster) as two:
        sessions = [handoff.start(one), handoff.start(one), handoff.start(two)]
        dag = [Function("f", [], int, cost={"cpu": 1})]
        assert [s.execute(dag).results for s in sessions] == [{"f": 0}] * 3
        handoff.stop()
        assert sessions[0].execute(dag).results == {"f": 0}
        sessions[0].stop()
