"""Whether functions that hold their costs at the same time fit on the nodes together.

The stages of a pipeline hold their costs as long as it lasts.  If they were placed one by one wherever
there is room, some could take the only room of others, and these would wait for ever.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from handoff_dask.resources import Capabilities, Cost

__all__ = ["Unit", "units_of", "without_room"]

#: So many arrangements are tried; what is not found by then is taken to fit.
TRIES = 5000


@dataclass(frozen=True, slots=True)
class Unit:
    """Functions that share a node, or one alone."""

    cost: Cost
    #: Name or address of the only node.
    pin: str | None = None
    members: tuple[Hashable, ...] = ()


def units_of(
    functions: Iterable[tuple[Hashable, Cost, str | None, Hashable]], bound: Mapping[Hashable, str]
) -> list[Unit]:
    """Functions as units.

    Parameters
    ----------
    functions
        ``(name, cost, pin, group)`` of each.
    bound
        ``{group: its node}``, as far as that is decided.
    """
    alone: list[Unit] = []
    groups: dict[Hashable, Unit] = {}
    for name, cost, pin, group in functions:
        if group is None:
            alone.append(Unit(cost, pin, (name,)))
            continue
        before = groups.get(group, Unit(Cost()))
        groups[group] = Unit(
            before.cost.plus(cost), bound.get(group, before.pin or pin), (*before.members, name)
        )
    return [*alone, *groups.values()]


def without_room(units: Sequence[Unit], nodes: Mapping[str, tuple[str, Capabilities]]) -> Unit | None:
    """A unit that finds no room beside the others, however they are arranged; ``None`` if all do.

    Parameters
    ----------
    units
        What is to be placed.
    nodes
        ``{name: (address, what is free)}``.

    Examples
    --------
    >>> nodes = {name: ("", Capabilities.parse({"cpu": cpu})) for name, cpu in (("a", 3), ("b", 2))}
    >>> one, two, three = (Unit(Cost.parse({"cpu": n}), members=(n,)) for n in (1, 2, 3))
    >>> without_room([one, two, two], nodes), without_room([three, three], nodes).members
    (None, (3,))
    """
    eligible: list[tuple[Unit, list[str]]] = []
    for unit in units:
        could = [
            name
            for name, (address, free) in nodes.items()
            if unit.pin in (None, name, address) and free.could_hold(unit.cost)
        ]
        if not could:
            return unit
        eligible.append((unit, could))
    # What is hardest to place goes first: few nodes, then much of what there is.
    most: dict[str, int] = {}
    for _, free in nodes.values():
        for name, amount in free.amounts.items():
            most[name] = max(most.get(name, 0), amount)
    eligible.sort(key=lambda pair: (len(pair[1]), -_share(pair[0].cost, most)))
    left = {name: dict(free.amounts) for name, (_, free) in nodes.items()}
    tries = [TRIES]
    deepest = [0]
    if _arrange(eligible, 0, left, tries, deepest) or tries[0] <= 0:
        return None
    return eligible[deepest[0]][0]


def _share(cost: Cost, most: Mapping[str, int]) -> float:
    return max((units / most[name] for name, units in cost.amounts if most.get(name)), default=0.0)


def _arrange(
    eligible: list[tuple[Unit, list[str]]],
    at: int,
    left: dict[str, dict[str, int]],
    tries: list[int],
    deepest: list[int],
) -> bool:
    if at == len(eligible):
        return True
    deepest[0] = max(deepest[0], at)
    unit, could = eligible[at]
    for name in could:
        free = left[name]
        if any(free.get(n, 0) < units for n, units in unit.cost.amounts):
            continue
        tries[0] -= 1
        if tries[0] <= 0:
            return False
        for n, units in unit.cost.amounts:
            free[n] -= units
        if _arrange(eligible, at + 1, left, tries, deepest):
            return True
        for n, units in unit.cost.amounts:
            free[n] += units
    return False
