"""Whose turn it is: what clients and runs hold, and who holds least for its share.

This is *dominant resource fairness* (Ghodsi et al., NSDI 2011).  The *dominant share* of somebody is the
largest fraction that it holds of anything the cluster has, threads included.  What becomes free goes to the
runs of the largest priority; of these to the client whose dominant share is least for its weight; of its
runs to the one whose dominant share is least for its weight.  A client weighs as much as the weightiest of
its runs.

Where two hold equally little, the one goes first that has held less up to now (dominant share times seconds).
So two runs take turns on a single place.  Whoever begins to wait has no credit from before.

While one run alone is open, nothing of this is worked out, and nothing of it decides.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from handoff_dask.placement.amounts import Amounts
from handoff_dask.placement.clock import Clock
from handoff_dask.placement.ledger import Ledger

#: ``(dominant share for the weight, what was held up to now, number)``: the less, the earlier.
Rank: TypeAlias = "tuple[float, float, int]"
#: Where a run stands among all: ``(-priority, rank of its client, its own rank)``.
Standing: TypeAlias = "tuple[float, Rank, Rank]"

#: The standing of a run without rivals.
ALONE: Standing = (0.0, (0.0, 0.0, 0), (0.0, 0.0, 0))


class Party:
    """Somebody who holds something: a run, or a client with all its runs."""

    __slots__ = ("held", "level", "number", "since_s", "used", "weight")

    def __init__(self, number: int, weight: float, used: float) -> None:
        self.number = number
        self.weight = weight
        #: Units that are held, by name, threads among them; names of which nothing is held are left out.
        self.held: dict[str, int] = {}
        #: The dominant share for the weight, since then.
        self.level = 0.0
        self.since_s = 0.0
        #: The levels of the past times their seconds.
        self.used = used

    def rank(self) -> Rank:
        """Where it stands among its like."""
        return (self.level, self.used, self.number)

    def used_by(self, now: float) -> float:
        """The levels of the past times their seconds, up to now."""
        return self.used + self.level * (now - self.since_s)

    def measure(self, total: dict[str, int], now: float) -> None:
        """Work out its level anew."""
        self.used = self.used_by(now)
        self.since_s = now
        self.level = self.level_without((), total)

    def level_without(self, amounts: Amounts, total: dict[str, int]) -> float:
        """What its level would be if it gave something back."""
        less, weight, level = dict(amounts), self.weight, 0.0
        for name, units in self.held.items():
            whole = total.get(name, 0)
            if whole > 0:
                level = max(level, (units - less.get(name, 0)) / (whole * weight))
        return level


class RunParty(Party):
    """What a run holds, and how many of its functions wait (which the backlog counts)."""

    __slots__ = ("client", "priority", "waiting", "waits_outside")

    def __init__(self, number: int, client: ClientParty, priority: float, weight: float, used: float) -> None:
        super().__init__(number, weight, used)
        self.client = client
        #: Of the whole run: larger goes first, whatever is held.
        self.priority = priority
        #: How many of its functions wait, and whether others do of which no more is known.
        self.waiting = 0
        self.waits_outside = False


class ClientParty(Party):
    """What a client's runs hold together."""

    __slots__ = ("key", "runs", "waiting")

    def __init__(self, number: int, key: Hashable, used: float) -> None:
        super().__init__(number, 1.0, used)
        self.key = key
        #: Its open runs.
        self.runs: dict[RunParty, None] = {}
        #: ``{priority: its runs of which functions wait, in order}``.
        self.waiting: dict[float, list[tuple[Rank, RunParty]]] = {}


class Shares:
    """Who holds what, and whose turn it is."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._clients: dict[Hashable, ClientParty] = {}
        self._runs = 0
        self._number = 0
        #: ``{priority: clients whose runs wait, in order}``.
        self._waiting: dict[float, list[tuple[Rank, ClientParty]]] = {}
        #: What the latest client and the latest run that got something had held: newcomers start there.
        self._used = (0.0, 0.0)
        #: Whether there are rivals; else no level is worked out.
        self.rivals = False
        #: Counts the changes of what runs with rivals hold: the turns may be others after each.
        self.changes = 0
        self._measured_for = -1

    # Runs

    def open(self, client: Hashable, priority: float, weight: float) -> RunParty:
        """Add a run."""
        party = self._clients.get(client)
        self._number += 1
        if party is None:
            party = self._clients[client] = ClientParty(self._number, client, self._used[0])
        run = RunParty(self._number, party, priority, weight, self._used[1])
        party.runs[run] = None
        self._weigh(party)
        self._runs += 1
        if self._runs == 2:
            self._begin()
        return run

    def close(self, run: RunParty) -> None:
        """Drop a run of which nothing waits; what it still holds counts for its client."""
        self.changes += 1
        del run.client.runs[run]
        self._weigh(run.client)
        if not run.client.runs and not run.client.held:
            del self._clients[run.client.key]
        self._runs -= 1
        if self._runs == 1:
            self.rivals = False
            self._waiting.clear()
            for client in self._clients.values():
                client.waiting.clear()

    def _weigh(self, client: ClientParty) -> None:
        weight = max((run.weight for run in client.runs), default=client.weight)
        if weight != client.weight:
            priorities = self._leave(client)
            client.weight = weight
            client.measure(self._ledger.totals(), self._clock.now)
            self._enter(client, priorities)

    def _begin(self) -> None:
        """There are rivals from now on: all start even."""
        self.rivals = True
        self.changes += 1
        self._measured_for = self._ledger.shape
        total, now = self._ledger.totals(), self._clock.now
        for client in self._clients.values():
            for party in (client, *client.runs):
                party.level, party.since_s = 0.0, now
                party.used = self._used[0 if party is client else 1]
                party.measure(total, now)
        for client in self._clients.values():
            for run in client.runs:
                if run.waiting:
                    self._add(run)

    # What is held

    def take(self, run: RunParty, amounts: Amounts) -> None:
        """Note that a run has got something."""
        if self.rivals:
            self._used = (run.client.used, run.used)
        own, of_client = run.held, run.client.held
        for name, units in amounts:
            own[name] = own.get(name, 0) + units
            of_client[name] = of_client.get(name, 0) + units
        if self.rivals:
            self._changed(run)

    def give_back(self, run: RunParty, amounts: Amounts) -> None:
        """Note that a run has given something back."""
        client = run.client
        for held in (run.held, client.held):
            for name, units in amounts:
                left = held[name] - units
                if left:
                    held[name] = left
                else:
                    del held[name]
        if self.rivals:
            self._changed(run)
        # What takes over from what has just ended may hold something after its client is forgotten.
        if not client.runs and not client.held and self._clients.get(client.key) is client:
            del self._clients[client.key]

    @contextmanager
    def as_if_returned(self, run: RunParty, amounts: Amounts) -> Iterator[None]:
        """Have something returned for a moment."""
        if not self.rivals:
            yield
            return
        used = self._used
        self.give_back(run, amounts)
        yield
        self._clients.setdefault(run.client.key, run.client)
        self.take(run, amounts)
        self._used = used

    def goes_before_without(self, rival: RunParty, run: RunParty, amounts: Amounts) -> bool:
        """Whether it would be a rival's turn before a run's if that gave something back."""
        if rival.priority != run.priority:
            return rival.priority > run.priority
        is_same = rival.client is run.client
        one: Party = rival if is_same else rival.client
        other: Party = run if is_same else run.client
        level, now = other.level_without(amounts, self._ledger.totals()), self._clock.now
        return (one.level, one.used_by(now), one.number) < (level, other.used_by(now), other.number)

    def begins_to_wait(self, run: RunParty) -> None:
        """Let a run with rivals stand in the order: a function of it waits, and none did before."""
        client = run.client
        if not client.waiting:
            client.used = max(client.used, self._used[0])
        run.used = max(run.used, self._used[1])
        self._add(run)

    def waits_no_more(self, run: RunParty) -> None:
        """Take a run with rivals out of the order: no function of it waits any longer."""
        client, priority = run.client, run.priority
        waiting = client.waiting[priority]
        del waiting[bisect_left(waiting, run.rank(), key=_rank)]
        if not waiting:
            clients = self._waiting[priority]
            del clients[bisect_left(clients, client.rank(), key=_rank)]
            del client.waiting[priority]
            if not clients:
                del self._waiting[priority]

    # Whose turn it is

    def standing(self, run: RunParty) -> Standing:
        """Where a run stands now: the run with the least goes first."""
        if not self.rivals:
            return ALONE
        return (-run.priority, run.client.rank(), run.rank())

    def in_order(self) -> Iterator[RunParty]:
        """The runs of which functions wait, the first whose turn it is first."""
        for priority in sorted(self._waiting, reverse=True):
            for _, client in list(self._waiting[priority]):
                for _, run in list(client.waiting[priority]):
                    yield run

    def review(self) -> None:
        """Work out all levels anew if nodes have come, gone or changed."""
        if self._measured_for == self._ledger.shape:
            return
        self._measured_for = self._ledger.shape
        self.changes += 1
        total, now = self._ledger.totals(), self._clock.now
        for client in self._clients.values():
            priorities = self._leave(client)
            client.measure(total, now)
            for run in client.runs:
                if run.waiting:
                    self._reorder(run, total, now)
                else:
                    run.measure(total, now)
            self._enter(client, priorities)

    def check(self, waiting: set[RunParty]) -> None:
        """Assert that the runs that wait stand in order, with levels that are true; for tests."""
        assert self.rivals == (self._runs > 1)
        if not self.rivals:
            assert not self._waiting
            return
        order, total = list(self.in_order()), self._ledger.totals()
        assert len(order) == len(waiting)
        assert set(order) == waiting
        standings = [self.standing(run) for run in order]
        assert standings == sorted(standings), standings
        for client in self._clients.values():
            assert client.runs or client.held
            assert all(client.waiting.values())
            for party in (client, *client.runs):
                assert party.level == party.level_without((), total)

    def holds(self, party: Party) -> float:
        """The dominant share of a run or a client, whatever its weight."""
        return party.level_without((), self._ledger.totals()) * party.weight

    # Inside

    def _changed(self, run: RunParty) -> None:
        self.changes += 1
        client, total, now = run.client, self._ledger.totals(), self._clock.now
        priorities = self._leave(client)
        client.measure(total, now)
        if run.waiting and run in client.runs:
            self._reorder(run, total, now)
        else:
            run.measure(total, now)
        self._enter(client, priorities)

    def _reorder(self, run: RunParty, total: dict[str, int], now: float) -> None:
        waiting = run.client.waiting[run.priority]
        del waiting[bisect_left(waiting, run.rank(), key=_rank)]
        run.measure(total, now)
        insort(waiting, (run.rank(), run), key=_rank)

    def _leave(self, client: ClientParty) -> list[float]:
        """Take a client out of the order; the priorities at which it stood there."""
        rank = client.rank()
        for priority in client.waiting:
            waiting = self._waiting[priority]
            del waiting[bisect_left(waiting, rank, key=_rank)]
        return list(client.waiting)

    def _enter(self, client: ClientParty, priorities: list[float]) -> None:
        for priority in priorities:
            insort(self._waiting[priority], (client.rank(), client), key=_rank)

    def _add(self, run: RunParty) -> None:
        client, priority = run.client, run.priority
        if priority not in client.waiting:
            client.waiting[priority] = []
            insort(self._waiting.setdefault(priority, []), (client.rank(), client), key=_rank)
        insort(client.waiting[priority], (run.rank(), run), key=_rank)


def _rank(entry: tuple[Rank, Party]) -> Rank:
    return entry[0]
