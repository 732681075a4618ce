"""Dask's own words around a DAG that is computed as a collection: heard, or refused by name.

``client.compute(dag, retries=…, priority=…, workers=…)`` and the same in ``dask.annotate`` are heard, and
costs hold all the same.  ``resources=`` is refused: functions have costs.
"""

from __future__ import annotations

import numbers
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from handoff_dask.protocol.manifest import Manifest
from handoff_dask.protocol.words import confinement_of, refusal_of

_HEARD = ("retries", "priority")


@dataclass(frozen=True, slots=True)
class Words:
    """What Dask was told of all tasks of a graph, by name."""

    said: Mapping[str, Any] = field(default_factory=dict)
    #: Keys of Dask's tasks that gather the results, and were told of resources.
    gathering: tuple[Any, ...] = ()

    def refused(self) -> str | None:
        """Why the graph is refused, if it is."""
        return refusal_of(self.said, "client.compute")

    def heard(self, manifest: Manifest) -> Manifest:
        """The manifest, with what was said instead of what stands there by default."""
        retries, priority = self.said.get("retries"), self.said.get("priority")
        if isinstance(retries, numbers.Integral):
            manifest.retries = [int(retries)] * len(manifest.retries)
        if isinstance(priority, numbers.Real):
            manifest.options = replace(manifest.options, priority=float(priority))
        nodes = confinement_of(self.said)
        if nodes is not None:
            manifest.options = replace(manifest.options, nodes=nodes)
        return manifest


#: Nothing was said.
NO_WORDS = Words()


def words_around(annotations: Mapping[str, Mapping[Any, Any]], ours: Container[Any]) -> Words:
    """What Dask was told of a whole graph.

    A function's own cost hides what is said of ``resources=``; Dask's task that gathers the results, which is
    wanted in their place, has it.
    """
    said: dict[str, Any] = {}
    for name in ("workers", "allow_other_workers", *_HEARD):
        values = [value for key, value in annotations.get(name, {}).items() if key in ours]
        if values:
            said[name] = values[0]
    resources = annotations.get("resources", {})
    gathering = tuple(key for key in resources if isinstance(key, str) and key.startswith("finalize"))
    if gathering:
        said["resources"] = resources[gathering[0]]
    return Words(said, gathering) if said else NO_WORDS
