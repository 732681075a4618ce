"""Values enter a fingerprint by their content: equal ones alike, different ones apart."""

from __future__ import annotations

import datetime
import decimal
import fractions
import functools
import json
import math
import operator
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import types
import typing
import uuid
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from enum import Enum, Flag, IntEnum

import dask
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff_dask.graph.functions import Argument, Collocated, Function
from handoff_dask.reuse.file import File
from handoff_dask.reuse.fingerprint import details, fingerprint


def anything(*args, **kwargs):
    return args, kwargs


def plain(x, y=None):
    return x, y


def of(value):
    """What a plain value makes of a fingerprint."""
    return fingerprint([Function("f", [], anything, extra_args=[value])])["f"]


def why(value):
    found = details([Function("f", [], anything, extra_args=[value])])["f"]
    assert found.fingerprint is None
    return found.unknown


class Colour(Enum):
    RED = 1
    BLUE = 2


class Level(IntEnum):
    LOW = 1


class Mode(Flag):
    A = 1
    B = 2


Pair = namedtuple("Pair", "a b")
Other = namedtuple("Other", "a b")


@dataclass
class Point:
    x: int
    tags: list = field(default_factory=list)


@dataclass(frozen=True)
class Fixed:
    x: int


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a, b):
        self.a, self.b = a, b


class Loose:
    def __init__(self, **fields):
        vars(self).update(fields)

    @functools.cached_property
    def costly(self):
        return 5


class Reduced:
    def __init__(self, n):
        self.n = n
        self.lock = threading.Condition()

    def __reduce__(self):
        return Reduced, (self.n,)


class Stateful:
    def __init__(self, n):
        self.n, self.connection = n, object

    def __getstate__(self):
        return {"n": self.n}


class Hooked:
    def __init__(self, n):
        self.n, self.noise = n, random.random()

    def __handoff_value__(self):
        return self.n


class Many(list):
    pass


T = typing.TypeVar("T")

DISTINCT = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**70,
    -(2**70),
    0.0,
    -0.0,
    1.0,
    math.inf,
    -math.inf,
    math.nan,
    1j,
    1.5,
    "",
    "a",
    "1",
    "\ud800",
    b"",
    b"a",
    b"1",
    bytearray(b"a"),
    ...,
    NotImplemented,
    (),
    [],
    {},
    set(),
    frozenset(),
    (1,),
    [1],
    {1},
    frozenset({1}),
    {1: None},
    (1, 2),
    (2, 1),
    ((1, 2),),
    ((1,), 2),
    [1, 2],
    [2, 1],
    [[1], [2]],
    [[1, 2]],
    [[1], 2],
    {1, 2},
    {(1, 2), (3,)},
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    {"a": [1]},
    {"a": (1,)},
    ["a", "b"],
    ["ab"],
    ["a", ["b"]],
    range(3),
    range(0, 3, 2),
    slice(1),
    slice(1, 2),
    Colour.RED,
    Colour.BLUE,
    Level.LOW,
    Mode.A,
    Mode.A | Mode.B,
    Colour,
    Level,
    Pair(1, 2),
    Other(1, 2),
    Point(1),
    Point(2),
    Point(1, [3]),
    Fixed(1),
    Slotted(1, 2),
    Slotted(2, 1),
    Loose(a=1),
    Loose(a=2),
    Loose(b=1),
    Loose(),
    Reduced(1),
    Reduced(2),
    Stateful(1),
    Stateful(2),
    Hooked(1),
    Hooked(2),
    Many([1]),
    Many([2]),
    OrderedDict(a=1),
    OrderedDict(a=2),
    defaultdict(int, a=1),
    defaultdict(list),
    deque([1]),
    deque([1], 3),
    Counter("aab"),
    types.MappingProxyType({"a": 1}),
    datetime.date(2020, 1, 2),
    datetime.datetime(2020, 1, 2),
    datetime.timedelta(1),
    datetime.time(1),
    datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
    decimal.Decimal("1.0"),
    decimal.Decimal("1.00"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=1),
    re.compile("a"),
    re.compile("a", re.IGNORECASE),
    pathlib.PurePosixPath("a"),
    pathlib.PurePosixPath("b"),
    pathlib.PureWindowsPath("a"),
    pathlib.Path("a"),
    np.int64(1),
    np.int32(1),
    np.float64(1),
    np.float64(2),
    np.bool_(True),
    np.str_("a"),
    np.datetime64("2020"),
    np.arange(3),
    np.arange(3.0),
    np.arange(4),
    np.arange(4).reshape(2, 2),
    np.arange(4).reshape(2, 2).T,
    np.zeros(0),
    np.zeros((0, 1)),
    np.array(1),
    np.array("a"),
    np.array(["a", "b"]),
    np.array([1, "a"], dtype=object),
    np.array([1, "b"], dtype=object),
    np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
    np.arange(3, dtype=">i8"),
    np.array(["2020"], dtype="M8[D]"),
    np.ma.masked_array([1, 2], [0, 1]),
    np.ma.masked_array([1, 2], [1, 0]),
    np.dtype("i8"),
    np.dtype("f8"),
    np.random.default_rng(1),
    np.random.default_rng(2),
    np.random.RandomState(1),
    random.Random(1),
    random.Random(2),
    ValueError("a"),
    ValueError("b"),
    KeyError("a"),
    memoryview(b"a"),
    object(),
    len,
    max,
    np.add,
    np.sum,
    functools.partial(max, 1),
    functools.partial(max, 2),
    [].append,
    "a".join,
    Point(1).__init__,
    Loose,
    Point,
    int,
    list[int],
    list[str],
    typing.Callable[[int], str],
    typing.Any,
    T,
    json,
    os.path,
    threading.Lock(),
    operator.itemgetter(1),
    json.dumps,
    json.loads,
    os.path.join,
    Collocated("a"),
    Collocated("b"),
    "x" * 5000,
    "y" * 5000,
    b"x" * 5000,
    10**5000,
    ["x" * 5000],
]


def test_different_values_are_different():
    """Types count, and so do order, nesting, shape and sign."""
    found = {}
    for value in DISTINCT:
        found.setdefault(of(value), []).append(value)

    assert None not in found, [why(v) for v in found[None]]
    assert [values for values in found.values() if len(values) > 1] == []


def copied(value):
    """An equal value that shares nothing with it."""
    import cloudpickle

    return cloudpickle.loads(cloudpickle.dumps(value))


UNCOPYABLE = (types.MappingProxyType, memoryview, type(threading.Lock()), Reduced)


def test_equal_values_are_equal():
    values = [v for v in DISTINCT if not isinstance(v, UNCOPYABLE)]

    assert [v for v in values if of(copied(v)) != of(v)] == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a", "b", "c"}, set("cba")),
        ({(1, 2), (3, 4)}, {(3, 4), (1, 2)}),
        ({Fixed(1), Fixed(2)}, {Fixed(2), Fixed(1)}),
        (frozenset([1, "a", None]), frozenset([None, "a", 1])),
        (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
        (np.arange(10)[::2], np.array([0, 2, 4, 6, 8])),
        (math.nan, -math.nan),
        (Loose(a=1, b=2), Loose(b=2, a=1)),
        (Mode.A | Mode.B, Mode.B | Mode.A),
        (decimal.Decimal("1.0"), decimal.Decimal("1.0")),
    ],
)
def test_what_means_nothing_does_not_count(one, other):
    """Order in a set and in memory, and the order in which attributes were set."""
    assert of(one) == of(other)


def test_order_in_a_dict_counts():
    """Code can see it, so that a result may depend on it."""
    assert of({"a": 1, "b": 2}) != of({"b": 2, "a": 1})


def test_what_is_only_remembered_does_not_count():
    value = Loose(a=1)
    before = of(value)
    assert value.costly == 5

    assert of(value) == before


def test_values_in_circles():
    def circle(n):
        ring = [n]
        ring.append(ring)
        parent, child = Loose(n=n), Loose()
        parent.child, child.parent = child, parent
        return ring, parent

    assert of(circle(1)) == of(circle(1))
    assert of(circle(1)) != of(circle(2))


def test_shared_values_are_looked_at_once():
    """Twenty levels of pairs of the level before are two million values, or twenty."""
    level = [0]
    for _ in range(60):
        level = [level, level]

    assert of(level) is not None


def test_a_set_that_contains_itself_is_not_told():
    value = Loose()
    value.members = {value}

    assert "contains itself" in why(value)


class Stubborn:
    def __reduce_ex__(self, protocol):
        raise RuntimeError("not me")


class Broken:
    def __getstate__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ((n for n in "a"), "a generator cannot be told"),
        (sys.stdout, "cannot be told"),
        (Stubborn(), "not me"),
        (Broken(), "cannot be told"),
        (dask.delayed(1), "of Dask is not there yet"),
        ([1, {"a": (n for n in "a")}, 2], "cannot be told"),
        (Loose(a=threading.local()), "cannot be told"),
        (File("no such file"), "the file no such file cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_told_is_not_guessed(value, reason):
    assert f"extra_args[0]: {reason}"[:15] in why(value)
    assert reason in why(value)


def test_what_depends_on_what_cannot_be_told_cannot_either():
    functions = [
        Function("a", [], anything, extra_args=[(n for n in "a")]),
        Function("b", ["a"], anything),
        Function("c", [], anything),
        Function("d", ["c"], anything, type="inline"),
        Function("e", ["d", "b"], anything),
    ]
    found = details(functions)

    assert {k: d.fingerprint is None for k, d in found.items()} == {
        "a": True,
        "b": True,
        "c": False,
        "d": False,
        "e": True,
    }
    assert found["b"].unknown == f"its argument 'a' has no fingerprint: {found['a'].unknown}"


def test_the_reason_names_what_is_to_blame():
    state = (n for n in "a")

    def helper():
        return state

    def code():
        return helper()

    unknown = details([Function("f", [], code)])["f"].unknown
    assert "variable state of " in unknown
    assert "helper: a generator" in unknown


def test_large_values_are_hashed_once_for_many_functions(monkeypatch):
    from handoff_dask.reuse import values

    seen = []
    plain_digest = values.digest_of
    monkeypatch.setattr(values, "digest_of", lambda *data: seen.append(data) or plain_digest(*data))
    array = np.arange(1000)

    fingerprint([Function(n, [], anything, extra_args=[array, n]) for n in range(100)])

    assert len([data for data in seen if getattr(data[0], "nbytes", 0) == array.nbytes]) == 1


# --------------------------------------------------------------------------- functions


def one(**fields):
    base = {"id": "f", "args": [], "code": plain, "extra_args": [1]}
    return fingerprint(
        [
            Function("a", [], anything),
            Function("b", [], len, extra_args=["b"]),
            Function(**{**base, **fields}),
        ]
    )[fields.get("id", "f")]


def test_what_does_not_count():
    """Ids, costs, places, retries, durations and priorities."""
    same = [
        {"id": "g"},
        {"cost": {"cpu": 2}},
        {"node": "x"},
        {"max_retries": 3},
        {"duration": 5},
        {"priority": 7},
        {"extra_args": (1,)},
        {"kwargs": {}},
        {"type": "inline"},
    ]

    assert {one(**fields) for fields in same} == {one()}


def test_what_counts():
    def send(value, source, target, level=1):
        return value

    different = [
        {},
        {"extra_args": [2]},
        {"extra_args": [1, 2]},
        {"extra_args": [True]},
        {"kwargs": {"y": 1}},
        {"kwargs": {"y": 2}},
        {"code": anything},
        {"args": ["a"], "extra_args": []},
        {"args": ["b"], "extra_args": []},
        {"args": ["a", "b"], "extra_args": []},
        {"args": ["b", "a"], "extra_args": []},
        {"args": ["a", "b"], "extra_args": [], "argument_inclusion": "as_list"},
        {"args": [Argument("a", (send,))], "extra_args": []},
        {"args": [Argument("a", None, (send,))], "extra_args": []},
        {"args": [Argument("a", (send, 2))], "extra_args": []},
    ]
    found = [one(**fields) for fields in different]

    assert None not in found
    assert len(set(found)) == len(different)
    assert one(args=[Argument("a")], extra_args=[]) == one(args=["a"], extra_args=[])


def test_values_by_name_have_no_order_unless_the_code_sees_it():
    def ordered(code):
        return [
            fingerprint([Function("f", [], code, kwargs=kwargs)])["f"]
            for kwargs in ({"x": 1, "y": 2}, {"y": 2, "x": 1})
        ]

    class Model:
        def method(self, x, y):
            return x, y

    assert len(set(ordered(plain))) == 1
    assert len(set(ordered(Model().method))) == 1
    assert len(set(ordered(anything))) == 2
    assert len(set(ordered(dict))) == 2


def test_arguments_and_values_are_not_confused():
    found = fingerprint(
        [
            Function("a", [], anything),
            Function("b", ["a"], anything),
            Function("c", [], anything, extra_args=["a"]),
            Function("d", ["a"], anything, extra_args=["a"]),
            Function("e", ["a", "a"], anything),
            Function("g", [], anything, extra_args=[fingerprint([Function("a", [], anything)])["a"]]),
        ]
    )

    assert len(set(found.values())) == len(found)


def test_inputs_count_by_their_values():
    functions = [Function("x", [], None, type="input"), Function("f", ["x"], plain)]

    without = details(functions)
    assert without["x"].unknown == "no value is given for input 'x'"
    assert without["f"].fingerprint is None
    found = [fingerprint(functions, inputs={"x": value})["f"] for value in (1, 1, 2, 1.0)]
    assert found[0] == found[1]
    assert len(set(found)) == 3
    assert fingerprint(functions, {"x": (n for n in "a")})["f"] is None


def test_a_long_chain_is_no_problem():
    functions = [Function(0, [], anything), *[Function(n, [n - 1], anything) for n in range(1, 5000)]]

    assert len(set(fingerprint(functions[::-1]).values())) == 5000


def test_the_order_of_a_dag_is_kept():
    functions = [Function("b", ["a"], anything), Function("a", [], anything)]

    assert list(fingerprint(functions)) == ["b", "a"]


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.frozensets(leaves, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b):
    """Whether two values are the same in type and order too."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, frozenset):
        return {(type(x), repr(x)) for x in a} == {(type(x), repr(x)) for x in b}
    return repr(a) == repr(b)


@given(trees, trees)
def test_values_have_equal_fingerprints_exactly_if_they_are_the_same(a, b):
    assert (of(a) == of(b)) is same(a, b)
    assert of(copied(a)) == of(a)


def test_values_are_the_same_in_every_process():
    program = (
        "from handoff_dask.reuse.fingerprint import fingerprint\n"
        "from handoff_dask.graph.functions import Function\n"
        "import numpy as np, datetime, pathlib, decimal\n"
        "values = [{'a', 'b', ('c', 1.5)}, frozenset('xyz'), {'k': [1, {2, 3}]}, np.arange(5.0),\n"
        "    np.array(['a', None]), datetime.datetime(2020, 1, 1), pathlib.PurePosixPath('a'),\n"
        "    decimal.Decimal(1), np.random.default_rng(3)]\n"
        "print(fingerprint([Function(n, [], max, extra_args=[v, v]) for n, v in enumerate(values)]))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }

    assert len(printed) == 1
    assert "None" not in printed.pop()
