"""An engine that is checked when its test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import Event
from tests.placement.facts import SETTINGS, opened

MakeEngine = Callable[..., PlacementEngine]


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    """Engines that have been told something at 0 s; without a run, the run "run" is opened.

    Options are settings that differ from those of most tests.
    """
    engines: list[PlacementEngine] = []

    def make(*events: Event, **options: Any) -> PlacementEngine:
        engine = PlacementEngine(replace(SETTINGS, **options))
        engines.append(engine)
        if not any(type(event).__name__ == "RunOpened" for event in events):
            events = (*events, opened())
        engine.handle_all(events, now=0)
        return engine

    yield make
    for engine in engines:
        engine.check()


@pytest.fixture
def engine(make_engine: MakeEngine) -> PlacementEngine:
    """An engine with no nodes and the run "run"."""
    return make_engine()
