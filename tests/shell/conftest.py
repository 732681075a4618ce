"""What the tests of commands share: a file, a cluster, a DAG that waits on it."""

from __future__ import annotations

import itertools
import sys

import pytest
from commands import PIPELINE, wait_for
from distributed import Event

import handoff_dask as handoff
from handoff_dask.cli import cluster

if sys.version_info >= (3, 11):
    pass
else:
    pass


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file with DAGs."""
    path = tmp_path / "pipeline.py"
    path.write_text(PIPELINE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return str(path)


@pytest.fixture(scope="module")
def session():
    """A session on a cluster of two nodes."""
    with handoff.Handoff(
        nodes={"big": {"cpu": 4, "memory": 8000}, "small": {"cpu": 1, "memory": 500, "zone": "eu"}}
    ) as session:
        yield session


@pytest.fixture
def on_cluster(session):
    return ["--scheduler", session.scheduler_address]


numbers = itertools.count()


@pytest.fixture
def busy(session):
    """A DAG of which one function runs, two wait and one is not ready."""
    over = f"over-{next(numbers)}"
    dag = handoff.DAG("busy")
    dag.add_function(handoff.Function("holds", [], wait_for, extra_args=[over], cost={"cpu": 3}))
    dag.add_function(handoff.Function(("next", 1), [], str, cost={"cpu": 3}, priority=-1, duration=60))
    dag.add_function(handoff.Function(("next", 2), [], int, cost={"cpu": 3}, priority=-2, duration=60))
    dag.add_function(handoff.Function("after", ["holds", ("next", 1)], max))
    execution = session.submit(dag)
    while execution.status != "running":
        cluster.ask(session, "ping")
    yield execution
    session.sync(Event(over, client=session.client).set)
    execution.result()
