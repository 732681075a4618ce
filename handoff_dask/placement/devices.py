"""Which devices of a node somebody holds: an index for each amount, so that no device is given twice."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

#: The resource whose amount counts devices.
DEVICE = "gpu"
#: Units of one device.
WHOLE = 1_000_000


class Devices:
    """The devices of one node, by index.

    Somebody who asks for a part of a device gets it of one device; whoever asks for more than one gets
    whole ones, and a part of another one if need be.
    """

    __slots__ = ("_free", "_held", "_total")

    def __init__(self) -> None:
        self._total: list[int] = []
        #: Units of each that nobody holds; below 0 where the node has shrunk, or others hold too much.
        self._free: list[int] = []
        #: ``{who: ((index, units), …)}``.
        self._held: dict[Hashable, tuple[tuple[int, int], ...]] = {}

    def measure(self, units: int) -> None:
        """Take over how many there are; what is held stays held."""
        whole, part = divmod(units, WHOLE)
        total = [WHOLE] * whole + ([part] if part else [])
        used = [t - f for t, f in zip(self._total, self._free, strict=True)]
        total += [0] * (len(used) - len(total))
        used += [0] * (len(total) - len(used))
        self._total, self._free = total, [t - u for t, u in zip(total, used, strict=True)]

    def fit(self, units: int) -> bool:
        """Whether so much can be given now."""
        whole, part = divmod(units, WHOLE)
        entire = sum(free >= WHOLE for free in self._free)
        if entire < whole:
            return False
        return not part or entire > whole or any(part <= free < WHOLE for free in self._free)

    def take(self, who: Hashable, units: int, wanted: Sequence[int] = ()) -> tuple[int, ...]:
        """Give devices to somebody; their indices.

        Parameters
        ----------
        wanted
            Indices that somebody has already, whatever else is held of them.
        """
        held: dict[int, int] = {}
        for index in wanted:
            if units > 0 and index < len(self._free):
                held[index] = min(units, WHOLE)
                units -= held[index]
        whole, part = divmod(max(units, 0), WHOLE)
        entire = [i for i, free in enumerate(self._free) if free >= WHOLE and i not in held]
        held.update(dict.fromkeys(entire[:whole], WHOLE))
        if part:
            # The fullest of those that have it, so that whole ones stay whole.
            fitting = [(free, i) for i, free in enumerate(self._free) if free >= part and i not in held]
            if fitting:
                held[min(fitting)[1]] = part
        for index, amount in held.items():
            self._free[index] -= amount
        self._held[who] = tuple(sorted(held.items()))
        return tuple(sorted(held))

    def hold(self, who: Hashable, held: tuple[tuple[int, int], ...]) -> None:
        """Give somebody the very units that have just been given back."""
        for index, amount in held:
            self._free[index] -= amount
        self._held[who] = held

    def give_back(self, who: Hashable) -> tuple[tuple[int, int], ...]:
        """Take back what somebody holds, if it holds anything: index and units of each."""
        held = self._held.pop(who, ())
        for index, amount in held:
            self._free[index] += amount
        return held

    def clear(self) -> None:
        """Take back everything."""
        self._held.clear()
        self._free = list(self._total)

    def check(self, holders: set[Hashable]) -> None:
        """Assert that what is left is what those leave that hold something."""
        assert set(self._held) == holders, (self._held, holders)
        left = list(self._total)
        for held in self._held.values():
            for index, amount in held:
                left[index] -= amount
        assert left == self._free
