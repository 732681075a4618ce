"""What a function asks of a node, and the names by which the engine knows things."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeAlias

from handoff_dask.resources import NOTHING, Cost

#: One function of one run (live: its Dask key).
FunctionKey: TypeAlias = Hashable
#: One execution of a DAG.
RunKey: TypeAlias = Hashable
#: Functions that must share a node.
GroupKey: TypeAlias = Hashable
#: Something that holds resources and is none of our functions.
ClaimKey: TypeAlias = Hashable
#: A piece of data that functions take (live: the Dask key of a result).
DataKey: TypeAlias = Hashable


@dataclass(frozen=True, slots=True)
class Demand:
    """What a function asks of a node.  Equal demands of one run wait in one queue."""

    cost: Cost = NOTHING
    #: Name or address of the only node it may run on.
    pin: str | None = None
    #: The collocation group it belongs to.
    group: GroupKey | None = None
    #: A group that must have a node before this function starts (its value is sent there).
    binds: GroupKey | None = None
    #: Nodes where it goes only if no other node could ever hold it: it has failed there.
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DataArgument:
    """A piece of data that a function takes, when the function becomes ready."""

    key: DataKey
    nbytes: int
    #: Names of the nodes that have it.
    nodes: tuple[str, ...] = ()
