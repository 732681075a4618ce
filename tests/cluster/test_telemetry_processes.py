"""Telemetry across processes: traces, numbers, two listeners."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path

import pytest
from clusters import live
from codes import Colour, boom, same
from distributed import Client, get_worker
from prometheus_client.parser import text_string_to_metric_families
from stage import until_sync
from telemetry_checks import FUNCTION, NODE, Sometimes, check_amounts, check_starts, kill_me

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask.bridges import opentelemetry as bridge
from handoff_dask.testing import capture_telemetry


def traced():
    """A span made on the node; the ids of the trace it is in."""
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return context.trace_id, context.span_id, str(get_worker().name)


@pytest.mark.parametrize("inline", [False, True])
def test_spans_made_by_functions_join_the_trace(inline):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    dag = handoff.DAG("d").add_function(Function("i", [], int, type="inline"))
    dag.add_function(Function("f", ["i"] if inline else [], traced if not inline else lambda i: traced()))

    @live(2)
    async def run(c, s, a):
        bridge.instrument(provider)
        try:
            async with handoff.Handoff(c) as session:
                with provider.get_tracer("t").start_as_current_span("outside"):
                    trace_id, span_id, _ = (await session.execute(dag)).results["f"]
                with pytest.raises(handoff.AllocationError):
                    await session.execute([Function("f", [], traced, cost={"gpu": 1})])
        finally:
            bridge.uninstrument()
        spans = {span.name: span for span in exporter.get_finished_spans()}
        assert set(spans) == {"outside", "dag d", "f"}
        assert (trace_id, span_id) == (spans["dag d"].context.trace_id, spans["dag d"].context.span_id)
        assert spans["dag d"].parent.span_id == spans["outside"].context.span_id
        assert spans["f"].parent.span_id == span_id

    run()


# ---------------------------------------------------------------------- in processes of their own


HERE = str(Path(__file__).parent)
HTTP = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")


def environment():
    """In which a process finds what is imported here: the functions and ids of this module too."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([HERE, *sys.path])}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """A scheduler and two workers under nannies; the file that tells where."""
    tmp_path = tmp_path_factory.mktemp("cluster")
    file = str(tmp_path / "scheduler.json")
    running = []

    def start(*args):
        log = (tmp_path / f"{len(running)}.log").open("w")
        command = [sys.executable, "-m", "dask", *args, *HTTP, "--scheduler-file", file]
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(), cwd=tmp_path, start_new_session=True
        )
        running.append((process, log))

    start("scheduler", "--port", "0")
    for name in "ab":
        start("worker", "--name", name, "--nthreads", "2", "--no-dashboard", "--memory-limit", "0")
    yield file
    for process, log in running:
        # The nanny leads a session of its own: this ends its worker too.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


def until_there(path):
    until_sync(lambda: os.path.exists(path))


def test_numbers_are_on_the_page_of_the_scheduler(processes, tmp_path):
    """On a scheduler of its own, as Prometheus reads them."""
    go_on = str(tmp_path / "go on")
    with Client(scheduler_file=processes) as client, handoff.Handoff(client) as session:
        client.wait_for_workers(2, timeout=60)
        page = f"http://127.0.0.1:{client.scheduler_info()['services']['dashboard']}/metrics"

        def read():
            with urllib.request.urlopen(page) as answer:
                families = text_string_to_metric_families(answer.read().decode())
            samples = [sample for family in families for sample in family.samples]
            ours = [x for x in samples if x.name.startswith("dask_handoff_")]
            return {(x.name[13:], *x.labels.values()): x.value for x in ours}

        session.execute([Function("f", [], same)])
        with pytest.raises(handoff.FunctionFailedError):
            session.execute([Function("f", [], boom, max_retries=0)])
        dag = [Function(n, [], until_there, extra_args=[go_on], cost={"cpu": 1.5}) for n in range(3)]
        execution = session.submit([*dag, Function("end", range(3), same)])
        until_sync(lambda: read().get(("functions_waiting", "room")) == 1)
        during = read()
        Path(go_on).touch()
        execution.result()
        after = read()
    times = {name: value for name, value in during.items() if name[0].startswith("decision_duration")}
    memory = {name: value for name, value in during.items() if name[-1] == "memory"}
    expected = {
        ("functions", "pending"): 1,
        ("functions", "running"): 2,
        ("functions", "waiting"): 1,
        ("functions_waiting", "room"): 1,
        ("capability", "a", "cpu"): 2,
        ("capability", "b", "cpu"): 2,
        ("claimed", "a", "cpu"): 1.5,
        ("claimed", "b", "cpu"): 1.5,
        ("runs", "pending"): 0,
        ("runs", "running"): 1,
        ("runs_ended_total", "finished"): 1,
        ("runs_ended_total", "failed"): 1,
        ("decisions_total", "place"): 4,
        ("decisions_total", "wait"): 1,
        ("decisions_total", "reject"): 0,
        ("decisions_total", "move"): 0,
        ("node_sick", "a"): 0,
        ("node_sick", "b"): 0,
    }
    created = {name for name in during if name[0].endswith("_created")}
    shares = {name: value for name, value in during.items() if name[0] == "share"}
    used = {name for name in during if name[0].startswith("function_")}
    left_out = {*times, *memory, *created, *shares, *used}
    assert {n: v for n, v in during.items() if n not in left_out} == expected
    assert {name[0] for name in used} >= {"function_cpu_seconds_total"}
    # The only client holds 1.5 of 2 cores on each node.
    assert list(shares.values()) == [0.75]
    assert times["decision_duration_seconds_count",] == times["decision_duration_seconds_bucket", "+Inf"] > 4
    assert 0 < times["decision_duration_seconds_sum",] < 1
    assert (after["runs_ended_total", "finished"], after["decisions_total", "place"]) == (2, 6)
    assert after["claimed", "a", "cpu"] == 0
    assert not [name for name in after if name[0] in ("functions", "functions_waiting")]


LISTENER = """
import sys
from distributed import Client
import handoff_dask as handoff
from handoff_dask import telemetry

def show(event, measurements, metadata, config):
    print(event[-1], repr(metadata["function_id"]), flush=True)

telemetry.attach_many("show", [("handoff", "execution", "function", e) for e in ("stop", "exception")], show)
with Client(scheduler_file=sys.argv[1]) as client, handoff.Handoff(client):
    print("listening", flush=True)
    sys.stdin.read()
"""


def test_a_worker_is_killed_and_two_processes_hear_of_it(processes, tmp_path):
    """Every attempt on the dead node ends; what another process hears is the same, once."""
    with Client(scheduler_file=processes) as client:
        client.wait_for_workers(2, timeout=60)
        listener = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(LISTENER), processes],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert listener.stdout.readline() == "listening\n"
        with capture_telemetry() as captured, handoff.Handoff(client) as session:
            code = Sometimes(tmp_path / "died", kill_me)
            dag = handoff.DAG("d").add_function(Function(Colour.RED, [], code, cost={"cpu": 2}))
            for n in range(20):
                dag.add_function(Function(n, [], same, cost={"cpu": 1}))
            result = session.execute(dag)
            until_sync(lambda: len(captured.of((*NODE, "up"))) == 3)
        client.close()
        heard, _ = listener.communicate("", timeout=20)
    assert listener.returncode == 0
    captured.balance()
    check_amounts(captured)
    check_starts(captured, result)
    [down] = captured.of((*NODE, "down"))
    lost = captured.of((*FUNCTION, "exception"))
    assert {c.metadata["exception"] for c in lost} == {f"lost: node {down.metadata['node']!r} has died"}
    assert [c.metadata["attempt"] for c in captured.of((*FUNCTION, "start"), function_id=Colour.RED)] == [
        1,
        2,
    ]
    ends = [c for c in captured.of(FUNCTION) if c.event[-1] in ("stop", "exception")]
    assert heard.splitlines() == [f"{c.event[-1]} {c.metadata['function_id']!r}" for c in ends]


def test_in_one_process_without_sockets(stage):
    """Over ``inproc://`` nothing is packed, and exceptions arrive all the same."""
    with (
        capture_telemetry() as captured,
        Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as client,
        handoff.Handoff(client) as session,
        pytest.raises(handoff.FunctionFailedError) as raised,
    ):
        session.execute([Function("f", [], boom, max_retries=1, cost={"cpu": 1})])
    assert isinstance(raised.value.__cause__, ValueError)
    captured.balance()
    ends = [
        (c.event[-1], c.metadata["exception"].args)
        for c in captured.of(FUNCTION)
        if "exception" in c.metadata
    ]
    assert ends == [("retry", ("boom", 3)), ("exception", ("boom", 3))]
