"""Items of maps over lists that come at run time have all that functions have: every field of the task."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import pytest
from clusters import engine_of, live, nothing_claimed

import handoff_dask as handoff
from handoff_dask import DAG, Failed, Retry


def numbers(count: int) -> list[int]:
    return list(range(count))


def add(a: int, b: int = 0) -> int:
    return a + b


def where(n: int) -> tuple[int, Any, Any, str]:
    found = handoff.current()
    assert found is not None
    print(f"item {n}")
    time.sleep(n if n > 10 else 0)
    return os.getpid(), found.function_id, found.attempt, os.environ.get("OMP_NUM_THREADS", "")


@live(2)
async def test_isolated_items(c, s, a):
    """Each in a process of its own, with its own id, attempt, threads and logs; ended when it takes long."""
    isolated = handoff.task(where, isolated=True, cost={"cpu": 2})
    slow = isolated.options(timeout=0.2, max_retries=0, id="slow")
    with DAG("isolated") as dag:
        found = isolated.expand(handoff.task(numbers)(3))
    with DAG("slow") as stuck:
        slow.expand([0, 60])
    async with handoff.AsyncHandoff(c) as session:
        execution = await session.submit(dag)
        result = await execution
        logs = await execution.logs(("where", 1))
        began = time.time()
        with pytest.raises(handoff.FunctionFailedError) as caught:
            await session.execute(stuck)
        await nothing_claimed(s)
    assert os.getpid() not in {pid for pid, *_ in result[found]}
    assert [rest for _, *rest in result[found]] == [[("where", n), 1, "2"] for n in range(3)]
    assert [(line.function_id, line.text) for line in logs] == [(("where", 1), "item 1")]
    assert result.usage["where", 1].exact
    assert caught.value.function_id == ("slow", 1)
    assert isinstance(caught.value.__cause__, handoff.FunctionTimeoutError)
    assert time.time() - began < 30


def picky(n: int) -> int:
    found = handoff.current()
    assert found is not None
    if n == 1 and found.attempt < 3:
        raise OSError("again")
    if n == 2:
        raise ValueError("never again")
    return n


@live(2)
async def test_items_are_retried_as_their_task_says(c, s, a):
    """What is worth it, after a wait; what is not is final at once."""
    code = handoff.task(picky, retry=Retry(4, delay=0.05, on=(OSError,)))
    with DAG() as dag:
        code.expand(handoff.task(numbers)(3))
    async with handoff.AsyncHandoff(c) as session:
        result = await session.execute(dag, on_failure="return")
    local = handoff.execute_local(dag, on_failure="return")
    for found in (result, local):
        assert {i: str(why) for i, why in found.failed.items()} == {("picky", 2): "never again"}
        assert found.skipped == {"picky": ("picky", 2)}
        assert found[("picky", 1)] == 1
        assert found.timings["picky", 1].attempts == 3


def fails() -> int:
    raise ValueError("on purpose")


def kind(n: int, other: Any = None) -> tuple[int, str]:
    return n, type(other).__name__


def told(parts: Any) -> Any:
    return (parts.function_id, str(parts.error)) if isinstance(parts, Failed) else parts


def fails_for(n: int, bad: int) -> int:
    if n == bad:
        raise ValueError("on purpose")
    return n


def of_failures() -> DAG:
    """Items that take a failed constant, items of a failed list, and what takes a list with a failed item."""
    with DAG("failures") as dag:
        bad = handoff.task(fails, max_retries=0)()
        accepting = handoff.task(kind, accept_failed=True)
        accepting.options(id="constant").expand(handoff.task(numbers)(2), other=bad)
        accepting.options(id="refused").expand(bad)
        handoff.task(kind, id="plain").expand([5], other=bad)
        parts = handoff.task(fails_for, max_retries=0, id="some").expand(handoff.task(numbers)(3), bad=1)
        handoff.task(told, accept_failed=True)(parts)
    return dag


def is_right(result: Any) -> None:
    assert result[[("constant", 0), ("constant", 1)]] == [(0, "Failed"), (1, "Failed")]
    assert result["constant"] == [(0, "Failed"), (1, "Failed")]
    assert result[[("some", 0), ("some", 2)]] == [0, 2]
    assert result["told"] == (("some", 1), "on purpose")
    assert {i: str(why) for i, why in result.failed.items()} == {
        "fails": "on purpose",
        ("some", 1): "on purpose",
    }
    assert result.skipped["some"] == ("some", 1)
    assert result.skipped["refused"] == result.skipped["plain"] == "fails"


@live(2)
async def test_items_that_accept_failures(c, s, a):
    """A failed constant is given to them; nothing can be made of a failed list."""
    dag = of_failures()
    async with handoff.AsyncHandoff(c) as session:
        result = await session.execute(dag, on_failure="return")
        await nothing_claimed(s)
    is_right(result)


def test_items_that_accept_failures_in_this_process():
    is_right(handoff.execute_local(of_failures(), on_failure="return"))


def hungry(n: int) -> tuple[int, Any]:
    found = handoff.current()
    assert found is not None
    if n == 1 and found.attempt == 1:
        raise MemoryError("too little")
    return n, found.attempt


def watched(take: Any, claimed: list[float], node: Any, amounts: Any) -> None:
    claimed.append(dict(amounts).get("memory", 0) / 1_000_000)
    take(node, amounts)


@live(2)
async def test_the_claims_of_items_grow(c, s, a):
    code = handoff.task(hungry, cost={"memory": handoff.growing(100)})
    with DAG() as dag:
        found = code.expand(handoff.task(numbers)(2))
    async with handoff.AsyncHandoff(c) as session:
        await session.update_node_resources("0", {"memory": 1000})
        ledger = engine_of(s)._ledger
        claimed: list[float] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger, "take", partial(watched, ledger.take, claimed))
            result = await session.execute(dag)
    assert result[found] == [(0, 1), (1, 2)]
    assert sorted(amount for amount in claimed if amount) == [100, 100, 200]
