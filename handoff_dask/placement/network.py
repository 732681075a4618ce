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
                self._arrived(datum, arrived)
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
                arrives_s, link_s, _, _ = self._arrival(datum, node, link_s)
                there_s = max(there_s, arrives_s)
            elif when > there_s:
                there_s = when
        return there_s - now

    def alone_s(self, data: Sequence[Datum]) -> float:
        """Seconds to move all of a function's data to a node that has none of it, by an idle link."""
        return sum(self.latency_s + datum.nbytes / self.bandwidth for datum in data)

    def missing_s(self, data: Sequence[Datum], node: str) -> float:
        """Seconds to move what of a function's data is not on a node, by an idle link."""
        latency_s, bandwidth = self.latency_s, self.bandwidth
        total_s = 0.0
        for datum in data:
            if node not in datum.places:
                total_s += latency_s + datum.nbytes / bandwidth
        return total_s

    def missing_from_s(self, data: Sequence[Datum], node: str) -> float:
        """Seconds to move what of a function's data is not on a node, each piece from the nearest node."""
        total_s, pairs = 0.0, self.pairs
        for datum in data:
            if node not in datum.places:
                best = self.bandwidth
                if pairs:
                    sources = islice(datum.places, self._settings.data_looks)
                    best = max((pairs.get((source, node), best) for source in sources), default=best)
                total_s += self.latency_s + datum.nbytes / best
        return total_s

    def take(self, data: Sequence[Datum], node: str) -> tuple[float, int]:
        """A function has been placed on a node: its data is on its way there.

        The answer is the seconds until all of it is there, and the bytes that move.
        """
        now = there_s = self._clock.now
        link_s = max(now, self._inward.get(node, now))
        moved = 0
        for datum in data:
            when = datum.places.get(node)
            if when is None:
                arrives_s, link_s, source, outward_s = self._arrival(datum, node, link_s)
                there_s = max(there_s, arrives_s)
                if source is not None:
                    self._outward[source] = outward_s
                self._inward[node] = link_s
                datum.places[node] = arrives_s
                moved += datum.nbytes
            elif when > there_s:
                there_s = when
        return there_s - now, moved

    def held(self, data: Sequence[Datum]) -> dict[str, int]:
        """``{node name: how many bytes of a function's data are there, or on their way}``."""
        bytes_at: dict[str, int] = {}
        for datum in data:
            for name in islice(datum.places, self._settings.data_looks):
                bytes_at[name] = bytes_at.get(name, 0) + datum.nbytes
        return bytes_at

    def _arrival(self, datum: Datum, node: str, inward_s: float) -> tuple[float, float, str | None, float]:
        """When a piece of data would be on a node, and from where.

        ``inward_s`` is when the node's link is free.  Both links work off what is on its way, each for
        itself, so the data is there when the later one has done it.  The answer is ``(when it is there,
        when the node's link is free then, the source, when the source's link is free then)``.
        """
        now, pairs, outward, nbytes = self._clock.now, self.pairs, self._outward, datum.nbytes
        inward_s = max(now, inward_s)
        usual_s = nbytes / self.bandwidth
        best: tuple[float, float, str | None, float] = (inward_s + usual_s, inward_s + usual_s, None, now)
        is_first = True
        for source, when in islice(datum.places.items(), self._settings.data_looks):
            bandwidth = pairs.get((source, node)) if pairs else None
            takes_s = usual_s if bandwidth is None else nbytes / bandwidth
            outward_s = max(now, when, outward.get(source, now)) + takes_s
            there_s = max(inward_s + takes_s, outward_s)
            if is_first or there_s < best[0]:
                best = (there_s, inward_s + takes_s, source, outward_s)
                is_first = False
        return best[0] + self.latency_s, *best[1:]

    def _arrived(self, datum: Datum, node: str) -> None:
        """A piece of data is on a node for sure, perhaps sooner than was thought."""
        now, when = self._clock.now, datum.places[node]
        datum.places[node] = _HERE
        if when > now:
            self._inward[node] = max(now, self._inward.get(node, now) - (when - now))
