"""The same DAG in this process and on a cluster: same results, errors, retries and telemetry."""

from __future__ import annotations

import enum
import operator
from collections import Counter

import pytest
from distributed.utils_test import gen_cluster

import handoff_dask as handoff
from handoff_dask.testing import capture_telemetry

Argument, Collocated, Function = handoff.Argument, handoff.Collocated, handoff.Function


class Colour(enum.Enum):
    RED = 1


def keep(*values, **named):
    return (*values, named) if named else values


def mark(value, source, target, *extra):
    return [value, *extra]


async def later(value):
    return value


class Flaky:
    """Raises the first times; where it counts, this process and workers within it agree."""

    calls: Counter = Counter()

    def __init__(self, name, failures):
        self.name, self.failures = name, failures
        self.__name__ = "flaky"

    def __call__(self, *values):
        Flaky.calls[self.name] += 1
        if Flaky.calls[self.name] <= self.failures:
            raise ConnectionError(f"call {Flaky.calls[self.name]}")
        return Flaky.calls[self.name]


def crash(*values):
    raise ZeroDivisionError("on purpose")


DAGS = {
    "empty": ([], {}),
    "ids of all kinds": (
        [
            Function("text", [], int),
            Function(1, [], int),
            Function(("a", 2), ["text"], str),
            Function(Colour.RED, [("a", 2), 1], keep),
        ],
        {},
    ),
    "plain values": (
        [
            Function(
                "f", [], keep, extra_args=[(len, "f"), "f", {"f": [operator.add, 1, 2]}], kwargs={"g": (int,)}
            ),
            Function("g", ["f", "f"], keep, argument_inclusion="as_list", extra_args=["f"]),
        ],
        {},
    ),
    "importable and async": (
        [Function("f", [], "builtins:int", extra_args=["12"]), Function("g", ["f"], later)],
        {},
    ),
    "inline and inputs": (
        [
            Function("in", [], None, type="input"),
            Function("twice", ["in"], operator.mul, extra_args=[2], type="inline"),
            Function("more", ["twice", "in"], operator.add, type="inline"),
            Function("sum", ["more", "twice"], operator.add),
            Function("seen", ["in", "sum"], keep),
        ],
        {"inputs": {"in": 5}},
    ),
    "arguments": (
        [
            Function("p", [], int, extra_args=["3"]),
            Function("c", [Argument("p", (mark, "s"), (mark, "d"))], keep),
            Function("e", [Argument("p", (mark,)), Argument("c", None, (mark,)), "p"], keep),
        ],
        {},
    ),
    "collocated": (
        [Function("a", [], int), Function("b", ["a"], keep, node=Collocated("a"), cost={"cpu": 1})],
        {},
    ),
    "outputs": (
        [Function("a", [], int), Function("b", ["a"], keep), Function("unused", ["a"], crash)],
        {"outputs": ["b"]},
    ),
    "retries": ([Function("a", [], Flaky("a", 2)), Function("b", ["a"], keep)], {"max_retries": 2}),
    "own retries": ([Function("a", [], Flaky("a", 3), max_retries=3)], {"max_retries": 0}),
    "failure": (
        [Function("a", [], int), Function("b", ["a"], crash), Function("c", ["b"], keep)],
        {"max_retries": 1},
    ),
    "no retries": ([Function("a", [], Flaky("a", 1), max_retries=0)], {}),
    "cycle": ([Function("a", ["b"], int), Function("b", ["a"], int)], {}),
    "missing": ([Function("a", ["nobody"], int)], {}),
    "twice": ([Function("a", [], int), Function("a", [], int)], {}),
    "no input": ([Function("in", [], None, type="input"), Function("a", ["in"], keep)], {}),
    "unknown output": ([Function("a", [], int)], {"outputs": ["b"]}),
    "unknown option": ([Function("a", [], int)], {"speed": 3}),
    "wrong retries": ([Function("a", [], int)], {"max_retries": -1}),
}


def story(captured):
    """What each function went through, and how the DAG fared; places and times left out."""
    functions, dags = {}, []
    for told in captured:
        if told.event[:3] == ("handoff", "execution", "function"):
            about = told.metadata
            functions.setdefault(about["function_id"], []).append((told.event[-1], about["attempt"]))
        elif told.event[:3] == ("handoff", "execution", "dag"):
            dags.append((told.event[-1], told.metadata["dag_id"], told.metadata["function_count"]))
    return functions, dags


def outcome(result=None, error=None):
    """What there is to compare of a result or an error."""
    if result is not None:
        attempts = {i: timing.attempts for i, timing in result.timings.items()}
        return result.dag_id, dict(result.results), set(result.allocations), attempts
    cause = error.__cause__
    # Only an execution on a cluster can be asked for the rest.
    facts = {k: v for k, v in vars(error).items() if k not in ("node", "execution")}
    if "failed" in facts:
        facts["failed"] = {i: repr(raised) for i, raised in facts["failed"].items()}
    return type(error), facts, type(cause), str(cause)


@pytest.mark.parametrize("name", DAGS)
def test_local_and_distributed_agree(name):
    functions, options = DAGS[name]
    told, came = {}, {}

    def make():
        dag = handoff.DAG("parity")
        for function in functions:
            dag.add_function(function)
        return dag

    Flaky.calls.clear()
    with capture_telemetry() as captured:
        try:
            came["local"] = outcome(handoff.execute_local(make(), **options))
        except handoff.HandoffError as error:
            came["local"] = outcome(error=error)
    told["local"] = story(captured)

    @gen_cluster(client=True, nthreads=[("127.0.0.1", 2)] * 2)
    async def distributed(c, s, a, b):
        Flaky.calls.clear()
        with capture_telemetry() as captured:
            async with handoff.Handoff(c) as session:
                try:
                    came["distributed"] = outcome(await session.execute(make(), **options))
                except handoff.HandoffError as error:
                    came["distributed"] = outcome(error=error)
        told["distributed"] = story(captured)

    distributed()
    assert came["distributed"] == came["local"]
    assert told["distributed"] == told["local"]
