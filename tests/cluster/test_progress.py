"""Progress: what is shown where, and that it ends with the execution."""

from __future__ import annotations

import io
import operator
import re
import sys
import threading
import types

import pytest
from distributed import Event
from distributed.utils_test import gen_cluster

import handoff_dask as handoff
from handoff_dask.progress import Counts, show

CONFIG = {"distributed.scheduler.validate": True}


class Terminal(io.StringIO):
    """Where standard error goes; says that it is a terminal."""

    def isatty(self):
        return True

    def lines(self):
        """What has been shown, one text for each time that it was drawn, without escape sequences."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        return [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


def attach(stream, monkeypatch):
    """Make it standard error for the display; pytest has its own mind about ``sys.stderr``."""
    seen = types.SimpleNamespace(stderr=stream, stdout=stream, modules=sys.modules)
    monkeypatch.setattr("handoff_dask.progress.sys", seen)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 100 columns on standard error."""
    stream = Terminal()
    attach(stream, monkeypatch)
    return stream


@pytest.fixture
def plain_terminal(terminal, monkeypatch):
    """The same, without the package rich."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"] + ["rich"]:
        monkeypatch.setitem(sys.modules, name, None)
    return terminal


@pytest.fixture
def slow_clock(monkeypatch):
    """Each look at the clock is a second after the one before."""
    ticks = iter(range(10_000))
    monkeypatch.setattr("handoff_dask.progress.time", types.SimpleNamespace(monotonic=lambda: next(ticks)))


def functions(count=3, code=int):
    return [handoff.Function(i, [], code) for i in range(count)]


def wait_for(event_name):
    Event(event_name).wait()
    return event_name


def boom():
    raise ValueError("boom")


# ---------------------------------------------------------------------- the display


def test_plain_line_is_written_over_itself(plain_terminal, slow_clock):
    row = show("sums")
    row.update(Counts(9, {"running": 2, "waiting": 7}, {"room": 5, "thread": 2}))
    row.update(Counts(9, {"finished": 8, "running": 1}))
    row.end("finished", Counts(9, {"finished": 9}))

    shown = [re.sub(r"[\d.]+ s", "N s", line).rstrip() for line in plain_terminal.getvalue().split("\r")]
    assert shown == [
        "",
        "sums, N s",
        "sums: 0/9, 2 running, 7 waiting (room), N s",
        "sums: 8/9, 1 running, N s, about N s left",
        "sums: 9/9 finished in N s",
    ]


def test_several_at_once_share_the_last_line(plain_terminal, slow_clock):
    first, second = show("first"), show("second")
    first.update(Counts(2, {"finished": 1, "running": 1}))
    second.end("failed", Counts(3, {"finished": 1, "failed": 1, "cancelled": 1}))
    first.end("finished", Counts(2, {"finished": 2}))

    shown = [re.sub(r"\d+ s", "N s", line) for line in plain_terminal.lines()]
    assert shown == [
        "first, N s",
        "first, N s | second, N s",
        "first: 1/2, 1 running, N s, about N s left | second, N s",
        "second: 1/3 failed in N s, 1 failed, 1 cancelled",
        "first: 1/2, 1 running, N s, about N s left",
        "first: 2/2 finished in N s",
    ]


def test_bar_of_rich_says_the_same(terminal, slow_clock):
    row = show("sums")
    row.update(Counts(9, {"finished": 3, "running": 2, "waiting": 4}, {"room": 4}))
    row.end("failed", Counts(9, {"finished": 3, "failed": 1, "cancelled": 5}))

    shown = [re.sub(r"[━╸╺ ]+", " ", line) for line in terminal.lines()]
    assert re.fullmatch(r"sums 3/9 0:\d\d 2 running, 4 waiting \(room\), a.*", shown[-3])
    assert re.fullmatch(r"sums 3/9 0:\d\d failed, 1 failed, 5 cancelled", shown[-1])
    assert terminal.getvalue().count("\x1b[?25l") <= terminal.getvalue().count("\x1b[?25h")


@pytest.mark.parametrize("which", ["plain_terminal", "terminal"])
def test_an_id_is_shown_as_it_is_and_not_obeyed(which, request):
    stream = request.getfixturevalue(which)
    show("[red]\x1b[31m\x07\nid" + "x" * 10_000).end("finished")

    assert "[red]\\x1b[3" in stream.lines()[-1]
    assert "\x07" not in stream.getvalue()
    assert max(map(len, stream.lines())) < 100


def test_ending_twice_shows_one_end(plain_terminal):
    row = show("sums")
    row.end("failed")
    row.end("finished")
    row.update(Counts(1))

    assert [line for line in plain_terminal.lines() if " in " in line] == plain_terminal.lines()[-1:]
    assert "failed" in plain_terminal.lines()[-1]


def test_lines_where_there_is_no_terminal(capsys, monkeypatch):
    """At every tenth, at least once a minute, and at the end; with the time that is left."""
    clock = [0.0]
    monkeypatch.setattr("handoff_dask.progress.time.monotonic", lambda: clock[0])
    row = show("sums")
    for finished in range(100):
        clock[0] += 0.5
        row.update(Counts(100, {"finished": finished, "running": 1}))
    clock[0] += 61
    row.update(Counts(100, {"finished": 99, "running": 1}))
    row.end("finished", Counts(100, {"finished": 100}))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split(",")[0] for line in lines] == [
        *(f"sums: {n}/100" for n in range(0, 100, 10)),
        "sums: 99/100",
        "sums: 100/100 finished in 111 s",
    ]
    assert lines[5].endswith("25.5 s, about 25.5 s left")


def test_quiet_where_nobody_can_look(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    assert show("sums") is None


@pytest.fixture
def notebook(monkeypatch):
    """IPython, as far as it is used, in the kernel of a notebook; what it displays."""

    class Shown(dict):
        pass

    shown = Shown()

    class Handle:
        def __init__(self, number):
            self.number = number

        def update(self, bundle, raw):
            assert raw
            shown[self.number].append(bundle)

    def display(bundle, raw, display_id):
        assert (raw, display_id) == (True, True)
        shown[len(shown)] = [bundle]
        return Handle(len(shown) - 1)

    class Events:
        def __init__(self):
            self.called = []

        def register(self, name, call):
            assert name == "post_run_cell"
            self.called.append(call)

        def unregister(self, name, call):
            self.called.remove(call)

        def cell_ends(self):
            for call in [*self.called]:
                call(None)

    shell = types.SimpleNamespace(kernel=object(), events=Events())
    module = types.SimpleNamespace(display=display)
    monkeypatch.setitem(
        sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell, display=module)
    )
    shown.events = shell.events
    return shown


def test_notebook_redraws_one_bar_per_execution(notebook, capsys):
    row = show("<script>")
    row.end("finished", Counts(4, {"finished": 4}))
    show("other").end("cancelled", Counts(4, {"finished": 1}))

    assert list(notebook) == [0, 1]
    assert re.fullmatch(r"<script>: 4/4 finished in .*", notebook[0][-1]["text/plain"])
    assert "<script>" not in notebook[0][-1]["text/html"]
    assert 'aria-valuenow="100"' in notebook[0][-1]["text/html"]
    assert 'aria-valuenow="25"' in notebook[1][-1]["text/html"]
    assert capsys.readouterr() == ("", "")


def test_the_last_state_is_drawn_at_the_end_of_a_cell(notebook):
    """Whichever that is: what saves a notebook takes what belongs to the cell that it is at."""
    row = show("sums")
    notebook.events.cell_ends()
    row.update(Counts(4, {"finished": 2}))
    drawn = len(notebook[0])
    notebook.events.cell_ends()
    assert len(notebook[0]) == drawn + 1
    row.end("finished", Counts(4, {"finished": 4}))
    drawn = len(notebook[0])
    notebook.events.cell_ends()
    assert len(notebook[0]) == drawn + 1
    assert re.fullmatch(r"sums: 4/4 finished in .*", notebook[0][-1]["text/plain"])
    assert notebook.events.called == []


# ---------------------------------------------------------------------- executions


@gen_cluster(client=True, config=CONFIG)
async def test_scheduler_counts_by_status_and_cause(c, s, a, b):
    dag = handoff.DAG("counted")
    dag.add_function(handoff.Function("holds", [], wait_for, extra_args=["go"], cost={"cpu": 1}, node=b.name))
    for i in range(3):
        dag.add_function(handoff.Function(i, [], int, cost={"cpu": 2}, priority=-1))
    dag.add_function(handoff.Function("after", ["holds"], str))
    async with handoff.Handoff(c) as session:
        execution = await session.submit(dag)
        while execution.status != "running":
            await session.ask("ping")
        token = execution.compiled.manifest.token
        states, causes, took_s = await session.ask("progress", token=token)
        await Event("go").set()
        await execution

        assert states == {"running": 1, "waiting": 3, "pending": 1}
        assert causes == {"room": 3}
        assert 0 <= took_s < 1
        with pytest.raises(handoff.NotFoundError, match="no such token"):
            await session.ask("progress", token="no such token")


@gen_cluster(client=True, config=CONFIG)
async def test_asynchronous_execution_is_shown_until_it_ends(c, s, a, b):
    stream = Terminal()
    with pytest.MonkeyPatch.context() as patched:
        attach(stream, patched)
        async with handoff.Handoff(c) as session:
            await session.execute(functions(), progress=True)

    assert " 3/3 " in stream.lines()[-1]
    assert "finished" in stream.lines()[-1]


@gen_cluster(client=True, config=CONFIG)
async def test_bar_ends_when_the_execution_fails_or_is_cancelled(c, s, a, b):
    stream = Terminal()
    with pytest.MonkeyPatch.context() as patched:
        attach(stream, patched)
        async with handoff.Handoff(c) as session:
            with pytest.raises(handoff.FunctionFailedError):
                await session.execute([handoff.Function("a", [], boom, max_retries=0)], progress=True)
            failed = stream.lines()[-1]
            execution = await session.submit(
                [
                    handoff.Function("a", [], wait_for, extra_args=["over"]),
                    handoff.Function("b", ["a"], str),
                ],
                progress=True,
            )
            await execution.cancel()
            cancelled = stream.lines()[-1]
            await Event("over").set()

    assert "failed, 1 failed" in failed
    assert re.search(r" 0/2 .* cancelled, 2 cancelled$", cancelled)


@gen_cluster(client=True, config=CONFIG)
async def test_nothing_is_asked_when_nobody_looks(c, s, a, b):
    async with handoff.Handoff(c) as session:
        asked = []
        views = s.plugins["handoff"].views
        s.plugins["handoff"].requests.add(
            progress=lambda client, token: asked.append(token) or views.progress(client, token)
        )
        await session.execute(functions())

    assert asked == []


@gen_cluster(client=True, config=CONFIG)
async def test_result_of_an_execution_does_not_depend_on_its_bar(c, s, a, b):
    """A scheduler that cannot count is no reason to fail."""
    with pytest.MonkeyPatch.context() as patched:
        attach(Terminal(), patched)
        async with handoff.Handoff(c) as session:

            def broken(client, token):
                raise handoff.HandoffError("cannot count")

            s.plugins["handoff"].requests.add(progress=broken)
            result = await session.execute(
                [handoff.Function("a", [], operator.add, extra_args=[1, 2])], progress=True
            )

    assert result.results == {"a": 3}


def test_local_execution_is_shown(plain_terminal):
    handoff.execute_local(functions(), progress=True)

    assert re.fullmatch(r".*: 3/3 finished in .*", plain_terminal.lines()[-1])


def test_local_failure_and_timeout_end_the_line(plain_terminal):
    with pytest.raises(handoff.FunctionFailedError):
        handoff.execute_local([handoff.Function("a", [], boom, max_retries=0)], progress=True)
    failed = plain_terminal.lines()[-1]
    gate = threading.Event()
    with pytest.raises(TimeoutError):
        handoff.execute_local([handoff.Function("a", [], gate.wait)], timeout=0.01, progress=True)
    gate.set()

    assert re.fullmatch(r".*: 0/1 failed in .*, 1 failed", failed)
    assert re.fullmatch(r".*: 0/1 cancelled in .*", plain_terminal.lines()[-1])
    assert plain_terminal.getvalue().endswith("\n")


@pytest.mark.parametrize("progress", ["yes", 1, None])
def test_progress_is_shown_or_not(progress):
    with pytest.raises(handoff.ValidationError, match="give True or False"):
        handoff.execute_local([handoff.Function("f", [], int)], progress=progress)

    @gen_cluster(client=True)
    async def run(c, s, a, b):
        async with handoff.Handoff(c) as session:
            with pytest.raises(handoff.ValidationError, match="give True or False"):
                await session.submit([handoff.Function("f", [], int)], progress=progress)

    run()
