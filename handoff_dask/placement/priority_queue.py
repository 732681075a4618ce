"""A priority queue of queues: those whose heads wait for room, in the order of their heads."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from handoff_dask.placement.amounts import Amounts
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.queues import OrderKey, Queue

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


class PriorityQueue:
    """Queues whose heads wait for room, in the order of their heads.

    Kept in blocks.  Each block knows the least that any of its queues asks for, so a node with
    little room passes over whole blocks, and a full one over all.
    """

    __slots__ = ("_blocks", "name")

    def __init__(self, name: str | None = None) -> None:
        #: The node it is about, if it is about one.
        self.name = name
        self._blocks: list[_Block] = []

    def __iter__(self) -> Iterator[Queue]:
        for block in self._blocks:
            yield from block.queues

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def first(self) -> Queue | None:
        """The queue that stands first."""
        return self._blocks[0].queues[0] if self._blocks else None

    def add(self, queue: Queue, key: OrderKey) -> None:
        """Let a queue stand here, by the order key of its head."""
        queue.blocked_in, queue.key = self, key
        if not self._blocks:
            self._blocks.append(_Block([key], [queue]))
            return
        number = self._number(key)
        block = self._blocks[number]
        at = bisect_left(block.keys, key)
        block.keys.insert(at, key)
        block.queues.insert(at, queue)
        asked = queue.request.asked
        for name, units in block.least:
            if asked.get(name, 0) < units:
                block.measure()
                break
        if len(block.keys) > 2 * _BLOCK:
            self._blocks.insert(number + 1, _Block(block.keys[_BLOCK:], block.queues[_BLOCK:]))
            del block.keys[_BLOCK:], block.queues[_BLOCK:]
            block.measure()

    def remove(self, queue: Queue) -> None:
        """Take a queue out."""
        assert queue.key is not None
        number = self._number(queue.key)
        block = self._blocks[number]
        at = bisect_left(block.keys, queue.key)
        del block.keys[at], block.queues[at]
        queue.blocked_in = queue.key = None
        if not block.keys:
            del self._blocks[number]

    def first_fit(self, node: Node, after: OrderKey | None = None) -> Queue | None:
        """The first queue, behind a place in the order, for whose head the node has room."""
        name, offer = node.name, node.offer
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
