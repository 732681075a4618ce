"""Where data is, and what moving it costs: a ledger of the network.

A piece of data is known as long as a function refers to it that waits or is placed.  It is on some
nodes, and on its way to others: as soon as a function is placed on a node, its arguments are on their
way there, and a second function that takes them moves nothing more.

A move takes a latency and the bytes over the bandwidth.  Links are shared: what is on its way to a node
or from one is expected to be over before the next move begins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice

from handoff_dask.placement.clock import Clock
from handoff_dask.placement.demand import DataArgument, DataKey
from handoff_dask.placement.settings import EngineSettings

#: When something is there that nothing has to bring.
_HERE = -math.inf


class Datum:
    """A piece of data that functions take."""

    __slots__ = ("key", "nbytes", "places", "users")

    def __init__(self, key: DataKey, nbytes: int) -> None:
        self.key = key
        self.nbytes = nbytes
        #: ``{node name: when it is there, in seconds}``; minus infinity where it is for sure.
        self.places: dict[str, float] = {}
        #: How many functions refer to it.
        self.users = 0


class Network:
    """All data that functions refer to, and the links between nodes."""

    def __init__(self, clock: Clock, settings: EngineSettings) -> None:
        self._clock = clock
        self._settings = settings
        #: Bytes per second, and seconds per move.
        self.bandwidth = settings.bandwidth
        self.latency_s = settings.latency_s
        #: ``{(source, target): bytes per second}``, where it is known of a pair of nodes.
        self.pairs: Mapping[tuple[str, str], float] = {}
        self.data: dict[DataKey, Datum] = {}
        #: ``{node name: when its link is expected to be free}``, inwards and outwards.
        self._inward: dict[str, float] = {}
        self._outward: dict[str, float] = {}

    # What is told

    def measured(
        self,
        bandwidth: float | None,
        latency_s: float | None,
        pairs: Mapping[tuple[str, str], float] | None,
    ) -> None:
        """Take over what has been measured; None leaves a value as it is."""
        self.bandwidth = self.bandwidth if bandwidth is None else bandwidth
        self.latency_s = self.latency_s if latency_s is None else latency_s
        self.pairs = self.pairs if pairs is None else pairs

    def refer(self, arguments: Sequence[DataArgument]) -> tuple[Datum, ...]:
        """The data that a function takes, which is remembered until :meth:`release`."""
        found: dict[Datum, None] = {}
        for argument in arguments:
            datum = self.data.get(argument.key)
            if datum is None:
                datum = self.data[argument.key] = Datum(argument.key, argument.nbytes)
            places = datum.places
            datum.nbytes = argument.nbytes
            if datum.users:
                for name in [n for n, when in places.items() if when == _HERE and n not in argument.nodes]:
                    del places[name]
            for name in argument.nodes:
                places[name] = _HERE
            if datum not in found:
                datum.users += 1
                found[datum] = None
        return tuple(found)

    def release(self, data: Sequence[Datum], arrived: str | None = None) -> None:
        """A function refers to its data no longer; all of it is on a node where it has run."""
        for datum in data:
            if arrived is not None and arrived in datum.places:
                datum.places[arrived] = _HERE
            datum.users -= 1
            if not datum.users:
                del self.data[datum.key]

    def node_left(self, node: str) -> None:
        """What was on a node, or on its way there, is not there any more."""
        for datum in self.data.values():
            datum.places.pop(node, None)
        self._inward.pop(node, None)
        self._outward.pop(node, None)

    # What it costs

    def move_s(self, data: Sequence[Datum], node: str) -> float:
        """Seconds until all of a function's data would be on a node if it were placed there now."""
        now = there_s = self._clock.now
        link_s = max(now, self._inward.get(node, now))
        for datum in data:
            when = datum.places.get(node)
            if when is None:
                link_s = self._arrival(datum, node, link_s)[0]
                there_s = max(there_s, link_s)
            elif when > there_s:
                there_s = when
        return there_s - now

    def alone_s(self, data: Sequence[Datum]) -> float:
        """Seconds to move all of a function's data to a node that has none of it, by an idle link."""
        return sum(self.latency_s + datum.nbytes / self.bandwidth for datum in data)

    def take(self, data: Sequence[Datum], node: str) -> int:
        """A function has been placed on a node: its data is on its way there; the bytes that move."""
        now = self._clock.now
        link_s = max(now, self._inward.get(node, now))
        moved = 0
        for datum in data:
            if node not in datum.places:
                link_s, source = self._arrival(datum, node, link_s)
                if source is not None:
                    self._outward[source] = link_s
                datum.places[node] = self._inward[node] = link_s
                moved += datum.nbytes
        return moved

    def held(self, data: Sequence[Datum]) -> dict[str, int]:
        """``{node name: how many bytes of a function's data are there, or on their way}``."""
        bytes_at: dict[str, int] = {}
        for datum in data:
            for name in islice(datum.places, self._settings.data_looks):
                bytes_at[name] = bytes_at.get(name, 0) + datum.nbytes
        return bytes_at

    def _arrival(self, datum: Datum, node: str, link_s: float) -> tuple[float, str | None]:
        """When a piece of data would be on a node whose link is free then, and from where it comes."""
        now, latency_s, nbytes = self._clock.now, self.latency_s, datum.nbytes
        pairs, outward = self.pairs, self._outward
        start_s = max(now, link_s)
        best_s, best = math.inf, None
        for source, when in islice(datum.places.items(), self._settings.data_looks):
            bandwidth = pairs.get((source, node), self.bandwidth) if pairs else self.bandwidth
            end_s = max(start_s, when, outward.get(source, now)) + latency_s + nbytes / bandwidth
            if end_s < best_s:
                best_s, best = end_s, source
        if best is None:
            return start_s + latency_s + nbytes / self.bandwidth, None
        return best_s, best
