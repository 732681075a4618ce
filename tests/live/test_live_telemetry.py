"""What a cluster tells: every event, once, in order, and nothing to those who do not listen."""

from __future__ import annotations

import enum
import logging
import os
import signal
import subprocess
import sys
import textwrap
import urllib.request
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from clusters import live, nothing_claimed
from dask.distributed import Reschedule
from distributed import Client, Worker, get_worker
from prometheus_client.parser import text_string_to_metric_families
from stage import until, until_sync

import handoff_dask as handoff
from handoff_dask import Function, telemetry
from handoff_dask.bridges import opentelemetry as bridge
from handoff_dask.live.announcer import Announcer
from handoff_dask.live.requests import Requests
from handoff_dask.testing import capture_telemetry

DAG = ("handoff", "execution", "dag")
FUNCTION = ("handoff", "execution", "function")
ALLOCATION = ("handoff", "allocation", "function")
CLAIM = ("handoff", "resources", "claim")
RELEASE = ("handoff", "resources", "release")
NODE = ("handoff", "node")


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def same(value=None, *rest):
    return value


def names(captured, *, without=()):
    """``(last parts of the name, function)`` in order."""
    return [
        (*c.event[2:], c.metadata.get("function_id")) if c.event[1] == "execution" else (*c.event[1:],)
        for c in captured
        if c.event[:2] not in without
    ]


def check_amounts(captured):
    """Replay claims and releases: what is said to be left is what is left, and never below 0."""
    offers, held = {}, {}
    for told in captured:
        node = told.metadata.get("node")
        if told.event in ((*NODE, "up"), (*NODE, "update")):
            offers[node] = exact(told.measurements["capabilities"])
            held.setdefault(node, Counter())
        elif told.event == (*NODE, "down"):
            # Of what ran there we hear after that it is lost; nothing is left of the node by then.
            offers[node] = {}
            del held[node]
        elif told.event in (CLAIM, RELEASE):
            change = exact(told.measurements["amounts"])
            if node in held:
                held[node].update(change) if told.event == CLAIM else held[node].subtract(change)
            left = {name: amount - held[node][name] for name, amount in offers[node].items()}
            assert exact(told.measurements["available"]) == left
            assert min(left.values(), default=0) >= 0
    assert {node: +amounts for node, amounts in held.items() if +amounts} == {}


def exact(amounts):
    return {name: Fraction(str(amount)) for name, amount in amounts.items()}


def check_starts(captured, result):
    """Starts and ends agree with each other, and with the result."""
    for function_id, timing in result.timings.items():
        told = captured.of(FUNCTION, function_id=function_id)
        last = told[-2:]
        assert [c.event[-1] for c in last] == ["start", "stop"]
        assert [c.measurements["system_time"] for c in last] == [timing.start] * 2
        assert last[0].metadata == last[1].metadata
        assert last[1].measurements["duration"] == pytest.approx(timing.stop - timing.start, abs=1e-9)
        assert last[0].measurements["queue_time"] == last[1].measurements["queue_time"] >= 0
        assert last[1].metadata["attempt"] == timing.attempts


@live(4)
async def test_the_story_of_a_dag(c, s, a):
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            result = await session.execute(
                handoff.DAG("d")
                .add_function(Function("f", [], same, extra_args=[[1] * 10], cost={"cpu": 1.5}))
                .add_function(Function("g", ["f"], len)),
                allocation_strategy="load_balanced",
            )
            story = list(captured)
    captured.balance()
    check_starts(captured, result)
    assert names(story) == [
        ("node", "up"),
        ("dag", "start", None),
        ("allocation", "function"),
        ("resources", "claim"),
        ("function", "start", "f"),
        ("function", "stop", "f"),
        ("resources", "release"),
        ("allocation", "function"),
        ("function", "start", "g"),
        ("function", "stop", "g"),
        ("dag", "stop", None),
    ]
    up, begun, allocated, claimed, started, stopped, released, *_, ended = story
    check_amounts(captured)
    offer = up.measurements["capabilities"]
    assert (up.metadata, offer["cpu"]) == ({"node": "0", "address": a.address}, 4)
    about = {"dag_id": "d", "function_count": 2, "allocation_strategy": "load_balanced"}
    assert begun.metadata == {**about, "status": "pending"}
    assert ended.metadata == {**about, "status": "finished"}
    assert begun.measurements == {"system_time": result.record.submitted}
    assert ended.measurements["duration"] == pytest.approx(result.makespan_s, abs=1e-6)
    mine = {"dag_id": "d", "function_id": "f", "node": "0"}
    assert allocated.metadata == {**mine, "strategy": "load_balanced", "reason": ""}
    assert allocated.measurements["candidates"] == 1
    assert claimed.metadata == released.metadata == mine
    assert claimed.measurements == {"amounts": {"cpu": 1.5}, "available": {**offer, "cpu": 2.5}}
    assert released.measurements == {"amounts": {"cpu": 1.5}, "available": offer}
    assert started.metadata == {**mine, "attempt": 1, "cost": {"cpu": 1.5}}
    assert stopped.measurements["nbytes"] == result.record.functions[0].nbytes > 0


@live(4)
async def test_a_long_function_is_told_while_it_runs(c, s, a, stage):
    """Its start is told once, soon, and the end says the same."""
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            execution = await session.submit([stage.function("f")])
            await until(lambda: captured.of((*FUNCTION, "start")))
            stage.cue("f")
            result = await execution
    check_starts(captured, result)
    assert result.record.functions[0].start == result.timings["f"].start


class Sometimes:
    """Fails until its file is there."""

    def __init__(self, path, how):
        self.path, self.how = str(path), how

    def __call__(self, *args):
        if not os.path.exists(self.path):
            Path(self.path).touch()
            self.how()
        return "well"


def boom():
    raise ValueError("boom", 3)


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def reschedule_me():
    raise Reschedule


@live(4)
async def test_retries(c, s, a, tmp_path):
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            code = Sometimes(tmp_path / "tried", boom)
            result = await session.execute([Function("f", [], code, cost={"cpu": 1})])
    captured.balance()
    check_amounts(captured)
    check_starts(captured, result)
    first, failed, second, _ = captured.of(FUNCTION)
    assert [c.event[-1] for c in captured.of(FUNCTION)] == ["start", "retry", "start", "stop"]
    error = failed.metadata.pop("exception")
    assert (type(error), error.args) == (ValueError, ("boom", 3))
    assert failed.metadata == first.metadata
    assert failed.measurements["system_time"] == first.measurements["system_time"]
    assert (first.metadata["attempt"], second.metadata["attempt"]) == (1, 2)


@live(4)
async def test_a_failure_ends_all_before_it_is_raised(c, s, a, stage):
    """What fails and what is cancelled for it has been told when ``execute`` raises."""
    bad = stage.quick("bad", ["sibling first"], value=KeyError("x"), max_retries=0)
    dag = [stage.quick("sibling first"), bad, stage.function("sibling", cost={"cpu": 1})]
    dag.append(stage.function("after", ["bad"]))
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            await session.submit([stage.function("other", cost={"cpu": 2})])
            await stage.sees("other")
            with pytest.raises(handoff.FunctionFailedError) as raised:
                await session.execute(dag)
            story = list(captured)
            stage.close()
            await nothing_claimed(s)
            await until(lambda: len(captured.of(RELEASE)) == 2)
    captured.balance()
    ends = [c for c in story if c.event[-1] == "exception"]
    assert [c.metadata.get("function_id") for c in ends] == ["bad", "sibling", None]
    assert isinstance(ends[0].metadata["exception"], KeyError)
    assert ends[1].metadata["exception"] == "cancelled: another function has failed"
    assert ends[2].metadata["status"] == "failed"
    why = ends[2].metadata["exception"]
    assert (str(why), type(why)) == (str(raised.value), handoff.FunctionFailedError)
    assert isinstance(why.__cause__, KeyError)


@live(2)
async def test_cancelled(c, s, a, stage):
    """The attempt ends at once; what it holds comes back when its thread is over."""
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            execution = await session.submit(
                [stage.function("f", cost={"cpu": 2}, priority=1), stage.function("g", cost={"cpu": 2})]
            )
            await stage.sees("f")
            await execution.cancel()
            with pytest.raises(handoff.ExecutionCancelledError):
                await execution
            story = names(captured)
            assert story[-3:] == [
                ("function", "start", "f"),
                ("function", "exception", "f"),
                ("dag", "exception", None),
            ]
            assert not captured.of(RELEASE)
            stage.cue("f")
            await until(lambda: captured.of(RELEASE))
    captured.balance()
    check_amounts(captured)
    [attempt] = captured.of((*FUNCTION, "exception"))
    assert attempt.metadata["exception"] == "cancelled: the execution was cancelled"
    [ended] = captured.of((*DAG, "exception"))
    assert ended.metadata["status"] == "cancelled"
    assert isinstance(ended.metadata["exception"], handoff.ExecutionCancelledError)


@live(4)
async def test_dask_takes_a_function_back(c, s, a, tmp_path):
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            code = Sometimes(tmp_path / "tried", reschedule_me)
            result = await session.execute([Function("f", [], code, cost={"cpu": 1})])
    captured.balance()
    check_amounts(captured)
    check_starts(captured, result)
    [lost] = captured.of((*FUNCTION, "exception"))
    assert lost.metadata["exception"] == "lost: Dask has taken it back"


@live(2, 2)
async def test_functions_sent_ahead(c, s, a, b):
    """Very short functions follow each other on a node without asking; the account is still exact."""
    with capture_telemetry() as captured:
        async with handoff.Handoff(c) as session:
            dag = [Function(n, [], same, cost={"cpu": 1, "memory": 100}) for n in range(300)]
            dag.append(Function("sum", range(300), same, argument_inclusion="as_list"))
            result = await session.execute(dag)
            again = await session.execute(dag)
            ahead = s.plugins["handoff"].foresight.estimates
    assert ahead is not None
    captured.balance()
    check_amounts(captured)
    assert len(captured.of(ALLOCATION)) == len(captured.of((*FUNCTION, "start"))) == 602
    assert len(captured.of(CLAIM)) == 600
    assert {t.attempts for t in (*result.timings.values(), *again.timings.values())} == {1}


@live(2, 2)
async def test_functions_sent_ahead_are_cancelled_unheard(c, s, a, b, stage):
    """Those that had not begun when the DAG was cancelled were no attempts."""
    async with handoff.Handoff(c) as session:
        await session.execute([Function(n, [], same, cost={"cpu": 1}, duration=0.001) for n in range(50)])
        with capture_telemetry() as captured:
            blockers = [stage.function(f"b{n}", duration=0.001, cost={"cpu": 1}) for n in range(40)]
            execution = await session.submit(blockers)
            await stage.counts(4)
            await until(lambda: len(captured.of((*FUNCTION, "start"))) == 4)
            assert len(captured.of(ALLOCATION)) > 4
            await execution.cancel()
            stage.close()
            await nothing_claimed(s)
            await until(lambda: len(captured.of(RELEASE)) == 4)
    captured.balance()
    assert len(captured.of((*FUNCTION, "exception"))) == len(captured.of(CLAIM)) == 4


@live(3)
async def test_what_others_hold_is_not_available(c, s, a, stage):
    """Claims of clients and of plain Dask tasks count."""
    async with handoff.Handoff(c) as session:
        assert await session.resource_tracker.request("0", {"cpu": 1})
        with capture_telemetry(CLAIM, RELEASE) as captured:
            await session.execute([Function("f", [], same, cost={"cpu": 1.5})])
    assert [c.measurements["available"]["cpu"] for c in captured] == [0.5, 2]


@live(2)
async def test_a_function_without_a_cost_claims_nothing(c, s, a):
    with capture_telemetry(("handoff", "resources")) as captured:
        async with handoff.Handoff(c) as session:
            await session.execute([Function("f", [], same), Function("g", [], same, cost={"cpu": 0})])
    assert captured == []


@live(2)
async def test_nodes_come_change_and_go(c, s, a):
    with capture_telemetry(NODE) as captured:
        async with handoff.Handoff(c) as session:
            await session.update_node_resources("0", {"gpu": 1})
            await session.update_node_resources("0", {"gpu": 1})
            async with Worker(s.address, name="late", nthreads=3) as late:
                address = late.address
                await until(lambda: captured.of((*NODE, "up"), node="late"))
            await until(lambda: captured.of((*NODE, "down")))
    assert [(c.event[-1], c.metadata["node"]) for c in captured] == [
        ("up", "0"),
        ("update", "0"),
        ("up", "late"),
        ("down", "late"),
    ]
    offers = [c.measurements["capabilities"] for c in captured]
    assert offers[1] == {**offers[0], "gpu": 1}
    assert offers[2]["cpu"] == 3
    assert [c.metadata["address"] for c in captured] == [a.address] * 2 + [address] * 2


@live(4)
async def test_whoever_listens_late_hears_what_happens_from_then_on(c, s, a, stage):
    """What is held by then counts; the end of what runs by then comes with its start."""
    async with handoff.Handoff(c) as session:
        first = await session.submit([stage.function("early", cost={"cpu": 3})])
        lingering = await session.submit([stage.function("lingers", cost={"cpu": 0.5})])
        await stage.sees("early", "lingers")
        await lingering.cancel()
        with capture_telemetry() as captured:
            second = await session.submit([stage.quick("late", cost={"cpu": 0.25})])
            await second
            await until(lambda: captured.of((*FUNCTION, "start"), function_id="early"))
            stage.cue("early")
            result = await first
            stage.cue("lingers")
            await until(lambda: captured.of(RELEASE, function_id="lingers"))
    left = [
        (c.metadata["function_id"], c.measurements["available"]["cpu"])
        for c in captured.of(("handoff", "resources"))
    ]
    assert left == [("late", 0.25), ("late", 0.5), ("early", 3.5), ("lingers", 4)]
    early = captured.of(FUNCTION, function_id="early")
    assert [c.event[-1] for c in early] == ["start", "stop"]
    assert {c.measurements["system_time"] for c in early} == {result.timings["early"].start}
    assert not captured.of((*DAG, "start"), dag_id=first.dag_id)
    assert captured.of((*DAG, "stop"), dag_id=first.dag_id)


@live(2)
async def test_with_no_handler_nothing_is_sent(c, s, a, stage, monkeypatch):
    told, started = [], []
    put = Requests.tell_events
    monkeypatch.setattr(Requests, "tell_events", lambda self, *args: (told.append(args), put(self, *args)))
    begun = Announcer.started
    monkeypatch.setattr(Announcer, "started", lambda self, f: (started.append(f), begun(self, f)))
    async with handoff.Handoff(c) as session:
        with capture_telemetry((*FUNCTION, "start")):
            execution = await session.submit([stage.function("heard")])
            await until(lambda: started)
            stage.cue("heard")
            await execution
        assert told
        plugin = a.plugins["handoff"]
        await until(lambda: not plugin._report_starts)
        told.clear()
        started.clear()
        execution = await session.submit([stage.function("unheard", cost={"cpu": 1}), stage.quick("other")])
        await until(execution.futures["other"].done)
        assert not plugin._begun
        stage.cue("unheard")
        await execution
        announcer = s.plugins["handoff"].announcer
        assert (told, started, announcer._pending, announcer._held) == ([], [], [], {})


@live(2)
async def test_a_handler_that_raises_is_detached_and_the_run_goes_on(c, s, a, caplog):
    heard = []
    telemetry.attach("bad", (*FUNCTION, "start"), lambda *args: 1 / 0)
    telemetry.attach("good", (*FUNCTION, "start"), lambda *args: heard.append(args[2]["function_id"]))
    try:
        async with handoff.Handoff(c) as session:
            with caplog.at_level(logging.CRITICAL, "handoff_dask.telemetry"):
                result = await session.execute([Function("f", [], same), Function("g", ["f"], same)])
        assert set(result.results) == set(heard) == {"f", "g"}
        assert [h.handler_id for h in telemetry.list_handlers()] == ["good"]
    finally:
        telemetry.detach("good")


IDS = ["text", 7, ("part", 3), Colour.RED, (Colour.BLUE, frozenset([1])), frozenset(["x", Colour.RED])]


@live(2)
async def test_ids_arrive_as_they_were(c, s, a):
    """Also in a session that has not submitted them."""
    dag = handoff.DAG((Colour.RED, "dag"))
    for function_id in IDS:
        dag.add_function(Function(function_id, [], same))
    with capture_telemetry() as captured:
        async with (
            Client(s.address, asynchronous=True) as other,
            handoff.Handoff(other),
            handoff.Handoff(c) as session,
        ):
            await session.execute(dag)
            told = list(captured)
    captured.balance()
    assert {c.metadata["function_id"] for c in told if c.event == (*FUNCTION, "stop")} == set(IDS)
    assert {c.metadata["dag_id"] for c in told if "dag_id" in c.metadata} == {(Colour.RED, "dag")}
    assert len(told) == len(set(map(id, told))) == 1 + 2 + 3 * len(IDS)


@live(2)
async def test_when_the_session_that_listens_ends_another_one_does(c, s, a, stage):
    with capture_telemetry(FUNCTION) as captured:
        async with Client(s.address, asynchronous=True) as other:
            first = handoff.Handoff(other)
            await first.start()
            async with handoff.Handoff(c) as session:
                execution = await session.submit([stage.function("f")])
                await stage.sees("f")
                await first.stop()
                await until(lambda: session._hearing.listens)
                stage.cue("f")
                await execution
                assert captured.of((*FUNCTION, "stop"), function_id="f")


@live(2)
async def test_a_plain_collection_is_told_too(c, s, a):
    """A DAG computed by Dask has its events; the one that fails, how."""
    dag = handoff.DAG("plain").add_function(Function("f", [], same, cost={"cpu": 1}))
    bad = handoff.DAG("bad").add_function(Function("f", [], boom, max_retries=0))
    with capture_telemetry() as captured:
        async with handoff.Handoff(c):
            assert await c.compute(dag) == {"f": None}
            future = c.compute(bad)
            with pytest.raises(ValueError, match="boom"):
                await future
            future.release()
            await until(lambda: captured.of((*DAG, "exception")))
    captured.balance()
    [ended] = captured.of((*DAG, "exception"))
    assert (ended.metadata["status"], type(ended.metadata["exception"].__cause__)) == ("failed", ValueError)


@live(1)
async def test_a_dag_whose_function_fits_nowhere_any_more(c, s, a, stage):
    with capture_telemetry(DAG) as captured:
        async with handoff.Handoff(c) as session:
            execution = await session.submit(
                [stage.function("f"), stage.function("g", ["f"], cost={"cpu": 1})]
            )
            await stage.sees("f")
            await session.update_node_resources("0", {"cpu": 0.5})
            stage.cue("f")
            with pytest.raises(handoff.AllocationError):
                await execution
    why = captured[-1].metadata["exception"]
    assert (type(why), why.function_id, why.cost) == (handoff.AllocationError, "g", {"cpu": 1})
    assert list(why.reasons) == ["0"]


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
    }
    created = {name for name in during if name[0].endswith("_created")}
    assert {n: v for n, v in during.items() if n not in {*times, *memory, *created}} == expected
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
