"""What the tests on clusters share: a stage, and an engine that checks itself at every step."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from stage import Stage, staged

from handoff_dask.scheduler.engine_driver import EngineDriver
from handoff_dask.scheduler.plugin import HandoffSchedulerPlugin


@pytest.fixture
def stage() -> Iterator[Stage]:
    yield from staged()


HOOKS = ("add_worker", "remove_worker", "log_event", "update_graph", "remove_client", "restart", "transition")


@pytest.fixture
def problems() -> list[str]:
    """What has gone wrong on schedulers; a test that meant it empties it."""
    return []


@pytest.fixture(autouse=True)
def strict_engine(monkeypatch: pytest.MonkeyPatch, problems: list[str]) -> Iterator[None]:
    """Assert the engine's invariants after each flush; nothing that a plugin raises goes unseen."""

    def told(of: type, name: str, check: bool = False) -> None:
        method = getattr(of, name)

        def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                answer = method(self, *args, **kwargs)
                if check:
                    self.engine.check()
            except Exception:
                problems.append(f"{name}: {traceback.format_exc()}")
                raise
            return answer

        monkeypatch.setattr(of, name, functools.wraps(method)(watched))

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told = logging.Formatter().format(record)
            # Dask leaves futures of its own behind, too.
            if "handoff_dask" in told:
                problems.append(told)

    told(EngineDriver, "flush", check=True)
    for hook in HOOKS:
        told(HandoffSchedulerPlugin, hook)
    listener = Listener(logging.ERROR)
    loggers = [logging.getLogger(name) for name in ("tornado.application", "asyncio")]
    for logger in loggers:
        logger.addHandler(listener)
    yield
    for logger in loggers:
        logger.removeHandler(listener)
    assert not problems
