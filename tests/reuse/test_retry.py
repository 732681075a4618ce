"""Retries: what is taken and refused, which exceptions count, how long the waits are."""

from __future__ import annotations

import dataclasses
import math
import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff_dask.errors import ValidationError
from handoff_dask.graph.retry import Retry


def test_defaults():
    retry = Retry()

    assert (retry.times, retry.delay, retry.factor, retry.max_delay) == (3, 0.0, 2.0, 60.0)
    assert (retry.jitter, retry.on, retry.not_on, retry.elsewhere) == (0.0, (Exception,), (), True)


def test_is_a_value():
    """Equal, hashable, unchangeable, and the same after pickling."""
    retry = Retry(2, delay=1, on=OSError, not_on=[FileNotFoundError, PermissionError])

    assert retry == Retry(2, delay=1.0, on=(OSError,), not_on=(FileNotFoundError, PermissionError))
    assert hash(retry) == hash(dataclasses.replace(retry))
    assert pickle.loads(pickle.dumps(retry)) == retry
    assert retry != Retry(3, delay=1, on=OSError, not_on=[FileNotFoundError, PermissionError])
    with pytest.raises(dataclasses.FrozenInstanceError):
        retry.times = 5
    with pytest.raises(TypeError):
        Retry(3, 1.0)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"times": -1}, "times"),
        ({"times": True}, "times"),
        ({"times": 1.5}, "times"),
        ({"times": "3"}, "times"),
        ({"delay": -0.1}, "delay"),
        ({"delay": math.nan}, "delay"),
        ({"delay": math.inf}, "delay"),
        ({"delay": "1"}, "delay"),
        ({"delay": True}, "delay"),
        ({"delay": 10**400}, "delay"),
        ({"factor": -1}, "factor"),
        ({"factor": math.inf}, "factor"),
        ({"max_delay": -1}, "max_delay"),
        ({"max_delay": math.nan}, "max_delay"),
        ({"max_delay": None}, "max_delay"),
        ({"jitter": -0.1}, "jitter"),
        ({"jitter": 1.1}, "jitter"),
        ({"on": (int,)}, "on"),
        ({"on": ValueError()}, "on"),
        ({"on": None}, "on"),
        ({"not_on": "ValueError"}, "not_on"),
        ({"elsewhere": 1}, "elsewhere"),
    ],
)
def test_what_is_refused(fields, named):
    with pytest.raises(ValidationError, match=rf"Retry: {named} (is|has) "):
        Retry(**fields)


def test_limits_are_taken():
    retry = Retry(0, delay=0, factor=0, max_delay=math.inf, jitter=1, on=(), elsewhere=False)

    assert (retry.times, retry.max_delay, retry.jitter) == (0, math.inf, 1.0)
    assert Retry(delay=Fraction(1, 2)).wait(1) == 0.5


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionError("x"), True),
        (ConnectionError, True),
        (FileNotFoundError(), False),
        (FileNotFoundError, False),
        (ValueError(), False),
        (KeyboardInterrupt(), False),
        (TimeoutError, True),
    ],
)
def test_which_exceptions_are_worth_another_attempt(error, expected):
    assert Retry(on=OSError, not_on=FileNotFoundError).retries(error) is expected


def test_by_default_every_exception_is_but_no_exit():
    assert Retry().retries(ZeroDivisionError())
    assert not Retry().retries(SystemExit())
    assert Retry(on=BaseException).retries(SystemExit)
    assert not Retry(on=()).retries(ValueError())


def test_waits_grow_up_to_the_longest():
    assert [Retry(delay=3, factor=3, max_delay=50).wait(n) for n in range(1, 5)] == [3, 9, 27, 50]
    assert [Retry(delay=4, factor=0.5).wait(n) for n in (1, 2, 3)] == [4, 2, 1]
    assert Retry().wait(1) == Retry().wait(5000) == 0
    assert Retry(delay=1).wait(5000) == 60
    with pytest.raises(ValidationError, match="counted from 1"):
        Retry().wait(0)


@given(
    st.floats(0, 1e6),
    st.floats(0, 10),
    st.floats(0, 1e6),
    st.floats(0, 1),
    st.integers(1, 3000),
    st.floats(0, 1),
)
def test_a_wait_is_never_far_from_the_plain_one(delay, factor, max_delay, jitter, n, chance):
    """Varied by up to ``jitter`` of itself, never negative, never longer than ``max_delay``."""
    plain = Retry(delay=delay, factor=factor, max_delay=max_delay).wait(n)
    wait = Retry(delay=delay, factor=factor, max_delay=max_delay, jitter=jitter).wait(n, chance)

    assert 0 <= wait <= max_delay
    assert plain * (1 - jitter) * (1 - 1e-9) <= wait <= plain * (1 + jitter) * (1 + 1e-9)


def test_chance_spreads_the_waits_also_at_the_longest():
    retry = Retry(delay=100, jitter=0.5)

    assert [retry.wait(1, c) for c in (0.0, 0.5, 1.0)] == [30, 45, 60]
    assert Retry(delay=10, jitter=0.5).wait(1) == 10
