"""What a worker of a stage does with items: who waits, who is next, whose result is kept.

Pure: no Dask, no clock, no threads.  Values are opaque; times are monotonic seconds that the caller
brings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from handoff_dask.graph.stages import CONSTANT

#: Items that are given out at once where the code takes them one by one.
AT_ONCE = 64


class Ready(NamedTuple):
    """An item that has all that it needs."""

    number: int
    #: One for each slot.
    values: tuple[Any, ...]


class _Item:
    __slots__ = ("kept", "missing", "state", "values")

    def __init__(self, slots: int, missing: int) -> None:
        self.values: list[Any] = [None] * slots
        self.missing = missing
        self.state = GATHERING
        #: The result, until everybody has what comes of it.
        self.kept: Any = None


GATHERING, READY, RUNNING, SETTLED = "gathering", "ready", "running", "settled"


class StageItems:
    """The items of one worker of a stage.

    Items come once for each slot, in any order, and perhaps again after a loss: what is known
    already is passed over.  Each is *settled* once, by a result or a failure.  The result is kept
    until the item is done with at the other end, so that it can be sent again.

    Parameters
    ----------
    constant_slots
        For each slot, whether its value comes once and serves every item.
    worker, parallelism
        It has the items whose number leaves ``worker`` when divided by ``parallelism``.
    batch_size, batch_timeout
        How many items a batch has at most, and for how long (seconds) it waits after its first;
        both ``None`` if the code takes items one by one.
    in_order
        Whether items are given out by number alone: for a code with a state.
    join_timeout
        Seconds, after which an item that has some of its values fails for the lack of others.
    """

    def __init__(
        self,
        constant_slots: Sequence[bool],
        *,
        worker: int = 0,
        parallelism: int = 1,
        batch_size: int | None = None,
        batch_timeout: float | None = None,
        in_order: bool = False,
        join_timeout: float | None = None,
    ) -> None:
        self._slots = len(constant_slots)
        self._is_constant = tuple(constant_slots)
        self._item_slots = constant_slots.count(False)
        self._parallelism = parallelism
        self._batched = batch_size is not None or batch_timeout is not None
        self._batch_size, self._batch_timeout = batch_size, batch_timeout
        self._in_order = in_order
        self._join_timeout = join_timeout
        self._items: dict[int, _Item] = {}
        #: Values that serve every item, by slot, as far as they have come.
        self._constants: dict[int, Any] = {}
        self._constants_missing = constant_slots.count(True)
        #: Complete items that wait for a constant.
        self._lacking: list[int] = []
        #: Complete items that may go: ``(number, since)``.
        self._queue: deque[tuple[int, float]] = deque()
        #: The number that goes next, if they go in order.
        self._next = worker
        #: Items that have some of their values: ``(when they fail, number)``.
        self._joins: deque[tuple[float, int]] = deque()
        #: All below are done with, and these above.
        self._watermark = 0
        self._done: set[int] = set()
        self._flush = False
        #: Items that are being worked on.
        self.running = 0
        #: Items that were settled, whichever way.
        self.settled_count = 0

    # ------------------------------------------------------------------ coming in

    def arrive(self, number: int, slot: int, value: Any, now: float) -> None:
        """A value has come."""
        if self._is_constant[slot]:
            self._constant(slot, value, now)
            return
        item = self._item(number, now)
        if item is None or item.state != GATHERING or item.values[slot] is not None:
            return
        item.values[slot] = (value,)
        item.missing -= 1
        if item.missing == 0:
            self._complete(number, item, now)

    def fail(self, number: int, now: float) -> bool:
        """One of an item's values will never come; whether that is news, and must be passed on."""
        item = self._item(number, now)
        if item is None or item.state != GATHERING:
            return False
        self._settled(number, item, now)
        return True

    def _item(self, number: int, now: float) -> _Item | None:
        """An item that is not done with; it is begun if it is new."""
        item = self._items.get(number)
        if item is None and number != CONSTANT and (number < self._watermark or number in self._done):
            return None
        if item is None:
            item = self._items[number] = _Item(self._slots, self._item_slots)
            if self._join_timeout is not None and self._item_slots > 1:
                self._joins.append((now + self._join_timeout, number))
        return item

    def _constant(self, slot: int, value: Any, now: float) -> None:
        if slot in self._constants:
            return
        self._constants[slot] = value
        self._constants_missing -= 1
        if self._constants_missing == 0:
            lacking, self._lacking = self._lacking, []
            for number in lacking:
                if number in self._items:
                    self._make_ready(number, self._items[number], now)
            if self._item_slots == 0:
                self.begin_constant(now)

    def begin_constant(self, now: float) -> None:
        """Where nothing comes for single items: run once, as soon as all constants are there."""
        if self._constants_missing == 0 and CONSTANT not in self._items:
            item = self._items[CONSTANT] = _Item(self._slots, 0)
            item.state = READY
            self._queue.append((CONSTANT, now))
            self._flush = True

    def _complete(self, number: int, item: _Item, now: float) -> None:
        if self._constants_missing:
            self._lacking.append(number)
        else:
            self._make_ready(number, item, now)

    def _make_ready(self, number: int, item: _Item, now: float) -> None:
        item.state = READY
        if self._in_order:
            self._advance(now)
        else:
            self._queue.append((number, now))

    def _advance(self, now: float) -> None:
        """Let go those whose turn has come."""
        items, done, step = self._items, self._done, self._parallelism
        if self._next < self._watermark:
            self._next += -(-(self._watermark - self._next) // step) * step
        while True:
            item = items.get(self._next)
            if item is None:
                if self._next not in done:
                    return
            elif item.state == READY:
                self._queue.append((self._next, now))
            elif item.state == GATHERING:
                return
            self._next += step

    # ------------------------------------------------------------------ going out

    def take(self, now: float) -> list[Ready]:
        """What is to be worked on next; empty if nothing is."""
        if not self._is_due(now):
            return []
        limit = len(self._queue)
        limit = (self._batch_size or limit) if self._batched else AT_ONCE
        taken: list[Ready] = []
        while self._queue and len(taken) < limit:
            number, _ = self._queue.popleft()
            item = self._items.get(number)
            if item is not None and item.state == READY:  # else it is done with by now
                item.state = RUNNING
                taken.append(Ready(number, self._values(item)))
        self._flush = False
        self.running += len(taken)
        return taken

    def _values(self, item: _Item) -> tuple[Any, ...]:
        constants, is_constant = self._constants, self._is_constant
        return tuple([constants[n] if is_constant[n] else item.values[n][0] for n in range(self._slots)])

    def _is_due(self, now: float) -> bool:
        if not self._queue:
            return False
        if not self._batched or self._flush:
            return True
        if self._batch_size is not None and len(self._queue) >= self._batch_size:
            return True
        return self._batch_timeout is not None and now >= self._queue[0][1] + self._batch_timeout

    def settle(self, number: int, result: Any, now: float) -> bool:
        """An item that was taken has its result, or its failure; whether anybody still wants it.

        Parameters
        ----------
        number
            The item.
        result
            What is kept of it; ``None`` keeps nothing, so that it is done again after a loss.
        now
            Monotonic seconds.
        """
        item = self._items.get(number)
        self.running -= 1
        if item is None:
            self.settled_count += 1
            return False
        self._settled(number, item, now)
        item.kept = result
        return True

    def keep(self, number: int, result: Any) -> None:
        """Keep what is passed on for an item that failed before it was complete."""
        item = self._items.get(number)
        if item is not None:
            item.kept = result

    def _settled(self, number: int, item: _Item, now: float) -> None:
        item.state = SETTLED
        item.values.clear()
        self.settled_count += 1
        if self._in_order and number != CONSTANT:
            self._advance(now)

    # ------------------------------------------------------------------ time

    def late(self, now: float) -> list[tuple[int, list[int]]]:
        """Items that have waited for too long for some of their values, and for which; they fail."""
        found = []
        while self._joins and self._joins[0][0] <= now:
            _, number = self._joins.popleft()
            item = self._items.get(number)
            if item is not None and item.state == GATHERING and item.missing:
                lacking = [
                    n for n, value in enumerate(item.values) if value is None and not self._is_constant[n]
                ]
                self._settled(number, item, now)
                found.append((number, lacking))
        return found

    def next_moment(self) -> float | None:
        """When something is due that nothing else brings about, in monotonic seconds."""
        moments = [self._joins[0][0]] if self._joins else []
        if self._queue and self._batched and self._batch_timeout is not None:
            moments.append(self._queue[0][1] + self._batch_timeout)
        return min(moments, default=None)

    # ------------------------------------------------------------------ from the other end

    def flush(self) -> None:
        """Nothing more comes before something goes: let a batch go that is not full."""
        self._flush = bool(self._queue)

    def done(self, watermark: int, numbers: Iterable[int], now: float) -> None:
        """These items have left the pipeline, and all below the watermark."""
        for number in numbers:
            if number >= watermark:
                self._done.add(number)
                self._items.pop(number, None)
        if watermark > self._watermark:
            self._watermark = watermark
            for number in [n for n in self._items if CONSTANT < n < watermark]:
                del self._items[number]
            self._done = {n for n in self._done if n >= watermark}
        if self._queue and self._queue[0][0] not in self._items:
            self._queue = deque([entry for entry in self._queue if entry[0] in self._items])
        if self._in_order:
            self._advance(now)

    def again(self) -> list[tuple[int, Any]]:
        """After a loss: results that are sent again, in order; what was not kept is to be done again."""
        settled = sorted(n for n, item in self._items.items() if item.state == SETTLED)
        kept = [(n, self._items[n].kept) for n in settled if self._items[n].kept is not None]
        for number in settled:
            if self._items[number].kept is None:
                del self._items[number]
        return kept

    # ------------------------------------------------------------------ what there is

    @property
    def waiting(self) -> int:
        """Items that are here and not settled, beside those that are worked on."""
        return sum(item.state in (GATHERING, READY) for item in self._items.values())

    @property
    def is_batch_waiting(self) -> bool:
        """Whether there are items that only wait for others to fill their batch."""
        return bool(self._queue)

    def is_idle(self, now: float) -> bool:
        """Whether there is nothing to do at this moment."""
        return not self.running and not self._is_due(now)
