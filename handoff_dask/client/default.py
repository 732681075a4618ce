"""The default session, which the module's functions use."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any

from distributed import Client

from handoff_dask.allocators import Strategy
from handoff_dask.client import options as checks
from handoff_dask.client.execution_core import ExecutionCore
from handoff_dask.client.forks import after_fork
from handoff_dask.client.scheduler_link import SchedulerLink, client_made_current, current_client
from handoff_dask.client.session import Handoff
from handoff_dask.config import Placing
from handoff_dask.stores import ResultStore
from handoff_dask.trackers import ResourceTracker


class _Defaults:
    """The sessions of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        #: What :func:`start` made.
        self.started: Handoff | None = None
        #: Started because there was no client.
        self.embedded: Handoff | None = None
        #: The session of each client.
        self.sessions: weakref.WeakKeyDictionary[Client, Handoff] = weakref.WeakKeyDictionary()

    def current(self, client: Client | None) -> Handoff | None:
        """A session that exists already and is usable."""
        checks.refuse_other_than_client(client)
        if client is None:
            # Made current by hand: as everywhere in Dask, that counts.
            client = client_made_current()
        if client is None:
            if self.started is not None and self.started.is_usable:
                return self.started
            client = current_client()
            if client is None:
                return self.embedded if self.embedded is not None and self.embedded.is_usable else None
        known = self.sessions.get(client)
        return known if known is not None and known.is_usable else None

    def made_of(self, nodes: Mapping[str, Mapping[str, Any]]) -> Handoff | None:
        """What was started on the same embedded nodes: a cell of a notebook may be run again."""
        known = (session for session in self.sessions.values() if session.is_usable)
        return next((session for session in known if session.nodes == nodes), None)


_defaults = _Defaults()


def _forked() -> None:
    # Another thread of the parent may have held it.
    _defaults.lock = threading.RLock()


after_fork(_forked)


def start(
    client: Client | None = None,
    *,
    nodes: Mapping[str, Mapping[str, Any]] | None = None,
    resource_tracker: ResourceTracker | type[ResourceTracker] | None = None,
    result_store: ResultStore | type[ResultStore] | None = None,
    allocator: Strategy | None = None,
    dask_tasks: Placing | None = None,
) -> Handoff:
    """Make the session that the module's functions use, and return it.

    Starting again for the same client is harmless.

    Parameters
    ----------
    client
        A Dask client.  If ``None``, the client that is current in Dask, or the cluster that ``Client()``
        would find (``DASK_SCHEDULER_ADDRESS``); if there is neither, an embedded cluster is started on
        this machine.
    nodes
        ``{name: capabilities}`` of the embedded cluster; if ``None``, one node that has this
        machine's cores and memory.
    resource_tracker
        A resource tracker of the user's own, which is asked before every placement.
    result_store
        A result store of the user's own.
    allocator
        The strategy of executions that name none.
    dask_tasks
        What becomes of Dask's own tasks that name resources, whoever submits them: with ``"place"``
        handoff places them as it places functions, with ``"count"`` it counts what they hold.  If
        ``None``, as the cluster does already: ``handoff.dask-tasks`` in the configuration of the
        scheduler's process.

    Returns
    -------
    Handoff
        With an asynchronous client, an awaitable of it.

    Raises
    ------
    ValidationError
        If one of these is of the wrong kind, or cannot be sent.
    """
    with _defaults.lock:
        if nodes is None:
            known = _defaults.current(client)
        else:
            known = _defaults.made_of(nodes) if client is None else None
        if known is not None and any(
            part is not None for part in (resource_tracker, result_store, allocator, dask_tasks)
        ):
            if known.is_embedded:  # its cluster goes with it: the next has one of its own
                known.stop()
                nodes = known.nodes
            else:
                client = known.client
            known = None
        if known is None:
            known = Handoff(
                client,
                nodes=nodes,
                resource_tracker=resource_tracker,
                result_store=result_store,
                allocator=allocator,
                dask_tasks=dask_tasks,
            )
            _defaults.sessions[known.client] = known
        _defaults.started = known
        return known.start()


def stop() -> None:
    """End the session that the module's functions use: cancel what it still runs.

    The user's client and cluster stay.
    """
    with _defaults.lock:
        session = _defaults.started or _defaults.current(None)
        _defaults.started = None
        if session is None:
            return None
        if session is _defaults.embedded:
            _defaults.embedded = None
        _defaults.sessions.pop(session.client, None)
        return session.stop()


def session_for(client: Client | None = None) -> Handoff:
    """The session of a client; with none, the default one, Dask's current client's, or a new one."""
    with _defaults.lock:
        known = _defaults.current(client)
        if known is None:
            known = Handoff(client)
            _defaults.sessions[known.client] = known
            if known.is_embedded:
                _defaults.embedded = known
        return known


def known_session() -> Handoff | None:
    """The session that the module's functions would use, if it is there already."""
    return _defaults.current(None)


def link_of(execution: object) -> SchedulerLink:
    """The link of the session that an execution belongs to; for anything else, of the default one."""
    return execution._link if isinstance(execution, ExecutionCore) else session_for().link
