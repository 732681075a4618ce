"""Who uses plain Dask on a cluster with handoff does not notice it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

from distributed import Event, Worker
from distributed.utils_test import gen_cluster, inc
from distributed.worker_state_machine import ComputeTaskEvent, ExecuteSuccessEvent, WorkerState
from stage import until

from handoff_dask import Function, Handoff
from handoff_dask.protocol.names import ADMISSION, LANE_UNITS, LANES
from handoff_dask.worker.admission import admit_by_lanes, admit_by_resources


def _hold() -> None:
    Event("go").wait()


def _sent(handler: Callable[..., Any], key: str, taken: dict[str, float]) -> None:
    """A task comes to a worker, which takes so much of its lanes."""
    event = ComputeTaskEvent.dummy(key, stimulus_id="test")
    told = {name: getattr(event, name) for name in ComputeTaskEvent.__slots__}
    handler(**{**told, "annotations": {ADMISSION: taken}}, stimulus_id=event.stimulus_id)


def test_a_lane_admits_one_after_the_other_and_is_no_resource():
    """Fails if Dask's workers count resources otherwise than they did."""
    state = WorkerState(nthreads=3, resources={"gpu": 1}, validate=True)

    def compute_task(**told: Any) -> None:
        state.handle_stimulus(ComputeTaskEvent(**told))

    worker: Any = SimpleNamespace(state=state, stream_handlers={"compute-task": compute_task})
    admit_by_lanes(worker)
    handler = worker.stream_handlers["compute-task"]
    for key in ("first", "second"):
        _sent(handler, key, {LANES[0]: LANE_UNITS})
    _sent(handler, "other lane", {LANES[1]: LANE_UNITS // 2})

    assert {task.key for task in state.executing} == {"first", "other lane"}
    assert [task.key for task in state.constrained] == ["second"]
    assert state.total_resources == state.available_resources == {"gpu": 1}
    state.handle_stimulus(ExecuteSuccessEvent.dummy("first", run_id=0, stimulus_id="test"))
    assert {task.key for task in state.executing} == {"second", "other lane"}
    state.validate_state()
    admit_by_resources(worker)
    assert worker.stream_handlers["compute-task"] is compute_task


@gen_cluster(client=True, nthreads=[("127.0.0.1", 2)], worker_kwargs={"resources": {"disk": 1}})
async def test_workers_have_the_resources_that_they_were_given_and_no_others(c, s, a):
    async with Handoff(c) as session:
        await session.execute([Function(i, [], _brief, cost={"cpu": 1}) for i in range(20)])
        run = await session.submit([Function(i, [], _hold, cost={"cpu": 1}) for i in range(40)])
        await until(lambda: a.state.executing)
        assert a.state.total_resources == {"disk": 1}
        assert a.state.available_resources == {"disk": 1}
        assert s.workers[a.address].resources == {"disk": 1}
        assert set(s.resources) == {"disk"}
        assert s.identity()["workers"][a.address]["resources"] == {"disk": 1}
        await Event("go").set()
        await run


def _brief() -> None:
    pass


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)] * 2)
async def test_times_of_a_transfer_are_those_of_the_tasks(c, s, a, b):
    """Dask's measurement of the clock may be off by what the registration took."""
    async with Handoff(c):
        b.scheduler_delay = 0.1
        x = c.submit(inc, 1, key="x", workers=[a.address])
        await c.submit(inc, x, key="y", workers=[b.address])
        transfer, compute = b.state.tasks["y"].startstops
        assert transfer["stop"] < compute["start"]


class _OwnWorker(Worker):
    """Somebody's own kind of worker."""

    fetched: ClassVar[list[Any]] = []

    async def gather_dep(self, *args: Any, **kwargs: Any) -> Any:
        event = await super().gather_dep(*args, **kwargs)
        self.fetched.append(event)
        return event


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)])
async def test_workers_of_a_class_of_ones_own_fetch_what_their_tasks_take(c, s, a):
    async with Handoff(c), _OwnWorker(s.address) as own:
        x = c.submit(inc, 1, key="x", workers=[a.address])
        assert await c.submit(inc, x, key="y", workers=[own.address]) == 3
        assert len(own.fetched) == 1
