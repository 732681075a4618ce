"""The garbage collector is held while a large DAG is prepared, and goes on afterwards."""

from __future__ import annotations

import gc

import pytest

from handoff_dask.collector import LARGE, collector_held


def test_it_is_held_for_large_dags_only():
    with collector_held(LARGE - 1):
        assert gc.isenabled()
    with collector_held(LARGE):
        assert not gc.isenabled()
    assert gc.isenabled()


def test_blocks_may_overlap():
    """Two threads prepare a DAG each: the first to end does not let it go on."""
    one, other = collector_held(LARGE), collector_held(LARGE)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert not gc.isenabled()
    other.__exit__(None, None, None)
    assert gc.isenabled()


def test_it_goes_on_after_an_error():
    with pytest.raises(ValueError, match="wrong"), collector_held(LARGE):
        raise ValueError("wrong")
    assert gc.isenabled()


def test_who_has_switched_it_off_keeps_it_off():
    gc.disable()
    try:
        with collector_held(LARGE):
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
