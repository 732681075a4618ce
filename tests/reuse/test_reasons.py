"""Why a function runs again: what has changed, by name."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from handoff_dask.errors import ValidationError
from handoff_dask.graph.functions import Argument, Function
from handoff_dask.reuse.cache import Cache
from handoff_dask.reuse.file import File
from handoff_dask.reuse.fingerprint import details
from handoff_dask.reuse.reasons import KINDS, Reason, as_cache, note_codes, record_of, why_rerun


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def code(text="return helper(x) * RATE", helper="return x + 1", rate=2, default=1):
    scope = {"__name__": "job", "RATE": rate}
    exec(f"def helper(x, y={default}):\n    {helper}\ndef clean(*x, **more):\n    {text}", scope)
    return scope["clean"]


def computed(cache, functions, inputs=None):
    """As a run does it: all results are kept, with what they were computed from."""
    found = details(functions, inputs)
    note_codes(cache, found.values())
    for key, each in found.items():
        if each.fingerprint is not None:
            cache.put(each.fingerprint, f"result of {key}", record_of(key, each))


def why(cache, functions, key="f", **options):
    return why_rerun(functions, cache=cache, **options)[key]


def f(given=None, **fields):
    return Function(**{"id": "f", "args": [], "code": given or code(), "extra_args": [1], **fields})


def test_before_and_after(cache):
    before = why(cache, [f()])
    assert (before.kind, str(before)) == ("new", "it has not been computed with this cache")

    computed(cache, [f()])
    after = why(cache, [f(cost={"cpu": 3})])
    assert (after.kind, str(after)) == ("reused", "its result is in the cache")
    assert why(cache, [f(id="g")], "g").kind == "reused"
    assert why(cache, [f(id="g", extra_args=[5])], "g").kind == "new"


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        ({"code": code("return helper(x) - RATE")}, "code", "code of job.clean has changed"),
        ({"code": code(helper="return x + 2")}, "code", "code of job.helper has changed"),
        ({"code": code(rate=3)}, "code", "global RATE of job.clean has changed"),
        ({"code": code(default=2)}, "code", "default y of job.helper has changed"),
        (
            {"code": code("return helper(x) - RATE", rate=3)},
            "code",
            "code of job.clean, global RATE of job.clean have changed",
        ),
        ({"extra_args": [2]}, "value", "extra_args[0] has changed"),
        ({"extra_args": [1, 2]}, "value", "extra_args[1] has changed"),
        ({"extra_args": []}, "value", "extra_args[0] has changed"),
        ({"kwargs": {"k": 2}}, "value", "kwargs['k'] has changed"),
        ({"argument_inclusion": "as_list"}, "value", "argument_inclusion has changed"),
        (
            {"extra_args": [5, 6, 7, 8]},
            "value",
            "extra_args[0], extra_args[1], extra_args[2] and 1 more have changed",
        ),
        ({"args": ["a"]}, "argument", "its arguments were [] and are ['a']"),
    ],
)
def test_what_has_changed_is_named(cache, change, kind, told):
    computed(cache, [f()])
    reason = why(cache, [Function("a", [], int), f(**change)])

    assert (reason.kind, str(reason)) == (kind, told)


def test_an_argument_that_has_changed_is_named(cache):
    computed(cache, [Function("a", [], int), Function("b", [], float), f(args=["a", "b"])])

    for a, b, args, told in [
        (str, float, ["a", "b"], "its argument 'a' has changed"),
        (int, str, ["a", "b"], "its argument 'b' has changed"),
        (str, str, ["a", "b"], "its argument 'a', its argument 'b' have changed"),
        (int, float, ["b", "a"], "its arguments were ['a', 'b'] and are ['b', 'a']"),
    ]:
        functions = [Function("a", [], a), Function("b", [], b), f(args=args)]
        reason = why(cache, functions)
        assert reason.kind == "argument"
        assert str(reason) == told


def test_what_is_done_to_an_argument_is_named(cache):
    def send(value, source, target):
        return value

    computed(cache, [Function("a", [], int), f(args=["a"])])
    reason = why(cache, [Function("a", [], int), f(args=[Argument("a", (send,))])])

    assert (reason.kind, str(reason)) == ("value", "the serialization_fn of args[0] has changed")


def test_a_file_that_has_changed_is_named(cache, tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("one")
    functions = [f(extra_args=[{"in": File(path)}])]
    computed(cache, functions)
    assert why(cache, functions).kind == "reused"

    path.write_text("two")
    reason = why(cache, functions)
    assert (reason.kind, str(reason)) == ("file", f"the file {path} has changed")
    path.unlink()
    assert why(cache, functions).kind == "unknown"


def test_a_file_in_the_code_that_has_changed_is_named(cache, tmp_path):
    path = tmp_path / "model.bin"
    path.write_text("one")
    functions = [f(code("return RATE", rate=File(path)))]
    computed(cache, functions)
    path.write_text("two")

    assert str(why(cache, functions)) == f"the file {path} has changed"


def test_a_file_of_a_result_that_has_changed_is_named(cache, tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("one")
    found = details([f()])["f"]
    cache.put(found.fingerprint, File(path), record_of("f", found))
    assert why(cache, [f()]).kind == "reused"
    path.write_text("two")

    assert (why(cache, [f()]).kind, str(why(cache, [f()]))) == (
        "file",
        f"the file {path} of its result has changed",
    )


def test_inputs_are_arguments(cache):
    functions = [Function("x", [], None, type="input"), f(args=["x"])]
    computed(cache, functions, {"x": 1})

    assert why(cache, functions, inputs={"x": 1}).kind == "reused"
    reason = why(cache, functions, inputs={"x": 2})
    assert (reason.kind, str(reason)) == ("argument", "its argument 'x' has changed")
    assert why(cache, functions).kind == "unknown"


def test_what_is_gone_and_what_is_damaged(cache):
    functions = [f(), f(id="g", extra_args=[2])]
    computed(cache, functions)
    [entry] = [
        p for p in (Path(cache.url) / "entries").rglob("*") if p.name == details(functions)["g"].fingerprint
    ]
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)

    damaged = why(cache, functions, "g")
    assert damaged.kind == "damaged"
    assert "is damaged" in str(damaged)
    assert why(cache, functions, "g", verify=False).kind == "reused"
    cache.prune(keep=0)
    gone = why(cache, functions)
    assert (gone.kind, str(gone)) == ("gone", "its result is no longer in the cache")


def test_what_has_no_fingerprint_says_why(cache):
    reason = why(cache, [f(extra_args=[(n for n in "a")])])

    assert reason.kind == "unknown"
    assert str(reason).startswith(
        "what it depends on cannot be told: extra_args[0]: a generator cannot be told"
    )


def test_what_opts_out_is_off(cache):
    """A function with ``cache=False`` and, as it is a field that a function may have, ``version``."""

    @dataclass(frozen=True, slots=True, unsafe_hash=False)
    class Later(Function):
        cache: bool = True
        version: object = None

        __hash__ = Function.__hash__

    fields = {"id": "f", "args": [], "code": code(), "extra_args": [1]}
    computed(cache, [Later(**fields)])
    off = why(cache, [Later(**fields, cache=False)])
    assert (off.kind, str(off)) == ("off", "it has cache=False")
    inner = Later(**{**fields, "id": "i"}, type="inline", cache=False)
    outer = Later(**{**fields, "id": "o"}, type="inline")
    inside = [inner, dataclasses.replace(outer, args=["i"]), f(args=["o"]), f(id="g", args=["f"])]
    reason = why(cache, inside)
    assert (reason.kind, str(reason)) == ("off", "an inline function in it has cache=False")
    assert why(cache, inside, "g").kind == "new"
    versioned = why(cache, [Later(**fields, version=2)])
    assert (versioned.kind, str(versioned)) == ("version", "its version has changed")
    assert why(cache, [Later(**fields)]).kind == "reused"


def test_only_what_runs_has_a_reason(cache):
    functions = [
        Function("x", [], None, type="input"),
        Function("i", ["x"], str, type="inline"),
        f(args=["i"]),
    ]

    assert list(why_rerun(functions, cache=cache, inputs={"x": 1})) == ["f"]


def test_the_last_computation_counts(cache):
    for n in (1, 2):
        computed(cache, [f(extra_args=[n, n])])

    assert str(why(cache, [f(extra_args=[2, 3])])) == "extra_args[1] has changed"
    assert why(cache, [f(extra_args=[1, 1])]).kind == "reused"


def test_without_what_the_code_consisted_of_it_is_still_the_code(cache):
    computed(cache, [f()])
    for path in (Path(cache.url) / "codes").rglob("*"):
        if path.is_file():
            os.remove(path)

    reason = why(cache, [f(code(rate=3))])
    assert (reason.kind, str(reason)) == ("code", "its code has changed")


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize("key", ["a", 1, ("part", 3), ("a", ("b", 1)), None, Colour.RED])
def test_any_id_is_found_again(cache, key):
    computed(cache, [f(id=key)])

    assert why(cache, [f(id=key, extra_args=[2])], key).kind == "value"


def test_ids_that_look_alike_are_not_confused(cache):
    computed(cache, [f(id="1"), f(id=("a", 1))])

    assert why(cache, [f(id=1, extra_args=[2])], 1).kind == "new"
    assert why(cache, [f(id="('a', 1)", extra_args=[2])], "('a', 1)").kind == "new"
    assert why(cache, [f(id=("a", "1"), extra_args=[2])], ("a", "1")).kind == "new"


def test_a_cache_is_a_place_or_a_cache(tmp_path):
    cache = Cache(tmp_path)

    assert as_cache(cache) is cache
    assert as_cache(tmp_path) == as_cache(str(tmp_path)) == cache
    with pytest.raises(ValidationError, match="is no place"):
        why_rerun([], cache=None)
    assert why_rerun([], cache=tmp_path) == {}


def test_reasons_are_of_known_kinds():
    assert len(set(KINDS)) == 11
    assert str(Reason("code")) == "its code has changed"
    assert Reason("value", ("a",)) == Reason("value", ("a",))
