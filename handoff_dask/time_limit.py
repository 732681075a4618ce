"""A call with a time limit: it runs in a thread of its own, which is left behind when the time is over.

A thread cannot be stopped.  A coroutine can be cancelled, if it runs as :func:`cancellable`.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

from handoff_dask.errors import FunctionTimeoutError

__all__ = ["Leftover", "cancellable", "run_within"]

T = TypeVar("T")

#: Seconds that a cancelled coroutine has to end.
GRACE_S = 0.5

_leftover: contextvars.ContextVar[Leftover | None] = contextvars.ContextVar(
    "handoff-time-limit", default=None
)


class Leftover:
    """A call that may go on after its time is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_over = False
        self._is_late = False
        self._when_over: Callable[[], object] | None = None
        self._cancel: Callable[[], object] | None = None

    def when_over(self, call: Callable[[], object]) -> None:
        """Have something called when the thread is over, in any thread: now, if it is over."""
        with self._lock:
            if not self._is_over:
                self._when_over = call
                return
        call()

    def over(self) -> None:
        """Note that the thread is over."""
        with self._lock:
            self._is_over = True
            call = self._when_over
        if call is not None:
            call()

    def cancel_by(self, cancel: Callable[[], object]) -> None:
        """Say what ends the call early."""
        with self._lock:
            self._cancel = cancel
            late = self._is_late
        if late:
            cancel()

    def cancel(self) -> bool:
        """End the call if somebody has said how; whether somebody has."""
        with self._lock:
            self._is_late = True
            cancel = self._cancel
        if cancel is not None:
            cancel()
        return cancel is not None


async def cancellable(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine, which is cancelled when the time of the present call is over."""
    leftover, task, loop = _leftover.get(), asyncio.current_task(), asyncio.get_running_loop()
    if leftover is not None and task is not None:
        leftover.cancel_by(partial(loop.call_soon_threadsafe, task.cancel))
    return await coroutine


def run_within(
    timeout_s: float,
    call: Callable[[], T],
    *,
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    left_behind: Callable[[Leftover], object] = lambda leftover: None,
) -> T:
    """Call something in a thread of its own, and wait for it no longer than the time that it has.

    Parameters
    ----------
    timeout_s
        Seconds.
    call
        Takes nothing; its result or exception is passed on.
    within
        Makes the context in which the thread calls it.
    left_behind
        Told of the thread if it goes on after its time.

    Raises
    ------
    FunctionTimeoutError
        If the time is over.

    Examples
    --------
    >>> run_within(10, lambda: 6 * 7)
    42
    """
    leftover = Leftover()
    outcome: list[tuple[bool, Any]] = []

    def work() -> None:
        _leftover.set(leftover)
        try:
            with within():
                outcome.append((True, call()))
        except BaseException as error:  # passed on, whatever it is
            outcome.append((False, error))
        finally:
            leftover.over()

    context = contextvars.copy_context()
    # A daemon, so that a function that hangs does not keep its process alive.
    thread = threading.Thread(target=context.run, args=[work], name="handoff-time-limit", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        if leftover.cancel():
            thread.join(GRACE_S)
        if thread.is_alive():
            left_behind(leftover)
        raise FunctionTimeoutError(timeout_s)
    well, value = outcome[0]
    if not well:
        try:
            raise value
        finally:
            del value, outcome[:]
    return value  # type: ignore[no-any-return]
