"""What the tests on clusters share: a stage, and an engine that checks itself at every step."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from stage import Stage, staged

from handoff_dask.live.driver import Driver


@pytest.fixture
def stage() -> Iterator[Stage]:
    yield from staged()


@pytest.fixture(autouse=True)
def strict_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Assert the engine's invariants after each flush; nothing that a plugin raises goes unseen."""
    problems: list[str] = []
    flush = Driver.flush

    def checked(driver: Driver) -> None:
        try:
            flush(driver)
            driver.engine.check()
        except BaseException as error:
            problems.append(repr(error))
            raise

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            problems.append(record.getMessage())

    listener = Listener(logging.ERROR)
    # Here Dask logs what a plugin's hook raises, and goes on.
    told = [logging.getLogger(name) for name in ("distributed.scheduler", "handoff_dask", "tornado.application")]
    monkeypatch.setattr(Driver, "flush", checked)
    for logger in told:
        logger.addHandler(listener)
    yield
    for logger in told:
        logger.removeHandler(listener)
    assert not problems
