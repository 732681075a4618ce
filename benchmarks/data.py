"""DAGs whose functions pass large results, on hosts with limited links: seconds, and bytes that move."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import dask
from dask._task_spec import Task as DaskTask
from dask._task_spec import TaskRef
from distributed import Client, wait

import handoff_dask as handoff
from benchmarks import bodies
from benchmarks.cluster import ROOT
from benchmarks.data_workflows import Workflow, load
from benchmarks.hosts import Hosts, hosts
from benchmarks.turns import Session

#: Hosts of workers, each with one worker of two threads and two cores.
HOSTS, CORES = 4, 2
#: Seconds after which a course is given up.
LIMIT_S = 240.0


def compare(
    names: Iterable[str],
    systems: Sequence[str],
    repeats: int,
    *,
    strategy: str = "first_available",
    rate: str = "1gbit",
    slow: str | None = None,
    loopback: bool = False,
) -> Session:
    """Run DAGs with data on systems, taking turns; print each result as it comes.

    Parameters
    ----------
    names
        Shapes and workflows.
    systems
        ``"dask"`` and ``"handoff"``.
    repeats
        How often each runs.
    strategy
        Handoff's ``allocation_strategy``.
    rate, slow
        Rate of the links of the hosts; another one for the last host.
    loopback
        Use the loopback device even where network namespaces can be made.
    """
    session = Session("data")
    for name in names:
        functions = len(load(name).steps)
        for repeat in range(repeats):
            for system in systems:
                with hosts(HOSTS, rate, {HOSTS: slow} if slow else None, loopback=loopback) as network:
                    found = course(network, system, name, strategy)
                    row = {"dag": name, "functions": functions, "system": system, "repeat": repeat}
                    row |= {"network": network.kind, "rate": rate, "slow": slow, "strategy": strategy}
                print(_line(session.add({**row, **found})), flush=True)
    return session


def course(network: Hosts, system: str, name: str, strategy: str = "first_available") -> dict[str, Any]:
    """Run one DAG on a new cluster on these hosts."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        asked = {"system": system, "name": name, "strategy": strategy}
        asked["scheduler_file"] = _start_cluster(network, Path(folder))
        before = network.sent_bytes()
        found = _ask_client(network, asked, Path(folder, "client.log"))
        if before is not None:
            found["megabytes"] = round(((network.sent_bytes() or 0) - before) / 1e6, 1)
    return found


def _ask_client(network: Hosts, asked: dict[str, Any], log: Path) -> dict[str, Any]:
    """Call :func:`inside` in a process on the scheduler's host."""
    words = [sys.executable, "-m", "benchmarks.turns", "benchmarks.data:inside"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with log.open("wb") as output:
        client = network.start(0, words, cwd=ROOT, env=_environment(), stderr=output, **pipes)
    try:
        answer, _ = client.communicate(json.dumps(asked), timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"status": f"given up after {LIMIT_S:.0f} s"}
    if client.returncode:
        return {"status": f"ended with {client.returncode}: {log.read_text(errors='replace')[-500:]}"}
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return found


def _start_cluster(network: Hosts, folder: Path) -> str:
    file = folder / "scheduler.json"
    told = ["--scheduler-file", str(file), "--no-dashboard"]
    dask_command = [sys.executable, "-m", "dask"]

    def start(host: int, *words: str) -> None:
        log = (folder / f"{host}.log").open("wb")
        with log:
            options = {"env": _environment(), "cwd": folder, "stdout": log, "stderr": subprocess.STDOUT}
            network.start(host, [*dask_command, *words, *told], **options)

    start(0, "scheduler", "--host", network.address(0), "--port", "0", "--no-show")
    for host in range(1, HOSTS + 1):
        start(host, "worker", "--host", network.address(host), "--name", f"n{host}", "--nthreads", str(CORES),
              "--resources", f"cpu={CORES}", "--no-nanny", "--memory-limit", "4GB")  # fmt: skip
    return str(file)


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "0"}


# ---------------------------------------------------------------------- in the client's process


def inside(scheduler_file: str, system: str, name: str, strategy: str) -> dict[str, Any]:
    """Run one DAG, from its submission to the last result; results stay where they are."""
    workflow = load(name)
    with Client(scheduler_file=scheduler_file, timeout=60) as client:
        client.wait_for_workers(HOSTS, timeout=60)
        client.run(bodies.produce, 0, 0)
        run = _run_dask if system == "dask" else _run_handoff
        seconds = run(client, workflow, strategy)
        sent = sum(client.run(bodies.bytes_sent).values())
    return {"status": "ok", "seconds": round(seconds, 3), "megabytes": round(sent / 1e6, 1)}


def _run_dask(client: Client, workflow: Workflow, strategy: str) -> float:
    graph = {
        step.id: DaskTask(step.id, bodies.produce, *map(TaskRef, step.args), step.seconds, step.megabytes)
        for step in workflow.steps
    }
    costs = {step.id: {"cpu": step.cpu} for step in workflow.steps}
    began = time.monotonic()
    with dask.annotate(resources=costs.__getitem__):  # type: ignore[attr-defined]
        futures = client.get(graph, workflow.sinks, sync=False)
    wait(futures)
    return time.monotonic() - began


def _run_handoff(client: Client, workflow: Workflow, strategy: str) -> float:
    dag = handoff.DAG(workflow.name)
    for step in workflow.steps:
        more = (step.seconds, step.megabytes)
        dag.add_function(
            handoff.Function(
                step.id, list(step.args), bodies.produce, extra_args=more, cost={"cpu": step.cpu}
            )
        )
    with handoff.Handoff(client) as session:
        began = time.monotonic()
        execution = session.submit(dag, outputs=workflow.sinks, allocation_strategy=strategy)
        wait(list(execution.futures.values()))
        return time.monotonic() - began


def _line(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return f"{row['dag']:16} {row['system']:10} {row['status']}"
    return (
        f"{row['dag']:16} {row['system']:10} {row['seconds']:7.2f} s {row['megabytes']:8.0f} MB,"
        f" {row['network']}, load {row['load']}"
    )
