"""A worker starts the first task that fits; one that does not fit blocks nobody."""

from __future__ import annotations

import random  # seeded
from types import SimpleNamespace

import pytest
from distributed import Event
from distributed.collections import HeapSet
from distributed.utils_test import gen_cluster
from stage import until

from handoff_dask import Handoff
from handoff_dask.worker.constrained_tasks import HeldBack


def task(priority, **asked):
    return SimpleTask(priority=(priority,), resource_restrictions=asked)


class SimpleTask(SimpleNamespace):
    """What is looked at of a task."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def _hold():
    Event("go").wait()


def test_first_that_fits_goes_first():
    state = SimpleNamespace(available_resources={"gpu": 0.0, "disk": 1.0})
    held = HeldBack(state)
    gpu, disk, more, late = task(1, gpu=1), task(2, disk=1), task(3, disk=2), task(4, disk=1)
    for each in (late, more, disk, gpu, gpu):
        held.add(each)
    assert len(held) == 4
    assert set(held) == {gpu, disk, more, late}
    assert list(held.sorted()) == [gpu, disk, more, late]
    assert held.pop() is disk
    assert held.peek() is late
    state.available_resources["disk"] = 0.0
    # With room for none of them it is as in Dask.
    assert held.peek() is gpu
    state.available_resources["gpu"] = 1.0
    assert held.pop() is gpu
    held.discard(gpu)
    held.discard(late)
    assert list(held) == [more]
    assert gpu not in held
    assert more in held


def test_with_room_for_all_it_is_like_dasks_own():
    chance = random.Random(1)
    state = SimpleNamespace(available_resources={"gpu": 9.0, "disk": 9.0})
    ours, dasks = HeldBack(state), HeapSet(key=lambda task: task.priority)
    for number in range(500):
        if chance.random() < 0.6 or not ours:
            new = task(chance.random(), **{chance.choice(["gpu", "disk"]): chance.choice([1, number])})
            new.resource_restrictions = {name: min(v, 9) for name, v in new.resource_restrictions.items()}
            ours.add(new)
            dasks.add(new)
        elif chance.random() < 0.3:
            gone = chance.choice(list(ours.sorted()))
            ours.discard(gone)
            dasks.discard(gone)
        else:
            assert ours.pop() is dasks.pop()
    assert list(ours.sorted()) == list(dasks.sorted())


@pytest.mark.parametrize("ours", [False, True])
def test_task_that_fits_is_not_blocked_on_a_worker(ours):
    """Fails if Dask's workers hold back otherwise than they did; without us the first one blocks."""

    @gen_cluster(
        client=True,
        nthreads=[("127.0.0.1", 4)],
        worker_kwargs={"resources": {"gpu": 1, "disk": 1}},
        config={"distributed.scheduler.validate": True, "distributed.worker.validate": True},
    )
    async def scene(c, s, a):
        session = Handoff(c)
        if ours:
            await session.start()
        go = Event("go")

        def submit(resource, priority, key):
            return c.submit(_hold, resources={resource: 1}, priority=priority, key=key)

        held = [submit("gpu", 3, "first")]
        await until(lambda: a.state.executing)
        held += [submit("gpu", 2, "behind"), submit("disk", 1, "beside")]
        await until(lambda: len(a.state.tasks) == 3)
        running = {task.key for task in a.state.executing}
        assert running == ({"first", "beside"} if ours else {"first"})
        await go.set()
        await c.gather(held)
        if ours:
            await session.stop()

    scene()


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)], worker_kwargs={"resources": {"gpu": 1}})
async def test_worker_is_left_as_it_was(c, s, a):
    session = Handoff(c)
    await session.start()
    assert isinstance(a.state.constrained, HeldBack)
    blocked = c.submit(abs, 1, resources={"gpu": 1})
    await c.unregister_worker_plugin("handoff")
    assert type(a.state.constrained) is HeapSet
    assert await blocked == 1
    await session.stop()
