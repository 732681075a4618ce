"""The dispatcher: applies events to functions, and carries out what their lifecycle demands.

An event comes from a hook of Dask, from a worker, or from the engine.  :meth:`Dispatcher.tell`
applies it, carries out the actions that the lifecycle answers with, and lets the observers know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

from distributed.metrics import monotonic, time
from distributed.protocol import pickle

from handoff_dask.errors import AllocationError, HandoffError
from handoff_dask.placement.decisions import Decision, MoveData, Place, Reject
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import (
    ClaimedElsewhere,
    Demand,
    FunctionFinished,
    FunctionReady,
    FunctionWithdrawn,
    ReturnedElsewhere,
)
from handoff_dask.placement.settings import DEFAULT_SETTINGS
from handoff_dask.protocol.names import OVERDUE_S
from handoff_dask.record.status import FAILED
from handoff_dask.resources import Cost
from handoff_dask.scheduler import lifecycle as life
from handoff_dask.scheduler.costs import AttemptCosts, CostRefused
from handoff_dask.scheduler.data import Data
from handoff_dask.scheduler.engine_driver import EngineDriver
from handoff_dask.scheduler.lingering import LingeringThreads
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.prefetch_queues import PrefetchQueues
from handoff_dask.scheduler.ranks import Ranks
from handoff_dask.scheduler.refusals import Refusal, refusal_of
from handoff_dask.scheduler.registry import Registry
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import Attempt, Failed, Pending, Prefetched, Waiting
from handoff_dask.scheduler.tasks import Tasks
from handoff_dask.scheduler.transfers import Transfers

#: What no node can hold is offered again so soon, in seconds, while a worker has yet to say what it offers.
REPORT_POLL_S = 0.05


class Dispatcher:
    """Drives every function from one state to the next.

    Parameters
    ----------
    registry, nodes, tasks, data
        The runs, the workers, Dask's tasks, where their results are.
    driver
        Of the engine.
    ranks
        What is expected of the functions.
    queues, threads, transfers
        Who waits behind whom on a node; threads that go on without their function; groups' nodes.
    observers
        Told of every change.
    later
        Calls a function in the next turn of the scheduler's event loop.
    admission
        What of a cost a worker (by its address) has to admit itself, since tasks of Dask's own are there.
    call_later
        Calls a function after so many seconds.
    sick
        The nodes that are sick.
    move
        Copies data to a node.
    """

    def __init__(
        self,
        registry: Registry,
        nodes: Nodes,
        tasks: Tasks,
        data: Data,
        driver: EngineDriver,
        ranks: Ranks,
        queues: PrefetchQueues,
        threads: LingeringThreads,
        transfers: Transfers,
        observers: Observer,
        later: Callable[..., object],
        admission: Callable[[str, Cost], dict[str, float]],
        call_later: Callable[..., object],
        sick: Callable[[], frozenset[str]],
        move: Callable[[MoveData], None],
    ) -> None:
        self._registry = registry
        self._nodes = nodes
        self._tasks = tasks
        self._data = data
        self._admission = admission
        #: How many functions have been placed.
        self._turn = 0
        self._driver = driver
        self._ranks = ranks
        self._queues = queues
        self._threads = threads
        self._transfers = transfers
        self._observers = observers
        self._later = later
        self._call_later = call_later
        self._sick = sick
        self._move = move
        self._lifecycle = life.Lifecycle()
        self._costs = AttemptCosts(nodes, tasks.nbytes)
        #: Whether a function that is ready may be offered to the engine now.
        self.admits: Callable[[FunctionState], bool] = lambda function: True
        #: Called after each turn of the engine.
        self.after: Callable[[PlacementEngine], None] = lambda engine: None
        #: Keys of tasks that are to be taken off their nodes.
        self._to_take_back: list[str] = []
        self._carry: dict[type, Callable[[FunctionState, Any], object]] = {
            life.Offer: self._offer,
            life.Postpone: self._postpone,
            life.Refuse: lambda function, action: self._later(self._refuse, function),
            life.PassOn: lambda function, action: self._later(self._tasks.free, function.key),
            life.Withdraw: self._withdraw,
            life.Send: self._restrict,
            life.Hold: self._hold,
            life.LeaveQueue: self._leave_queue,
            life.ReturnClaim: self._return_claim,
            life.ChangeClaim: self._change_claim,
            life.KeepClaim: self._keep_claim,
            life.TakeBack: lambda function, action: self.take_back([function.key]),
            life.FailTask: lambda function, action: self._tasks.fail(function.key, action.error, "reject"),
            life.GiveFailure: lambda function, action: self._later(self._give_failure, function, action),
            life.GiveResultUp: self._give_result_up,
        }

    def tell(self, function: FunctionState, event: life.LifeEvent) -> None:
        """Something has happened to a function."""
        old = function.state
        actions = self._lifecycle.apply(function, event, time())
        for action in actions:
            self._carry[type(action)](function, action)
        if function.state is not old:
            self._observers.function_changed(function, old, function.state, event)
        for action in actions:
            if isinstance(action, life.ReturnClaim):
                self._observers.claim_returned(function, action.attempt)
        # Last of all: with its last function a run ends.
        self._registry.function_changed(function, event)
        has_failed = isinstance(event, (life.FailedForGood, life.GivenUp, life.Rejected))
        if has_failed and isinstance(function.state, Failed) and function.run.keeps_going:
            is_result = isinstance(event, life.FailedForGood) and event.is_passed_on
            self._skip_what_needs(function, is_result or function.state.is_given)

    def _skip_what_needs(self, failed: FunctionState, is_passed_on: bool) -> None:
        """Skip what needs a function that has failed, unless it accepts that; at once, to tell people."""
        accepting = failed.run.manifest.accepting if is_passed_on else ()
        ahead: list[Any] = [failed.key]
        while ahead:
            producer = ahead.pop()
            for key in list(self._tasks.dependents(producer)):
                function = self._registry.functions.get(key)
                if function is None or function.run is not failed.run:
                    continue
                accepts = function.position in accepting and self._tasks.takes(key, producer)
                if accepts and function.position in function.run.manifest.items:
                    # Of what makes the items of a map: the items take what has failed, but no failed list.
                    behind = self._registry.functions.get(producer)
                    lists = function.run.manifest.items[function.position].lists
                    accepts = behind is not None and behind.position not in lists
                if isinstance(function.state, Pending) and not accepts:
                    self.tell(function, life.ArgumentFailed(failed.position))
                    ahead.append(key)

    # ------------------------------------------------------------------ actions

    def _offer(self, function: FunctionState, action: life.Offer) -> None:
        if self.admits(function):
            self.offer(function)

    def offer_in_turn(self, function: FunctionState) -> None:
        """Offer a function whose turn has come; in the next turn of the loop, if it still waits then."""

        def offer() -> None:
            if isinstance(function.state, Waiting):
                self._offer(function, life.Offer())

        self._later(offer)

    def offer(self, function: FunctionState) -> None:
        """Tell the engine of a function that waits."""
        run, position = function.run, function.position
        try:
            changed = self._costs.settle(function)
        except CostRefused as refused:
            # Not from within a transition.
            self._later(self._fail_if_it_waits, function, ({}, str(refused)))
            return
        if changed is not None:
            self._tasks.say_cost(function.key, changed.cost, changed.limit)
        if function.expected_s is None:
            function.expected_s = self._ranks.expected(function)
        arguments, frees, preferred_node = self._data.of(
            function.key, run.manifest.options.transfer_floor_s, is_short=self._is_short(function)
        )
        run.offered += 1
        run.with_data += bool(arguments)
        ready = FunctionReady(
            function=function.key,
            run=run.engine_run,
            demand=self._demand(function),
            priority=run.manifest.priorities.get(position, 0),
            rank=function.rank,
            duration_s=function.expected_s,
            certain=self._ranks.is_certain(function),
            arguments=arguments,
            frees=frees,
            preferred_node=preferred_node,
        )
        self._driver.gather([ready])

    def _demand(self, function: FunctionState) -> Demand:
        """What a function asks for: no node that is sick or where it has failed, if there is another."""
        demand, avoid = function.run.demand(function.position), self._sick()
        if demand.pin is not None or demand.group is not None:
            return demand
        if function.failed_on and function.retry.elsewhere:
            avoid |= frozenset(function.failed_on)
        return replace(demand, avoid=avoid) if avoid else demand

    def offer_again(self, function: FunctionState) -> None:
        """Tell the engine anew what a function asks for that waits for a node."""
        if function.not_before or not self._tasks.is_held(function.key):
            return
        self._withdraw(function, life.Withdraw())
        self._offer(function, life.Offer())

    def _postpone(self, function: FunctionState, action: life.Postpone) -> None:
        self._call_later(action.seconds, self._wait_over, function, function.state)

    def _wait_over(self, function: FunctionState, state: object) -> None:
        if function.state is state:  # it has waited all the time
            self.tell(function, life.WaitOver())

    def _is_short(self, function: FunctionState) -> bool:
        return function.expected_s is not None and function.expected_s <= DEFAULT_SETTINGS.round_trip_s

    def _withdraw(self, function: FunctionState, action: life.Withdraw) -> None:
        self._driver.gather([FunctionWithdrawn(function=function.key)])

    def _restrict(self, function: FunctionState, action: life.Send) -> None:
        task = self._tasks.get(function.key)
        assert task is not None
        behind = isinstance(function.state, Prefetched)
        self._tasks.restrict(task, action.attempt.address, attempt=function.attempts + behind)
        self._tasks.give_devices(task, action.attempt.devices)

    def _hold(self, function: FunctionState, action: life.Hold) -> None:
        task = self._tasks.get(function.key)
        if task is not None:
            self._tasks.hold(task)

    def _leave_queue(self, function: FunctionState, action: life.LeaveQueue) -> None:
        attempt = action.attempt
        if attempt.queue is None or not action.goes_on:
            return
        if action.is_stuck:
            # What waits behind it on the worker would wait until its thread is over.
            behind = self._queues.sticks(attempt, time())
            self.take_back(f.key for f in behind)
            return
        self._queues.comes_free(attempt)
        follower = self._queues.leave(attempt, time())
        if follower is not None:
            self.tell(follower, life.TurnCame())

    def _return_claim(self, function: FunctionState, action: life.ReturnClaim) -> None:
        if action.attempt.seceded:
            self._driver.gather([ReturnedElsewhere(claim=("seceded", function.key))])
        self._driver.gather([FunctionFinished(function=function.key, took_s=action.took_s)])

    def _change_claim(self, function: FunctionState, action: life.ChangeClaim) -> None:
        cost, threads = action.attempt.holds()
        claim = ClaimedElsewhere(
            claim=("seceded", function.key),
            node=action.attempt.node,
            cost=cost,
            threads=threads,
            devices=action.attempt.devices,
        )
        # What the function was placed with is returned the first time; later that is known no more.
        self._driver.gather([FunctionFinished(function=function.key), claim])

    def _keep_claim(self, function: FunctionState, action: life.KeepClaim) -> None:
        if action.attempt.seceded:
            self._driver.gather([ReturnedElsewhere(claim=("seceded", function.key))])
        kept = self._threads.add(function, action.attempt)
        self._driver.gather([FunctionFinished(function=function.key), kept])

    def _give_result_up(self, function: FunctionState, action: life.GiveResultUp) -> None:
        self._tasks.give_up(function.key, action.error, function.run.client)

    def _give_failure(self, function: FunctionState, action: life.GiveFailure) -> None:
        if isinstance(function.state, Failed):
            packed_id = pickle.dumps(function.run.id_of(function.position))
            self._tasks.give_failure(function.key, packed_id, action.exception)

    def _refuse(self, function: FunctionState) -> None:
        """A function of a run that was given up is asked for, since its result is lost or to retry it."""
        if not self._tasks.is_held(function.key) or not isinstance(function.state, Waiting):
            return
        run = function.run
        how = "has failed" if run.status == FAILED else "was cancelled"
        error = HandoffError(
            f"function {run.id_of(function.position)!r} is not computed again: "
            f"the execution of DAG {run.dag_id!r} {how}; execute it again"
        )
        self.tell(function, life.Rejected(error, ({}, str(error))))

    def repaired(self, client: str, token: str, position: int) -> None:
        """A client says that a result can be read that could not be."""
        run = self._registry.run(token)
        function = None if run is None else run.functions.get(position)
        if function is not None and function.not_before:
            if isinstance(function.state, Waiting):
                self.tell(function, life.WaitOver())
            else:
                function.not_before = 0.0

    # ------------------------------------------------------------------ from the workers

    def thread_ended(self, claim: int) -> None:
        """A thread is over that went on although its function had been dropped."""
        over = self._threads.over(claim)
        if over is not None:
            (function, attempt), returned = over
            self._queues.comes_free(attempt)
            self._driver.gather([returned])
            self._observers.claim_returned(function, attempt)

    def node_left(self, node: str, address: str) -> None:
        """A node is gone; its functions are told of one by one, after this."""
        self._tasks.node_left(address)
        self._transfers.node_left(node)
        for function, attempt in self._threads.node_left(address):
            self._observers.claim_returned(function, attempt)
        self._queues.node_left(address)

    def recalled(self, key: str, address: str) -> None:
        """A worker has given back a function that it had not begun."""
        function = self._registry.functions.get(key)
        if function is not None and function.is_on_node and function.fact("address") == address:
            # It is placed when there is room, not behind others again.
            function.expected_s = max(function.expected_s or 0.0, OVERDUE_S)
            self.tell(function, life.Recalled())

    # ------------------------------------------------------------------ decisions of the engine

    def take_back(self, keys: Iterable[str]) -> None:
        """Have functions placed again that were sent to a node and cannot begin there."""
        self._to_take_back.extend(keys)
        self._driver.wake_soon()

    def prepare(self) -> None:
        """Do what must be done before the engine is asked."""
        if self._to_take_back:
            keys, self._to_take_back = self._to_take_back, []
            self._tasks.release(keys, "processing", "back")
        if self._transfers.outdated:
            keys, self._transfers.outdated = self._transfers.outdated, []
            self._tasks.release(keys, "memory", "again")
        self._ranks.review()
        self._threads.ask()

    def carry_out(self, decisions: list[Decision]) -> None:
        """Make the engine's decisions Dask's."""
        sent: list[FunctionState] = []
        for decision in decisions:
            if isinstance(decision, Place):
                function = self._place(decision)
                if function is not None:
                    sent.append(function)
            elif isinstance(decision, MoveData):
                self._move(decision)
            elif isinstance(decision, Reject):
                self._reject(decision)
        if sent:
            self._tasks.send(function.key for function in sent)
        for function in sent:
            if function.is_on_node and self._tasks.is_held(function.key):
                # Its worker has just paused: ask again.
                self.tell(function, life.NotTaken())
        self.after(self._driver.engine)

    def _place(self, decision: Place) -> FunctionState | None:
        key = cast("str", decision.function)
        function, task = self._registry.functions.get(key), self._tasks.get(key)
        node = self._nodes.by_name.get(decision.node)
        if function is None or task is None or task.state != "no-worker" or node is None:
            self._driver.gather([FunctionFinished(function=key)])
            self._registry.not_placed(key)
            return None
        if not isinstance(function.state, Waiting):
            raise life.LifecycleError(key, function.status, "Placed")
        attempt = Attempt(
            node=node.name,
            address=node.address,
            ready=function.state.since,
            placed=time(),
            cost=function.run.demand(function.position).cost,
            candidates=decision.candidates,
            cause=decision.cause,
            prefetched=decision.prefetched,
            transfer_bytes=decision.transfer_bytes,
            devices=decision.devices,
        )
        behind = False
        if decision.prefetch_queue is not None:
            number, slots = decision.prefetch_queue
            attempt.queue = (node.address, number)
            behind = self._queues.enter(function, attempt, slots)
        # The worker takes them in this order, which is the engine's, whatever graph they are of; and before
        # Dask's own tasks that wait there, for it is their turn.
        self._turn += 1
        task.priority = (-math.inf, 0, self._turn)
        self._transfers.placed(function, node.name, decision.bound)
        if function.run.manifest.transfers:
            self._transfers.tell(function, task, node.name)
        if function.run.manifest.accepting:
            self._tasks.note_last_attempt(key)
        self.tell(function, life.Placed(attempt, behind, decision.waited_s))
        is_queued = decision.prefetch_queue is not None and decision.prefetch_queue[1] < node.threads
        taken = self._queues.admission((node.address, number), slots) if is_queued else {}
        self._tasks.admit_by(task, taken)
        task.resource_restrictions = self._admission(node.address, attempt.cost)
        return function

    def _reject(self, decision: Reject) -> None:
        """Nothing can hold this function: it fails, with the reasons."""
        key = cast("str", decision.function)
        function = self._registry.functions.get(key)
        if function is None or not self._tasks.is_held(key) or not isinstance(function.state, Waiting):
            return
        if function.run.is_of_tasks and self._nodes.awaited():
            # A DAG waits for reports before it begins; tasks of Dask's own are there already.
            self._call_later(REPORT_POLL_S, self.offer_in_turn, function)
            return
        manifest, demand = function.run.manifest, function.run.demand(function.position)
        group = manifest.groups.get(demand.group) if demand.group is not None else None
        refusal = refusal_of(
            demand, group, decision.obstacles, self._nodes.offers(shared=True), decision.problem
        )
        self.fail(function, refusal)

    def fail(self, function: FunctionState, refusal: Refusal) -> None:
        """End a function that waits and cannot be placed, and with it its run."""
        run, cost = function.run, function.run.demand(function.position).cost
        error = AllocationError(run.id_of(function.position), cost.to_dict(), *refusal)
        self.tell(function, life.Rejected(error, refusal))

    def _fail_if_it_waits(self, function: FunctionState, refusal: Refusal) -> None:
        if isinstance(function.state, Waiting) and self._tasks.is_held(function.key):
            self.fail(function, refusal)

    def give_up(self, problem: str) -> None:
        """Fail what waits: the engine has failed, and nobody must wait for it."""
        for function in list(self._registry.functions.values()):
            waits = isinstance(function.state, Waiting) and not function.run.over
            if waits and self._tasks.is_held(function.key):
                self.fail(function, ({}, problem))

    def deadline(self) -> float | None:
        """When the next node that is being restarted is given up, in monotonic seconds."""
        return self._nodes.next_not_back()

    def woken(self) -> None:
        """Give up nodes that nobody has brought back."""
        for event in self._nodes.not_back(monotonic()):
            self._driver.gather([event])
            self._observers.node_changed(event)
