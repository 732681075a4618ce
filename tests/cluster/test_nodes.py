"""Nodes: what they have, what users say they have, what is free."""

from __future__ import annotations

import sys
import types

import dask
import pytest
from clusters import live, nothing_claimed, settled
from distributed import Worker, get_worker
from stage import until

import handoff_dask as handoff
from handoff_dask import Function

MEMORY = 500_000_000


def strip(nodes, *names):
    """Only these resources, by node."""
    return {node: {n: v for n, v in has.items() if n in names} for node, has in nodes.items()}


# ---------------------------------------------------------------------- detection


@live(1, 3, worker_kwargs={"memory_limit": MEMORY})
async def test_threads_and_memory_are_detected(c, s, a, b):
    async with handoff.Handoff(c) as session:
        assert await session.discover_nodes() == {
            "0": {"cpu": 1, "memory": 500},
            "1": {"cpu": 3, "memory": 500},
        }


@live(2, worker_kwargs={"memory_limit": 0, "resources": {"cpu": 0.5, "licence": 3, "gpu": 2}})
async def test_declared_resources_win_over_detection_and_registration_over_both(c, s, a):
    async with handoff.Handoff(c) as session:
        assert await session.discover_nodes() == {"0": {"cpu": 0.5, "licence": 3, "gpu": 2}}
        await session.register_node("0", {"cpu": 8, "zone": "eu", "memory": "2 GB"})
        expected = {"cpu": 8, "licence": 3, "gpu": 2, "memory": 2000, "zone": "eu"}
        assert await session.discover_nodes() == {"0": expected}


@live(2, worker_kwargs={"memory_limit": 0})
async def test_resources_that_are_no_amounts_are_left_out(c, s, a):
    """Dask takes them, unless it checks itself; the worker is a node all the same."""
    with dask.config.set({"distributed.worker.validate": False}):
        odd = Worker(s.address, name="odd", nthreads=1, memory_limit=0, resources={"endless": float("inf")})
        async with handoff.Handoff(c) as session, odd:
            assert await session.discover_nodes() == {"0": {"cpu": 2}, "odd": {"cpu": 1}}


class FakeNvml(types.ModuleType):
    """A machine with two cards."""

    def __init__(self, *names):
        super().__init__("pynvml")
        self.names, self.open = names, 0

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, i):
        return self.names[i]

    def nvmlDeviceGetName(self, handle):
        if handle is None:
            raise RuntimeError("lost")
        return handle


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ((b"A100", "A100"), {"gpu": 2, "gpu_model": "A100"}),
        (("A100", "T4"), {"gpu": 2, "gpu_model": ["A100", "T4"]}),
        ((), {}),
        ((None,), {}),
    ],
)
def test_gpus_are_detected_by_nvml(monkeypatch, cards, expected):
    nvml = FakeNvml(*cards)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)

    @live(1)
    async def body(c, s, a):
        async with handoff.Handoff(c) as session:
            found = strip(await session.discover_nodes(), "gpu", "gpu_model")["0"]
            if isinstance(expected.get("gpu_model"), str):
                found["gpu_model"] = "".join(found["gpu_model"])
            assert found == expected
            if expected:
                result = await session.execute([Function("f", [], int, cost={"gpu": 1, "gpu_model": "A100"})])
                assert result.results == {"f": 0}

    body()
    assert nvml.open == 0


def test_nvml_without_a_driver_means_no_gpus(monkeypatch):
    nvml = FakeNvml("A100")

    def nvmlInit():
        raise RuntimeError("no driver")

    nvml.nvmlInit = nvmlInit
    monkeypatch.setitem(sys.modules, "pynvml", nvml)

    @live(1)
    async def body(c, s, a):
        async with handoff.Handoff(c) as session:
            assert "gpu" not in (await session.discover_nodes())["0"]

    body()


# ---------------------------------------------------------------------- registration


@live(2, worker_kwargs={"memory_limit": 0})
async def test_bytes_for_megabytes_are_warned_of(c, s, a):
    """Memory is in megabytes; no machine has a hundred terabytes."""
    async with handoff.Handoff(c) as session:
        with pytest.warns(UserWarning, match=r"1\.6e\+10 MB of memory.*did you mean 16000\?"):
            await session.register_node("0", {"memory": 16e9})
        await session.register_node("0", {"memory": 1_000_000})


@live(2, 2, worker_kwargs={"memory_limit": 0})
async def test_registering_replaces_updating_merges(c, s, a, b):
    async with handoff.Handoff(c) as session:
        await session.register_node("0", {"cpu": 4, "zone": "eu", "ssd": True})
        await session.register_node("0", {"cpu": 3, "disk": 10})
        assert await session.discover_nodes() == {"0": {"cpu": 3, "disk": 10}, "1": {"cpu": 2}}
        await session.update_node_resources("0", {"disk": 5, "zone": ["eu", "us"]})
        await session.update_node_resources(b.address, {"gpu": 1})
        nodes = await session.discover_nodes()
        assert nodes == {
            "0": {"cpu": 3, "disk": 5, "zone": ["eu", "us"]},
            "1": {"cpu": 2, "gpu": 1},
        }
        await session.register_node(b.address, {"cpu": 1})
        assert (await session.discover_nodes())["1"] == {"cpu": 1}


@live(2)
async def test_bad_capabilities_and_unknown_nodes_are_refused(c, s, a):
    async with handoff.Handoff(c) as session:
        before = await session.discover_nodes()
        for call in (session.register_node, session.update_node_resources):
            for wrong in ({"cpu": -1}, {"cpu": float("nan")}, {"memory": "12"}, ["cpu"], {1: 2}):
                with pytest.raises(handoff.ValidationError):
                    await call("0", wrong)
            with pytest.raises(handoff.NotFoundError, match="nowhere") as caught:
                await call("nowhere", {"cpu": 1})
            assert isinstance(caught.value, KeyError)
        assert await session.discover_nodes() == before


@live(2, 2)
async def test_growing_lets_what_waits_start(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function(n, cost={"cpu": 2}) for n in "fgh"])
        await settled(s, room=1)
        await session.update_node_resources("1", {"cpu": 4})
        await stage.sees("f", "g", "h")
        assert stage.nodes() == {"f": "0", "g": "1", "h": "1"}
        stage.close()
        await execution


@live(4)
async def test_shrinking_below_what_runs_lets_nothing_new_start_until_there_is_room(c, s, a, stage):
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function(n, cost={"cpu": 1}) for n in "abcdefg"])
        await stage.sees(*"abcd")
        await session.update_node_resources("0", {"cpu": 2})
        assert not await session.resources_available("0", {"cpu": 0.5})
        for name in "ab":
            stage.cue(name)
            await until(lambda name=name: s.tasks[execution.compiled.keys[name]].state == "memory")
        await settled(s, room=3)
        assert stage.started == [*"abcd"]
        stage.cue("c")
        await stage.sees("e")
        await settled(s, room=2)
        await session.update_node_resources("0", {"cpu": 4})
        await stage.sees("f", "g")
        stage.close()
        await execution
        await nothing_claimed(s)


@live(2, 2)
async def test_a_node_that_loses_what_a_function_needs_is_an_error(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        await session.register_node("0", {"gpu": 1})
        execution = await session.submit(
            [stage.function("first", cost={"gpu": 1}), stage.quick("second", ["first"], cost={"gpu": 1})]
        )
        await stage.sees("first")
        await session.register_node("0", {"gpu": 0})
        stage.cue("first")
        with pytest.raises(handoff.AllocationError) as caught:
            await execution.result(timeout=10)
        assert caught.value.function_id == "second"


@live(1)
async def test_what_was_registered_belongs_to_the_name(c, s, a):
    async with handoff.Handoff(c) as session:
        async with Worker(s.address, name="special", nthreads=2, memory_limit=0) as first:
            await session.register_node(first.address, {"gpu": 2, "zone": "eu"})
            await session.update_node_resources("special", {"cpu": 1})
            assert (await session.discover_nodes())["special"] == {"cpu": 1, "gpu": 2, "zone": "eu"}
        await until(lambda: len(s.workers) == 1)
        assert set(await session.discover_nodes()) == {"0"}
        with pytest.raises(handoff.NotFoundError):
            await session.register_node("special", {"cpu": 1})
        async with Worker(s.address, name="special", nthreads=2, memory_limit=0):
            assert (await session.discover_nodes())["special"] == {"cpu": 1, "gpu": 2, "zone": "eu"}


@live(2, 2)
async def test_register_local_node_means_the_worker_that_it_runs_on(c, s, a, b):
    def register(amount):
        handoff.register_local_node({"disk": amount})
        return get_worker().name

    async with handoff.Handoff(c) as session:
        dag = [Function(n, [], register, extra_args=[n + 1], node=n) for n in (0, 1)]
        await session.execute(dag)
        assert strip(await session.discover_nodes(), "disk") == {"0": {"disk": 1}, "1": {"disk": 2}}
        with pytest.raises(handoff.NotFoundError):
            await session.register_local_node({"disk": 3})


# ---------------------------------------------------------------------- availability


@live(2, 2)
async def test_resources_available_is_about_now(c, s, a, b, stage):
    async with handoff.Handoff(c) as session:
        await session.register_node("0", {"cpu": 2, "memory": 1000, "zone": "eu", "ssd": True})

        async def available(**cost):
            return await session.resources_available("0", cost)

        assert await available(cpu=2, memory=1000, zone="eu", ssd=True)
        assert not await available(cpu=2.000001)
        assert not await available(zone="us")
        assert not await available(nvme=True)
        assert await available(nvme=False)
        assert await available()
        execution = await session.submit(
            [stage.function("f", cost={"cpu": 1.5, "memory": "400 MB"}, node="0")]
        )
        await stage.sees("f")
        assert await available(cpu=0.5, memory=600)
        assert not await available(cpu=0.6)
        assert not await available(memory=601)
        assert await session.resources_available(a.address, {"cpu": 0.5})
        assert not await session.resources_available("nowhere", {})
        assert not await session.resources_available("nowhere", {"cpu": 1})
        stage.cue("f")
        await execution
        await nothing_claimed(s)
        assert await available(cpu=2, memory=1000)
        with pytest.raises(handoff.ValidationError):
            await available(cpu=-1)


@live(16, worker_kwargs={"resources": {"cpu": 1, "gpu": 1}})
async def test_fractions_are_exact(c, s, a, stage):
    names = [f"f{n}" for n in range(11)]
    async with handoff.Handoff(c) as session:
        execution = await session.submit([stage.function(n, cost={"gpu": 0.1, "cpu": 0.1}) for n in names])
        await settled(s, room=1)
        await stage.counts(10)
        assert not await session.resources_available("0", {"gpu": 0.000001})
        stage.close()
        await execution
        assert await session.resources_available("0", {"gpu": 1, "cpu": 1})


@live(1, 1, 1)
async def test_names_are_text_and_in_order(c, s, w0, w1, w2):
    async with handoff.Handoff(c) as session, Worker(s.address, name="10", nthreads=1):
        await until(lambda: len(s.workers) == 4)
        assert list(await session.discover_nodes()) == ["0", "1", "10", "2"]
        result = await session.execute([Function(n, [], int, node=n) for n in (2, 10)])
        assert result.allocations == {2: "2", 10: "10"}


@live(2)
async def test_what_was_registered_can_be_taken_back(c, s, *workers):
    """A node has again what its worker offers, whether it was named or there when it was taken back."""
    async with handoff.Handoff(c) as session:
        before = await session.discover_nodes()
        await session.register_node("0", {"cpu": 7, "gpu": 1})
        assert (await session.discover_nodes())["0"]["gpu"] == 1
        await session.unregister_node(workers[0].address)
        assert await session.discover_nodes() == before
        with pytest.raises(handoff.NotFoundError, match="nothing is registered"):
            await session.unregister_node("0")
