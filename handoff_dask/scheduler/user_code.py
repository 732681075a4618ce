"""Users' own strategies and trackers on the scheduler: each is called in a thread of its own.

Whatever they raise, and however long they take, fails the runs that they are asked about.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from distributed.metrics import monotonic
from distributed.protocol import pickle

from handoff_dask import config
from handoff_dask.placement.user_strategies import StrategyFailed

logger = logging.getLogger(__name__)

#: Seconds for one answer above which who gives it is called slow in the scheduler's log.
SLOW_S = 0.1
#: Seconds that a thread waits for the next call before it ends.
IDLE_S = 1.0

#: Characters of an answer in a message.
SHOWN = 200

_Call = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class UserCode:
    """Calls what a user has shipped to the scheduler, one call after the other.

    The scheduler stands still until it is answered, or has waited for ``handoff.answer-timeout``.
    Who has once taken longer is not asked again.

    Parameters
    ----------
    name
        What messages call it, such as ``strategy 'mine'``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._limit_s = config.seconds("answer-timeout")
        #: Seconds above which the next answer is called slow.
        self._slow_s = SLOW_S
        #: Why it is not asked any more.
        self._given_up: str | None = None
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._has_thread = False

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """What a function of it answers.

        Raises
        ------
        StrategyFailed
            If it raises anything, or does not answer in time.
        """
        answer = self._begin(function, args)
        begun = monotonic()
        try:
            return answer.result(self._limit_s)
        except BaseException as error:  # the user's code: not even sys.exit may end the scheduler
            if not answer.done():
                self._given_up = (
                    f"{self.name} did not answer within {self._limit_s:g} s, for which the scheduler "
                    "stood still; it must not wait for anything (handoff.answer-timeout)"
                )
                logger.warning(self._given_up)
                raise StrategyFailed(self._given_up) from None
            if isinstance(error, StrategyFailed):
                raise
            logger.info("%s raised", self.name, exc_info=True)
            problem = f"{self.name} raised {type(error).__name__}: {_message(error)} ({_where(error)})"
            raise StrategyFailed(problem) from None
        finally:
            took_s = monotonic() - begun
            if took_s > self._slow_s:
                # Not for every answer of one that is always slow.
                self._slow_s = 2 * took_s
                logger.warning("%s took %.2f s to answer; the scheduler stands still", self.name, took_s)

    def load(self, packed: bytes, then: Callable[[Any], Any]) -> Any:
        """What becomes of it when it has been unpickled.

        Raises
        ------
        StrategyFailed
            If it cannot be unpickled here, or not in time.
        """
        is_loaded, answer = self.ask(_load, packed, then)
        if not is_loaded:
            raise StrategyFailed(
                f"{self.name} cannot be used on the scheduler: {answer}; "
                "what it needs must be importable there"
            )
        return answer

    def _begin(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Future[Any]:
        if self._given_up is not None:
            raise StrategyFailed(self._given_up)
        answer: Future[Any] = Future()
        with self._changed:
            self._calls.append((answer, function, args))
            self._changed.notify()
            if not self._has_thread:
                self._has_thread = True
                # Not one that the end of the process waits for: it may wait for ever.
                threading.Thread(target=self._answer, name=f"handoff: {self.name}", daemon=True).start()
        return answer

    def _answer(self) -> None:
        """Answer one call after the other, until none comes any more."""
        while True:
            with self._changed:
                if not self._calls:
                    self._changed.wait(IDLE_S)
                if not self._calls:
                    self._has_thread = False
                    return
                answer, function, args = self._calls.popleft()
            try:
                answer.set_result(function(*args))
            except BaseException as error:
                answer.set_exception(error)
            del answer, function, args


def _load(packed: bytes, then: Callable[[Any], Any]) -> tuple[bool, Any]:
    try:
        return True, then(pickle.loads(packed))
    except BaseException as error:
        return False, shown(error)


def shown(answer: Any) -> str:
    """What a user has answered, as messages show it; called where the user's code may run."""
    try:
        text = repr(answer)
    except BaseException:
        text = f"<{type(answer).__name__}, which cannot be shown>"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return "(its message cannot be read)"


def _where(error: BaseException) -> str:
    """The line that raised."""
    trace = error.__traceback__
    if trace is None:
        return "nowhere"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"
