"""What a cache knows of an execution in this process: values that are read before it begins."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from handoff_dask.graph.dag import DAG
from handoff_dask.graph.expansion import Expansion
from handoff_dask.graph.functions import FunctionId
from handoff_dask.reuse.cache import Cache, DamagedCacheWarning, Hit
from handoff_dask.reuse.fingerprint import details
from handoff_dask.reuse.plan import Plan, plan
from handoff_dask.reuse.reasons import note_codes, record_of

__all__ = ["Known"]

logger = logging.getLogger(__name__)


class Known:
    """The results of an execution that need not be computed.

    Parameters
    ----------
    dag, expansion, inputs
        What is executed.
    cache
        Where results are found and kept.
    """

    def __init__(
        self, dag: DAG, expansion: Expansion, inputs: Mapping[FunctionId, Any], cache: Cache
    ) -> None:
        self._cache = cache
        found = details(dag, inputs)
        missed: set[str] = set()
        while True:
            self.plan: Plan = plan(dag, expansion, found, cache.present, missed)
            #: ``{function id: value}`` of what functions that run take, and of what is wanted.
            self.values = self._read(expansion, missed)
            if self.values is not None:
                break
        note_codes(cache, [found[i] for i in self.plan.run if i in found])
        run = self.plan.run
        bodies = {
            key: replace(body, after=tuple([other for other in body.after if other in run]))
            for key, body in expansion.bodies.items()
            if key in run
        }
        #: What runs.
        self.remaining = replace(expansion, bodies=bodies)

    def _read(self, expansion: Expansion, missed: set[str]) -> dict[FunctionId, Any] | None:
        """The values that are needed; ``None`` if one is missing, which is noted."""
        values: dict[FunctionId, Any] = {}
        wanted = [key for key in expansion.outputs if key in self.plan.reused]
        is_whole = True
        for key in dict.fromkeys([*wanted, *self.plan.read]):
            fingerprint = self.plan.fingerprint(key)
            assert fingerprint is not None
            hit = self._cache.get(fingerprint, warn=False)  # told with the function's id
            if isinstance(hit, Hit):
                values[key] = hit.value
            else:
                warnings.warn(
                    f"function {key!r} is computed again: {hit.why}", DamagedCacheWarning, stacklevel=2
                )
                missed.add(fingerprint)
                is_whole = False
        return values if is_whole else None

    def keep(self, function_id: FunctionId, value: Any) -> None:
        """Keep a result, if it may be kept; what cannot be is no failure."""
        fingerprint = self.plan.fingerprint(function_id)
        if fingerprint is None:
            return
        record = record_of(function_id, self.plan.details[function_id])
        try:
            self._cache.put(fingerprint, value, record)
        except Exception as error:  # whatever pickling the value or writing it raises
            logger.warning("the result of %r is not kept in %r (%r)", function_id, self._cache, error)
