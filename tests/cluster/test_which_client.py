"""Which cluster is used where no client is given."""

from __future__ import annotations

import dask
from distributed import Client, LocalCluster, get_worker

import handoff_dask as handoff


def where() -> str:
    return str(get_worker().scheduler.address)


DAG = [handoff.Function("where", [], where)]


def cluster() -> LocalCluster:
    return LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address=None,
        worker_dashboard_address=None,
    )


def test_a_client_made_current_by_hand_wins_over_the_default_session():
    """As everywhere in Dask; without one, the session that was started."""
    with (
        cluster() as one,
        cluster() as two,
        Client(one, set_as_default=False) as a,
        Client(two, set_as_default=False) as b,
    ):
        handoff.start(a)
        handoff.start(b)
        try:
            with a.as_current():
                assert handoff.execute(DAG)["where"] == a.scheduler.address
            assert handoff.execute(DAG)["where"] == b.scheduler.address
        finally:
            handoff.stop()


def test_the_cluster_of_dasks_configuration():
    """What ``Client()`` would find; nothing is started then, and the session's end closes the connection."""
    with cluster() as known, dask.config.set({"scheduler-address": known.scheduler_address}):
        session = handoff.start()
        try:
            assert handoff.execute(DAG)["where"] == known.scheduler_address
            assert not session.is_embedded
        finally:
            handoff.stop()
        assert session.client.status == "closed"
