"""What all tests share: a strict Dask, and property tests without deadlines."""

from __future__ import annotations

from collections.abc import Iterator

import dask
import pytest
from hypothesis import settings

# How long one example takes depends on the machine; pytest-timeout ends what hangs.
settings.register_profile("handoff", deadline=None)
settings.load_profile("handoff")


@pytest.fixture(autouse=True, scope="session")
def strict_dask() -> Iterator[None]:
    """Let Dask's scheduler check itself after every transition."""
    with dask.config.set({"distributed.scheduler.validate": True}):
        yield
