"""Clusters inside the process, and what is behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed import Scheduler
from distributed.utils_test import gen_cluster
from stage import until

from handoff_dask.placement.engine import PlacementEngine


def live(*threads: int, **options: Any) -> Callable[[Any], Any]:
    """A test with a client and workers named 0, 1, …, each with so many threads; all check themselves."""
    nthreads = [("127.0.0.1", n) for n in threads or (1, 2)]
    config = {
        "distributed.scheduler.validate": True,
        "distributed.worker.validate": True,
        **options.pop("config", {}),
    }
    return gen_cluster(nthreads=nthreads, client=True, timeout=60, config=config, **options)


def engine_of(scheduler: Scheduler) -> PlacementEngine:
    """The engine of a scheduler in this process."""
    return scheduler.plugins["handoff"].driver.engine


async def settled(scheduler: Scheduler, **causes: int) -> None:
    """Until the engine has decided all it knows, and so many functions wait, by cause."""
    driver = scheduler.plugins["handoff"].driver

    def waits() -> bool:
        return driver.is_idle and driver.engine.waiting_by_cause() == causes

    await until(waits, lambda: f"functions wait for {driver.engine.waiting_by_cause()}, not {causes}")


async def nothing_claimed(scheduler: Scheduler) -> None:
    """Until no node holds anything any more: all claims have come back."""
    engine = engine_of(scheduler)

    def held() -> dict[str, Any]:
        nodes = engine.nodes().values()
        return {n.name: (n.used, n.threads_used) for n in nodes if n.threads_used or any(n.used.values())}

    await until(lambda: not held(), lambda: f"nodes still hold {held()}")


async def all_forgotten(scheduler: Scheduler) -> None:
    """Until nothing is kept of any run, neither by the engine nor by the plugin."""
    plugin = scheduler.plugins["handoff"]

    def kept() -> dict[str, Any]:
        engine = {k: n for k, n in engine_of(scheduler).remembers().items() if k != "nodes"}
        registry = {"runs": len(plugin.runs.by_token), "functions": len(plugin.runs.functions)}
        return {**engine, **{k: n for k, n in registry.items() if n}}

    await until(lambda: not kept(), lambda: f"still kept are {kept()}")
