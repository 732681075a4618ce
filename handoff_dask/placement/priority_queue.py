"""Priority queues of queues: those whose heads wait for room, by run, in the order of their heads."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping

from handoff_dask.placement.amounts import Amounts
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.queues import OrderKey, Queue
from handoff_dask.placement.shares import RunParty, Shares

#: Queues in one block at most.  It changes no decision, only what looking takes.
_BLOCK = 16


class _Block:
    __slots__ = ("keys", "least", "queues")

    def __init__(self, keys: list[OrderKey], queues: list[Queue]) -> None:
        self.keys = keys
        self.queues = queues
        self.least: Amounts = ()
        self.measure()

    def measure(self) -> None:
        """Find what each of the queues asks for at least."""
        least = dict(self.queues[0].request.amounts)
        for queue in self.queues[1:]:
            asked = queue.request.asked
            for name in [n for n in least if least[n] > asked.get(n, 0)]:
                least[name] = asked.get(name, 0)
        self.least = tuple((n, u) for n, u in least.items() if u)


def _less(least: Amounts, asked: Mapping[str, int]) -> Amounts:
    """The least that is asked, with one more who asks."""
    return tuple((n, min(u, asked[n])) for n, u in least if n in asked)


class PriorityQueue:
    """Queues of one run whose heads wait for room, in the order of their heads.

    Kept in blocks.  Each block knows the least that any of its queues asks for, and so does the whole: a
    node with little room passes over whole blocks, and a full one looks at none.
    """

    __slots__ = ("_blocks", "_least")

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        #: What every queue asks for at least, or less.
        self._least: Amounts = ()

    def __iter__(self) -> Iterator[Queue]:
        for block in self._blocks:
            yield from block.queues

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def least(self) -> Amounts:
        """What each of the queues asks for at least."""
        least = dict(self._blocks[0].least)
        for block in self._blocks[1:]:
            asked = dict(block.least)
            least = {name: min(units, asked[name]) for name, units in least.items() if name in asked}
        return tuple(least.items())

    def first(self) -> Queue | None:
        """The queue that stands first."""
        return self._blocks[0].queues[0] if self._blocks else None

    def add(self, queue: Queue, key: OrderKey) -> None:
        """Let a queue stand here, by the order key of its head."""
        queue.key = key
        if not self._blocks:
            self._blocks.append(_Block([key], [queue]))
            self._least = self._blocks[0].least
            return
        asked = queue.request.asked
        for name, units in self._least:
            if asked.get(name, 0) < units:
                self._least = _less(self._least, asked)
                break
        number = self._number(key)
        block = self._blocks[number]
        at = bisect_left(block.keys, key)
        block.keys.insert(at, key)
        block.queues.insert(at, queue)
        for name, units in block.least:
            if asked.get(name, 0) < units:
                block.measure()
                break
        if len(block.keys) > 2 * _BLOCK:
            self._blocks.insert(number + 1, _Block(block.keys[_BLOCK:], block.queues[_BLOCK:]))
            del block.keys[_BLOCK:], block.queues[_BLOCK:]
            block.measure()

    def remove(self, queue: Queue) -> bool:
        """Take a queue out; whether none is left."""
        assert queue.key is not None
        number = self._number(queue.key)
        block = self._blocks[number]
        at = bisect_left(block.keys, queue.key)
        del block.keys[at], block.queues[at]
        queue.key = None
        if not block.keys:
            del self._blocks[number]
        return not self._blocks

    def first_fit(self, node: Node, after: OrderKey | None = None) -> Queue | None:
        """The first queue, behind a place in the order, for whose head the node has room."""
        name, offer = node.name, node.offer
        for resource, units in self._least:
            if offer.get(resource, 0) < units:
                return None
        number = 0 if after is None else self._number(after) if self._blocks else 0
        for block in self._blocks[number:]:
            if not node.has_room(block.least):
                continue
            start = 0 if after is None else bisect_right(block.keys, after)
            for queue in block.queues[start:] if start else block.queues:
                # ResourceRequest.fits, written out: this is where a saturated cluster spends its time.
                for resource, units in queue.amounts:
                    if offer.get(resource, 0) < units:
                        break
                else:
                    request = queue.request
                    if name in request.eligible and (request.confinement is None or request.fits(node)):
                        return queue
            # What was asked least may have gone: do not come here in vain again.
            block.measure()
        if after is None and self._blocks:
            self._least = self.least()
        return None

    def _number(self, key: OrderKey) -> int:
        """The block in which a key stands or would stand."""
        low, high = 0, len(self._blocks) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._blocks[middle].keys[0] <= key:
                low = middle
            else:
                high = middle - 1
        return low


#: With so many runs or fewer, these are put in order; with more, the order of all runs is gone through.
_FEW_RUNS = 8


class RunLines:
    """Queues whose heads wait for room: runs in the order of their turns, each with its queues in order.

    Of many runs, the least that any of them asks for is known, so a node with little room passes over all.
    """

    __slots__ = ("_by_run", "_least", "_shares", "name")

    def __init__(self, shares: Shares, name: str | None = None) -> None:
        #: The node it is about, if it is about one.
        self.name = name
        self._shares = shares
        self._by_run: dict[RunParty, PriorityQueue] = {}
        #: What every queue asks for at least, or less; known only of several runs.
        self._least: Amounts = ()

    def __iter__(self) -> Iterator[Queue]:
        for run in self._in_order():
            yield from self._by_run[run]

    def __bool__(self) -> bool:
        return bool(self._by_run)

    def first(self) -> Queue | None:
        """The queue that stands first."""
        if len(self._by_run) == 1:
            for queues in self._by_run.values():
                return queues.first()
        run = next(iter(self._in_order()), None)
        return None if run is None else self._by_run[run].first()

    def of_run(self, run: RunParty) -> Iterable[Queue]:
        """The queues of one run, in order."""
        return self._by_run.get(run, ())

    def add(self, queue: Queue, key: OrderKey) -> None:
        """Let a queue stand here, by the order key of its head."""
        queue.blocked_in = self
        own = self._by_run.get(queue.party)
        if own is not None:
            own.add(queue, key)
        else:
            own = self._by_run[queue.party] = PriorityQueue()
            own.add(queue, key)
            if len(self._by_run) == 2:
                self._measure()
        if self._least:
            self._least = _less(self._least, queue.request.asked)

    def remove(self, queue: Queue) -> None:
        """Take a queue out."""
        queue.blocked_in = None
        if self._by_run[queue.party].remove(queue):
            del self._by_run[queue.party]
            if len(self._by_run) < 2:
                self._least = ()

    def first_fit(self, node: Node, after: Mapping[RunParty, OrderKey]) -> Queue | None:
        """The first queue, behind a place in the order of each run, for whose head the node has room."""
        by_run = self._by_run
        if len(by_run) == 1:
            for run, queues in by_run.items():
                return queues.first_fit(node, after.get(run))
        if not by_run or not node.has_room(self._least):
            return None
        for run in self._in_order():
            found = by_run[run].first_fit(node, after.get(run))
            if found is not None:
                return found
        if not after:
            # What was asked least may have gone: do not come here in vain again.
            self._measure()
        return None

    def _in_order(self) -> Iterable[RunParty]:
        by_run, shares = self._by_run, self._shares
        if len(by_run) < 2:
            return by_run
        if len(by_run) <= _FEW_RUNS:
            return sorted(by_run, key=shares.standing)
        return [run for run in shares.in_order() if run in by_run]

    def _measure(self) -> None:
        """Find what each of the queues asks for at least."""
        least: dict[str, int] | None = None
        for queues in self._by_run.values():
            asked = dict(queues.least())
            least = asked if least is None else {n: min(u, asked[n]) for n, u in least.items() if n in asked}
        self._least = tuple((least or {}).items())
