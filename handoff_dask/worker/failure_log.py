"""Failed attempts in the log of a worker: one line that names the function, not a page.

What is raised in the end has the traceback, and ``execution.logs`` what the function printed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from handoff_dask.protocol.manifest import run_of

#: How Dask's message of a task that has failed begins.
_FAILED = "Compute Failed"


class Brief(logging.Filter):
    """Shortens Dask's message of each attempt of ours that has raised."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass, made short."""
        args = record.args
        if str(record.msg).startswith(_FAILED) and isinstance(args, Sequence) and len(args) >= 4:
            key = str(args[0])
            if run_of(key)[0] is not None:
                name = key.rsplit("-", 2)[0]
                record.msg, record.args = "%s has raised %s (task %s)", (name, args[3], key)
                record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


_brief = Brief()


def shorten() -> None:
    """Make the messages of this process short; again is harmless."""
    log = logging.getLogger("distributed.worker")
    if _brief not in log.filters:
        log.addFilter(_brief)
