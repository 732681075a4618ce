"""What all tests share: a strict Dask, and property tests without deadlines."""

from __future__ import annotations

import os
from collections.abc import Iterator

import dask
import pytest
from hypothesis import settings

from handoff_dask.telemetry import Registry

# How long one example takes depends on the machine; pytest-timeout ends what hangs.
settings.register_profile("explore", deadline=None)
# CI tries the same examples each time, so that it fails only for what has changed.
settings.register_profile("repeat", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "explore"))


@pytest.fixture(autouse=True, scope="session")
def strict_dask() -> Iterator[None]:
    """Let Dask's scheduler check itself after every transition."""
    with dask.config.set({"distributed.scheduler.validate": True}):
        yield


@pytest.fixture
def registry() -> Registry:
    return Registry()
