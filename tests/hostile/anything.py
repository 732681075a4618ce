"""Values of every kind, for places where another kind is meant."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import enum
import fractions
import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from handoff_dask.errors import HandoffError

#: How many inputs each test tries; ``make slow`` tries many more.
hostile = settings(
    max_examples=int(os.environ.get("HOSTILE_INPUTS", "30")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Mischief(Exception):
    """What the objects below raise."""


def _raises(*args: Any, **kwargs: Any) -> Any:
    raise Mischief("this object does not do that")


class Colour(enum.Enum):
    RED = "red"


class Text(str):
    """A string of a class of its own."""


class Whole(int):
    """An int of a class of its own."""


def object_without(*methods: str) -> Any:
    """An object of which these methods raise."""
    return type("Odd", (), dict.fromkeys(methods, _raises))()


def generator() -> Iterator[int]:
    yield from (1, 2)


async def coroutine_function() -> None:
    """Not a value, though one may think so."""


#: Made anew each time, as some of them are used up.
MAKERS: tuple[Callable[[], Any], ...] = (
    object,
    lambda: object_without("__bool__"),
    lambda: object_without("__eq__"),
    lambda: object_without("__hash__"),
    lambda: object_without("__len__", "__iter__"),
    lambda: object_without("__str__"),
    lambda: object_without("__float__", "__int__", "__index__"),
    lambda: object_without("__call__"),
    lambda: object_without("__getitem__"),
    lambda: object_without("__reduce_ex__"),
    generator,
    lambda: iter([]),
    lambda: coroutine_function,
    lambda: map(abs, [1]),
    lambda: np.arange(3),
    lambda: np.zeros((2, 2)),
    lambda: np.array([]),
    lambda: np.float64("nan"),
    lambda: np.int64(-1),
    lambda: np.bool_(True),
    lambda: np.str_("a"),
    lambda: Text("a"),
    lambda: Whole(1),
    lambda: Colour.RED,
    lambda: Colour,
    lambda: sys,
    lambda: len,
    lambda: Exception,
    lambda: ValueError("a value"),
    lambda: lambda: None,
    lambda: lambda a, b, c, d, e, f: None,
    lambda: ...,
    lambda: NotImplemented,
    lambda: range(3),
    lambda: range(0),
    lambda: memoryview(b"ab"),
    lambda: bytearray(b"ab"),
    lambda: datetime.timedelta(seconds=-1),
    lambda: datetime.datetime(2020, 1, 1),
    lambda: decimal.Decimal("sNaN"),
    lambda: decimal.Decimal("1E+9999"),
    lambda: decimal.Decimal("0.1"),
    lambda: fractions.Fraction(1, 3),
    lambda: 10**400,
    lambda: -(10**400),
    lambda: 1 + 2j,
    lambda: pathlib.PurePath("a/b"),
    lambda: asyncio,
    contextlib.nullcontext,
    {1: 2}.keys,
    {"a": 1}.items,
)

odd = st.sampled_from(MAKERS).map(lambda make: make())
numbers = st.one_of(
    st.integers(-3, 5),
    st.integers(),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e308, 2**63, True, False]),
)
texts = st.one_of(
    st.text(max_size=5),
    st.sampled_from(
        [
            "",
            "a",
            "b",
            "4 GB",
            "GB",
            "-1 GB",
            "1e999 GB",
            "nan GB",
            "1e99999999s",
            "10 parsecs",
            "os:getcwd",
            "os:",
            "first_available",
            "regular",
            "inline",
            "input",
            "as_list",
            "as_dict",
            "collocated",
            "null",
            "tcp://127.0.0.1:1",
            "\ud800",
            "\x00",
            "../..",
            "s3://",
            "memory://x",
            "sinks",
            "auto",
            "place",
            "stop",
        ]
    ),
    st.binary(max_size=4),
)
flat = st.one_of(st.none(), numbers, texts, odd)
hashable = st.one_of(
    st.none(), numbers, st.text(max_size=3), st.tuples(st.integers(0, 3), st.text(max_size=2))
)


def _collections(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(parts, max_size=3),
        st.lists(parts, max_size=3).map(tuple),
        st.dictionaries(hashable, parts, max_size=3),
        st.dictionaries(
            st.sampled_from(["cpu", "gpu", "memory", "zone", "cpu_intensive", ""]), parts, max_size=3
        ),
        st.sets(hashable, max_size=3),
        st.frozensets(hashable, max_size=3),
    )


anything = st.recursive(flat, _collections, max_leaves=6)


@contextlib.contextmanager
def refused_or_fine() -> Iterator[None]:
    """Nothing is raised but errors of ours, which say something."""
    refused = None
    try:
        yield
    except HandoffError as error:
        refused = error
    assert refused is None or len(str(refused)) > 10, repr(refused)
