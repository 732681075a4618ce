"""What becomes of a function's attempts: ready, placed, over, and threads that linger."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from distributed.metrics import time
from distributed.protocol import pickle

from handoff_dask.errors import HandoffError
from handoff_dask.placement.events import (
    ClaimedElsewhere,
    Event,
    FunctionFinished,
    FunctionReady,
    FunctionWithdrawn,
    ReturnedElsewhere,
)
from handoff_dask.protocol.names import ENDED, RAISED, SECEDED, STARTED, UNREADABLE, WATCH
from handoff_dask.record.status import CANCELLED, FAILED, FINISHED, PENDING, RUNNING, WAITING
from handoff_dask.scheduler.registry import HELD
from handoff_dask.scheduler.runs import Function

if TYPE_CHECKING:
    from distributed.scheduler import TaskState

    from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin


#: So many arguments are looked at to find out where a function is at home.
GLANCE = 16


class Lingering(NamedTuple):
    """A thread that may still run a function which Dask has let go."""

    function: Function
    address: str
    node: str
    #: What of its node's lanes it holds on to.
    stuck: tuple[str, int] | None


class Attempts:
    """Translates what happens to the tasks of our functions."""

    def __init__(self, plugin: HandoffSchedulerPlugin) -> None:
        self._plugin = plugin
        #: By the number of the claim that it holds.
        self.lingering: dict[int, Lingering] = {}
        #: Workers to be asked when a thread is over: ``(address, key, claim)``.
        self._to_watch: list[tuple[str, str, int]] = []
        self._claims = 0

    def install(self) -> None:
        """Listen to the workers' plugins."""
        self._plugin.scheduler.stream_handlers.update(
            {
                ENDED: self.thread_ended,
                STARTED: self.started,
                RAISED: self.raised,
                UNREADABLE: self.unreadable,
                SECEDED: self.seceded,
            }
        )

    # ------------------------------------------------------------------ Dask's transitions

    def transition(self, function: Function, start: str, finish: str, facts: dict[str, Any]) -> None:
        """A task of ours has changed its state."""
        if start == "processing":
            self._left_node(function, finish, facts)
        elif finish == "no-worker":
            self.became_ready(function)
        elif start == "no-worker" and finish != "processing":
            self._plugin.driver.gather([FunctionWithdrawn(function=function.key)])
            if finish == "erred" and function.status != FAILED:
                # Neither it nor the engine has failed: somebody else gives it up.
                function.status = FAILED
                self._fail_run(function)
            elif finish != "erred":
                function.status = PENDING
        elif start == "memory" and function.key in function.run.wanted and not function.run.over:
            function.run.missing.add(function.key)

    def became_ready(self, function: Function) -> None:
        """Every argument is there, and Dask has parked the task."""
        run = function.run
        manifest, position = run.manifest, function.position
        function.status = WAITING
        function.ready = time()
        if function.expected_s is None:
            function.expected_s = self._plugin.foresight.expected(function)
        if run.over and run.status != FINISHED:
            # What is queued is dropped in a moment; what is asked for later must not wait for ever.
            self._plugin.scheduler.loop.add_callback(self._refuse, function)
            return
        self._plugin.driver.gather(
            [
                FunctionReady(
                    function=function.key,
                    run=run.token,
                    demand=run.demand(position),
                    priority=manifest.priorities.get(position, 0),
                    rank=function.rank,
                    duration_s=function.expected_s,
                    certain=self._plugin.foresight.is_certain(function),
                    preferred_node=self._home(function),
                )
            ]
        )

    def _refuse(self, function: Function) -> None:
        """A function of a DAG that was given up is asked for, since its result is lost or to retry it."""
        scheduler, key = self._plugin.scheduler, function.key
        task = scheduler.tasks.get(key)
        if task is None or task.state != "no-worker" or function.status != WAITING:
            return
        function.status = FAILED
        run = function.run
        how = "has failed" if run.status == FAILED else "was cancelled"
        error = HandoffError(
            f"function {run.id_of(function.position)!r} is not computed again: "
            f"the execution of DAG {run.dag_id!r} {how}; execute it again"
        )
        stimulus_id = f"handoff-refuse-{time()}"
        more = scheduler.transition(
            key, "erred", exception=pickle.dumps(error), cause=key, stimulus_id=stimulus_id
        )
        scheduler.transitions(more, stimulus_id)

    def _home(self, function: Function) -> str | None:
        """The node that has most of what a function takes, by what can be seen at a glance."""
        task = self._plugin.scheduler.tasks[function.key]
        nbytes: dict[str, int] = {}
        for dependency in islice(task.dependencies, GLANCE):
            for ws in dependency.who_has or ():
                nbytes[ws.address] = nbytes.get(ws.address, 0) + dependency.get_nbytes()
        if not nbytes:
            return None
        node = self._plugin.nodes.by_address.get(max(nbytes, key=nbytes.__getitem__))
        return None if node is None else node.name

    def _left_node(self, function: Function, finish: str, facts: dict[str, Any]) -> None:
        """A placed function is off its node, for whatever reason."""
        run, key = function.run, function.key
        task = self._plugin.scheduler.tasks[key]
        # Whatever runs it again must come through the engine.
        task.worker_restrictions = HELD
        task.resource_restrictions = {}
        lane = function.lane
        if lane is not None:
            alive = function.address in self._plugin.scheduler.workers
            self._plugin.blame.left(function, task, alive=alive)
        if function.seceded:
            self._plugin.driver.gather([ReturnedElsewhere(claim=("seceded", key))])
        if finish == "memory":
            _take_times(function, facts.get("startstops"))
            self._plugin.driver.gather([FunctionFinished(function=key, took_s=_took_s(function))])
            function.nbytes = facts.get("nbytes")
            function.status = FINISHED
            self._plugin.foresight.learn(function)
            self._plugin.announcer.ended(function, "stop")
            self._plugin.announcer.released(function)
            self._plugin.tracking.placement_over(key)
            self._plugin.values.has_news(run.token)
            run.missing.discard(key)
            if not run.missing and not run.over:
                self._plugin.registry.end(run, FINISHED)
        elif finish == "erred":
            self._plugin.driver.gather([FunctionFinished(function=key)])
            _take_times(function, facts.get("startstops"))
            self._failed(function, task)
        else:
            self._announce_drop(function)
            self._let_go(function, lane)
            function.status = CANCELLED if run.over else PENDING

    def _failed(self, function: Function, task: TaskState) -> None:
        function.status = FAILED
        self._plugin.announcer.ended(function, "exception", task.exception)
        self._plugin.announcer.released(function)
        self._plugin.tracking.placement_over(function.key)
        self._fail_run(function)

    def _fail_run(self, function: Function) -> None:
        run, task = function.run, self._plugin.scheduler.tasks[function.key]
        if run.over or run.failed is not None or task.exception_blame is not task:
            return
        run.failed = function.position
        run.exception, run.traceback = task.exception, task.traceback
        run.error = f"{task.traceback_text}{task.exception_text}"
        if run.watched:
            self._plugin.registry.end(run, FAILED)

    def _announce_drop(self, function: Function) -> None:
        announcer = self._plugin.announcer
        if function.raised is not None:
            announcer.ended(function, "retry", function.raised)
        elif function.run.over:
            announcer.dropped(function, "cancelled: nobody wants it any more")
        elif function.address not in self._plugin.scheduler.workers:
            announcer.dropped(function, f"lost: node {function.node!r} has died")
        else:
            announcer.dropped(function, "lost: Dask has taken it back")

    def _let_go(self, function: Function, lane: tuple[str, int] | None) -> None:
        """Dask has dropped a function that its worker may still be running."""
        events: list[Event] = [FunctionFinished(function=function.key)]
        address, node = function.address, function.node
        given_up = self._plugin.overdue.given_up
        over = function.raised is not None or function.key in given_up
        given_up.discard(function.key)
        if not over and address in self._plugin.nodes.by_address:
            assert address is not None
            assert node is not None
            self._claims += 1
            cost = function.run.demand(function.position).cost
            stuck = None
            if lane is not None and not function.behind:
                # What waits behind it on the worker would wait for a thread that nobody wants.
                stuck = self._plugin.admission.sticks(lane)
                self._plugin.driver.take_back(self._plugin.blame.behind(lane))
            self.lingering[self._claims] = Lingering(function, address, node, stuck)
            events.append(
                ClaimedElsewhere(
                    claim=("lingering", self._claims),
                    node=node,
                    cost=cost,
                    threads=0 if function.seceded else 1,
                )
            )
            self._plugin.tracking.lingers(function.key, self._claims)
            self._plugin.announcer.lingers(function, self._claims)
            # Asked only after Dask has told the worker to drop the task.
            self._to_watch.append((address, function.key, self._claims))
        else:
            self._plugin.announcer.released(function)
            self._plugin.tracking.placement_over(function.key)
        self._plugin.driver.gather(events)

    # ------------------------------------------------------------------ from the workers

    def ask_for_ends(self) -> None:
        """Ask the workers when the threads of dropped functions are over."""
        scheduler = self._plugin.scheduler
        for address, key, claim in self._to_watch:
            if address in scheduler.workers:
                scheduler.worker_send(address, {"op": WATCH, "key": key, "claim": claim})
        self._to_watch.clear()

    def thread_ended(self, claim: int, **kwargs: Any) -> None:
        """A lingering thread is over at last."""
        lingering = self.lingering.pop(claim, None)
        if lingering is not None:
            if lingering.stuck is not None:
                self._plugin.admission.comes_free(lingering.stuck)
            self._plugin.driver.gather([ReturnedElsewhere(claim=("lingering", claim))])
            self._plugin.announcer.lingering_over(claim)
            self._plugin.tracking.lingering_over(claim)

    def node_left(self, address: str) -> None:
        """No thread lingers on a node that is gone."""
        for claim in [c for c, x in self.lingering.items() if x.address == address]:
            del self.lingering[claim]
            self._plugin.announcer.lingering_over(claim)
            self._plugin.tracking.lingering_over(claim)

    def started(self, starts: list[tuple[str, int, float]], **kwargs: Any) -> None:
        """A worker says which attempts have begun, and when."""
        for key, run_id, moment in starts:
            function = self._present(key, run_id)
            if function is not None:
                _set_times(function, moment)
                self._plugin.announcer.started(function)

    def raised(self, key: str, run_id: int, exception: Any, **kwargs: Any) -> None:
        """An attempt has raised; whether it is retried, Dask decides next."""
        function = self._present(key, run_id)
        if function is not None:
            _take_times(function, kwargs["startstops"])
            function.raised = exception

    def unreadable(self, waiting: list[tuple[str, int]], failure: dict[str, Any], worker: str) -> None:
        """A result cannot be read where it is needed: what needs it has failed."""
        for key, run_id in waiting:
            if self._present(key, run_id) is not None:
                if "Could not serialize" in failure["exception_text"]:
                    self._plugin.scheduler.tasks[key].retries = 0  # it will not travel another time either
                self.raised(key, run_id, failure["exception"], startstops=[])
                self._plugin.scheduler.handle_task_erred(
                    key=key,
                    worker=worker,
                    run_id=run_id,
                    stimulus_id=f"handoff-unreadable-{time()}",
                    **failure,
                )

    def seceded(self, key: Any, run_id: int, **kwargs: Any) -> None:
        """A function waits for others and has let go of its thread; all else it keeps."""
        function = self._present(key, run_id)
        if function is None:
            self._plugin.foreign.seceded(key, run_id)
        elif function.node is not None and not function.seceded:
            function.seceded = True
            cost = function.run.demand(function.position).cost
            claim = ClaimedElsewhere(claim=("seceded", key), node=function.node, cost=cost, threads=0)
            self._plugin.driver.gather([FunctionFinished(function=key), claim])

    def _present(self, key: str, run_id: int) -> Function | None:
        """The function of which this is the present attempt."""
        function = self._plugin.registry.functions.get(key)
        task = self._plugin.scheduler.tasks.get(key)
        if function is None or function.status != RUNNING or task is None or task.run_id != run_id:
            return None
        return function


def _take_times(function: Function, startstops: Any) -> None:
    moves = [part for part in startstops or () if part["action"] == "transfer"]
    if moves:
        # Several arguments may come at once.
        until = max(part["stop"] for part in moves)
        function.transfer_s = max(0.0, until - min(part["start"] for part in moves))
    for part in startstops or ():
        if part["action"] == "compute":
            _set_times(function, part["start"], part["stop"])


def _took_s(function: Function) -> float | None:
    if function.start is None or function.stop is None:
        return None
    return function.stop - function.start


def _set_times(function: Function, start: float, stop: float | None = None) -> None:
    """Take a worker's times, within what is possible.

    Workers' clocks differ by what Dask's estimate of the difference leaves: without these bounds
    a function would seem to start before those that it waited for have stopped.
    """
    now = time()
    if stop is not None and stop > now:
        # Both are as wrong as the end is seen to be; what lies between them is right.
        start, stop = start - (stop - now), now
    # A start that has been told stays what it is.
    if not function.told or function.start is None:
        function.start = min(max(start, function.placed or start), now)
    if stop is not None:
        function.stop = min(max(stop, function.start), now)
