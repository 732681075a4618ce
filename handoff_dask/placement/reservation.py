"""The record of one backfill reservation: a node that is being cleared, and who may start there meanwhile.

A function may start on a reserved node if it does not delay the one that the node is reserved for:
it ends before, or fits beside it.  There are two kinds (see :mod:`handoff_dask.placement.backfill`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from handoff_dask.placement.amounts import Amounts
from handoff_dask.placement.clock import Clock
from handoff_dask.placement.demand import FunctionKey
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.queues import OrderKey, Queue, ScheduledFunction
from handoff_dask.placement.settings import EngineSettings


class Plan(NamedTuple):
    """When a node could start a function if nothing else were started there."""

    start_s: float
    missing: float
    name: str
    node: Node
    free: dict[str, int]


class Reservation:
    """A node that is being cleared for the head of a queue, whoever that will be then."""

    __slots__ = (
        "_beside",
        "_clock",
        "_goes_before",
        "_settings",
        "_spare",
        "for_order",
        "lapses_s",
        "node",
        "priority",
        "queue",
        "start_s",
    )

    def __init__(
        self,
        clock: Clock,
        settings: EngineSettings,
        queue: Queue,
        priority: float,
        plan: Plan,
        for_order: bool,
        goes_before: Callable[[OrderKey, OrderKey], bool],
    ) -> None:
        self.queue = queue
        #: Whether it is for the first in order; else it is for one that has waited too long.
        self.for_order = for_order
        #: The user priority of the head when it had waited too long.
        self.priority = priority
        self.node = plan.node
        #: When it is expected to start; infinity if nobody knows.
        self.start_s = plan.start_s
        #: When expectations have proved wrong if it has not started.
        self.lapses_s = plan.start_s + max(
            settings.reservation_late_s, settings.reservation_late * (plan.start_s - clock.now)
        )
        self._clock = clock
        self._goes_before = goes_before
        self._settings = settings
        self._spare = plan.free
        _take(self._spare, queue.amounts)
        self._beside: dict[FunctionKey, Amounts] = {}

    def admits(self, other: ScheduledFunction) -> bool:
        """Whether a function may start here without delaying the one that has waited."""
        if other.queue is self.queue or self._ends_before(other):
            return True
        if other.queue.party is self.queue.party and other.priority > self.priority:
            return True
        # Nobody waits for a function that is not its run's turn.
        if (self.for_order or other.queue.party is not self.queue.party) and self.is_behind(other):
            return True
        return all(self._spare.get(name, 0) >= units for name, units in other.queue.request.amounts)

    def is_behind(self, other: ScheduledFunction) -> bool:
        """Whether the one it is for stands behind another in the order."""
        order_key = self.queue.head()
        if order_key is None:
            return True
        if other.run is order_key[3].run:
            return other.order_key() < order_key
        return self._goes_before(other.order_key(), order_key)

    def function(self) -> FunctionKey:
        """The function that has waited too long."""
        order_key = self.queue.head()
        assert order_key is not None
        return order_key[3].function

    def started(self, other: ScheduledFunction) -> None:
        """Note that another function has started here."""
        if not self._ends_before(other):
            self._beside[other.function] = other.queue.request.amounts
            _take(self._spare, other.queue.request.amounts)
        elif other.duration_s is not None:
            end_s = self._clock.now + other.duration_s
            self.lapses_s = max(self.lapses_s, end_s + self._settings.reservation_late_s)

    def ended(self, other: ScheduledFunction) -> None:
        """Note that another function has ended here."""
        for name, units in self._beside.pop(other.function, ()):
            self._spare[name] += units

    def _ends_before(self, other: ScheduledFunction) -> bool:
        if other.duration_s is None or self.start_s == math.inf:
            return False
        limit_s = self.start_s
        if self.for_order:
            limit_s = latest_end_s(self._settings, self.start_s, other.duration_s)
        return self._clock.now + other.duration_s <= limit_s


def latest_end_s(settings: EngineSettings, start_s: float, duration_s: float) -> float:
    """When a function must have ended on a node that is reserved for one that could start then."""
    return start_s + settings.backfill_grace_s + settings.backfill_grace * duration_s


def _take(free: dict[str, int], amounts: Amounts) -> None:
    for name, units in amounts:
        free[name] = free.get(name, 0) - units
