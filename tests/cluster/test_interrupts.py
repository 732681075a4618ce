"""Ctrl-C, in a process that lives on: what nobody has a handle of is cancelled."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from clusters import live
from distributed import Client, LocalCluster
from stage import until, until_sync

import handoff_dask as handoff
from handoff_dask.client.session_core import SessionCore
from handoff_dask.scheduler.nodes import Nodes


@pytest.fixture
def session() -> Iterator[handoff.Handoff]:
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
        handoff.Handoff(client) as session,
    ):
        session.start()
        session.cluster = cluster
        yield session


def interrupts(event: threading.Event) -> None:
    """Press Ctrl-C once something has happened, while the main thread waits."""

    def press() -> None:
        event.wait(20)
        time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()


def nothing_is_left(session) -> None:
    runs = session.cluster.scheduler.plugins["handoff"].runs
    until_sync(lambda: not list(runs.open()) and not runs.announced and not runs.announcing)
    until_sync(lambda: not session.cluster.scheduler.tasks)


@pytest.mark.parametrize("call", ["submit", "execute"])
def test_before_the_graph_is_sent(session, stage, monkeypatch, call):
    waits, answered = threading.Event(), Nodes.all_reported

    async def slow(self):
        waits.set()
        await asyncio.sleep(1)
        await answered(self)

    monkeypatch.setattr(Nodes, "all_reported", slow)
    interrupts(waits)
    with pytest.raises(KeyboardInterrupt):
        getattr(session, call)([stage.function("f")])
    nothing_is_left(session)
    assert stage.started == []


def test_after_the_graph_was_sent(session, stage, monkeypatch):
    sent, accompany = threading.Event(), SessionCore._accompany

    def slow(self, execution, submission):
        accompany(self, execution, submission)
        sent.set()
        time.sleep(0.5)

    monkeypatch.setattr(SessionCore, "_accompany", slow)
    interrupts(sent)
    with pytest.raises(KeyboardInterrupt):
        session.submit([stage.function("f"), stage.function("g", ["f"])])
    stage.close()
    nothing_is_left(session)
    # The session is as good as before.
    assert session.execute([stage.quick("other")]).results == {"other": "other"}


def test_while_a_result_is_waited_for_the_execution_goes_on(session, stage):
    execution = session.submit([stage.function("f")])
    started = threading.Event()
    threading.Thread(target=lambda: (stage.sees_sync("f"), started.set()), daemon=True).start()
    interrupts(started)
    with pytest.raises(KeyboardInterrupt):
        execution.result()
    assert execution.status == "running"
    stage.cue("f")
    assert execution.result().results == {"f": "f"}


@live(1)
async def test_a_submission_that_is_cancelled_leaves_nothing_on_the_scheduler(c, s, a, stage, monkeypatch):
    answered = Nodes.all_reported

    async def slow(self):
        await asyncio.sleep(0.3)
        await answered(self)

    async with handoff.Handoff(c) as session:
        await session.start()
        monkeypatch.setattr(Nodes, "all_reported", slow)
        runs = s.plugins["handoff"].runs
        job = asyncio.ensure_future(session.submit([stage.function("f")]))
        await until(lambda: runs.announcing)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        await asyncio.sleep(0.4)
        assert not runs.announced
        assert not runs.announcing
