"""Checks of all telemetry events of a run together."""

from __future__ import annotations

import os
import signal
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from dask.distributed import Reschedule

DAG = ("handoff", "execution", "dag")
FUNCTION = ("handoff", "execution", "function")
ALLOCATION = ("handoff", "allocation", "function")
CLAIM = ("handoff", "resources", "claim")
RELEASE = ("handoff", "resources", "release")
NODE = ("handoff", "node")


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
    for call in captured:
        node = call.metadata.get("node")
        if call.event in ((*NODE, "up"), (*NODE, "update")):
            offers[node] = exact(call.measurements["capabilities"])
            held.setdefault(node, Counter())
        elif call.event == (*NODE, "down"):
            # Of what ran there we hear after that it is lost; nothing is left of the node by then.
            offers[node] = {}
            del held[node]
        elif call.event in (CLAIM, RELEASE):
            change = exact(call.measurements["amounts"])
            if node in held:
                held[node].update(change) if call.event == CLAIM else held[node].subtract(change)
            left = {name: amount - held[node][name] for name, amount in offers[node].items()}
            assert exact(call.measurements["available"]) == left
            assert min(left.values(), default=0) >= 0
    assert {node: +amounts for node, amounts in held.items() if +amounts} == {}


def exact(amounts):
    return {name: Fraction(str(amount)) for name, amount in amounts.items()}


def check_starts(captured, result):
    """Starts and ends agree with each other, and with the result."""
    for function_id, timing in result.timings.items():
        last = captured.of(FUNCTION, function_id=function_id)[-2:]
        assert [c.event[-1] for c in last] == ["start", "stop"]
        assert [c.measurements["system_time"] for c in last] == [timing.start] * 2
        assert last[0].metadata == last[1].metadata
        assert last[1].measurements["duration"] == pytest.approx(timing.stop - timing.start, abs=1e-9)
        assert last[0].measurements["queue_time"] == last[1].measurements["queue_time"] >= 0
        assert last[1].metadata["attempt"] == timing.attempts


class Sometimes:
    """Fails until its file is there."""

    def __init__(self, path, how):
        self.path, self.how = str(path), how

    def __call__(self, *args):
        if not os.path.exists(self.path):
            Path(self.path).touch()
            self.how()
        return "well"


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def reschedule_me():
    raise Reschedule
