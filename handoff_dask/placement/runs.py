"""Runs, and the limits that each has of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from handoff_dask.placement.collocation import Group
from handoff_dask.placement.demand import FunctionKey, GroupKey, RunKey
from handoff_dask.placement.holding_back import HoldingBack
from handoff_dask.placement.requests import Confinement
from handoff_dask.placement.shares import RunParty
from handoff_dask.placement.strategies import (
    FIRST_AVAILABLE,
    ScoredStrategy,
    SelectStrategy,
    Strategy,
)


class QueueGroup:
    """What the queues of one run have in common: a strategy, and limits."""

    __slots__ = (
        "asks_user",
        "claims",
        "confinement",
        "holding_back",
        "limit",
        "outside",
        "permit",
        "select",
        "strategy",
    )

    def __init__(
        self,
        strategy: ScoredStrategy,
        holding_back: HoldingBack[Any],
        select: SelectStrategy | None = None,
        confinement: Confinement | None = None,
        limit: int | None = None,
        permit: Callable[[FunctionKey, str], bool] | None = None,
        outside: bool = False,
    ) -> None:
        #: How nodes are compared, or would be if the user's strategy were not asked.
        self.strategy = strategy
        self.select = select
        self.permit = permit
        #: Whether user code has to be asked about each placement.
        self.asks_user = select is not None or permit is not None
        self.confinement = confinement
        #: The most functions that run at once.
        self.limit = limit
        #: What keeps functions from filling the memory.
        self.holding_back = holding_back
        #: Whether somebody else sends the functions to their nodes.
        self.outside = outside
        #: Claims that its functions hold.
        self.claims = 0

    @property
    def full(self) -> bool:
        """Whether as many functions run as may."""
        return self.limit is not None and self.claims >= self.limit


class Run:
    """An execution that is open."""

    __slots__ = (
        "assigned",
        "failed",
        "goes_on",
        "groups",
        "key",
        "next_rank",
        "party",
        "problem",
        "queue_group",
        "ranks",
        "strategy",
        "timeout_s",
    )

    def __init__(
        self,
        key: RunKey,
        strategy: Strategy,
        queue_group: QueueGroup,
        timeout_s: float,
        party: RunParty,
    ) -> None:
        self.key = key
        self.strategy = strategy
        self.queue_group = queue_group
        self.timeout_s = timeout_s
        #: What it holds, and how many of its functions wait.
        self.party = party
        self.groups: dict[GroupKey, Group] = {}
        #: Asked for the largest rank among those that become ready when a function ends.
        self.next_rank: Callable[[FunctionKey], float | None] | None = None
        #: Ranks of its functions where they have been worked out anew.
        self.ranks: Mapping[FunctionKey, float] = {}
        #: What a user's ``allocate`` decided, by function.
        self.assigned: Mapping[FunctionKey, str] = {}
        #: What a user's ``allocate`` did wrong.
        self.problem: str | None = None
        #: Set once a function of it was rejected, unless it goes on: nothing more of it is placed.
        self.failed = False
        self.goes_on = False


def scored(strategy: Strategy) -> ScoredStrategy:
    """The built-in strategy that decides where a user's does not."""
    return strategy if isinstance(strategy, ScoredStrategy) else FIRST_AVAILABLE
