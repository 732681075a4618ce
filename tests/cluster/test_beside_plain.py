"""Plain Dask tasks and functions on one cluster: neither keeps the other from it."""

from __future__ import annotations

import time

from clusters import live, nothing_claimed
from distributed import Client, wait

import handoff_dask as handoff
from handoff_dask import Function


def pause(n=0, seconds=0.1):
    time.sleep(seconds)
    return n


def note(mark, kind, seconds):
    began = time.time()
    time.sleep(seconds)
    mark.append((kind, began, time.time()))


#: What ran, with its times: workers are in this process.
MARKS: dict[str, list[tuple[str, float, float]]] = {}


def marked(test, kind, seconds):
    note(MARKS[test], kind, seconds)


def most_at_once(spans):
    return max(sum(began <= at < ended for _, began, ended in spans) for _, at, _ in spans)


@live(2, 2)
async def test_a_function_does_not_wait_for_a_queue_of_plain_tasks(c, s, a, b):
    async with handoff.Handoff(c) as session:
        plain = c.map(pause, range(120), pure=False)
        await wait(plain[:4])
        begin = time.monotonic()
        await session.execute([Function("a", [], pause, kwargs={"seconds": 0})])
        assert time.monotonic() - begin < 1.0
        assert sum(future.done() for future in plain) < 60
        await c.gather(plain)
        await nothing_claimed(s)


@live(2, 2)
async def test_a_chain_of_short_functions_beside_plain_tasks_of_another_client(c, s, a, b):
    async with (
        Client(s.address, asynchronous=True, set_as_default=False) as other,
        handoff.Handoff(c) as session,
    ):
        plain = other.map(pause, range(100), seconds=0.1, pure=False)
        await wait(plain[:2])
        chain = [Function(i, [i - 1] if i else [], pause, kwargs={"seconds": 0.01}) for i in range(8)]
        await session.execute(chain)
        assert not all(future.done() for future in plain[:90])
        await other.gather(plain)


@live(2, 2)
async def test_plain_tasks_do_not_wait_for_thousands_of_short_functions(c, s, a, b):
    async with handoff.Handoff(c) as session:
        await session.execute([Function(n, [], pause, extra_args=[0, 0.002]) for n in range(50)])
        many = [Function(n, [], pause, extra_args=[0, 0.002]) for n in range(3000)]
        execution = await session.submit(many)
        await execution.get_result(0)
        await c.gather(c.map(pause, range(10), seconds=0.01, pure=False))
        assert execution.status == "running"
        await execution.cancel()


@live(2, worker_kwargs={"resources": {"gpu": 1}})
async def test_plain_tasks_and_functions_take_turns_with_a_gpu(c, s, a):
    """Neither waits for the other's last, and the gpu is never used twice."""
    MARKS["gpu"] = spans = []
    async with handoff.Handoff(c) as session:
        await session.execute([Function("first", [], pause, cost={"gpu": 1})])
        plain = [
            c.submit(marked, "gpu", "plain", 0.05, resources={"gpu": 1}, key=f"plain-{n}") for n in range(30)
        ]
        await wait(plain[:1])
        functions = [
            Function(n, [], marked, extra_args=["gpu", "function", 0.05], cost={"gpu": 1}) for n in range(4)
        ]
        await session.execute(functions)
        assert not all(future.done() for future in plain)
        await wait(plain)
        assert most_at_once(spans) == 1
        await nothing_claimed(s)
