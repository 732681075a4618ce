"""The cluster that a command works on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dask
from distributed import Client

from handoff_dask.client.session import Handoff
from handoff_dask.errors import ValidationError

#: Seconds until a scheduler that does not answer is given up.
CONNECT_S = 5.0


def address_of(scheduler: str | None) -> str | None:
    """The scheduler that is meant: the one that was named, or that of Dask's configuration."""
    return scheduler or dask.config.get("scheduler-address", None)


@contextmanager
def session_on(
    scheduler: str | None, nodes: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[Handoff]:
    """A session on a running cluster, or on an embedded one that ends with it.

    Parameters
    ----------
    scheduler
        An address, or the path of a scheduler file; if ``None``, that of Dask's configuration.
    nodes
        What the embedded cluster is made of, if that is wanted.

    Raises
    ------
    ValidationError
        If both are given.
    OSError
        If the scheduler does not answer.
    """
    if nodes is not None and scheduler is not None:
        raise ValidationError("--scheduler and --nodes are both given; nodes are those of a new cluster")
    address = None if nodes is not None else address_of(scheduler)
    if address is None:
        with Handoff(nodes=nodes) as session:
            yield session
        return
    file = Path(address)
    is_file = "://" not in address and file.is_file()
    where: dict[str, Any] = {"scheduler_file": str(file)} if is_file else {"address": address}
    with Client(**where, timeout=CONNECT_S, set_as_default=False) as client, Handoff(client) as session:
        yield session


@contextmanager
def running_cluster(scheduler: str | None) -> Iterator[Handoff]:
    """A session on a cluster that runs already.

    Raises
    ------
    ValidationError
        If none is named.
    """
    if address_of(scheduler) is None:
        raise ValidationError(
            "no scheduler is named; give --scheduler tcp://host:8786, or set DASK_SCHEDULER_ADDRESS"
        )
    with session_on(scheduler) as session:
        yield session


def ask(session: Handoff, method: str, **arguments: Any) -> Any:
    """Ask the scheduler, and wait for the answer."""
    # Not by sync's own arguments: a request may have some of the same names.
    return session.sync(partial(session.ask, method, **arguments))


def overview_of(session: Handoff) -> dict[str, Any]:
    """Nodes, runs and what waits, once all workers have said what they offer."""
    session.discover_nodes()
    overview: dict[str, Any] = ask(session, "overview")
    return overview
