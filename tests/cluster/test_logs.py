"""What functions print and log, by attempt."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
from clusters import live

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask.record.logs import LINES_OF_ATTEMPT, LogBuffer
from handoff_dask.worker.failure_log import Brief


def noisy(name: str, fails: int = 0) -> str:
    found = handoff.current()
    assert found is not None
    print(f"{name} prints")
    print("beside", file=sys.stderr)
    logging.getLogger("mine").warning("careful %s", name)
    if found.attempt <= fails:
        raise ValueError("on purpose")
    print("no end", end="")
    return name


def lines(logs: Any) -> list[tuple[Any, int, str, str, str]]:
    return [(line.function_id, line.attempt, line.node, line.source, line.text) for line in logs]


def of(function_id: str, attempt: int, node: str) -> list[tuple[Any, int, str, str, str]]:
    about = (function_id, attempt, node)
    return [
        (*about, "stdout", f"{function_id} prints"),
        (*about, "stderr", "beside"),
        (*about, "WARNING", f"careful {function_id}"),
    ]


@live(2)
async def test_logs_by_attempt(c, s, a):
    """Of one function and of all; in the result, the report, and for other tasks nothing."""
    dag = [
        Function("a", [], noisy, extra_args=["a", 1]),
        Function("b", [], noisy, extra_args=["b"], after=["a"]),
        Function("quiet", [], int),
    ]
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit(dag)
        result = await execution
        logs = await execution.logs()
        await c.submit(print, "a task of Dask's", pure=False)
        only = await execution.logs("b")
    end = ("stdout", "no end")
    assert lines(logs) == [
        *of("a", 1, "0"),
        *of("a", 2, "0"),
        ("a", 2, "0", *end),
        *of("b", 1, "0"),
        ("b", 1, "0", *end),
    ]
    assert lines(only) == [*of("b", 1, "0"), ("b", 1, "0", *end)]
    assert "a prints" in logs
    assert "a prints" not in only
    assert str(only).splitlines()[2] == "b#1 on 0 WARNING: careful b"
    assert result.logs("b") == only


@live(2)
async def test_logs_after_a_failure_and_while_a_function_runs(c, s, a, stage, tmp_path):
    """They are there as soon as they are printed, and stay."""
    waiting = [Function("a", [], noisy, extra_args=["a"]), stage.function("w", args=["a"])]
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit([Function("f", [], noisy, extra_args=["f", 9])], max_retries=0)
        with pytest.raises(handoff.FunctionFailedError):
            await execution
        assert lines(await execution.logs("f")) == of("f", 1, "0")
        handoff.visualization.report(execution, tmp_path / "r.html")
        assert "f#1 on 0 WARNING: careful f" in (tmp_path / "r.html").read_text()
        running = await session.submit(waiting)
        await stage.sees("w")
        assert "no end" in await running.logs()
        stage.cue("w")
        await running


def test_logs_in_this_process(capsys):
    """A run without a cluster keeps them too; what is printed is still printed."""
    result = handoff.execute_local([Function("a", [], noisy, extra_args=["a", 1])])
    end = ("stdout", "no end")
    assert lines(result.logs()) == [*of("a", 1, "local"), *of("a", 2, "local"), ("a", 2, "local", *end)]
    assert capsys.readouterr().out == "a prints\na prints\nno end"


def test_lines_are_bounded():
    """The last ones of an attempt, and a note of how many are missing."""
    buffer = LogBuffer()
    for n in range(LINES_OF_ATTEMPT + 5):
        buffer.write(float(n), "stdout", f"{n}\n")
    first, *rest = buffer.take()
    assert first[2] == "… 5 lines more before these"
    assert [text for *_, text in rest] == [str(n) for n in range(5, LINES_OF_ATTEMPT + 5)]
    buffer.write(0.0, "stdout", "x" * 10_000)
    assert len(buffer.take(rest=True)[0][2]) == 2_000


@live(1)
async def test_a_retried_failure_is_one_line_in_the_log_of_its_worker(c, s, a):
    """It names the function; a task of Dask's is told as ever."""

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    said: list[str] = []
    handler, log = Heard(), logging.getLogger("distributed.worker")
    log.addHandler(handler)
    try:
        async with handoff.AsyncHandoff(c) as session:
            await session.execute([Function("f", [], noisy, extra_args=["f", 1])])
            with pytest.raises(ZeroDivisionError):
                await c.submit(divmod, 1, 0)
    finally:
        log.removeHandler(handler)
    (ours,) = [line for line in said if "noisy" in line]
    assert ours.startswith("noisy has raised ")
    assert "on purpose" in ours
    assert "\n" not in ours
    assert [line for line in said if line.startswith("Compute Failed")]


def test_many_failures_do_not_flood_a_log():
    """Twenty lines in ten seconds; then how many there were."""
    brief = Brief()

    def line(n: int, at: float) -> str | None:
        record = logging.LogRecord("distributed.worker", 30, "", 0, "Compute Failed: %s %s %s %s", (), None)
        record.args = (f"fit-0123456789abcdef-{n}", "execute", {}, f"ValueError({n})")
        record.created = at
        return record.getMessage() if brief.filter(record) else None

    told = [line(n, 100 + n / 100) for n in range(500)]
    assert told[0] == "fit has raised ValueError(0) (task fit-0123456789abcdef-0)"
    assert [text is not None for text in told] == [True] * 20 + [False] * 480
    assert told[19].endswith("more such lines are left out for a while)")
    assert "; 480 more attempts have raised before it)" in line(500, 111.0)
    assert "before it" not in line(501, 111.0)


def says(fails: int) -> tuple[Any, int, str]:
    found = handoff.current()
    assert found is not None
    print(f"attempt {found.attempt}")
    logging.getLogger("mine").warning("careful")
    if found.attempt <= fails:
        raise ValueError("on purpose")
    return found.function_id, found.attempt, found.node


@live(2)
async def test_a_time_limit_and_a_process_change_nothing(c, s, a):
    """What a function may ask of its attempt, and what is kept of what it prints, also in other processes."""
    fields: dict[str, Any] = {"timed": {"timeout": 60}, "isolated": {"isolated": True}}
    fields["both"] = {**fields["timed"], **fields["isolated"]}
    dag = [Function(i, [], says, extra_args=[1], cost={"cpu": 1}, **more) for i, more in fields.items()]
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit(dag, max_retries=1)
        result = await execution
        logs = await execution.logs()
    for i in fields:
        assert result[i] == (i, 2, "0")
        found = [line for line in lines(logs) if line[0] == i]
        assert found == [
            (i, attempt, "0", *said)
            for attempt in (1, 2)
            for said in [("stdout", f"attempt {attempt}"), ("WARNING", "careful")]
        ]
