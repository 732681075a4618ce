"""Results of finished runs that are lost with their node: computed again only when somebody asks.

Dask computes a lost result again as long as a client holds its future.  A run that is over does nothing
by itself: its lost functions stay held until their result is asked for, or something else needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from handoff_dask.protocol.names import LOST, is_barrier
from handoff_dask.record.status import FINISHED
from handoff_dask.scheduler import lifecycle as life
from handoff_dask.scheduler.runs import FunctionState, RunState
from handoff_dask.scheduler.states import Waiting

if TYPE_CHECKING:
    from distributed.scheduler import TaskState


class LostResults:
    """Lost functions of finished runs, and who needs them.

    Parameters
    ----------
    functions
        Every function that is known, by Dask key.
    tasks
        Dask's tasks, by key.
    tell
        Tells a function an event.
    report
        Dask's: sends a message to a client.
    later
        Calls a function in the next turn of the scheduler's event loop.
    """

    def __init__(
        self,
        functions: Mapping[str, FunctionState],
        tasks: Mapping[Any, TaskState],
        tell: Callable[[FunctionState, life.LifeEvent], None],
        report: Callable[..., object],
        later: Callable[..., object],
    ) -> None:
        self._functions = functions
        self._tasks = tasks
        self._tell = tell
        self._report = report
        self._later = later
        #: Keys of functions that are ready, and rest.
        self._resting: set[str] = set()

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What clients may ask."""
        return {"again": self.again}

    def install(self, handlers: dict[str, Callable[..., Any]]) -> None:
        """Hear what Dask's client asks for when a gather has found a result gone.

        It then waits for what the scheduler says next, even if the future was cancelled in between.
        Whoever gathers asks for the result, so it is computed again.
        """
        told = handlers["report-key"]

        def report_key(*args: Any, key: Any, client: str, **kwargs: Any) -> None:
            told(*args, key=key, client=client, **kwargs)
            if key in self._resting:
                self.again(client, [key])

        handlers["report-key"] = report_key

    def lost(self, keys: Iterable[Any]) -> None:
        """Dask has lost these results with a node, and is about to compute them again."""
        gone: dict[str, list[str]] = {}
        for key in keys:
            function = self._functions.get(key)
            if function is None or not _is_finished(function.run):
                continue
            run = function.run
            busy = any(f.is_on_node or isinstance(f.state, Waiting) for f in run.functions.values())
            run.asked_again = run.asked_again and busy
            if self._rests(function) and key in run.wanted:
                gone.setdefault(run.client, []).append(key)
        for client, lost in gone.items():
            # After what Dask itself is about to say: a future must not wait for what does not come.
            self._later(self._say_lost, client, lost)

    def _say_lost(self, client: str, keys: list[str]) -> None:
        keys = [key for key in keys if (f := self._functions.get(key)) is not None and self._rests(f)]
        if keys:
            self._report({"op": "cancelled-keys", "keys": keys, "reason": LOST, "msg": ""}, client=client)

    def takes(self, function: FunctionState, start: str, finish: str) -> bool:
        """Whether a change of a task's state means nothing, since its function rests."""
        if finish == "no-worker":
            if not self._rests(function):
                return False
            self._resting.add(function.key)
            return True
        if start == "no-worker" and function.key in self._resting:
            self._resting.discard(function.key)
            return not isinstance(function.state, Waiting)
        return False

    def _rests(self, function: FunctionState) -> bool:
        run = function.run
        return _is_finished(run) and not run.asked_again and not self._is_needed(function.key, run)

    def _is_needed(self, key: str, run: RunState) -> bool:
        """Whether anything but the client of its run needs a result."""
        seen, look_at = {str(key)}, [key]
        for one in look_at:
            task = self._tasks.get(one)
            if task is None:
                continue
            if any(client.client_key != run.client for client in task.who_wants or ()):
                return True
            for waiter in task.waiters or ():
                function = self._functions.get(str(waiter.key))
                if function is None and not is_barrier(str(waiter.key)):
                    return True
                if function is not None and function.run is not run:
                    return True
                if str(waiter.key) not in seen:
                    seen.add(str(waiter.key))
                    look_at.append(str(waiter.key))
        return False

    def review(self) -> None:
        """Something may need what rests: a graph has arrived."""
        if self._resting:
            self._later(self._review)

    def _review(self) -> None:
        for key in list(self._resting):
            function = self._functions.get(key)
            if function is not None and not self._rests(function):
                self._wake(function)

    def again(self, client: str, keys: Iterable[str]) -> None:
        """Compute lost results again: somebody asks for them."""
        for run in {f.run.token: f.run for key in keys if (f := self._functions.get(key))}.values():
            run.asked_again = True
            for function in list(run.functions.values()):
                if function.key in self._resting:
                    self._wake(function)

    def _wake(self, function: FunctionState) -> None:
        self._resting.discard(function.key)
        task = self._tasks.get(function.key)
        if task is not None and task.state == "no-worker" and not isinstance(function.state, Waiting):
            self._tell(function, life.ArgumentsReady())

    def forgotten(self, key: str) -> None:
        """Dask has forgotten a function."""
        self._resting.discard(key)


def _is_finished(run: RunState) -> bool:
    return run.watched and run.over and run.status == FINISHED
