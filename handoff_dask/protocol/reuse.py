"""Calls that keep their results in a cache, and calls that read results from there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from distributed import get_worker

from handoff_dask.errors import CacheMissError
from handoff_dask.graph.functions import Failed
from handoff_dask.protocol.names import ATTEMPT
from handoff_dask.reuse.cache import Cache, Hit, Miss

__all__ = ["Keeping", "ReadCached"]

logger = logging.getLogger(__name__)


class Keeping:
    """A call whose result is kept in a cache; what cannot be kept is no failure.

    Parameters
    ----------
    call
        Called with the results.
    cache, fingerprint, record
        Where the result is kept, under what, and what it was computed from.
    """

    __slots__ = ("cache", "call", "fingerprint", "record")

    def __init__(
        self, call: Callable[..., Any], cache: Cache, fingerprint: str, record: Mapping[str, Any]
    ) -> None:
        self.call = call
        self.cache = cache
        self.fingerprint = fingerprint
        self.record = record

    @property
    def __name__(self) -> str:
        return str(getattr(self.call, "__name__", type(self.call).__name__))

    def __reduce__(self) -> tuple[Any, ...]:
        return Keeping, (self.call, self.cache, self.fingerprint, self.record)

    def __call__(self, *results: Any) -> Any:
        """Call it, and keep what it gives, unless an argument has failed.

        In a further attempt the result may be there already, its node having been lost afterwards.
        """
        if _is_further_attempt():
            found = self.cache.get(self.fingerprint, warn=False)
            if isinstance(found, Hit):
                return found.value
        value = self.call(*results)
        if not any(isinstance(result, Failed) for result in results):
            try:
                self.cache.put(self.fingerprint, value, self.record)
            except Exception as error:  # whatever pickling the value or writing it raises
                logger.warning(
                    "the result of %s is not kept in %r (%s: %s)",
                    self.__name__,
                    self.cache,
                    type(error).__name__,
                    error,
                )
        return value


def _is_further_attempt() -> bool:
    """Whether the function that runs here has begun before."""
    try:
        worker = get_worker()
        task = worker.state.tasks[worker.get_current_task()]
    except (ValueError, KeyError):  # no worker runs it
        return False
    return bool((task.annotations or {}).get(ATTEMPT, 1) > 1)


class ReadCached:
    """Reads a result from a cache, in the place of the function that it is of."""

    __slots__ = ("cache", "fingerprint", "name")

    def __init__(self, cache: Cache, fingerprint: str, name: str) -> None:
        self.cache = cache
        self.fingerprint = fingerprint
        self.name = name

    @property
    def __name__(self) -> str:
        return f"read_{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadCached, (self.cache, self.fingerprint, self.name)

    def __call__(self) -> Any:
        """The value.

        Raises
        ------
        CacheMissError
            If it is not there or cannot be used.
        """
        found = self.cache.get(self.fingerprint, warn=False)  # the client warns, with the function's id
        if isinstance(found, Miss):
            raise CacheMissError(self.name, found.kind, found.why)
        return found.value
