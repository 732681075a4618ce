"""Deciding: which of the functions that wait go where, once the facts are known.

What is known between two decisions: the head of every queue in a priority queue has room nowhere.  So
only two things need a look: queues that are fresh (all nodes are considered), and nodes that
have been freed (the priority queues are searched for the first heads that fit there).
"""

from __future__ import annotations

from heapq import heappop, heappush

from handoff_dask.placement.backfill import Backfill
from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.choosing import Chooser
from handoff_dask.placement.decisions import Decision, Place
from handoff_dask.placement.demand import GroupKey
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.locality import Locality
from handoff_dask.placement.prefetch import PrefetchQueues
from handoff_dask.placement.prefetch_timed import TimedPrefetches
from handoff_dask.placement.queues import OrderKey, Queue, ScheduledFunction
from handoff_dask.placement.shares import ALONE, RunParty, Standing
from handoff_dask.placement.unplaceable import reject
from handoff_dask.placement.user_strategies import StrategyFailed, ask_select

#: ``(standing of the run, order key of the head, number, queue, the freed node that has room or None)``.
_Offer = tuple[Standing, OrderKey, int, Queue, "Node | None"]


class Decider:
    """Places what can be placed, in the order of functions."""

    def __init__(
        self,
        backlog: Backlog,
        chooser: Chooser,
        locality: Locality,
        backfill: Backfill,
        prefetch_queues: PrefetchQueues,
        timed: TimedPrefetches,
    ) -> None:
        self._backlog = backlog
        self._ledger = backlog.ledger
        self._shares = backlog.shares
        self._settings = backlog.settings
        self._chooser = chooser
        self._locality = locality
        self._backfill = backfill
        self._prefetch = prefetch_queues
        self._timed = timed
        self._offers: list[_Offer] = []
        self._number = 0
        #: ``{name of a freed node: {run: the head of it that was looked at last}}``.
        self._passed: dict[str, dict[RunParty, OrderKey]] = {}
        #: The changes of shares by which reserved nodes were offered last.
        self._turns = 0
        #: What has been decided in this turn.
        self._decisions: list[Decision] = []

    def decide(self, decisions: list[Decision]) -> None:
        """Place whatever has room; afterwards every queue that still waits has none."""
        self._decisions = decisions
        backlog, ledger, prefetch_queues = self._backlog, self._ledger, self._prefetch
        while True:
            # More than one round only where there are reservations, or large data.
            while backlog.fresh or ledger.freed or ledger.shared.freed or prefetch_queues.due:
                self._give_room()
                if prefetch_queues.due:
                    prefetch_queues.prefetch(self._note_prefetched)
                if self._locality.yielded:
                    self._locality.take_back_yielded()
            if self._backlog.reserved and self._turns != self._shares.changes:
                self._offer_reserved()
                continue
            if not self._timed.pending or not self._timed.is_due(backlog.clock.now):
                break
            self._timed.prefetch(backlog.clock.now, self._note_timed)
        if backlog.to_ask:
            self._give_up_unwanted()

    def _offer_reserved(self) -> None:
        """Offer reserved nodes again: it may be the turn of others than those they are reserved for."""
        self._turns = self._shares.changes
        for reservation in self._backlog.reserved.values():
            if reservation.node.offer:
                self._ledger.freed[reservation.node.name] = reservation.node

    def _give_room(self) -> None:
        """Place whatever has room of its own."""
        while self._backlog.fresh or self._ledger.freed or self._ledger.shared.freed:
            freed = self._gather()
            while self._offers:
                standing, order_key, _, queue, node = heappop(self._offers)
                if self._shares.rivals and standing < self._shares.standing(queue.party):
                    # Its run has got something since then.
                    self._offer_again(queue, node)
                    continue
                self._backfill.reserve_for_first(queue, order_key)
                if node is not None:
                    self._fill(node, queue, order_key, freed)
                elif queue.fresh:
                    self._look(queue)

    def _gather(self) -> list[Node]:
        backlog, ledger = self._backlog, self._ledger
        for resource in ledger.shared.freed:
            for queue in backlog.tables.queues_sharing(resource):
                backlog.refresh(queue)
        ledger.shared.freed.clear()
        freed = [node for node in ledger.freed.values() if node.offer]
        if freed or backlog.fresh:
            for queue in list(backlog.to_ask):
                backlog.refresh(queue)
        ledger.freed.clear()
        self._passed.clear()
        if len(freed) > self._settings.few_freed:
            for line in backlog.lines():
                for queue in list(line):
                    backlog.refresh(queue)
            freed = []
        for queue in backlog.fresh:
            self._offer(queue)
        for node in freed:
            self._offer_room(node)
        return freed

    def _offer_again(self, queue: Queue, node: Node | None) -> None:
        if node is not None:
            self._offer_room(node)
        elif queue.fresh and queue.count:
            self._offer(queue)

    def _offer(self, queue: Queue) -> None:
        order_key = queue.head()
        assert order_key is not None
        self._number += 1
        standing = self._shares.standing(queue.party) if self._shares.rivals else ALONE
        heappush(self._offers, (standing, order_key, self._number, queue, None))

    def _offer_room(self, node: Node, queue: Queue | None = None, after: OrderKey | None = None) -> None:
        """Find the first queue whose head fits on a freed node, behind the head that was looked at last."""
        passed = self._passed.get(node.name)
        if passed is None:
            passed = self._passed[node.name] = {}
        if queue is not None and after is not None:
            passed[queue.party] = after
        found = self._backlog.first_fit(node, passed, with_data=False)
        if self._backlog.tables.near:
            found = self._backlog.earlier(found, self._locality.first_for(node, passed))
        if found is not None:
            assert found.key is not None
            self._number += 1
            standing = self._shares.standing(found.party) if self._shares.rivals else ALONE
            heappush(self._offers, (standing, found.key, self._number, found, node))

    def _look(self, queue: Queue) -> None:
        """Place heads of a fresh queue until one has no room or another queue's goes first."""
        while (order_key := queue.head()) is not None:
            if self._offers and self._offers[0][:2] < (self._shares.standing(queue.party), order_key):
                self._offer(queue)
                return
            head = order_key[3]
            if queue.home is not None:
                choice = self._locality.choose(queue)
                if choice is None:
                    break
                self._decisions.append(self.settle(*choice))
                continue
            if queue.queue_group.asks_user:
                node, candidates = self._ask(queue, head)
                if node is None and candidates:
                    continue
            else:
                node, candidates = self._chooser.choose(queue, head)
            if node is None:
                break
            self._decisions.append(self.settle(head, node, candidates))
        if self._backlog.reserved and queue.count and not queue.queue_group.asks_user:
            for reservation in list(self._backlog.reserved.values())[: self._settings.few_freed]:
                self._backfill_node(queue, reservation.node)
        self._set_aside(queue)

    def _backfill_node(self, queue: Queue, node: Node) -> None:
        """Place functions behind the head of a queue that do not delay the one a node is reserved for."""
        if queue.home not in (None, node.name):
            return
        while (scheduled := self._chooser.backfills(queue, node)) is not None:
            self._decisions.append(self.settle(scheduled, node, 1))

    def _ask(self, queue: Queue, head: ScheduledFunction) -> tuple[Node | None, int]:
        """Ask those outside who have a say; with no node but candidates, the head is out of the way."""
        fitting = self._chooser.fitting(queue, head)
        left, permit = list(fitting), queue.queue_group.permit
        queue.refused = False
        try:
            while left:
                node = self._wish(queue, head, left)
                if node is None:
                    break
                if permit is None or permit(head.function, node.name):
                    return node, len(fitting)
                queue.refused = True
                left.remove(node)
        except StrategyFailed as error:
            self._decisions.append(reject(self._backlog, head, str(error)))
            return None, len(fitting)
        if queue.refused or not fitting:
            # Its like would be refused as well.
            return None, 0
        queue.decline()
        return None, len(fitting)

    def _wish(self, queue: Queue, head: ScheduledFunction, fitting: list[Node]) -> Node | None:
        """The one of these nodes that the strategy, built in or not, wants."""
        select = queue.queue_group.select
        if select is None:
            return self._chooser.best_of(queue, head, fitting)
        return ask_select(select, head.function, fitting, self._chooser.able(queue))

    def _give_up_unwanted(self) -> None:
        """Fail the runs whose strategy wants no node although every node is idle."""
        if self._ledger.claims:
            return
        for queue in list(self._backlog.to_ask):
            unwanted = next((scheduled for scheduled in queue.declined if scheduled.waits), None)
            if unwanted is not None:
                problem = "the strategy wants no node for it, and nothing runs that could change that"
                self._decisions.append(reject(self._backlog, unwanted, problem))

    def _set_aside(self, queue: Queue) -> None:
        backlog = self._backlog
        cause = self._chooser.cause(queue)
        if queue.queue_group.asks_user and queue.count:
            backlog.rest(queue)
            queue.cause = cause
            backlog.to_ask[queue] = None
        else:
            backlog.block(queue, cause)

    def _fill(
        self,
        node: Node,
        queue: Queue,
        order_key: OrderKey,
        freed: list[Node],
    ) -> None:
        """Place the head of a queue that fits on a freed node, on the best of the freed ones."""
        chosen = node
        if queue.home is not None:
            self._fill_with_data(node, queue, order_key)
        elif queue.key is order_key and self._chooser.admits(queue, order_key[3], node):
            fitting = [node]
            if len(freed) > 1 and not self._backlog.is_tied(queue):
                fitting = [n for n in freed if n.name in queue.request.eligible]
                fitting = [n for n in fitting if self._chooser.admits(queue, order_key[3], n)]
                chosen = self._chooser.best_of(queue, order_key[3], fitting)
            self._decisions.append(self.settle(order_key[3], chosen, len(fitting)))
            self._backlog.reposition(queue)
            if queue.fresh:
                self._offer(queue)
            if chosen is not node:
                self._offer_room(chosen, queue, order_key)
        elif queue.key is order_key and queue.is_held_back:
            queue.cause = "held back"
        elif queue.key is order_key and node.name in self._backlog.reserved:
            self._backfill_node(queue, node)
        self._offer_room(node, queue, order_key)

    def _fill_with_data(self, node: Node, queue: Queue, order_key: OrderKey) -> None:
        """Place a function of a queue whose head fits on a freed node, if one had better go now."""
        if queue.key is not order_key:
            return
        choice = self._locality.choose(queue, node)
        if choice is None:
            queue.cause = self._chooser.cause(queue)
            if node.name in self._backlog.reserved:
                self._backfill_node(queue, node)
            return
        self._decisions.append(self.settle(*choice))
        if choice[2] > 1 or queue.delay is not None:
            # Another node has room as well, and may do for the next one.
            self._backlog.refresh(queue)
        else:
            self._backlog.reposition(queue)
            if queue.cause == "data" and queue.delay is None:
                # What its last head waited for is not what the next one waits for.
                queue.cause = self._chooser.cause(queue)
        if queue.fresh:
            self._offer(queue)
        if choice[1] is not node:
            self._offer_room(choice[1], queue, order_key)

    def takes_room(self, scheduled: ScheduledFunction) -> bool:
        """Book a function that runs outside on the node that it is pinned to, if that has room."""
        queue = scheduled.queue
        node = self._backlog.target(queue)
        if node is None or node.name not in queue.request.eligible or not queue.request.fits(node):
            return False
        self.settle(scheduled, node, 1)
        if queue.count:
            self._backlog.reposition(queue)
        else:
            self._backlog.rest(queue)
        return True

    def settle(self, head: ScheduledFunction, node: Node, candidates: int) -> Place:
        """Book a function, the head of its queue as a rule, on a node."""
        queue = head.queue
        queue.take(head)
        moved = self._move_data(head, node) if head.data else 0
        self._prefetch.book(head, node)
        head.placed_at = self._backlog.clock.now
        if head.certain or (head.duration_s is not None and self._backlog.network.data):
            self._timed.book(head, node)
        queue.queue_group.claims += 1
        queue.request.take(self._ledger, node)
        if queue.request.devices:
            head.devices = node.devices.take(head.function, queue.request.devices)
        self._backlog.shares.take(queue.party, queue.request.claims)
        self._backfill.settled(head, node)
        place = self._note(head, node, candidates, moved)
        if self._backlog.tables.near:
            self._locality.begins(node)
            self._locality.look_again(node)
        return place

    def _note_prefetched(self, head: ScheduledFunction, node: Node) -> None:
        """Note that a short function has been sent behind others: it holds nothing of its own."""
        moved = self._move_data(head, node) if head.data else 0
        self._decisions.append(self._note(head, node, 1, moved, prefetched=True))
        self._locality.begins(node)
        self._backfill.let_go(head.queue)

    def _note_timed(self, head: ScheduledFunction, node: Node) -> None:
        """Note that a function has been sent behind one whose room it takes over."""
        self._note_prefetched(head, node)
        self._backlog.reposition(head.queue)

    def _note(
        self, head: ScheduledFunction, node: Node, candidates: int, moved: int, *, prefetched: bool = False
    ) -> Place:
        backlog, queue, function, now = self._backlog, head.queue, head.function, self._backlog.clock.now
        slot = None
        if head.prefetch_queue is not None or head.timed_prefetch is not None:
            slot = head.prefetch_slot()
        del backlog.waiting[function]
        queue.placed += 1
        queue.queue_group.holding_back.placed += 1
        backlog.waits_no_more(head)
        queue.served = now
        head.node, head.placed_at = node, now
        backlog.placed[function] = head
        node.placed[function] = None
        bound = (
            self._bind(queue, head, node) if queue.group is not None or queue.to_bind is not None else None
        )
        return Place(
            function=function,
            node=node.name,
            candidates=candidates,
            waited_s=now - head.since,
            cause=queue.cause if head.told else "",
            prefetch_queue=slot,
            prefetched=prefetched,
            transfer_bytes=moved,
            devices=head.devices,
            bound=bound,
        )

    def _move_data(self, head: ScheduledFunction, node: Node) -> int:
        """Note that a function's data is on its way; the bytes that move."""
        head.move_s, moved = self._backlog.network.take(head.data, node.name)
        self._timed.learn_move(head.move_s)
        return moved

    def _bind(self, queue: Queue, head: ScheduledFunction, node: Node) -> tuple[GroupKey, str] | None:
        """Give the groups that need one their node; tell of the one the driver may not know."""
        bound: tuple[GroupKey, str] | None = None
        own, other = queue.group, queue.to_bind
        tables = self._backlog.tables
        if own is not None and own.node is None:
            tables.bind(own, node)
            bound = (own.key, node.name)
            self._look_again(tables.members(own))
        if other is not None:
            if other.node is None:
                tables.bind(other, self._chooser.node_for(other, queue.queue_group.strategy))
                self._look_again(tables.members(other))
            assert other.node is not None
            bound = (other.key, other.node.name)
        return bound

    def _look_again(self, queues: dict[Queue, None]) -> None:
        # Members that waited for any node now wait for one.
        for queue in queues:
            if not queue.fresh and queue.count:
                self._backlog.refresh(queue)
                self._offer(queue)
