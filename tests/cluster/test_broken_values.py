"""What cannot be loaded, or ends its process, fails who takes it, and nobody else."""

from __future__ import annotations

import os
import sys

import pytest
from clusters import live
from distributed import Worker

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask.errors import RemoteError


class Broken:
    """Can be pickled, and not loaded."""

    def __reduce__(self):
        return eval, ("1/0",)


class Leaves:
    """Ends whoever loads it."""

    def __reduce__(self):
        return sys.exit, (3,)


def three():
    return [1, 2, 3]


def across(make, count=1, **fields):
    """Functions that make values on node 0, and others that take them on node 1."""
    makers = [Function(("make", n), [], make, node="0", **fields) for n in range(count)]
    return makers + [Function(("use", n), [("make", n)], str, node="1", **fields) for n in range(count)]


@pytest.mark.parametrize(("make", "cause"), [(Broken, ZeroDivisionError), (Leaves, SystemExit)])
@live(1, 1)
async def test_a_broken_result_fails_who_takes_it_and_no_other_transfer(c, s, a, b, make, cause):
    workers = set(s.workers)
    async with handoff.Handoff(c) as session:
        innocent = await session.submit(across(three, 10))
        guilty = await session.submit(across(make), outputs=[("use", 0)], max_retries=0)
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await guilty
        assert (caught.value.function_id, caught.value.node) == (("use", 0), "1")
        assert isinstance(caught.value.__cause__, cause)
        assert (await innocent).results["use", 3] == "[1, 2, 3]"
        after = await session.execute(across(three), max_retries=0)
        assert after.results["use", 0] == "[1, 2, 3]"
    assert set(s.workers) == workers


@live(1, 1)
async def test_a_plain_task_that_takes_it_fails_too(c, s, a, b):
    async with handoff.Handoff(c):
        broken = c.submit(Broken, workers=[a.address], pure=False)
        good = c.submit(three, workers=[a.address])
        with pytest.raises(ZeroDivisionError):
            await c.submit(str, broken, workers=[b.address])
        assert await c.submit(str, good, workers=[b.address]) == "[1, 2, 3]"


@pytest.mark.parametrize("make", [Broken, Leaves])
@live(1)
async def test_fetching_names_the_function_and_breaks_no_other_request(c, s, a, make):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([Function("good", [], three), Function("bad", [], make)])
        with pytest.raises(handoff.HandoffError, match=r"function 'bad' of DAG .* cannot be fetched"):
            await execution
        assert await execution.get_result("good") == [1, 2, 3]
        with pytest.raises(handoff.HandoffError, match="function 'bad'"):
            await session.get_value(execution.dag_id, "bad")


@live(1, 1)
async def test_sys_exit_is_the_functions_own_failure(c, s, a, b):
    workers = set(s.workers)
    async with handoff.Handoff(c) as session:
        execution = await session.submit([Function("leaves", [], sys.exit, extra_args=[3])], max_retries=1)
        with pytest.raises(handoff.FunctionFailedError, match="SystemExit: 3") as caught:
            await execution
        assert caught.value.attempts == 2
        assert isinstance(caught.value.__cause__, SystemExit)
        error = await execution.futures["leaves"].exception()
        assert isinstance(error, RemoteError)
        assert type(error).__name__ == "SystemExit"
    assert set(s.workers) == workers


def raise_what_nobody_knows():
    name = f"Own{os.getpid()}"
    kind = type(name, (Exception,), {"__module__": "nowhere", "__reduce__": lambda self: (_gone, ())})
    raise kind("a message")


def _gone():
    raise ModuleNotFoundError("No module named 'nowhere'")


@live(1)
async def test_an_error_of_an_unknown_class_keeps_its_name_and_message(c, s, a):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError, match=rf"Own{os.getpid()}: a message") as caught:
            await session.execute([Function("f", [], raise_what_nobody_knows)], max_retries=0)
        cause = caught.value.__cause__
        assert (type(cause).__name__, type(cause).__module__) == (f"Own{os.getpid()}", "nowhere")
        assert str(cause) == "a message"


def raise_own():
    raise Own("left", 3) from KeyError("why")


class Own(Exception):
    def __init__(self, side, number):
        super().__init__(f"{side} {number}")
        self.side = side

    def __reduce__(self):
        return Own, ("left", 3)


@live(1)
async def test_an_error_of_ones_own_arrives_as_it_was_raised(c, s, a):
    async with handoff.Handoff(c) as session:
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await session.execute([Function("f", [], raise_own)], max_retries=0)
        cause = caught.value.__cause__
        assert isinstance(cause, Own)
        assert cause.side == "left"
        assert isinstance(cause.__cause__, KeyError)


@live(1)
async def test_a_worker_with_another_version_works_for_plain_dask_alone(c, s, a, monkeypatch):
    async with handoff.Handoff(c) as session:
        monkeypatch.setattr(handoff, "__version__", "0.0.9")
        async with Worker(s.address, name="other", nthreads=1) as other:
            assert set(await session.discover_nodes()) == {"0"}
            assert await c.submit(three, workers=[other.address]) == [1, 2, 3]
            outsiders = (await session.ask("overview"))["outsiders"]
            assert [(name, address) for name, address, _ in outsiders] == [("other", other.address)]
            assert "0.0.9" in outsiders[0][2]
            monkeypatch.undo()
            with pytest.warns(UserWarning, match="worker 'other' .* is no node"):
                await handoff.Handoff(c).start()


@live(1)
async def test_versions_that_differ_are_an_error_that_says_both(c, s, a, monkeypatch):
    await handoff.Handoff(c).start()
    monkeypatch.setattr("handoff_dask.scheduler.requests.VERSION", "0.0.9")
    with pytest.raises(handoff.HandoffError, match=r"runs handoff_dask 0\.0\.9 and this client has"):
        await handoff.Handoff(c).start()
