"""Hands events to the placement engine, and its decisions to whoever carries them out.

Hooks of Dask only gather events.  One callback of the event loop hands all that have gathered to
the engine, so that the engine decides once for all of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

from distributed.metrics import monotonic
from tornado.ioloop import IOLoop

from handoff_dask.placement.decisions import Decision
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import Event, FunctionReady, RunKey, TimePassed
from handoff_dask.placement.settings import EngineSettings
from handoff_dask.protocol.names import RELAYS, SHORT_LANES
from handoff_dask.scheduler.runs import FunctionState

logger = logging.getLogger(__name__)

#: A turn of the event loop that takes longer, in seconds, is not waited for.  On a quiet machine a turn
#: takes some tenths of a millisecond; with a hundred workers in one process it takes 20 to 300 ms.
LATE_S = 0.003
#: Weight of the latest turn in the running mean.
LATE_WEIGHT = 0.05


class Carrier(Protocol):
    """Carries out what the engine decides."""

    def prepare(self) -> None:
        """Do what must be done before the engine is asked."""

    def carry_out(self, decisions: list[Decision]) -> None:
        """Make the engine's decisions Dask's."""

    def give_up(self, problem: str) -> None:
        """Fail what was to be placed: the engine has failed."""

    def deadline(self) -> float | None:
        """When something else is due, in monotonic seconds."""

    def woken(self) -> None:
        """Do what is due by now."""


class Log(Protocol):
    """Writes down what the engine is told, and what it decides."""

    def watched(self, events: Sequence[Event]) -> list[Event]:
        """The events as the engine is to be told them."""

    def turn(self, events: Sequence[Event], decisions: Sequence[Decision], now: float) -> None:
        """The engine has decided."""


class EngineDriver:
    """The engine, and what has happened since it was asked last.

    Parameters
    ----------
    loop
        The scheduler's.
    functions
        Functions by Dask key.
    observe
        Told of the decisions, and of how many seconds the engine took.
    """

    def __init__(
        self,
        loop: IOLoop,
        functions: Mapping[str, FunctionState],
        observe: Callable[[list[Decision], float], None],
    ) -> None:
        self.engine = PlacementEngine(EngineSettings(prefetch_queues=SHORT_LANES, timed_prefetches=RELAYS))
        self._loop = loop
        self._functions: Mapping[Any, FunctionState] = functions
        self._observe = observe
        self._carrier: Carrier
        #: Where what happens is written down, if it is.
        self.log: Log | None = None
        self._events: list[Event] = []
        self._is_due = False
        #: Whether the next turn of the event loop has been asked for, and when.
        self._is_called = False
        self._due_since = 0.0
        #: Seconds from an event to the turn of the loop in which the engine is asked, lately.
        self._late_s = 0.0
        self._timer: Any = None
        #: When the timer goes off, in monotonic seconds.
        self._timer_s = 0.0

    def connect(self, carrier: Carrier) -> None:
        """Say who carries out the decisions."""
        self._carrier = carrier

    @property
    def is_idle(self) -> bool:
        """Whether the engine knows all that has happened."""
        return not self._is_due

    def gather(self, events: Iterable[Event]) -> None:
        """Keep events for the next turn of the event loop."""
        self._events.extend(events)
        if self._events and not self._is_due:
            self._is_due = True
            if not self._is_called:
                self._is_called, self._due_since = True, monotonic()
                # IOLoop.add_callback wakes the loop through a pipe, which is for other threads.
                asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._is_called = False
        self._late_s += LATE_WEIGHT * (monotonic() - self._due_since - self._late_s)
        if self._is_due:
            self.flush()

    def flush_if_late(self) -> None:
        """Ask the engine now if a turn of the event loop takes long: nodes would be idle meanwhile."""
        if self._is_due and self._late_s > LATE_S:
            self.flush()

    def wake_soon(self) -> None:
        """Ask the engine in the next turn of the event loop, whether or not anything has happened."""
        self.gather([TimePassed()])

    def flush(self) -> None:
        """Hand over what has happened; carry out what is decided."""
        self._is_due = False
        try:
            self._carrier.prepare()
            events, self._events = self._events, []
            now = monotonic()
            decisions = self._decide(self._as_submitted(events), now)
            self._observe(decisions, monotonic() - now)
            self._carrier.carry_out(decisions)
        except Exception as error:
            logger.exception("handoff could not place functions; this is a defect in handoff_dask")
            self._carrier.give_up(
                f"handoff itself failed ({error!r}), which is a defect in it; please report it"
            )
            raise
        self._set_timer()

    def _decide(self, events: list[Event], now: float) -> list[Decision]:
        """Ask the engine; with a log, write down what it was told and has decided."""
        if self.log is None:
            return self.engine.handle_all(events, now=now)
        decisions: list[Decision] = []
        try:
            decisions = self.engine.handle_all(self.log.watched(events), now=now)
        finally:
            self.log.turn(events, decisions, now)
        return decisions

    def _as_submitted(self, events: list[Event]) -> list[Event]:
        """Put functions that became ready together into the order of their DAG: Dask's is the reverse."""
        if len(events) < 2:
            return events
        functions = self._functions
        ordered: list[Event] = []
        for run, together in groupby(events, key=_run_of_ready):
            if run is None:
                ordered.extend(together)
            else:
                ready = [e for e in together if isinstance(e, FunctionReady) and e.function in functions]
                ready.sort(key=lambda e: functions[e.function].position)
                ordered.extend(ready)
        return ordered

    def _set_timer(self) -> None:
        """Wake up when something that waits for a moment is due; a timer that is set earlier serves too."""
        deadlines = [d for d in (self.engine.next_deadline(), self._carrier.deadline()) if d is not None]
        if not deadlines or (self._timer is not None and self._timer_s <= min(deadlines)):
            return
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
        self._timer_s = min(deadlines)
        self._timer = self._loop.call_later(max(0.0, self._timer_s - monotonic()), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._carrier.woken()
        self.gather([TimePassed()])


def _run_of_ready(event: Event) -> RunKey | None:
    # Tasks of Dask's own (their run is no token) are in the order in which Dask sent them.
    return event.run if isinstance(event, FunctionReady) and isinstance(event.run, str) else None
