"""What a function may ask of its own attempt while it runs on a worker."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from distributed import Worker, get_worker
from distributed.protocol import pickle
from distributed.utils import sync

from handoff_dask.protocol.manifest import run_of
from handoff_dask.protocol.names import ATTEMPT, COST, DEVICES, NAME
from handoff_dask.protocol.telemetry import KnownRun
from handoff_dask.record.current import Current

#: Runs that a worker process remembers, once a function of them has asked.
REMEMBERED = 16


def attempt_on_worker() -> Current | None:
    """The attempt that runs in this thread; ``None`` outside of one.

    Raises
    ------
    CommClosedError, OSError
        If the scheduler must be asked what the run is called, and cannot be reached.
    """
    try:
        worker = get_worker()
        key = worker.get_current_task()
    except (ValueError, KeyError):
        return None
    token, position = run_of(key)
    run = None if token is None else _introduced(worker, token)
    if run is None:
        return None
    task = worker.state.tasks.get(key)
    annotations = {} if task is None else task.annotations or {}
    return Current(
        dag_id=run.dag_id,
        function_id=run.ids[position],
        attempt=annotations.get(ATTEMPT, 1),
        node=str(worker.name),
        cost=annotations[COST] if COST in annotations else run.cost(position),
        devices=_devices(annotations),
    )


def devices_on_worker() -> dict[str, list[int]]:
    """Indices of the devices that the function has which runs in this thread; nothing outside of one."""
    try:
        worker = get_worker()
        task = worker.state.tasks.get(worker.get_current_task())
    except (ValueError, KeyError):
        return {}
    annotations = {} if task is None else task.annotations or {}
    return _devices(annotations)


def _devices(annotations: dict[str, Any]) -> dict[str, list[int]]:
    return {name: list(indices) for name, indices in annotations.get(DEVICES, {}).items()}


@lru_cache(maxsize=REMEMBERED)
def _introduced(worker: Worker, token: str) -> KnownRun | None:
    """The run of a token, if the scheduler knows it."""
    # The ids do not travel with each function: most never ask.
    handler = getattr(worker.scheduler, NAME)
    arguments = pickle.dumps({"token": token})
    answer: Any = sync(worker.loop, handler, method="introduce", client=worker.address, arguments=arguments)
    found = pickle.loads(answer["value"]) if "value" in answer else None
    return None if found is None else KnownRun(found)
