"""Calls that cannot fit their code's signature are refused before anything runs; others never are."""

from __future__ import annotations

import functools
import importlib
import keyword
import sys
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial, wraps

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff_dask import execute_local
from handoff_dask.errors import InvalidFunctionError
from handoff_dask.graph import signatures
from handoff_dask.graph.dag import DAG, as_dag
from handoff_dask.graph.functions import Argument, Function, resolve_code
from handoff_dask.graph.signatures import check_calls


def two(a, b):
    return a, b


def optional(a, b=2, *, c, d=4):
    return a, b, c, d


def only(a, /, b, **more):
    return a, b, more


def anything(*args, **kwargs):
    return args, kwargs


def swallowing(code):
    """A decorator that takes an argument away and says it does not."""

    @wraps(code)
    def inner(*args, **kwargs):
        return code(1, *args, **kwargs)

    return inner


def narrow(code):
    @wraps(code)
    def inner(a):
        return code(a, a)

    return inner


class Model:
    def __init__(self, a):
        self.a = a

    def __call__(self, b, c):
        return b, c

    def method(self, x):
        return x

    @classmethod
    def make(cls, a):
        return cls(a)

    @staticmethod
    def plain(x):
        return x


class Static:
    @staticmethod
    def __call__(x):
        return x


class Made:
    def __new__(cls, a):
        return a

    def __init__(self):
        """Never called: what is made is no Made."""


class Meta(type):
    def __call__(cls, x, y):
        return x, y


class OfMeta(metaclass=Meta):
    def __init__(self):
        """Its class calls it as it likes."""


class Empty:
    pass


class Number(int):
    def __init__(self, x):
        self.x = x


class Colour(Enum):
    RED = 1


@dataclass
class Point:
    x: int
    y: int = 0


class Shy(partial):
    def __call__(self, *args, **kwargs):
        return args, kwargs


lied = swallowing(two)
cached = lru_cache(maxsize=4)(two)
described = swallowing(two)
described.__signature__ = None

FITS = [
    (two, 2, ()),
    (two, 1, ("b",)),
    (two, 0, ("b", "a")),
    (optional, 1, ("c",)),
    (optional, 2, ("c", "d")),
    (only, 1, ("b", "a")),
    (only, 2, ("a", "c")),
    (anything, 9, ("a", "b")),
    (lied, 1, ()),
    (described, 1, ()),
    (narrow(two), 1, ()),
    (cached, 2, ()),
    (partial(two, 1), 1, ()),
    (partial(two, b=1), 1, ()),
    (partial(two, b=1), 1, ("b",)),
    (partial(partial(optional, 1), c=2), 0, ()),
    (Shy(two, 1), 5, ()),
    (Model, 1, ()),
    (Model(1), 2, ()),
    (Model(1).method, 1, ()),
    (Model.method, 2, ()),
    (Model.make, 1, ()),
    (Model.plain, 1, ()),
    (Static(), 1, ()),
    (Made, 1, ()),
    (OfMeta, 2, ()),
    (Empty, 0, ()),
    (Number, 1, ()),
    (Colour, 1, ()),
    (Point, 1, ("y",)),
    (ValueError, 3, ()),
    (dict, 0, ("a",)),
    (sum, 1, ("start",)),
    (pow, 2, ()),
    (print, 4, ("sep",)),
    ("operator:add", 2, ()),
    ("no.such.module:name", 7, ("x",)),
    ("operator:no_such_name", 7, ()),
    (np.add, 2, ("out",)),
    (np.sum, 1, ("axis",)),
    ([].append, 1, ()),
    (lambda *, a: a, 0, ("a",)),
]

MISFITS = [
    (two, 1, (), "nothing is given for 'b'"),
    (two, 0, (), "nothing is given for 'a', 'b'"),
    (two, 3, (), "it takes 2 by position at most"),
    (two, 2, ("a",), "'a' would be given twice, by position and by name"),
    (two, 2, ("c",), "it takes nothing by the name 'c'"),
    (optional, 1, (), "nothing is given for 'c'"),
    (optional, 3, ("c",), "it takes 2 by position at most"),
    (only, 0, ("a", "b"), "nothing is given for 'a'"),
    (only, 2, ("b",), "'b' would be given twice"),
    (narrow(two), 2, (), "it takes 1 by position at most"),
    (cached, 1, (), "nothing is given for 'b'"),
    (partial(two, 1), 2, (), "at most"),
    (partial(two, a=1), 1, (), "'a' would be given twice"),
    (partial(partial(optional, 1), 2), 1, ("c",), "at most"),
    (Model, 0, (), "nothing is given for 'a'"),
    (Model, 2, (), "at most"),
    (Model(1), 1, (), "nothing is given for 'c'"),
    (Model(1).method, 2, (), "at most"),
    (Model.make, 0, (), "nothing is given for 'a'"),
    (Model.plain, 2, (), "at most"),
    (Static(), 2, (), "at most"),
    (Made, 2, (), "at most"),
    (OfMeta, 0, (), "nothing is given for 'x', 'y'"),
    (Empty, 1, (), "it takes 0 by position at most"),
    (Empty, 0, ("x",), "it takes nothing by the name 'x'"),
    (Number, 2, (), "at most"),
    (Point, 0, (), "nothing is given for 'x'"),
    (Point, 1, ("z",), "it takes nothing by the name 'z'"),
    (abs, 0, (), "nothing is given for 'x'"),
    (abs, 0, ("x",), "it takes nothing by the name 'x'"),
    (pow, 1, (), "nothing is given for 'exp'"),
    ("operator:add", 1, (), "nothing is given for 'b'"),
    ("textwrap:dedent", 3, (), "at most"),
]


def call(code, count, names):
    return Function("f", [], code, extra_args=[0] * count, kwargs=dict.fromkeys(names, 0))


@pytest.mark.parametrize(("code", "count", "names"), FITS)
def test_what_may_fit_is_taken(code, count, names):
    DAG().add_function(call(code, count, names)).validate()


@pytest.mark.parametrize(("code", "count", "names", "why"), MISFITS)
def test_what_cannot_fit_is_refused(code, count, names, why):
    with pytest.raises(InvalidFunctionError, match=why) as caught:
        DAG().add_function(call(code, count, names)).validate()

    assert caught.value.function_id == "f"


@pytest.mark.parametrize(("code", "count", "names", "why"), MISFITS)
def test_what_is_refused_does_raise(code, count, names, why):
    """Each refusal of this file is one that Python itself confirms."""
    with pytest.raises(InvalidFunctionError):
        check_calls([call(code, count, names)])
    with pytest.raises(TypeError):
        resolve_code(code)(*[0] * count, **dict.fromkeys(names, 0))


def test_nothing_runs_when_one_call_does_not_fit(tmp_path):
    ran = []
    functions = [
        Function("first", [], ran.append, extra_args=[1]),
        Function("second", ["first"], two, extra_args=[1], kwargs={"c": 1}),
    ]

    with pytest.raises(InvalidFunctionError, match="function 'second'"):
        execute_local(functions)
    assert ran == []


def test_a_refusal_is_not_forgotten():
    dag = as_dag([call(two, 1, ())])

    for _ in range(2):
        with pytest.raises(InvalidFunctionError):
            dag.validate()


def test_the_message_says_what_is_given_and_what_is_taken():
    functions = [
        Function("a", [], list),
        Function("b", ["a", "a"], optional, extra_args=[1], kwargs={"c": 1, "d": 2}),
    ]

    with pytest.raises(InvalidFunctionError) as caught:
        as_dag(functions).validate()

    assert str(caught.value) == (
        "function 'b': its call gives 3 values by position (2 results, 1 of extra_args) and 'c', 'd' "
        "by name, but optional(a, b=…, *, c, d=…) does not fit: it takes 2 by position at most; mend args, "
        "extra_args or kwargs"
    )


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (Model(1).method, r"method\(x\)"),
        (partial(only, 1), r"only\(b, \*\*kwargs\)"),
        (only, r"only\(a, /, b, \*\*kwargs\)"),
        (partial(optional, 1, 2), r"optional\(\*, c, d=…\)"),
        (Model, r"Model\(a\)"),
        (abs, r"abs\(x, /\)"),
    ],
)
def test_what_is_taken_is_shown_without_what_is_given_already(code, shown):
    with pytest.raises(InvalidFunctionError, match=shown):
        check_calls([call(code, 7 if code is not only and code is not partial(only, 1) else 0, ())])


def test_a_list_of_results_is_one_value():
    gathered = {"argument_inclusion": "as_list"}
    check_calls([Function("f", ["a", "b", "c"], two, extra_args=[1], **gathered)])

    with pytest.raises(InvalidFunctionError, match=r"1 value by position \(all results as one, 0 of extra"):
        check_calls([Function("f", ["a", "b"], two, **gathered)])


def test_what_is_done_to_an_argument_is_looked_at():
    """Each side is called with the value, two node names and what else it was given."""

    def send(value, source, target, level):
        return value

    check_calls([Function("f", [Argument("a", (send, 1), (send, 1))], list)])

    with pytest.raises(InvalidFunctionError, match=r"the serialization_fn of its argument 'a'.*'level'"):
        check_calls([Function("f", [Argument("a", (send,))], list)])
    with pytest.raises(InvalidFunctionError, match=r"the deserialization_fn.* 2 more.*at most") as caught:
        check_calls([Function("f", [Argument("a", None, (send, 1, 2))], list)])
    assert caught.value.function_id == "f"


def test_an_input_has_no_call():
    check_calls([Function("x", [], None, type="input")])


def test_a_module_that_ends_the_process_is_not_believed(tmp_path, monkeypatch):
    (tmp_path / "ends_the_process.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)

    check_calls([call("ends_the_process:main", 3, ())])


def test_placeholders_are_filled_first(monkeypatch):
    """As in Python 3.14; elsewhere with a placeholder of the test's own."""
    placeholder = getattr(functools, "Placeholder", object())
    monkeypatch.setattr(signatures, "_PLACEHOLDER", placeholder)
    filled = partial(two, placeholder, 2)
    check_calls([call(filled, 1, ())])

    for count in (0, 2):
        with pytest.raises(InvalidFunctionError):
            check_calls([call(filled, count, ())])


def test_many_functions_of_one_code_cost_one_look(monkeypatch):
    """However many functions call one code in one way, its signature is read once."""
    looks = []
    plain = signatures._shape
    monkeypatch.setattr(signatures, "_shape", lambda code: looks.append(code) or plain(code))

    model = Model(1)
    check_calls([Function(i, ["a"], two, extra_args=[i]) for i in range(100)])
    check_calls([Function(i, ["a"], model.method) for i in range(100)])
    check_calls([Function(i, [], partial(model.method, i)) for i in range(100)])

    assert looks == [two, Model.method, Model.method]


names = st.sampled_from([n for n in "abcdefg" if not keyword.iskeyword(n)])


@st.composite
def signatures_and_calls(draw):
    """The text of a signature, and a call."""
    chosen = draw(st.lists(names, unique=True, max_size=6))
    cut = sorted(draw(st.tuples(st.integers(0, len(chosen)), st.integers(0, len(chosen)))))
    only_names, both, by_name = chosen[: cut[0]], chosen[cut[0] : cut[1]], chosen[cut[1] :]
    required = draw(st.integers(0, cut[1]))
    parts = [n if i < required else f"{n}=0" for i, n in enumerate([*only_names, *both])]
    if only_names:
        parts.insert(len(only_names), "/")
    star = draw(st.booleans())
    if star or by_name:
        parts.append("*rest" if star else "*")
    parts += [n if draw(st.booleans()) else f"{n}=0" for n in by_name]
    if draw(st.booleans()):
        parts.append("**more")
    return ", ".join(parts), draw(st.integers(0, 5)), tuple(draw(st.lists(names, unique=True, max_size=4)))


def fits(code, count, names):
    try:
        code(*[0] * count, **dict.fromkeys(names, 0))
    except TypeError:
        return False
    return True


def is_taken(code, count, names):
    try:
        check_calls([call(code, count, names)])
    except InvalidFunctionError:
        return False
    return True


@given(signatures_and_calls(), st.integers(0, 2), st.lists(names, unique=True, max_size=2))
def test_the_judgement_is_pythons(case, given_before, named_before):
    """For functions written in Python, and methods and partials of them, it is right either way."""
    text, count, by_name = case
    scope = {}
    exec(f"def code({text}): pass", scope)
    code = scope["code"]
    held = type("Held", (), {"__call__": code, "method": code})()

    for each in (
        code,
        partial(code, *[0] * given_before, **dict.fromkeys(named_before, 0)),
        held.method,
        held,
    ):
        assert is_taken(each, count, by_name) is fits(each, count, by_name)
    for cls in (type("New", (), {"__new__": code}), type("Init", (), {"__init__": code})):
        if fits(cls, count, by_name):
            assert is_taken(cls, count, by_name)


@pytest.mark.parametrize("module", ["math", "operator", "builtins", "os", "json", "itertools"])
def test_nothing_of_the_standard_library_is_refused_that_can_be_called(module):
    """Whatever takes three integers without complaint is taken."""
    dangerous = {"breakpoint", "exit", "quit", "input", "abort", "fork", "forkpty", "open", "help", "_exit"}
    for name, code in vars(sys.modules[module]).items():
        if module == "os" or not callable(code) or name.startswith("_") or name in dangerous:
            continue
        for count in range(4):
            try:
                code(*[1] * count)
            except BaseException:
                continue
            assert is_taken(code, count, ()), name


def test_a_module_that_is_not_here_is_looked_for_once(monkeypatch):
    """It may be on the nodes; a thousand names of it must not be a thousand searches."""
    asked = []
    found = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: asked.append(name) or found(name))

    check_calls(Function(n, [], f"package_that_is_not_here:name{n}") for n in range(1000))

    assert asked == ["package_that_is_not_here"]
