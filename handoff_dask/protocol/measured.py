"""The processor time of a function's thread, told to the plugin of its worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import thread_time
from typing import Any, TypeVar

from distributed import get_worker

from handoff_dask.protocol.names import NAME

T = TypeVar("T")


def measured(call: Callable[[], T]) -> T:
    """Call something in the thread of a function, and let its worker know what that took."""
    before = thread_time()
    try:
        return call()
    finally:
        _note(thread_time() - before)


def _note(seconds: float) -> None:
    try:
        worker = get_worker()
    except ValueError:  # Dask runs the DAG in this process
        return
    plugin: Any = worker.plugins.get(NAME)
    key = worker.active_threads.get(threading.get_ident())
    if plugin is not None and key is not None:
        plugin.usage.add_cpu(key, seconds)
