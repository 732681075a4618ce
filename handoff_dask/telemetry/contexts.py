"""Context that travels with a DAG, so that what is traced on a node joins the client's trace."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import TypeAlias

__all__ = ["CarrierSource", "add_carrier", "carrier"]

#: Called with a DAG's id when it is submitted; gives what its functions shall carry.
CarrierSource: TypeAlias = Callable[[Hashable], dict[str, str]]

_lock = threading.Lock()
_sources: tuple[CarrierSource, ...] = ()

logger = logging.getLogger("handoff_dask.telemetry")


def add_carrier(source: CarrierSource) -> Callable[[], None]:
    """Let each DAG carry what ``source(dag_id)`` gives; return what ends that."""
    global _sources

    def carry(dag_id: Hashable) -> dict[str, str]:
        return source(dag_id)

    def remove() -> None:
        global _sources
        with _lock:
            _sources = tuple(s for s in _sources if s is not carry)

    with _lock:
        _sources = (*_sources, carry)
    return remove


def carrier(dag_id: Hashable) -> dict[str, str]:
    """What a DAG that is being submitted carries to its nodes; empty if nobody gave anything.

    Called once per execution, in the thread that submits; a source that raises is logged.
    """
    carried: dict[str, str] = {}
    for source in _sources:
        try:
            carried.update(source(dag_id))
        except Exception:
            logger.exception("no trace context for DAG %r", dag_id)
    return carried
