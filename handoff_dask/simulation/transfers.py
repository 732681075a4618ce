"""Moves of data between nodes on the virtual clock: what moves at the same time shares the links."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

#: Bytes that are left of a move that is over: sums of floats differ a little.
_EVEN = 1e-3


@dataclass(frozen=True, slots=True)
class SimulatedNetwork:
    """How fast data moves.  Each node has a link inwards and a link outwards.

    Examples
    --------
    >>> SimulatedNetwork(1e8, slow={"b": 1e7}).between("a", "b")
    10000000.0
    """

    #: Bytes per second of a link.
    bandwidth: float = 125e6
    #: Seconds that a move takes besides.
    latency_s: float = 0.0005
    #: ``{node name: bytes per second}`` of nodes with other links.
    slow: Mapping[str, float] = field(default_factory=dict)

    def link(self, node: str) -> float:
        """Bytes per second of a node's links."""
        return self.slow.get(node, self.bandwidth)

    def between(self, source: str, target: str) -> float:
        """Bytes per second from one node to another, if nothing else moves."""
        return min(self.link(source), self.link(target))


@dataclass(slots=True)
class _Move:
    datum: Hashable
    source: str
    target: str
    left: float
    #: When its latency is over.
    begins_s: float


class Transfers:
    """The moves that are under way; the links are shared evenly."""

    def __init__(self, network: SimulatedNetwork) -> None:
        self.network = network
        #: Bytes of all moves that have begun.
        self.moved = 0
        self._moves: list[_Move] = []
        self._now = 0.0

    def start(self, datum: Hashable, nbytes: int, source: str, target: str, now: float) -> None:
        """Begin a move."""
        self._go_on(now)
        self.moved += nbytes
        self._moves.append(_Move(datum, source, target, float(nbytes), now + self.network.latency_s))

    def load(self, node: str) -> int:
        """How many moves go out from a node."""
        return sum(move.source == node for move in self._moves)

    def arrived(self, now: float) -> list[tuple[Hashable, str]]:
        """``(datum, node)`` of the moves that are over."""
        self._go_on(now)
        over = [move for move in self._moves if move.left <= _EVEN]
        if over:
            self._moves = [move for move in self._moves if move.left > _EVEN]
        return [(move.datum, move.target) for move in over]

    def next_s(self) -> float:
        """When the next move begins or is over, if none is added before; infinity if there is none."""
        next_s = math.inf
        rates = self._rates()
        for move, rate in zip(self._moves, rates, strict=True):
            next_s = min(next_s, self._now + move.left / rate if rate else move.begins_s)
        return next_s

    def _rates(self) -> list[float]:
        """Bytes per second of each move; 0 before its latency is over."""
        begun = [move.begins_s <= self._now for move in self._moves]
        some = [move for move, is_begun in zip(self._moves, begun, strict=True) if is_begun]
        outward, inward = Counter(move.source for move in some), Counter(move.target for move in some)
        link = self.network.link
        return [
            min(link(m.source) / outward[m.source], link(m.target) / inward[m.target]) if is_begun else 0.0
            for m, is_begun in zip(self._moves, begun, strict=True)
        ]

    def _go_on(self, now: float) -> None:
        while self._now < now:
            until_s = min(now, max(self.next_s(), self._now)) if self._moves else now
            for move, rate in zip(self._moves, self._rates(), strict=True):
                move.left -= rate * (until_s - self._now)
            if until_s == self._now:
                # Something is over that nobody has asked for yet.
                until_s = now
            self._now = until_s
