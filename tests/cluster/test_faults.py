"""Faults while functions run, on real processes: each ends in the right result, or the right error, in time.

``make faults`` runs these.  Faults of single functions, sessions and hooks are tried beside, with workers
in the test's own process: ``test_lost_nodes.py``, ``test_clients.py``, ``test_interrupts.py``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from distributed import Client, Status
from processes import scheduler, started, starts, waits_for, worker
from stage import until_sync

import handoff_dask as handoff
from handoff_dask import Function

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

#: Seconds within which each execution ends, one way or the other.
ENDS_S = 90
NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A scheduler that gives workers up after 20 s of silence; four nodes of two cores, each with a nanny."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "20s")
        file = stack.enter_context(scheduler(tmp_path_factory.mktemp("faults")))
        for name in NAMES:
            options = ("--nthreads", "2", "--memory-limit", "1GB", "--resources", f"cpu=2 is_{name}=1")
            stack.enter_context(worker(file, name, *options))
        yield file


@pytest.fixture
def session(cluster):
    with Client(scheduler_file=cluster) as client, handoff.Handoff(client) as session:
        # What the test before has harmed is back.
        until_sync(lambda: set(session.discover_nodes()) == set(NAMES), patience_s=60)
        yield session
        until_sync(lambda: not client.run_on_scheduler(claimed), patience_s=30)


def claimed(dask_scheduler):
    """What nodes hold, by the ledger, which checks itself."""
    engine = dask_scheduler.plugins["handoff"].driver.engine
    engine.check()
    return {n.name: dict(n.used) for n in engine.nodes().values() if n.threads_used or any(n.used.values())}


def add(*values, by=1, seconds=0.0):
    time.sleep(seconds)
    return sum(values) + by


def layers(width=10, depth=4, seconds=0.1):
    """Functions in layers, and what they come to."""
    dag, values = handoff.DAG(), {}
    for level in range(depth):
        for n in range(width):
            args = [] if not level else [(level - 1, n), (level - 1, (n + 1) % width)]
            extra = {"by": n, "seconds": seconds}
            dag.add_function(Function((level, n), args, add, kwargs=extra, cost={"cpu": 1}, max_retries=0))
            values[level, n] = sum(values[a] for a in args) + n
    return dag, values


def pids(session):
    """``{node: its worker's process}``."""
    found = session.client.run(os.getpid)
    workers = session.client.scheduler_info(n_workers=-1)["workers"]
    return {str(workers[address]["id"]): pid for address, pid in found.items() if address in workers}


def is_running(execution):
    return execution.status == "running"


# ---------------------------------------------------------------------- a worker is killed


@pytest.mark.parametrize("when", ["before it starts", "while it runs", "when it has ended"])
def test_a_worker_is_killed(session, tmp_path, when):
    first, gate = tmp_path / "first", tmp_path / "gate"
    dag = [
        Function("first", [], waits_for, extra_args=[str(first)], node="a", max_retries=0),
        Function("second", ["first"], waits_for_with, extra_args=[str(gate)], node="b", max_retries=0),
    ]
    before = pids(session)
    execution = session.submit(dag)
    until_sync(lambda: starts(first))
    if when != "before it starts":
        first.touch()
        until_sync(lambda: starts(gate))
    if when == "when it has ended":
        gate.touch()
        until_sync(lambda: execution.status == "finished")
    os.kill(before["b"], signal.SIGKILL)
    first.touch()
    gate.touch()
    result = execution.result(timeout=ENDS_S)
    assert result["first"] == before["a"]
    assert result["second"][0] == before["a"]
    assert result["second"][1] in (before["b"], pids(session)["b"])


def waits_for_with(value, path):
    return value, waits_for(path)


class Slow:
    """A value that takes its time to leave its node, and says that it leaves."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        with open(f"{self.path}.started", "a") as file:
            file.write(f"{os.getpid()}\n")
        give_up = time.monotonic() + 60
        while not Path(self.path).exists() and time.monotonic() < give_up:
            time.sleep(0.01)
        return Slow, (self.path,)


def test_a_worker_is_killed_while_a_dependent_copies_its_result(session, tmp_path):
    gate = tmp_path / "gate"
    dag = [
        Function("large", [], Slow, extra_args=[str(gate)], cost={"cpu": 1}, max_retries=0),
        Function("taker", ["large"], type, node="d", max_retries=0),
    ]
    # Not on d, where it would not be copied.
    execution = session.submit(dag, allocator=lambda function, nodes: "d" if function.node else nodes[0].name)
    until_sync(lambda: starts(gate), patience_s=60)
    os.kill(starts(gate)[0], signal.SIGKILL)
    gate.touch()
    assert execution.result(timeout=ENDS_S)["taker"].__name__ == "Slow"


def test_half_of_the_workers_are_killed(session):
    dag, values = layers(width=12, depth=6, seconds=0.15)
    execution = session.submit(dag)
    until_sync(lambda: is_running(execution))
    time.sleep(0.3)
    for name, pid in pids(session).items():
        if name in ("a", "c"):
            os.kill(pid, signal.SIGKILL)
    assert execution.result(timeout=ENDS_S).results == values


def test_the_only_node_of_a_pin_is_killed_and_comes_back(session, tmp_path):
    gate = tmp_path / "gate"
    execution = session.submit(
        [
            Function("pinned", [], waits_for, extra_args=[str(gate)], node="c", max_retries=0),
            Function("labelled", [], waits_for, extra_args=[str(gate)], cost={"is_c": 1}, max_retries=0),
        ]
    )
    until_sync(lambda: len(starts(gate)) == 2)
    os.kill(starts(gate)[0], signal.SIGKILL)
    gate.touch()
    result = execution.result(timeout=ENDS_S)
    assert set(result.allocations.values()) == {"c"}
    assert {timing.attempts for timing in result.timings.values()} == {2}


def test_the_only_node_of_a_label_goes_for_good(session, cluster, tmp_path):
    gate = tmp_path / "gate"
    with worker(cluster, "guest", "--nthreads", "1", "--resources", "cpu=1 guest=1") as process:
        until_sync(lambda: "guest" in session.discover_nodes(), patience_s=60)
        execution = session.submit([Function("f", [], waits_for, extra_args=[str(gate)], cost={"guest": 1})])
        until_sync(lambda: starts(gate))
        # With its nanny.
        os.killpg(process.pid, signal.SIGKILL)
        with pytest.raises(handoff.AllocationError, match="guest"):
            execution.result(timeout=ENDS_S)


# ---------------------------------------------------------------------- a worker does not answer, or leaves


def set_status(status, dask_worker):
    dask_worker.status = Status[status]


def address_of(session, name):
    workers = session.client.scheduler_info(n_workers=-1)["workers"]
    return next(address for address, worker in workers.items() if str(worker["id"]) == name)


def test_a_worker_is_paused(session):
    dag, values = layers()
    address = address_of(session, "a")
    execution = session.submit(dag)
    session.client.run(set_status, "paused", workers=[address])
    try:
        assert execution.result(timeout=ENDS_S).results == values
    finally:
        session.client.run(set_status, "running", workers=[address])


def test_a_worker_hangs(session):
    """What ran there runs elsewhere once the scheduler has given it up; it may go on later."""
    dag, values = layers(width=8, depth=3)
    process = psutil.Process(pids(session)["b"])
    execution = session.submit(dag)
    until_sync(lambda: is_running(execution))
    process.suspend()
    try:
        assert execution.result(timeout=ENDS_S).results == values
    finally:
        with suppress(psutil.NoSuchProcess):  # its nanny has made another one
            process.resume()


def test_workers_retire_and_come_to_the_end_of_their_lifetime(session, cluster):
    dag, values = layers(width=10, depth=12, seconds=0.2)
    with worker(
        cluster, "short", "--nthreads", "2", "--lifetime", "6 seconds", "--resources", "cpu=2"
    ) as process:
        until_sync(lambda: "short" in session.discover_nodes(), patience_s=60)
        execution = session.submit(dag)
        session.client.retire_workers(names=["d"], close_workers=False, remove=False)
        assert execution.result(timeout=ENDS_S).results == values
        process.wait(60)
    # A worker that has retired takes nothing any more; its nanny makes another one.
    os.kill(pids(session)["d"], signal.SIGKILL)


# ---------------------------------------------------------------------- a client

CLIENT = """
import sys, processes, handoff_dask as handoff
from distributed import Client
from handoff_dask import Function
if __name__ == "__main__":
    file, gate, last = sys.argv[1:]
    client = Client(scheduler_file=file)
    dag = [Function("f", [], processes.waits_for, extra_args=[gate], cost={"cpu": 2}, node="a"),
           Function("g", ["f"], processes.waits_for_number, extra_args=[last], cost={"cpu": 1})]
    print(sorted(handoff.execute(dag, client=client).results))
"""


def other_client(cluster, *paths):
    command = ["-c", textwrap.dedent(CLIENT), cluster, *map(str, paths)]
    return started(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_client_is_killed(session, cluster, tmp_path):
    gate = tmp_path / "gate"
    with other_client(cluster, gate, gate) as process:
        until_sync(lambda: starts(gate) or process.poll() is not None, patience_s=60)
        process.kill()
        process.wait(10)
        gate.touch()
        # What it held is free, and others go on.
        until_sync(lambda: session.resources_available("a", {"cpu": 2}), patience_s=30)
        dag, values = layers()
        assert session.execute(dag, timeout=ENDS_S).results == values


def test_a_client_is_stopped_for_half_a_minute(session, cluster, tmp_path):
    gate, last = tmp_path / "gate", tmp_path / "last"
    with other_client(cluster, gate, last) as process:
        until_sync(lambda: starts(gate) or process.poll() is not None, patience_s=60)
        process.send_signal(signal.SIGSTOP)
        gate.touch()
        until_sync(lambda: starts(last), patience_s=30)
        dag, values = layers()
        assert session.execute(dag, timeout=ENDS_S).results == values
        time.sleep(30)
        process.send_signal(signal.SIGCONT)
        last.touch()
        said, told = process.communicate(timeout=60)
        assert said.strip() == "['f', 'g']", told


# ---------------------------------------------------------------------- the scheduler


def test_the_schedulers_loop_stands_still(session):
    dag, values = layers(width=8, depth=6)
    execution = session.submit(dag)
    until_sync(lambda: is_running(execution))
    session.client.run_on_scheduler(time.sleep, 5)
    assert execution.result(timeout=ENDS_S).results == values


def slow_down(seconds, dask_scheduler):
    """Let the scheduler send its messages so seldom."""
    for comm in (*dask_scheduler.stream_comms.values(), *dask_scheduler.client_comms.values()):
        comm.interval = seconds


def slow_down_worker(seconds, dask_worker):
    dask_worker.batched_stream.interval = seconds


def test_messages_are_slow(session):
    """Each message waits for up to half a second; those of some workers are later than those of others."""
    dag, values = layers(width=8, depth=4, seconds=0.02)
    addresses = [address_of(session, name) for name in NAMES]
    session.client.run_on_scheduler(slow_down, 0.5)
    for n, address in enumerate(addresses):
        session.client.run(slow_down_worker, 0.2 * n, workers=[address])
    try:
        executions = [session.submit(dag), session.submit(dag)]
        executions[1].cancel()
        assert executions[0].result(timeout=ENDS_S).results == values
    finally:
        session.client.run_on_scheduler(slow_down, 0.002)
        session.client.run(slow_down_worker, 0.002)


def test_the_cluster_restarts(session, tmp_path):
    execution = session.submit([Function("f", [], waits_for, extra_args=[str(tmp_path / "gate")])])
    until_sync(lambda: starts(tmp_path / "gate"))
    session.client.restart(timeout=60)
    with pytest.raises(handoff.HandoffError):
        execution.result(timeout=30)
    dag, values = layers()
    assert session.execute(dag, timeout=ENDS_S).results == values
