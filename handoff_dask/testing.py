"""Helpers for users' tests: captured telemetry, small clusters, trials of strategies."""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolz import frequencies

from handoff_dask import telemetry
from handoff_dask.placement.strategy_check import check_strategy
from handoff_dask.resources import Capabilities
from handoff_dask.telemetry import EVENTS, HANDLER_FAILURE, Event
from handoff_dask.telemetry.events import event_name, starts_with

if TYPE_CHECKING:
    from distributed import Client

    from handoff_dask.client.session import Handoff

__all__ = ["Capture", "Captured", "capture_telemetry", "check_strategy", "small_cluster"]

_FUNCTION = ("handoff", "execution", "function")
_DAG = ("handoff", "execution", "dag")

_numbers = itertools.count()

#: Where the pages of a small cluster are: nowhere but here, and on any free port.
_LOOPBACK = "127.0.0.1:0"
#: Threads of a node of few cores, as in the embedded cluster.
_LEAST_THREADS = 4


@dataclass(frozen=True, slots=True)
class Captured:
    """One event, as a handler gets it."""

    #: Its name.
    event: Event
    #: What was measured.
    measurements: dict[str, Any]
    #: What it is about.
    metadata: dict[str, Any]


class Capture(list[Captured]):
    """Captured events, in their order; a list that other threads append to."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived = threading.Condition()

    def handle(
        self, event: Event, measurements: dict[str, Any], metadata: dict[str, Any], config: Any
    ) -> None:
        """The telemetry handler."""
        with self._arrived:
            self.append(Captured(event, measurements, metadata))
            self._arrived.notify_all()

    def of(self, event: Event, **metadata: Any) -> list[Captured]:
        """The events whose names begin so, and whose metadata have these values.

        Examples
        --------
        >>> with capture_telemetry(("app",)) as captured:
        ...     with telemetry.span(("app",), {"item": 1}):
        ...         pass
        >>> [c.event for c in captured.of(("app", "stop"), item=1)]
        [('app', 'stop')]
        """
        prefix = event_name(event, what="prefix", empty=True)
        return [
            captured
            for captured in list(self)
            if starts_with(captured.event, prefix)
            and all(
                name in captured.metadata and captured.metadata[name] == metadata[name] for name in metadata
            )
        ]

    def wait_for(
        self, event: Event, count: int = 1, *, timeout: float = 5.0, **metadata: Any
    ) -> list[Captured]:
        """Wait until :meth:`of` gives that many; return them.

        Events reach a client a moment after they happen on the cluster.

        Raises
        ------
        AssertionError
            If after ``timeout`` seconds there are fewer.
        """
        with self._arrived:
            self._arrived.wait_for(lambda: len(self.of(event, **metadata)) >= count, timeout)
            found = self.of(event, **metadata)
        if len(found) < count:
            raise AssertionError(
                f"{len(found)} events {event!r} {metadata or ''} in {timeout} s, not {count}; "
                f"captured were {frequencies(c.event for c in list(self))}"
            )
        return found

    def balance(self) -> None:
        """Check that what began has ended, once and in order.

        Each attempt has one start and then one stop, exception or retry; attempts count starts
        from 1; each claim is returned, with the same amounts on the same node; each DAG that has
        started has ended.  Only what was captured is checked: capture all of ``("handoff",)``, or
        whole groups of it.

        Raises
        ------
        AssertionError
            With everything that is wrong.
        """
        captured = list(self)
        problems = [*_attempt_problems(captured), *_claim_problems(captured), *_dag_problems(captured)]
        if problems:
            raise AssertionError("telemetry does not balance:\n  " + "\n  ".join(problems))


@contextmanager
def capture_telemetry(*events: Event) -> Iterator[Capture]:
    """Capture the events that are emitted while the block runs.

    Parameters
    ----------
    *events
        Names or prefixes of handoff's events, such as ``("handoff", "execution")``; names of
        your own events, or the prefixes that you give to :func:`handoff_dask.telemetry.span`.
        All of handoff's if there are none.

    Raises
    ------
    ValidationError
        For what is no name of an event.

    Examples
    --------
    >>> with capture_telemetry(("handoff", "node")) as captured:
    ...     telemetry.execute(("handoff", "node", "up"), {"capabilities": {"cpu": 2}}, {"node": "a"})
    >>> captured.of(("handoff", "node", "up"))[0].metadata
    {'node': 'a'}
    """
    prefixes = [event_name(event) for event in events]
    capture = Capture()
    # Unlike any other id, even in a nested block.
    handler_id = ("handoff_dask.testing", next(_numbers))
    telemetry.attach_many(handler_id, _expanded(prefixes), capture.handle)
    try:
        yield capture
    finally:
        telemetry.detach(handler_id)


@contextmanager
def small_cluster(nodes: Mapping[str, Mapping[str, Any]] | None = None, **options: Any) -> Iterator[Handoff]:
    """A session on a cluster inside this process, for the block.

    It starts in a fraction of a second.  Functions run in threads of this process, so a debugger
    sees them, and those of a module see its variables; functions made in a test are pickled, as on
    any cluster, and work on copies of what they enclose.  What is special to processes (a node
    that is killed) cannot be tested here.

    While the block runs, the functions of :mod:`handoff_dask` use this cluster too.

    Parameters
    ----------
    nodes
        ``{name: capabilities}``; ``a`` and ``b`` with two cores each if absent.  A node has as
        many threads as ``cpu``, at least 4.
    **options
        Passed on to :class:`handoff_dask.Handoff`.

    Raises
    ------
    ValidationError
        For capabilities that are none.

    Examples
    --------
    >>> from handoff_dask.graph.functions import Function
    >>> with small_cluster({"big": {"cpu": 8}, "small": {"cpu": 1}}) as session:
    ...     result = session.execute([Function("f", [], sum, extra_args=[[1, 2]], cost={"cpu": 3})])
    >>> result.results, result.allocations
    ({'f': 3}, {'f': 'big'})
    """
    from handoff_dask.client.session import Handoff

    nodes = {"a": {"cpu": 2}, "b": {"cpu": 2}} if nodes is None else dict(nodes)
    threads = {
        name: max(_LEAST_THREADS, math.ceil(Capabilities.parse(has).to_dict().get("cpu", 0)))
        for name, has in nodes.items()
    }
    with _in_process(threads) as client, Handoff(client, **options) as session:
        for name, capabilities in nodes.items():
            session.register_node(name, capabilities)
        yield session


@contextmanager
def _in_process(threads: Mapping[str, int]) -> Iterator[Client]:
    """The client of a scheduler and of workers in this process; ``{worker's name: threads}``."""
    from distributed import Client, Scheduler, Worker
    from distributed.deploy.spec import SpecCluster

    # By TCP, though all is in one process, so that what travels is pickled as it would be elsewhere.
    here = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": _LOOPBACK}
    cluster = SpecCluster(
        scheduler={"cls": Scheduler, "options": {"port": 0, **here}},
        workers={
            # Without a limit: the workers share their memory with all else in this process.
            name: {"cls": Worker, "options": {"name": name, "nthreads": n, "memory_limit": None, **here}}
            for name, n in threads.items()
        },
        silence_logs=logging.WARNING,
        name="handoff-small",
    )
    with cluster, Client(cluster) as client:
        client.wait_for_workers(len(threads))
        yield client


def _expanded(prefixes: list[Event]) -> list[Event]:
    """Handlers listen to whole names: replace each prefix by the events below it."""
    if not prefixes:
        return list(EVENTS)
    expanded: list[Event] = []
    for prefix in prefixes:
        ours = [event for event in (*EVENTS, HANDLER_FAILURE) if starts_with(event, prefix)]
        expanded += ours or [prefix, *((*prefix, part) for part in ("start", "stop", "exception"))]
    return expanded


def _attempt_problems(captured: list[Captured]) -> Iterator[str]:
    running: dict[tuple[Hashable, Hashable], int | None] = {}
    last: dict[tuple[Hashable, Hashable], int] = {}
    for call in captured:
        if not starts_with(call.event, _FUNCTION):
            if call.event == (*_DAG, "start"):
                # An execution counts its attempts anew.
                last = {key: n for key, n in last.items() if key[0] != call.metadata["dag_id"]}
            continue
        key = (call.metadata["dag_id"], call.metadata["function_id"])
        attempt, name = call.metadata["attempt"], f"{key[1]!r} of {key[0]!r}, attempt"
        if call.event[-1] == "start":
            if running.get(key) is not None:
                yield f"{name} {running[key]} has not ended when attempt {attempt} starts"
            elif attempt != last.get(key, 0) + 1:
                yield f"{name} {attempt} follows attempt {last.get(key, 0)}"
            running[key] = last[key] = attempt
        else:
            if running.get(key) != attempt:
                yield f"{name} {attempt} ends ({call.event[-1]}) but was not running"
            running[key] = None
    for (dag_id, function_id), left in running.items():
        if left is not None:
            yield f"{function_id!r} of {dag_id!r}, attempt {left} has not ended"


def _claim_problems(captured: list[Captured]) -> Iterator[str]:
    held: Counter[tuple[Hashable, Hashable, str, tuple[tuple[str, float], ...]]] = Counter()
    for call in captured:
        if not starts_with(call.event, ("handoff", "resources")):
            continue
        about = call.metadata
        amounts = tuple(sorted(call.measurements["amounts"].items()))
        key = (about["dag_id"], about["function_id"], about["node"], amounts)
        held[key] += 1 if call.event[-1] == "claim" else -1
        if held[key] < 0:
            yield f"{key[1]!r} of {key[0]!r} returns {dict(amounts)} on {key[2]}, which it has not claimed"
            held[key] = 0
    for (dag_id, function_id, node, claimed), count in held.items():
        if count:
            yield f"{function_id!r} of {dag_id!r} has not returned {dict(claimed)} on {node}"


def _dag_problems(captured: list[Captured]) -> Iterator[str]:
    running: Counter[Hashable] = Counter()
    for call in captured:
        if not starts_with(call.event, _DAG):
            continue
        dag_id = call.metadata["dag_id"]
        running[dag_id] += 1 if call.event[-1] == "start" else -1
        if running[dag_id] < 0:
            yield f"DAG {dag_id!r} ends ({call.event[-1]}) but was not running"
            running[dag_id] = 0
    for dag_id, count in running.items():
        if count:
            yield f"DAG {dag_id!r} has not ended"
