"""What runs on the workers: functions that do nothing but take time, and note when."""

from __future__ import annotations

import os
import time
from functools import cache
from typing import Any

#: ``(number, start, stop)`` of every function that has ended in this process, by the monotonic
#: clock, which all processes of a machine share.
_ended: list[tuple[int, float, float]] = []


def sleep(*args: Any) -> int:
    """Take some time.  The last two arguments are the function's number and its seconds."""
    number, duration_s = args[-2:]
    start = time.monotonic()
    time.sleep(duration_s)
    _ended.append((number, start, time.monotonic()))
    return 1


def nothing(*args: Any) -> int:
    """Take no time."""
    return 1


def wait_for_gate(path: str) -> int:
    """Take as long as a file is there."""
    while os.path.exists(path):
        time.sleep(0.05)
    return 1


def take_ended(dask_worker: Any) -> tuple[str, list[tuple[int, float, float]]]:
    """The node's name, and all that has ended there since this was last asked."""
    taken = list(_ended)
    _ended.clear()
    return str(dask_worker.name), taken


@cache
def _megabyte() -> bytes:
    """A megabyte that no compression makes smaller."""
    return os.urandom(1_000_000)


def produce(*args: Any) -> bytes:
    """Take some time and return so many megabytes: the last two arguments are the seconds and the size."""
    seconds, megabytes = args[-2:]
    time.sleep(seconds)
    return _megabyte() * int(megabytes) + _megabyte()[: int(megabytes % 1 * 1e6)]


def bytes_sent(dask_worker: Any) -> int:
    """What a worker has sent to others, by Dask's count."""
    return int(dask_worker.transfer_outgoing_bytes_total)
