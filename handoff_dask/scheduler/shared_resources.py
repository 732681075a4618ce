"""What clients say of resources that the whole cluster shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from handoff_dask.errors import ValidationError
from handoff_dask.placement.events import SharedRegistered
from handoff_dask.resources import amount_of
from handoff_dask.scheduler.engine_driver import EngineDriver
from handoff_dask.scheduler.nodes import Nodes
from handoff_dask.scheduler.runs import Runs


class SharedRegister:
    """Registers shared resources, and lists them.

    Parameters
    ----------
    runs, nodes
        What is known of runs and workers.
    driver
        Of the engine.
    """

    def __init__(self, runs: Runs, nodes: Nodes, driver: EngineDriver) -> None:
        self._runs = runs
        self._nodes = nodes
        self._driver = driver

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What clients may ask."""
        return {"register_shared": self.register, "shared_resources": self.amounts}

    async def register(self, client: str, name: str, units: int) -> None:
        """The whole cluster has so much of a resource; what holds it goes on if there is less than before.

        Raises
        ------
        ValidationError
            If a node declares the name, or an open run says how much of it a node has.
        """
        await self._nodes.all_reported()
        if name not in self._nodes.shared:
            self._refuse_declared(name)
        self._nodes.shared[name] = units
        self._driver.gather([SharedRegistered(name=name, total=units)])
        self._driver.flush()

    def _refuse_declared(self, name: str) -> None:
        for node, offer in self._nodes.offers().items():
            if name in offer.amounts or name in offer.labels:
                raise ValidationError(
                    f"{name!r} cannot be shared by the cluster: node {node!r} declares it; "
                    "take it out of the node's resources, or choose another name"
                )
        open_runs = [run.manifest for run in self._runs.open()]
        for manifest in [*open_runs, *(announced.manifest for announced in self._runs.announced.values())]:
            if any(
                name in offer.amounts or name in offer.labels
                for offer in (manifest.options.nodes or {}).values()
            ):
                raise ValidationError(
                    f"{name!r} cannot be shared by the cluster while an execution runs whose resources "
                    "name it; wait until that is over, or choose another name"
                )

    def amounts(self, client: str = "") -> dict[str, int | float]:
        """``{name: how much the cluster has of it}``, by name."""
        return {name: amount_of(units) for name, units in sorted(self._nodes.shared.items())}
