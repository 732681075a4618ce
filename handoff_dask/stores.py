"""Result stores: keep values by DAG id and function id."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from typing import Any, Protocol, runtime_checkable

from handoff_dask.errors import NotFoundError

__all__ = ["MemoryResultStore", "ResultStore"]


@runtime_checkable
class ResultStore(Protocol):
    """Keeps values by DAG id and function id.

    Given to ``start(result_store=…)`` it gets every result that the session fetches, and every
    value that is stored through it, and is asked before the cluster is.
    """

    def store(self, dag_id: Hashable, id: Hashable, value: Any) -> None:  # noqa: A002
        """Keep a value; a second one replaces it."""

    def get(self, dag_id: Hashable, id: Hashable) -> Any:  # noqa: A002
        """The value; :class:`~handoff_dask.NotFoundError` if there is none."""

    def has(self, dag_id: Hashable, id: Hashable) -> bool:  # noqa: A002
        """Whether there is one."""

    def clear(self, dag_id: Hashable) -> None:
        """Drop all values of a DAG."""

    def locations(self, dag_id: Hashable) -> Mapping[Hashable, str]:
        """``{id: where it is kept}`` for a DAG, in whatever words suit the store."""


class MemoryResultStore:
    """A :class:`ResultStore` in memory; safe to use from several threads.

    Examples
    --------
    >>> store = MemoryResultStore()
    >>> store.store("dag", "answer", 42)
    >>> store.get("dag", "answer"), store.has("dag", "question"), store.locations("dag")
    (42, False, {'answer': 'memory'})
    """

    def __init__(self) -> None:
        self._values: dict[Hashable, dict[Hashable, Any]] = {}
        self._lock = threading.Lock()

    def store(self, dag_id: Hashable, id: Hashable, value: Any) -> None:  # noqa: A002
        """Keep a value; a second one replaces it."""
        with self._lock:
            self._values.setdefault(dag_id, {})[id] = value

    def get(self, dag_id: Hashable, id: Hashable) -> Any:  # noqa: A002
        """Give the value back.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        with self._lock:
            try:
                return self._values[dag_id][id]
            except KeyError:
                raise NotFoundError("value", id, f"nothing of DAG {dag_id!r} is kept here under it") from None

    def has(self, dag_id: Hashable, id: Hashable) -> bool:  # noqa: A002
        """Whether there is one."""
        with self._lock:
            return id in self._values.get(dag_id, {})

    def clear(self, dag_id: Hashable) -> None:
        """Drop all values of a DAG."""
        with self._lock:
            self._values.pop(dag_id, None)

    def locations(self, dag_id: Hashable) -> Mapping[Hashable, str]:
        """``{id: "memory"}`` for a DAG."""
        with self._lock:
            return dict.fromkeys(self._values.get(dag_id, {}), "memory")
