"""The code of an isolated stage: it is called in a process that the stage keeps, with its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from handoff_dask.errors import FunctionTimeoutError, MemoryExceededError, ProcessEndedError
from handoff_dask.protocol.stage_call import StageCall

#: In the process of a stage: its call, and its present state.
_here: list[Any] = []


def _start(call: StageCall) -> None:
    _here[:] = [call, call.start()]


def _one(values: Sequence[Any]) -> Any:
    call, state = _here
    result, _here[1] = call.one(state, values)
    return result


def _batch(batch: Sequence[tuple[Any, ...]]) -> list[Any]:
    call, state = _here
    results, _here[1] = call.batch(state, batch)
    return list(results)


class IsolatedStageCall:
    """As :class:`~handoff_dask.protocol.stage_call.StageCall`, for a stage's worker.

    Where the process has ended while an item was in it, that item has failed; the next one gets a new
    process, with a state made anew.

    Parameters
    ----------
    call
        How the code is called, in the process.
    run
        Runs a call in the stage's process.
    end
        Ends that process, whatever it does.
    """

    def __init__(self, call: StageCall, run: Callable[..., Any], end: Callable[[], object]) -> None:
        self._call = call
        self._run = run
        self._end = end
        self._is_started = False

    @property
    def has_state(self) -> bool:
        """Whether it carries a state from call to call."""
        return self._call.has_state

    def start(self) -> None:
        """Make the first state, in the process."""
        self._run(_start, self._call)
        self._is_started = True

    def results(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """What the code is given of an item's values; inline functions are evaluated on the worker."""
        return self._call.results(values)

    def one(self, state: Any, values: Sequence[Any]) -> tuple[Any, Any]:
        """Call it for one item: its result."""
        return self._ask(_one, list(values)), None

    def batch(self, state: Any, batch: Sequence[tuple[Any, ...]]) -> tuple[Sequence[Any], Any]:
        """Call it for several items: as many results."""
        return self._ask(_batch, list(batch)), None

    def _ask(self, ask: Callable[..., Any], given: Any) -> Any:
        try:
            if not self._is_started:
                self.start()
            return self._run(ask, given)
        except (ProcessEndedError, MemoryExceededError, FunctionTimeoutError):
            self._is_started = False
            raise

    def end(self) -> None:
        """End the process."""
        self._end()
