"""Which node only fails: whether it is set aside, and until when.  Pure: no Dask, no clock.

A node is *sick* when its last attempts have all failed, of at least two functions, one of which has ended
well elsewhere.  Then the node is at fault, not the functions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

#: A node is never set aside for longer, in seconds.
LONGEST_S = 3600.0


@dataclass(slots=True)
class _Node:
    #: The functions of its last attempts, while all of these have failed.
    failed: deque[Hashable]
    #: Those of them that have ended well elsewhere.
    well_elsewhere: set[Hashable] = field(default_factory=set)
    #: How often it has been set aside in a row.
    times: int = 0
    until: float | None = None


class NodeHealth:
    """Counts how attempts end on each node.

    Parameters
    ----------
    after
        How many failed attempts in a row make a node sick; 0 for never.
    for_s
        Seconds for which it is set aside, doubled each time.

    Examples
    --------
    >>> health = NodeHealth(after=2, for_s=60.0)
    >>> health.failed("a", "f", 0.0), health.failed("a", "g", 1.0), health.ended_well("b", "f", 2.0)
    ([], [], ['a'])
    >>> health.sick(), health.over(30.0), health.over(62.0)
    (frozenset({'a'}), [], ['a'])
    """

    def __init__(self, after: int, for_s: float) -> None:
        self._after = after
        self._for_s = for_s
        self._nodes: dict[str, _Node] = {}
        #: ``{function: the nodes where it is among the last failures}``.
        self._where: dict[Hashable, set[str]] = {}
        self._sick: frozenset[str] = frozenset()

    def sick(self) -> frozenset[str]:
        """The nodes that are set aside now."""
        return self._sick

    def failures(self, node: str) -> int:
        """How many of a node's last attempts have failed in a row, as far as they are counted."""
        known = self._nodes.get(node)
        return 0 if known is None else len(known.failed)

    def failed(self, node: str, function: Hashable, now: float) -> list[str]:
        """An attempt has failed; the nodes that are sick by that."""
        if not self._after:
            return []
        known = self._nodes.get(node)
        if known is None:
            known = self._nodes[node] = _Node(deque(maxlen=max(2, self._after)))
        if len(known.failed) == known.failed.maxlen:
            self._drop(node, known, known.failed[0])
        known.failed.append(function)
        self._where.setdefault(function, set()).add(node)
        return self._judge(node, known, now)

    def ended_well(self, node: str, function: Hashable, now: float) -> list[str]:
        """An attempt has ended well; the nodes that are sick by that."""
        known = self._nodes.get(node)
        if known is not None:
            self._forget(node)
        found = []
        for other in sorted(self._where.get(function, ())):
            elsewhere = self._nodes[other]
            elsewhere.well_elsewhere.add(function)
            found += self._judge(other, elsewhere, now)
        return found

    def over(self, now: float) -> list[str]:
        """Nodes whose time is over: they are tried again, and set aside by the next failure."""
        late = [name for name, node in self._nodes.items() if node.until is not None and node.until <= now]
        for name in late:
            self._nodes[name].until = None
        self._sick -= frozenset(late)
        return late

    def next_over(self) -> float | None:
        """When the next node is tried again."""
        return min((n.until for n in self._nodes.values() if n.until is not None), default=None)

    def left(self, node: str) -> None:
        """A node is gone."""
        self._forget(node)

    def _judge(self, name: str, node: _Node, now: float) -> list[str]:
        if node.until is not None:
            return []
        # One failure is enough after it has been set aside.
        is_full = len(node.failed) >= max(2, self._after) and len(set(node.failed)) > 1
        if not node.times and (not is_full or node.well_elsewhere.isdisjoint(node.failed)):
            return []
        node.until = now + min(self._for_s * 2**node.times, LONGEST_S)
        node.times += 1
        self._sick |= {name}
        return [name]

    def _drop(self, name: str, node: _Node, function: Hashable) -> None:
        """The oldest of the last failures is none any more."""
        node.failed.popleft()
        if function not in node.failed:
            node.well_elsewhere.discard(function)
            self._leave(name, function)

    def _leave(self, name: str, function: Hashable) -> None:
        where = self._where.get(function)
        if where is not None:
            where.discard(name)
            if not where:
                del self._where[function]

    def _forget(self, name: str) -> None:
        node = self._nodes.pop(name, None)
        if node is not None:
            for function in set(node.failed):
                self._leave(name, function)
            self._sick -= {name}
