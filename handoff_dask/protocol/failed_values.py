"""Failures that travel as values: what lets a function run although an argument of it has failed.

Where an execution goes on after failures and has functions with ``accept_failed=True``, each of its
functions is guarded: what it raises in its last attempt becomes its result, a :class:`FailedValue`.
Dask would fail everything that needs it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from distributed import Worker, get_worker
from distributed.core import error_message
from distributed.protocol import pickle

from handoff_dask.errors import original
from handoff_dask.graph.functions import Failed
from handoff_dask.protocol.names import NAME
from handoff_dask.protocol.packing import opened

__all__ = ["LAST_ATTEMPT", "FailedValue", "Guarded", "guard_of"]

logger = logging.getLogger(__name__)

#: The annotation that tells a function that it will not be tried again.
LAST_ATTEMPT = "handoff-last-attempt"


class FailedValue:
    """The result of a function that has failed, or that needed one which has."""

    __slots__ = ("error", "packed", "packed_id")

    def __init__(self, packed_id: bytes, packed: bytes, error: BaseException | None = None) -> None:
        #: The id of the function that failed, and what it raised, pickled.
        self.packed_id = packed_id
        self.packed = packed
        #: What it raised, where it was raised, until that has been reported.
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return FailedValue, (self.packed_id, self.packed)

    @staticmethod
    def of(failed: Failed) -> FailedValue:
        """What :meth:`failed` has given."""
        return FailedValue(pickle.dumps(failed.function_id), _packed(failed.error))

    def failed(self) -> Failed:
        """As the functions that accept it are given it."""
        error = pickle.loads(self.packed)
        return Failed(pickle.loads(self.packed_id), original(error) or error)

    def message(self) -> dict[str, Any]:
        """What was raised, as Dask tells it; once, since what was raised holds the values of its frames."""
        error, self.error = self.error, None
        told: Any = error_message(pickle.loads(self.packed) if error is None else error)
        names = ("exception", "traceback", "exception_text", "traceback_text")
        return {name: told[name] for name in names}


class Guarded:
    """A call of which it matters what it raises.

    Parameters
    ----------
    call
        Called with the results.
    retry
        Which exceptions are worth another attempt, as a :class:`Retry`, packed; ``None``: all.
    packed_id
        The function's id, pickled, if failures travel as values.
    accepts
        Whether it runs although arguments failed.
    """

    __slots__ = ("accepts", "call", "packed_id", "retry")

    def __init__(
        self,
        call: Callable[..., Any],
        retry: Any,
        packed_id: bytes | None = None,
        accepts: bool = False,
    ) -> None:
        self.call = call
        self.retry = retry
        self.packed_id = packed_id
        self.accepts = accepts

    @property
    def __name__(self) -> str:
        return str(getattr(self.call, "__name__", type(self.call).__name__))

    def __reduce__(self) -> tuple[Any, ...]:
        return Guarded, (self.call, self.retry, self.packed_id, self.accepts)

    def __call__(self, *results: Any) -> Any:
        """Call it, unless what it needs has failed."""
        failed = [r for r in results if isinstance(r, FailedValue)]
        if failed and not self.accepts:
            return failed[0]
        try:
            if failed:
                results = tuple(r.failed() if isinstance(r, FailedValue) else r for r in results)
            return self.call(*results)
        except Exception as error:
            value = self.value_of(error)
            if value is None:
                raise
            return value

    def value_of(self, error: Exception) -> FailedValue | None:
        """The failure as a value, if what has been raised is to be the function's result."""
        worker = _worker()
        if worker is None:  # Dask runs the DAG in this process
            return None
        is_final = self.retry is not None and not opened(self.retry).retries(original(error))
        task = worker.state.tasks[worker.get_current_task()]
        if self.packed_id is not None and (is_final or (task.annotations or {}).get(LAST_ATTEMPT)):
            return FailedValue(self.packed_id, _packed(error), error)
        if is_final:
            plugin: Any = worker.plugins[NAME]
            plugin.is_final(task.key)
        return None


def guard_of(call: Any) -> Guarded | None:
    """What guards a call of a function, if something does."""
    while call is not None and not isinstance(call, Guarded):
        call = getattr(call, "call", None)
    return call


def _worker() -> Worker | None:
    try:
        return get_worker()
    except ValueError:
        return None


def _packed(error: BaseException) -> bytes:
    try:
        packed: bytes = pickle.dumps(error)
        pickle.loads(packed)
    except Exception as why:  # whatever the user's __reduce__ raises
        logger.info("an exception cannot be sent (%r); its text is sent instead", why)
        packed = pickle.dumps(Exception(f"{type(error).__name__}: {error}"))
    return packed
