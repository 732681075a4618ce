"""A short soak: a few seconds of what ``make soak`` does for minutes."""

from __future__ import annotations

from tests.soak.soak import soak


def test_a_short_soak_finds_nothing():
    found = soak(7, 3.0, workers=2, users=1, patience_s=60)
    assert not found["defects"], found
    assert sum(number for what, number in found["counts"].items() if what.startswith("deed")) > 0
