"""Amounts as the ledger counts them: integers in a stated small unit, threads among them."""

from __future__ import annotations

from typing import TypeAlias

from handoff_dask.resources import Cost

#: The name under which threads are counted; no resource of a user has an empty name.
THREAD = ""

#: ``((name, units), …)``: what one function takes, its thread included.
Amounts: TypeAlias = tuple[tuple[str, int], ...]


def amounts_of(cost: Cost, threads: int = 1) -> Amounts:
    """What a cost takes from a node: its amounts and its threads.

    Examples
    --------
    >>> amounts_of(Cost.parse({"cpu": 2}))
    (('', 1), ('cpu', 2000000))
    """
    return ((THREAD, threads), *cost.amounts) if threads else cost.amounts
