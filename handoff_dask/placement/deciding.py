"""Deciding: which of the functions that wait go where, once the facts are known.

What is known between two decisions: the head of every queue in an agenda has room nowhere.  So
only two things need a look: queues that are fresh (all nodes are considered), and nodes that
have been freed (the agendas are searched for the first heads that fit there).
"""

from __future__ import annotations

from heapq import heappop, heappush

from handoff_dask.placement.asking import StrategyFailed, ask_select
from handoff_dask.placement.backlog import Backlog
from handoff_dask.placement.choosing import Chooser
from handoff_dask.placement.decisions import Decision, Place
from handoff_dask.placement.events import FunctionKey, GroupKey
from handoff_dask.placement.lanes import Lane, Lanes
from handoff_dask.placement.ledger import Node
from handoff_dask.placement.orphans import reject
from handoff_dask.placement.queues import Place as Standing
from handoff_dask.placement.queues import Queue, Waiting
from handoff_dask.placement.reservation import Reservations
from handoff_dask.placement.successors import Relay, Successors

#: With more freed nodes than this every waiting queue looks at all nodes instead.
_FEW = 16

#: ``(where the head stands, number, queue, the freed node that has room for it or None)``.
_Offer = tuple[Standing, int, Queue, "Node | None"]


class Decider:
    """Places what can be placed, in the order of functions."""

    def __init__(
        self,
        backlog: Backlog,
        chooser: Chooser,
        reservations: Reservations,
        lanes: Lanes,
        successors: Successors,
    ) -> None:
        self._backlog = backlog
        self._ledger = backlog.ledger
        self._chooser = chooser
        self._reservations = reservations
        self._lanes = lanes
        self._successors = successors
        #: Functions that are placed, sent ahead included.
        self.placed: dict[FunctionKey, Waiting] = {}
        self._offers: list[_Offer] = []
        self._number = 0

    def decide(self, now: float, decisions: list[Decision]) -> None:
        """Place whatever has room; afterwards every queue that still waits has none."""
        backlog, ledger, lanes = self._backlog, self._ledger, self._lanes
        while True:
            # More than one round only where there are reservations.
            while backlog.fresh or ledger.freed or lanes.due:
                self._give_room(now, decisions)
                if lanes.due:
                    lanes.send_ahead(lambda waiting, lane: decisions.append(self._follow(waiting, lane, now)))
            if not self._successors.pending or not self._successors.is_due(now):
                break
            self._successors.send_ahead(
                now, lambda waiting, relay: decisions.append(self._succeed(waiting, relay, now))
            )
        if backlog.asking:
            self._give_up_unwanted(decisions)

    def _give_room(self, now: float, decisions: list[Decision]) -> None:
        """Place whatever has room of its own."""
        while self._backlog.fresh or self._ledger.freed:
            freed = self._gather()
            while self._offers:
                standing, _, queue, node = heappop(self._offers)
                self._reservations.keep_for_first(queue, standing)
                if node is not None:
                    self._fill(node, queue, standing, freed, now, decisions)
                elif queue.fresh:
                    self._look(queue, now, decisions)

    def _gather(self) -> list[Node]:
        backlog, ledger = self._backlog, self._ledger
        freed = [node for node in ledger.freed.values() if node.offer]
        if freed or backlog.fresh:
            for queue in list(backlog.asking):
                backlog.refresh(queue)
        ledger.freed.clear()
        if len(freed) > _FEW:
            for agenda in [backlog.anywhere, *backlog.at.values()]:
                for queue in list(agenda):
                    backlog.refresh(queue)
            freed = []
        for queue in backlog.fresh:
            self._offer(queue)
        for node in freed:
            self._offer_room(node, None)
        return freed

    def _offer(self, queue: Queue) -> None:
        standing = queue.head()
        assert standing is not None
        self._number += 1
        heappush(self._offers, (standing, self._number, queue, None))

    def _offer_room(self, node: Node, after: Standing | None) -> None:
        """Find the first queue, behind a place in the order, whose head fits on a freed node."""
        found = self._backlog.first_fit(node, after)
        if found is not None:
            assert found.key is not None
            self._number += 1
            heappush(self._offers, (found.key, self._number, found, node))

    def _look(self, queue: Queue, now: float, decisions: list[Decision]) -> None:
        """Place heads of a fresh queue until one has no room or another queue's goes first."""
        while (standing := queue.head()) is not None:
            if self._offers and self._offers[0][0] < standing:
                self._offer(queue)
                return
            head = standing[3]
            if queue.scope.asks:
                node, candidates = self._ask(queue, head, decisions)
                if node is None and candidates:
                    continue
            else:
                node, candidates = self._chooser.choose(queue, head)
            if node is None:
                break
            decisions.append(self.settle(head, node, candidates, now))
        if self._backlog.reserved and queue.count and not queue.scope.asks:
            for reservation in list(self._backlog.reserved.values())[:_FEW]:
                self._slip_in(queue, reservation.node, now, decisions)
        self._set_aside(queue)

    def _slip_in(self, queue: Queue, node: Node, now: float, decisions: list[Decision]) -> None:
        """Place functions behind the head of a queue that do not delay the one a node is kept for."""
        while (waiting := self._chooser.slips_in(queue, node)) is not None:
            decisions.append(self.settle(waiting, node, 1, now))

    def _ask(self, queue: Queue, head: Waiting, decisions: list[Decision]) -> tuple[Node | None, int]:
        """Ask those outside who have a say; with no node but candidates, the head is out of the way."""
        fitting = self._chooser.fitting(queue, head)
        left, permit = list(fitting), queue.scope.permit
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
            decisions.append(reject(self._backlog, head, str(error)))
            return None, len(fitting)
        if queue.refused or not fitting:
            # Its like would be refused as well.
            return None, 0
        queue.decline()
        return None, len(fitting)

    def _wish(self, queue: Queue, head: Waiting, fitting: list[Node]) -> Node | None:
        """The one of these nodes that the strategy, built in or not, wants."""
        select = queue.scope.select
        if select is None:
            return self._chooser.best_of(queue, head, fitting)
        return ask_select(select, head.function, fitting, self._chooser.able(queue))

    def _give_up_unwanted(self, decisions: list[Decision]) -> None:
        """Fail the runs whose strategy wants no node although every node is idle."""
        if self._ledger.claims:
            return
        for queue in list(self._backlog.asking):
            unwanted = next((waiting for waiting in queue.declined if waiting.waits), None)
            if unwanted is not None:
                problem = "the strategy wants no node for it, and nothing runs that could change that"
                decisions.append(reject(self._backlog, unwanted, problem))

    def _set_aside(self, queue: Queue) -> None:
        backlog = self._backlog
        cause = self._chooser.cause(queue)
        if queue.scope.asks and queue.count:
            backlog.rest(queue)
            queue.cause = cause
            backlog.asking[queue] = None
        else:
            backlog.block(queue, cause)

    def _fill(
        self,
        node: Node,
        queue: Queue,
        standing: Standing,
        freed: list[Node],
        now: float,
        decisions: list[Decision],
    ) -> None:
        """Place the head of a queue that fits on a freed node, on the best of the freed ones."""
        chosen = node
        if queue.key is standing and self._chooser.admits(queue, standing[3], node):
            fitting = [node]
            if len(freed) > 1 and not self._backlog.is_tied(queue):
                fitting = [n for n in freed if n.name in queue.shape.holders]
                fitting = [n for n in fitting if self._chooser.admits(queue, standing[3], n)]
                chosen = self._chooser.best_of(queue, standing[3], fitting)
            decisions.append(self.settle(standing[3], chosen, len(fitting), now))
            self._backlog.reposition(queue)
            if queue.fresh:
                self._offer(queue)
            if chosen is not node:
                self._offer_room(chosen, standing)
        elif queue.key is standing and node.reservation is not None:
            self._slip_in(queue, node, now, decisions)
        self._offer_room(node, standing)

    def settle(self, head: Waiting, node: Node, candidates: int, now: float) -> Place:
        """Book a function, the head of its queue as a rule, on a node."""
        queue = head.queue
        queue.take(head)
        self._lanes.book(head, node)
        head.placed_at = now
        if head.certain:
            self._successors.book(head, node)
        queue.scope.claims += 1
        queue.shape.take(self._ledger, node)
        self._reservations.settled(head, node)
        return self._note(head, node, candidates, now)

    def _follow(self, head: Waiting, lane: Lane, now: float) -> Place:
        """Note that a function has been sent behind others: it holds nothing of its own."""
        place = self._note(head, lane.node, 1, now, ahead=True)
        self._reservations.let_go(head.queue)
        return place

    def _succeed(self, head: Waiting, relay: Relay, now: float) -> Place:
        """Note that a function has been sent behind one whose room it takes over."""
        place = self._note(head, relay.node, 1, now, ahead=True)
        self._reservations.let_go(head.queue)
        self._backlog.reposition(head.queue)
        return place

    def _note(self, head: Waiting, node: Node, candidates: int, now: float, *, ahead: bool = False) -> Place:
        queue, function, lane = head.queue, head.function, None
        if head.lane is not None or head.relay is not None:
            lane = head.place_in_lane()
        del self._backlog.waiting[function]
        head.run.waiting -= 1
        queue.served = now
        head.node, head.placed_at = node, now
        node.placed[function] = self.placed[function] = head
        bound = (
            self._bind(queue, head, node) if queue.group is not None or queue.to_bind is not None else None
        )
        return Place(
            function=function,
            node=node.name,
            candidates=candidates,
            waited_s=now - head.since,
            cause=queue.cause if head.told else "",
            lane=lane,
            ahead=ahead,
            bound=bound,
        )

    def _bind(self, queue: Queue, head: Waiting, node: Node) -> tuple[GroupKey, str] | None:
        """Give the groups that need one their node; tell of the one the driver may not know."""
        bound: tuple[GroupKey, str] | None = None
        own, other = queue.group, queue.to_bind
        if own is not None and own.node is None:
            own.bind(node)
            bound = (own.key, node.name)
            self._recall(own.queues)
        if other is not None:
            if other.node is None:
                other.bind(self._chooser.node_for(other))
                self._recall(other.queues)
            assert other.node is not None
            bound = (other.key, other.node.name)
        return bound

    def _recall(self, queues: dict[Queue, None]) -> None:
        # Members that waited for any node now wait for one.
        for queue in queues:
            if not queue.fresh and queue.count:
                self._backlog.refresh(queue)
                self._offer(queue)
