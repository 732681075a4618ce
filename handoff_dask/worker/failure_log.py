"""Failed attempts in the log of a worker: one line that names the function, not a page.

What is raised in the end has the traceback, and ``execution.logs`` what the function printed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from handoff_dask.protocol.manifest import run_of
from handoff_dask.visualization.texts import shortened

#: How Dask's message of a task that has failed begins.
_FAILED = "Compute Failed"


#: Lines in so many seconds; what is beyond them is counted.
LINES, WINDOW_S = 20, 10.0
#: Characters of an exception.
SHOWN = 300


class Brief(logging.Filter):
    """Shortens Dask's message of each attempt of ours that has raised; what would flood a log is counted."""

    def __init__(self) -> None:
        super().__init__()
        self._began = -WINDOW_S
        self._told = 0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass, made short, but for more of our lines than anybody reads."""
        args = record.args
        if not (str(record.msg).startswith(_FAILED) and isinstance(args, Sequence) and len(args) >= 4):
            return True
        key = str(args[0])
        if run_of(key)[0] is None:
            return True
        if record.created - self._began >= WINDOW_S:
            self._began, self._told = record.created, 0
        if self._told == LINES:
            self._left_out += 1
            return False
        self._told += 1
        notes = [f"task {key}"]
        if self._left_out:
            notes.append(f"{self._left_out} more attempts have raised before it")
            self._left_out = 0
        if self._told == LINES:
            notes.append("more such lines are left out for a while")
        name, error = key.rsplit("-", 2)[0], shortened(str(args[3]), SHOWN)
        record.msg, record.args = "%s has raised %s (%s)", (name, error, "; ".join(notes))
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


_brief = Brief()


def shorten() -> None:
    """Make the messages of this process short; again is harmless."""
    log = logging.getLogger("distributed.worker")
    if _brief not in log.filters:
        log.addFilter(_brief)
