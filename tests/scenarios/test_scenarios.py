"""Courses of events that are kept as data: what each leads to does not change by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from handoff_dask.placement.decisions import Decision, Place, Wait
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import FunctionWithdrawn, NodeLeft, RunClosed, TimePassed
from tests.placement.facts import changed, data, demand, finished, joined, opened, ready


def opened_with(run: str, **fields: Any) -> Any:
    groups = {group: demand(**asked) for group, asked in fields.pop("groups", {}).items()}
    return opened(run, groups=groups, **fields)


def ready_with(name: str, **fields: Any) -> Any:
    arguments = [data(key, *nodes, megabytes=size) for key, size, nodes in fields.pop("arguments", ())]
    return ready(name, arguments=arguments, **fields)


KINDS = {
    "joined": joined,
    "changed": changed,
    "left": lambda name, **fields: NodeLeft(node=name, **fields),
    "opened": opened_with,
    "closed": lambda name: RunClosed(run=name),
    "ready": ready_with,
    "finished": finished,
    "withdrawn": lambda name: FunctionWithdrawn(function=name),
    "time": lambda name: TimePassed(),
}


def as_data(decision: Decision) -> list[Any]:
    if isinstance(decision, Place):
        return ["place", decision.function, decision.node]
    if isinstance(decision, Wait):
        return ["wait", decision.function, decision.cause]
    return ["reject", decision.function]


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("*.json")), ids=lambda path: path.stem)
def test_course_of_events(path):
    engine = PlacementEngine()
    for step in json.loads(path.read_text())["steps"]:
        events = [KINDS[kind](name, **fields) for kind, name, fields in step["events"]]
        decisions = engine.handle_all(events, now=step["at"])
        assert [as_data(d) for d in decisions] == step["decisions"], step["at"]
        engine.check()
