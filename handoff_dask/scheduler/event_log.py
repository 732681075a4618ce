"""The event log: what the engine was told and decided, and what became of the functions, in one file.

It is written only where ``handoff.event-log`` names a file, in the configuration of the scheduler's
process, and ends at ``handoff.event-log-limit``.  Each line is JSON.  ``dask handoff audit`` reads it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, TextIO

from distributed.metrics import time

from handoff_dask.placement.decisions import Decision
from handoff_dask.placement.encoding import encode
from handoff_dask.placement.events import Event
from handoff_dask.placement.recording import Recorder
from handoff_dask.placement.settings import EngineSettings
from handoff_dask.scheduler.engine_driver import EngineDriver
from handoff_dask.scheduler.lifecycle import LifeEvent
from handoff_dask.scheduler.observer import Observer
from handoff_dask.scheduler.runs import FunctionState, RunState
from handoff_dask.scheduler.states import State

logger = logging.getLogger(__name__)

#: The version of the format.
VERSION = 1


class EventLog(Observer):
    """Writes the log.

    Parameters
    ----------
    path
        The file; one that is there is replaced.
    limit
        Bytes, after which the log ends.
    settings
        Of the engine.
    """

    def __init__(self, path: str, limit: int, settings: EngineSettings) -> None:
        self._file: TextIO | None = open(path, "w", encoding="utf-8")  # noqa: SIM115  # closed by close()
        self._left = limit
        self._recorder = Recorder()
        self._write({"log": {"version": VERSION, "settings": encode(settings), "at": time()}})

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            return
        text = json.dumps(line, separators=(",", ":")) + "\n"
        self._left -= len(text)
        try:
            if self._left < 0:
                self._file.write('{"end":"limit"}\n')
                self.close()
            else:
                self._file.write(text)
        except OSError:
            logger.exception("the event log cannot be written any more; it ends here")
            self._file = None

    # ------------------------------------------------------------------ the engine

    def watched(self, events: Sequence[Event]) -> list[Event]:
        """The events as the engine is to be told them, so that whom it asks is recorded."""
        return list(events) if self._file is None else self._recorder.watched(events)

    def turn(self, events: Sequence[Event], decisions: Sequence[Decision], now: float) -> None:
        """The engine has had its turn."""
        turn = self._recorder.turn(events, decisions, now)
        self._write({"turn": turn})

    # ------------------------------------------------------------------ functions and runs

    def run_opened(self, run: RunState) -> None:
        """The functions of a run, with their arguments and how often each may be tried again."""
        manifest, producers = run.manifest, run.producers()
        functions = {
            f.key: [[manifest.key(p) for p in producers.get(position, ())], manifest.retries[position]]
            for position, f in run.functions.items()
        }
        self._write({"run": {"token": run.token, "functions": functions}})

    def function_changed(self, function: FunctionState, old: State, new: State, event: LifeEvent) -> None:
        """A function has changed its state."""
        attempt = function.attempt
        raised = attempt is not None and attempt.raised is not None
        line = [function.key, type(event).__name__, type(new).__name__, function.fact("node"), raised, time()]
        self._write({"life": line})

    def run_ended(self, run: RunState) -> None:
        """A run is over; what is known by now can be read."""
        self._write({"ended": {"token": run.token, "status": run.status}})
        self.flush()

    def flush(self) -> None:
        """Let the file have all that was written."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """The scheduler ends, or the log does."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def open_log(path: str, limit: int, driver: EngineDriver) -> EventLog | None:
    """Begin a log, and have the engine's driver write to it; ``None`` if the file cannot be written."""
    try:
        log = EventLog(path, limit, driver.engine.settings)
    except OSError:
        logger.exception("the event log %s cannot be written; there is none", path)
        return None
    driver.log = log
    return log
