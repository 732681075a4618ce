"""Functions that wait for executions of their own: what they give back, and how they go on.

A function that waits for an execution of its own holds neither its thread nor its ``cpu``, so that
the functions of that execution can run.  When it is over, the function needs both again.  It asks
for them, and goes on once its node has room.  Meanwhile its claim is booked, so that nothing new
starts there.  The functions of a node that go on are served one after the other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from handoff_dask.placement.amounts import THREAD, Amounts
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.scheduler import lifecycle as life
from handoff_dask.scheduler.engine_driver import EngineDriver
from handoff_dask.scheduler.lingering import LingeringThreads
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState, Runs
from handoff_dask.scheduler.states import Attempt
from handoff_dask.scheduler.tasks import Tasks


@dataclass(slots=True, eq=False)
class Pause:
    """An attempt that waits for an execution of its own, or for room to go on."""

    function: FunctionState
    attempt: Attempt
    #: Whether it needs its thread again, too.
    with_thread: bool = True
    #: Whether what it needs is booked.
    is_booked: bool = False
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    def needs(self) -> Amounts:
        """What it gave back, and needs again."""
        cpu = tuple(pair for pair in self.attempt.cost.amounts if pair[0] == "cpu")
        return ((THREAD, 1), *cpu) if self.with_thread else cpu


class Pauses(Observer):
    """Takes back what functions do not need while they wait, and gives it to them again.

    Parameters
    ----------
    runs, tasks
        What is known of functions; Dask's tasks.
    driver
        Of the engine.
    threads
        Threads that go on without their function.
    tell
        Tells a function of an event.
    """

    def __init__(
        self,
        runs: Runs,
        tasks: Tasks,
        driver: EngineDriver,
        threads: LingeringThreads,
        tell: Callable[[FunctionState, life.LifeEvent], None],
    ) -> None:
        self._runs = runs
        self._tasks = tasks
        self._driver = driver
        self._threads = threads
        self._tell = tell
        #: By key and number of the attempt.
        self._pauses: dict[tuple[str, int], Pause] = {}
        #: Those that need room again, by address, in the order in which they have asked.
        self._to_go_on: dict[str, deque[Pause]] = {}

    def waiting(self) -> list[Pause]:
        """Functions that wait for executions of their own now."""
        return [pause for pause in self._pauses.values() if pause.attempt.paused]

    def pause(self, key: str, run_id: int) -> bool:
        """A function begins to wait for an execution of its own; whether it is one of ours."""
        function = self._runs.functions.get(key)
        if function is None or not function.is_on_node or not self._tasks.is_present(key, run_id):
            return False
        self._tell(function, life.Paused())
        assert function.attempt is not None
        self._pauses[key, run_id] = Pause(function, function.attempt)
        return True

    async def go_on(self, client: str, key: str, run_id: int, with_thread: bool) -> None:
        """A function needs again what it gave back: wait until its node has room for that."""
        pause = self._pauses.get((key, run_id))
        if pause is None:
            return
        pause.with_thread = with_thread
        self._to_go_on.setdefault(pause.attempt.address, deque()).append(pause)
        self._driver.wake_soon()
        try:
            await pause.goes_on.wait()
        finally:
            self._pauses.pop((key, run_id), None)

    def review(self, engine: PlacementEngine) -> None:
        """Let functions go on where there is room by now; called after each of the engine's turns."""
        for address, asking in list(self._to_go_on.items()):
            first = asking[0]
            if not first.is_booked:
                first.is_booked = True
                self._book(first)
            elif engine.may_go_on(first.attempt.node, first.needs()):
                self._serve_next(address)

    def _book(self, pause: Pause) -> None:
        function, attempt = pause.function, pause.attempt
        if function.is_on_node and function.attempt is attempt:
            self._tell(function, life.Resuming(pause.with_thread))
            return
        # Dask has dropped the function; its thread goes on.
        attempt.resumes(pause.with_thread)
        claim = self._threads.claim_of(attempt)
        if claim is not None:
            self._driver.gather([claim])
        else:
            self._driver.wake_soon()

    def _serve_next(self, address: str) -> None:
        asking = self._to_go_on[address]
        asking.popleft().goes_on.set()
        if asking:
            self._driver.wake_soon()
        else:
            del self._to_go_on[address]

    def claim_returned(self, function: FunctionState, attempt: Attempt) -> None:
        """An attempt is over at last."""
        if not attempt.seceded:
            return
        for key in [key for key, pause in self._pauses.items() if pause.attempt is attempt]:
            del self._pauses[key]
        asking = self._to_go_on.get(attempt.address, ())
        for pause in [pause for pause in asking if pause.attempt is attempt]:
            pause.goes_on.set()
            self._to_go_on[attempt.address].remove(pause)
            if not self._to_go_on[attempt.address]:
                del self._to_go_on[attempt.address]

    def node_left(self, address: str) -> None:
        """Forget the functions of a node that is gone."""
        for pause in self._to_go_on.pop(address, ()):
            pause.goes_on.set()
        self._pauses = {k: p for k, p in self._pauses.items() if p.attempt.address != address}
