"""Holding Python's cyclic garbage collector while many objects are made that are not in cycles.

With 100,000 functions the collector looks at the same living objects again and again: it made up a
third of the time of a submission, and all of what grew per function with the size of a DAG.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["LARGE", "collector_held"]

#: From so many functions on, holding the collector gains more than a millisecond.
LARGE = 2_000

_lock = threading.Lock()
_holders = 0
_was_enabled = False


@contextmanager
def collector_held(functions: int) -> Iterator[None]:
    """Hold the collector for the time of a block, if it is about at least :data:`LARGE` functions.

    Blocks of several threads may overlap; the last one to end lets it go on, if it was on before.
    """
    global _holders, _was_enabled  # noqa: PLW0603  # the collector is the process's
    if functions < LARGE:
        yield
        return
    with _lock:
        if not _holders:
            _was_enabled = gc.isenabled()
            gc.disable()
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if not _holders and _was_enabled:
                gc.enable()
