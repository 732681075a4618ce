"""How processes of isolated functions are started, and what travels to them: without a cluster."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from stage import until_sync

from handoff_dask import ProcessEndedError
from handoff_dask.worker.isolated import IsolatedProcesses
from handoff_dask.worker.isolated_start import CancelledInProcess


@pytest.fixture(scope="module")
def run():
    """Calls in processes that are kept for all tests of this file."""
    processes = IsolatedProcesses(4)
    yield lambda call, *args, **options: called(processes, call, *args, **options)
    processes.close()


numbers = iter(range(1000))


def called(processes, call, *args, key=None):
    return processes.run(
        key or f"key-{next(numbers)}", call, args, resources={"cpu": 1}, devices={}, carrier={},
        timeout_s=None, current=lambda: None, limit="", used=lambda usage: None,
    )  # fmt: skip


def twice(array):
    """Changes what it was given, if it may."""
    may = array.flags.writeable
    if may:
        array *= 2
    return array, may


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_arrays_travel_both_ways_and_are_what_they_were(run, size):
    array, frozen = np.arange(size, dtype=float), np.arange(size, dtype=float)
    frozen.flags.writeable = False

    doubled, was_writable = run(twice, array)
    same, was_writable_too = run(twice, frozen)

    assert (was_writable, was_writable_too) == (True, False)
    np.testing.assert_array_equal(doubled, 2 * array)
    np.testing.assert_array_equal(same, array)
    doubled[0] = 7
    assert array[0] == 0
    assert not same.flags.writeable


def shapes(*arrays):
    return [array.T for array in arrays]


def test_odd_buffers_travel_too(run):
    arrays = [np.zeros((0, 3)), np.ones((501, 701), order="F"), np.arange(7, dtype="i2")]
    arrays += [np.ones(200_000)[::2], np.zeros((0, 3))]

    for sent, got in zip(arrays, run(shapes, *arrays), strict=True):
        np.testing.assert_array_equal(got, sent.T)


def draws():
    time.sleep(0.3)
    return os.getpid(), random.random(), np.random.random()


def test_each_process_has_random_numbers_of_its_own(run):
    with ThreadPoolExecutor(3) as threads:
        drawn = list(threads.map(lambda _: run(draws), range(3)))

    assert [len(set(column)) for column in zip(*drawn, strict=True)] == [3, 3, 3]


def ends(how):
    if isinstance(how, signal.Signals):
        os.kill(os.getpid(), how)
    os._exit(how)


@pytest.mark.parametrize(("how", "code", "name"), [(3, 3, None), (signal.SIGSEGV, -11, "SIGSEGV")])
def test_how_a_process_has_ended_is_known_although_another_one_started_it(run, how, code, name):
    with pytest.raises(ProcessEndedError) as ended:
        run(ends, how)

    assert (ended.value.exit_code, ended.value.signal) == (code, name)


def is_gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_they_are_forked_from_may_die():
    processes = IsolatedProcesses(1)
    try:
        first = called(processes, os.getpid)
        psutil.Process(first).parent().kill()
        until_sync(lambda: is_gone(first))

        second = called(processes, os.getpid)
    finally:
        processes.close()

    assert second != first
    until_sync(lambda: is_gone(second))


def test_a_call_can_be_cancelled_before_its_process_is_there():
    processes = IsolatedProcesses(1)
    try:
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(called, processes, os.getpid, key="cold")
            until_sync(lambda: "cold" in processes._running)
            began = time.monotonic()
            processes.cancel("cold")
            with pytest.raises(CancelledInProcess):
                call.result(10)
        assert time.monotonic() - began < 1
        assert (processes._running, processes._cancelled) == ({}, set())
    finally:
        processes.close()
