"""Functions with a timeout: what fails, what is tried again, and what is held until a thread is over."""

from __future__ import annotations

import asyncio
import time
from queue import SimpleQueue

import pytest
from clusters import engine_of, live, nothing_claimed
from distributed import get_client, secede
from stage import Stage, until

import handoff_dask as handoff
from handoff_dask import Function, FunctionFailedError, FunctionTimeoutError

TOO_LONG_S = 30


#: What coroutines note, which run in this process.
notes: SimpleQueue[str] = SimpleQueue()


async def sleeps():
    try:
        await asyncio.sleep(TOO_LONG_S)
    except asyncio.CancelledError:
        notes.put("cancelled")
        raise


def with_tasks(n):
    client = get_client()
    futures = client.map(abs, range(-n, 0), pure=False)
    secede()
    return sum(client.gather(futures))


@live(2)
async def test_an_attempt_that_takes_too_long_fails_and_its_claim_stays(client, scheduler, worker):
    """The claim is returned when the thread is over, not when the attempt has failed."""
    stage = Stage()
    session = await handoff.start(client)
    slow = stage.function("slow", timeout=0.1, max_retries=0, cost={"cpu": 2})
    dag = handoff.DAG().add_function(slow)

    with pytest.raises(FunctionFailedError) as failed:
        await session.execute(dag)

    assert isinstance(failed.value.__cause__, FunctionTimeoutError)
    assert failed.value.__cause__.timeout == 0.1
    await until(lambda: engine_of(scheduler).nodes()["0"].used["cpu"] == 2_000_000)
    next_one = await session.submit([Function("next", [], int, cost={"cpu": 1})])
    assert next_one.status == "pending"
    assert stage.names("stop") == []
    stage.close()
    assert (await next_one).results == {"next": 0}
    assert stage.names("stop") == ["slow"]
    await nothing_claimed(scheduler)


@live(1, 1)
async def test_a_retry_follows_elsewhere_while_the_thread_goes_on(client, scheduler, *workers):
    stage = Stage()
    session = await handoff.start(client)
    slow = stage.function("slow", timeout=0.2, max_retries=1)

    execution = await session.submit([slow])
    await stage.sees("slow", "slow")
    stage.close()
    result = await execution

    assert result.results == {"slow": "slow"}
    assert result.timings["slow"].attempts == 2
    assert {node for what, _, node in stage.story if what == "start"} == {"0", "1"}
    await nothing_claimed(scheduler)


@live(2)
async def test_a_coroutine_is_cancelled(client, scheduler, worker):
    session = await handoff.start(client)

    with pytest.raises(FunctionFailedError, match="longer than its timeout"):
        await session.execute([Function("f", [], sleeps, timeout=0.1, max_retries=0)])

    assert notes.get(timeout=5) == "cancelled"
    await nothing_claimed(scheduler)


@live(1)
async def test_a_function_with_a_timeout_can_use_the_worker(client, scheduler, worker):
    """``get_client`` and ``secede`` do the same as in any other function."""
    session = await handoff.start(client)

    result = await session.execute([Function("f", [], with_tasks, extra_args=[4], timeout=20)])

    assert result.results == {"f": 10}
    again = await session.execute([Function(i, [], abs, extra_args=[-i], timeout=20) for i in range(5)])
    assert again.results == {i: i for i in range(5)}
    await nothing_claimed(scheduler)


@live(1)
async def test_what_was_sent_behind_one_that_hangs_is_placed_again(client, scheduler, worker):
    """Short functions are sent ahead; nothing starts beside a thread that goes on."""
    stage = Stage()
    session = await handoff.start(client)
    quick = [stage.quick(f"q{i}", timeout=0.3, duration=0.001) for i in range(20)]
    slow = stage.function("slow", timeout=0.3, duration=0.001, max_retries=0, priority=1)

    execution = await session.submit([slow, *quick], max_retries=0)
    with pytest.raises(FunctionFailedError):
        await execution
    assert stage.started == ["slow"]
    rest = await session.submit([stage.quick("rest")])
    await asyncio.sleep(0.05)
    assert stage.started == ["slow"]
    stage.close()

    assert (await rest).results == {"rest": "rest"}
    await nothing_claimed(scheduler)


def test_in_this_process():
    with pytest.raises(FunctionFailedError) as failed:
        handoff.execute_local([Function("f", [], time.sleep, extra_args=[5], timeout=0.05)], max_retries=1)

    assert isinstance(failed.value.__cause__, FunctionTimeoutError)
    assert failed.value.attempts == 2
    assert handoff.execute_local([Function("f", [], int, timeout=5)]).results == {"f": 0}


@pytest.mark.parametrize("wrong", [0, -1, float("inf"), float("nan"), "5", True])
def test_what_is_no_timeout_is_refused(wrong):
    with pytest.raises(handoff.InvalidFunctionError, match="timeout"):
        Function("f", [], int, timeout=wrong)


@pytest.mark.parametrize("kind", ["inline", "input"])
def test_only_regular_functions_have_a_timeout(kind):
    with pytest.raises(handoff.InvalidFunctionError, match="timeout"):
        Function("f", [], None if kind == "input" else int, type=kind, timeout=1)
