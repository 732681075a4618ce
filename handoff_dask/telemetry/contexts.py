"""Context that travels with a DAG, so that what is traced on a node joins the client's trace."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import TypeAlias

__all__ = ["CarrierSource", "Carriers"]

#: Called with a DAG's id when it is submitted; gives what its functions shall carry.
CarrierSource: TypeAlias = Callable[[Hashable], dict[str, str]]

logger = logging.getLogger("handoff_dask.telemetry")


class Carriers:
    """What the DAGs that are submitted in this process carry to their nodes.

    Examples
    --------
    >>> carriers = Carriers()
    >>> remove = carriers.add_carrier(lambda dag_id: {"ticket": f"about {dag_id}"})
    >>> carriers.carrier("etl")
    {'ticket': 'about etl'}
    >>> remove()
    >>> carriers.carrier("etl")
    {}
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sources: tuple[CarrierSource, ...] = ()

    def add_carrier(self, source: CarrierSource) -> Callable[[], None]:
        """Let each DAG carry what ``source(dag_id)`` gives; return what ends that."""

        def carry(dag_id: Hashable) -> dict[str, str]:
            return source(dag_id)

        def remove() -> None:
            with self._lock:
                self._sources = tuple(s for s in self._sources if s is not carry)

        with self._lock:
            self._sources = (*self._sources, carry)
        return remove

    def carries(self) -> bool:
        """Whether anybody gives DAGs something to carry."""
        return bool(self._sources)

    def carrier(self, dag_id: Hashable) -> dict[str, str]:
        """What a DAG that is being submitted carries; empty if nobody gave anything.

        Called once per execution, in the context of the submitting code.  A source that raises is logged.
        """
        carried: dict[str, str] = {}
        for source in self._sources:
            try:
                carried.update(source(dag_id))
            except Exception:
                logger.exception("the DAG %r goes without the context of %r", dag_id, source)
        return carried


_carriers = Carriers()

add_carrier = _carriers.add_carrier
carrier = _carriers.carrier
carries = _carriers.carries
