"""The lanes by which a worker admits functions that were sent ahead.

Dask's worker counts them like its resources: what is left of a lane is in ``available_resources``, and what
a task takes of it in the task's ``resource_restrictions``.  But a lane is no resource.  Neither a user nor
Dask's scheduler sees one: a lane is hidden in the worker's counts, and a task brings what it takes in an
annotation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from handoff_dask.protocol.names import ADMISSION, LANE_UNITS, LANES

if TYPE_CHECKING:
    from distributed import Worker

#: Dask's stream, scheduler to worker: run a task.
COMPUTE_TASK = "compute-task"

_LANES = frozenset(LANES)


class WithLanes(dict[str, float]):
    """Resources of a worker; its lanes are found and changed by name, but not listed.

    Examples
    --------
    >>> counts = WithLanes({"cpu": 2})
    >>> counts["handoff-lane-0"] -= 720_720
    >>> counts, len(counts), counts["handoff-lane-0"]
    ({'cpu': 2}, 1, 0)
    """

    def __init__(self, resources: Mapping[str, float]) -> None:
        super().__init__(resources)
        self._lanes: dict[str, float] = {}

    def __missing__(self, name: str) -> float:
        if name not in _LANES:
            raise KeyError(name)
        return self._lanes.get(name, LANE_UNITS)

    def __setitem__(self, name: str, amount: float) -> None:
        if name in _LANES:
            self._lanes[name] = amount
        else:
            super().__setitem__(name, amount)

    def copy(self) -> WithLanes:
        """Copy the lanes too."""
        same = WithLanes(self)
        same._lanes.update(self._lanes)
        return same


class _ComputeTask:
    """Dask's handler of tasks that are to run, which are told what they take of a lane."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self.handler = handler

    def __call__(self, **message: Any) -> Any:
        taken = (message.get("annotations") or {}).get(ADMISSION)
        if taken:
            message["resource_restrictions"] = {**(message["resource_restrictions"] or {}), **taken}
        return self.handler(**message)


def admit_by_lanes(worker: Worker) -> None:
    """Have a worker admit by their lanes the tasks that name one."""
    state = worker.state
    if not isinstance(state.total_resources, WithLanes):
        state.total_resources = WithLanes(state.total_resources)
        state.available_resources = WithLanes(state.available_resources)
    handler = worker.stream_handlers[COMPUTE_TASK]
    if not isinstance(handler, _ComputeTask):
        worker.stream_handlers[COMPUTE_TASK] = _ComputeTask(handler)


def admit_by_resources(worker: Worker) -> None:
    """Have a worker admit tasks by its resources only, as before; what has come keeps its lane."""
    handler = worker.stream_handlers[COMPUTE_TASK]
    if isinstance(handler, _ComputeTask):
        worker.stream_handlers[COMPUTE_TASK] = handler.handler
