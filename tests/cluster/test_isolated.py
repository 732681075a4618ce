"""Isolated functions: in warm processes of their node, ended at once, measured and held to their claims."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from clusters import live, nothing_claimed
from distributed import Client
from stage import until, until_sync

import handoff_dask as handoff
from handoff_dask import (
    Function,
    FunctionFailedError,
    FunctionTimeoutError,
    MemoryExceededError,
    ProcessEndedError,
)


def pid(*after):
    return os.getpid()


def sleeps(path, *, then=None):
    """Says who it is, and takes long."""
    Path(path).write_text(str(os.getpid()), encoding="utf-8")
    time.sleep(60)


def leaks(megabytes):
    held = []
    for _ in range(int(megabytes // 10)):
        held.append(np.ones(1_250_000))
        time.sleep(0.01)
    return len(held)


def segfaults():
    ctypes.string_at(0)


def environment():
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    return {name: os.environ[name] for name in names}, handoff.devices()


def says():
    print("printed")
    logging.getLogger("mine").warning("logged %s", 7)
    return handoff.current()


class Odd(Exception):
    def __init__(self, a, b):
        super().__init__(a)


def raises(kind):
    if kind == "odd":
        raise Odd(1, 2)
    raise ValueError("wrong", 3)


def is_gone(number):
    try:
        return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def said_pid(path):
    await until(lambda: path.exists() and path.read_text(encoding="utf-8"))
    return int(path.read_text(encoding="utf-8"))


@live(2)
async def test_a_process_is_kept_for_the_next_one(client, scheduler, worker):
    session = await handoff.start(client)
    chain = [Function(i, [i - 1] if i else [], pid, isolated=True) for i in range(4)]

    first = (await session.execute(chain)).results
    second = (await session.execute(chain)).results

    assert len({*first.values(), *second.values()}) == 1
    assert os.getpid() not in first.values()
    wide = (await session.execute([Function("wide", [], pid, cost={"cpu": 2}, isolated=True)])).results
    assert wide["wide"] not in first.values()
    await nothing_claimed(scheduler)


@live(2)
async def test_values_travel_in_and_out(client, scheduler, worker):
    session = await handoff.start(client)
    large = np.arange(500_000)
    dag = handoff.DAG()
    dag.add_function(Function("large", [], np.copy, extra_args=[large], isolated=True))
    dag.add_function(Function("twice", ["large"], lambda x, by: x * by, kwargs={"by": 2}, isolated=True))
    dag.add_function(Function("sum", ["twice"], lambda x: int(x.sum())))

    result = await session.execute(dag)

    assert result["sum"] == 2 * int(large.sum())
    assert (result["large"] == large).all()
    with pytest.raises(FunctionFailedError, match="pickle"):
        await session.execute([Function("f", [], lambda: (i for i in ()), isolated=True, max_retries=0)])


@live(2)
async def test_how_it_ends_is_its_own_failure(client, scheduler, worker):
    """None of these is the death of a worker; others on the node go on."""
    session = await handoff.start(client)
    ways = {"exit": (sys.exit, 3, None), "leave": (os._exit, 4, None), "crash": (segfaults, -11, "SIGSEGV")}
    beside = await session.submit([Function("beside", [], time.sleep, extra_args=[1.0])])
    for name, (code, exit_code, signal_name) in ways.items():
        args = [] if name == "crash" else [exit_code]
        with pytest.raises(FunctionFailedError) as failed:
            await session.execute([Function(name, [], code, extra_args=args, isolated=True, max_retries=0)])
        assert isinstance(failed.value.__cause__, ProcessEndedError)
        assert (failed.value.__cause__.exit_code, failed.value.__cause__.signal) == (exit_code, signal_name)
    await beside
    assert len(scheduler.workers) == 1
    await nothing_claimed(scheduler)


@live(2)
async def test_an_exception_is_the_functions_own(client, scheduler, worker):
    session = await handoff.start(client)
    with pytest.raises(FunctionFailedError) as failed:
        await session.execute([Function("f", [], raises, extra_args=["v"], isolated=True, max_retries=0)])
    assert repr(failed.value.__cause__) == "ValueError('wrong', 3)"
    frames = []
    trace = failed.value.__cause__.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert frames[-1] == "raises"
    with pytest.raises(FunctionFailedError, match="Odd: 1"):
        await session.execute([Function("f", [], raises, extra_args=["odd"], isolated=True, max_retries=0)])


@live(2)
async def test_more_memory_than_claimed_ends_it_and_no_other(client, scheduler, worker):
    session = await handoff.start(client)
    await session.update_node_resources("0", {"memory": 4000})
    leak = Function("leak", [], leaks, extra_args=[1000], cost={"memory": 200}, isolated=True, max_retries=0)
    modest = Function("modest", [], leaks, extra_args=[50], cost={"memory": 200}, isolated=True)
    neighbour = await session.submit([modest])

    with pytest.raises(FunctionFailedError, match="claims 200 MB of memory and held") as failed:
        await session.execute([leak])

    cause = failed.value.__cause__
    assert isinstance(cause, MemoryExceededError)
    assert cause.claimed == 200
    assert 200 < cause.peak < 700
    assert (await neighbour).results == {"modest": 5}
    await nothing_claimed(scheduler)


@pytest.mark.parametrize("how", ["cancel", "timeout", "fail fast"])
def test_it_is_ended_at_once(how, tmp_path):
    """Long before it would have ended; its process and its claim are gone."""

    @live(2)
    async def check(client, scheduler, worker):
        path, cue = tmp_path / "pid", tmp_path / "cue"
        session = await handoff.start(client)
        # What its module imports takes its time in a new process.
        await session.execute([Function("warm", [], pid, isolated=True)])
        timeout = 1.0 if how == "timeout" else None
        dag = [Function("slow", [], sleeps, extra_args=[str(path)], isolated=True, timeout=timeout)]
        if how == "fail fast":
            dag.append(Function("bad", [], fails_then, extra_args=[str(cue)]))
        execution = await session.submit(dag, max_retries=0)
        number = await said_pid(path)
        began = time.monotonic()
        cue.touch()
        if how == "cancel":
            await execution.cancel()
        else:
            with pytest.raises(FunctionFailedError) as failed:
                await execution
            expected = FunctionTimeoutError if how == "timeout" else ValueError
            assert isinstance(failed.value.__cause__, expected)
        await until(lambda: is_gone(number))
        await nothing_claimed(scheduler)
        assert time.monotonic() - began < 10

    check()


def fails_then(path):
    while not Path(path).exists():
        time.sleep(0.01)
    raise ValueError("soon")


@live(4)
async def test_its_environment_says_what_it_claims(client, scheduler, worker):
    session = await handoff.start(client)
    await session.update_node_resources("0", {"gpu": 2, "cpu": 4})
    costs = {"plain": {}, "wide": {"cpu": 3}, "half": {"cpu": 0.5, "gpu": 0.5}, "both": {"gpu": 2}}
    result = {}
    for name, cost in costs.items():
        function = Function(name, [], environment, cost=cost, isolated=True)
        result.update((await session.execute([function])).results)

    def said(threads, devices):
        return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": devices}

    assert result == {
        "plain": (said("1", ""), {}),
        "wide": (said("3", ""), {}),
        "half": (said("1", "0"), {"gpu": [0]}),
        "both": (said("1", "0,1"), {"gpu": [0, 1]}),
    }


@live(2)
async def test_it_says_what_others_say(client, scheduler, worker):
    session = await handoff.start(client)
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("mine").addHandler(handler)
    try:
        result = await session.execute(
            [Function("f", [], says, cost={"cpu": 1}, isolated=True)], max_retries=0
        )
    finally:
        logging.getLogger("mine").removeHandler(handler)

    assert [record.getMessage() for record in records] == ["logged 7"]
    here = result["f"]
    assert (here.function_id, here.attempt, here.node, here.cost) == ("f", 1, "0", {"cpu": 1})


def test_no_process_outlives_its_worker(tmp_path):
    """Not even a worker that is killed."""
    file = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--scheduler-file", str(file), "--no-dashboard"]
    program = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", *options]
    scheduler = subprocess.Popen(program, stderr=subprocess.DEVNULL)
    until_sync(file.exists)
    program = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny", *options]
    worker = subprocess.Popen(program, stderr=subprocess.DEVNULL)
    try:
        with Client(scheduler_file=str(file)) as client, handoff.Handoff(client) as session:
            client.wait_for_workers(1, timeout=60)
            slow = Function("slow", [], "time:sleep", extra_args=[60], isolated=True, max_retries=0)
            session.submit([slow])
            started = partial(psutil.Process(worker.pid).children, recursive=True)
            # What they are forked from, and one of them.
            until_sync(lambda: len(started()) >= 2, patience_s=60)
            numbers = [process.pid for process in started()]
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            until_sync(lambda: all(map(is_gone, numbers)))
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


@pytest.mark.parametrize("kind", ["inline", "input"])
def test_only_regular_functions_are_isolated(kind):
    with pytest.raises(handoff.InvalidFunctionError, match="isolated"):
        Function("f", [], None if kind == "input" else int, type=kind, isolated=True)
    with pytest.raises(handoff.InvalidFunctionError, match="isolated"):
        Function("f", [], int, isolated=1)
