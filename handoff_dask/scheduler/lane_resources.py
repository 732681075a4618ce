"""Which Dask resource admits the functions of a lane on their worker.

A worker gives the resource of a function back when its thread is over.  Where Dask has let a
function go whose thread goes on, its lane's resource is stuck as long: the lane goes on with
another one, and what was sent behind that function is taken back.
"""

from __future__ import annotations

from handoff_dask.protocol.names import LANE_UNITS, LANES, RELAYS, SHORT_LANES

#: A node's address and the number of a lane there.
LaneKey = tuple[str, int]


class Admission:
    """The resources of every node's lanes."""

    def __init__(self) -> None:
        #: For lanes that do not have the resource of their own number.
        self._instead: dict[LaneKey, int] = {}
        #: ``{(address, resource): threads that hold it although nobody wants them}``.
        self._stuck: dict[LaneKey, int] = {}

    def restriction(self, key: LaneKey, slots: int) -> dict[str, float]:
        """What a function takes of its lane, of which so many run at once."""
        return {LANES[self._instead.get(key, key[1])]: LANE_UNITS // slots}

    def sticks(self, key: LaneKey) -> LaneKey:
        """A thread of a lane goes on that nobody wants; the name of what it holds."""
        address, number = key
        held = (address, self._instead.get(key, number))
        self._stuck[held] = self._stuck.get(held, 0) + 1
        taken = {n for a, n in [*self._stuck] if a == address}
        taken |= {n for (a, _), n in self._instead.items() if a == address}
        # The last ones are nobody's own; with none left, the lane waits for the thread.
        spare = [n for n in range(SHORT_LANES + RELAYS, len(LANES)) if n not in taken]
        if spare:
            self._instead[key] = spare[-1]
        return held

    def comes_free(self, held: LaneKey) -> None:
        """Such a thread is over."""
        left = self._stuck.get(held, 0) - 1
        if left > 0:
            self._stuck[held] = left
        else:
            self._stuck.pop(held, None)
            # Whose own it is goes on with it from now on.
            self._instead.pop(held, None)

    def node_left(self, address: str) -> None:
        """A node is gone."""
        for known in (self._instead, self._stuck):
            for key in [k for k in known if k[0] == address]:
                del known[key]
