"""The cache: complete or absent, checked when read, bounded, any number of writers and readers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from handoff_dask.errors import ValidationError
from handoff_dask.reuse import cache as cache_module
from handoff_dask.reuse.cache import Cache, DamagedCacheWarning, Hit, Miss
from handoff_dask.reuse.entries import pack, unpack
from handoff_dask.reuse.file import File
from handoff_dask.reuse.fingerprint import details
from handoff_dask.reuse.reasons import record_of

A, B, C = "aa" * 20, "bb" * 20, "cc" * 20


@pytest.fixture(params=["directory", "file://", "memory://"])
def cache(request, tmp_path):
    if request.param == "memory://":
        return Cache(f"memory://{tmp_path.name}-{time.monotonic_ns()}")
    return Cache(f"file://{tmp_path}/cache" if request.param == "file://" else tmp_path / "cache")


@pytest.fixture
def local(tmp_path):
    return Cache(tmp_path / "cache")


def file_of(cache, fingerprint):
    return Path(cache.url) / "entries" / fingerprint[:2] / fingerprint


class Local:
    """A class that only this module knows."""

    def __init__(self, n):
        self.n = n


class Moody:
    def __reduce__(self):
        return moody, ()


def moody():
    raise ZeroDivisionError("not today")


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        "text",
        b"bytes" * 1000,
        [1, {"a": {2}}],
        np.arange(10),
        np.arange(10_000.0),
        {},
        lambda: 1,
        File(__file__),
    ],
    ids=range(10),
)
def test_what_is_put_is_got(cache, value):
    cache.put(A, value)
    found = cache.get(A)

    assert isinstance(found, Hit)
    if callable(value):
        assert found.value() == 1
    else:
        np.testing.assert_equal(found.value, value)
        assert type(found.value) is type(value)
    assert found.about["fingerprint"] == A
    assert found.about["python"].startswith("cpython 3.")
    assert abs(found.about["time"] - time.time()) < 60
    assert cache.check(A) is None


def test_what_is_not_there_is_missing(cache):
    assert cache.get(A) == Miss("gone", "it is not in the cache")
    assert cache.check(A).kind == "gone"
    assert cache.present([A, B]) == set()


def test_which_are_there(cache):
    many = [f"{n:040x}" for n in range(0, 5000, 50)]
    for fingerprint in (A, *many[:30]):
        cache.put(fingerprint, 1)

    assert cache.present([A, B]) == {A}
    assert cache.present([A, B, *many]) == {A, *many[:30]}


def test_arrays_are_written_from_where_they_are_and_can_be_changed():
    """No copy is made of a large array on its way out, and one that was read can be written to."""
    array = np.arange(100_000)
    packed = pack([array, array[:10]])

    assert len(packed.parts) == 2
    assert np.shares_memory(np.frombuffer(packed.parts[1][0], dtype=array.dtype), array)
    assert len(bytes(packed.parts[0][0])) < 1000
    fixed = np.arange(100_000)
    fixed.setflags(write=False)
    cache = Cache("memory://arrays")
    cache.put(A, [array, fixed])
    mine, theirs = cache.get(A).value
    mine[0] = 7
    with pytest.raises(ValueError, match="read-only"):
        theirs[0] = 7
    assert cache.get(A).value[0][0] == 0
    assert array[0] == 0


def test_parts_lie_at_whole_steps(local):
    """So that whoever maps the file finds arrays where processors like them."""
    array = np.arange(10_000.0)
    local.put(A, array)
    data = file_of(local, A).read_bytes()

    assert data.find(array.tobytes()) % 64 == 0
    assert len(data) < array.nbytes + 2000


def test_classes_of_a_script_travel_whole(tmp_path):
    """A value of a class of ``__main__`` is read by a process that has another ``__main__``."""
    program = (
        "from handoff_dask.reuse.cache import Cache\n"
        "class Mine:\n    n = 5\n"
        f"Cache({str(tmp_path)!r}).put({A!r}, Mine())"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

    assert Cache(tmp_path).get(A).value.n == 5


def test_one_flipped_byte_never_gives_another_value(local):
    """At each place of an entry: what is read is right, or it is a miss with a warning."""
    value = [1, "two", np.arange(1000)]
    local.put(A, value)
    path = file_of(local, A)
    whole = path.read_bytes()
    kinds = set()
    for place in [*range(len(whole) - 7900), *range(len(whole) - 7900, len(whole), 97)]:
        for flip in (0x01, 0x80):
            damaged = bytearray(whole)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                found = local.get(A)
            kinds.add(type(found))
            if isinstance(found, Hit):  # in what fills the room between the parts
                np.testing.assert_equal(found.value, value)
                assert heard == []
            else:
                assert found.kind == "damaged"
                assert [w.category for w in heard] == [DamagedCacheWarning]
                assert A in str(heard[0].message)
                assert local.check(A).kind == "damaged"
    assert kinds == {Hit, Miss}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path.write_bytes(whole)
        np.testing.assert_equal(local.get(A).value, value)


@pytest.mark.parametrize("size", [0, 1, 10, 16, 20, 30, 44, 60, 200, -1, -100])
@pytest.mark.filterwarnings("ignore::handoff_dask.reuse.cache.DamagedCacheWarning")
def test_an_entry_that_was_cut_is_damaged(local, size):
    local.put(A, np.arange(1000))
    path = file_of(local, A)
    path.write_bytes(path.read_bytes()[:size])

    assert local.get(A).kind == "damaged"


@pytest.mark.filterwarnings("ignore::handoff_dask.reuse.cache.DamagedCacheWarning")
def test_an_entry_under_another_name_is_not_believed(local):
    local.put(A, 1)
    file_of(local, B).parent.mkdir()
    os.rename(file_of(local, A), file_of(local, B))

    found = local.get(B)
    assert (found.kind, found.why.rpartition(": ")[2]) == (
        "damaged",
        "it is the entry of another fingerprint",
    )


@pytest.mark.filterwarnings("ignore::handoff_dask.reuse.cache.DamagedCacheWarning")
def test_an_entry_that_cannot_be_read_is_damaged(local):
    file_of(local, A).mkdir(parents=True)

    assert local.get(A).kind == "damaged"


def test_a_damaged_entry_is_replaced(local):
    local.put(A, 1)
    file_of(local, A).write_bytes(b"nonsense")
    with pytest.warns(DamagedCacheWarning, match="computed again"):
        local.get(A)

    local.put(A, 2)
    assert local.get(A).value == 2


def test_what_cannot_be_loaded_is_missing(local, monkeypatch):
    """Its class is gone, or raises: then the function runs again; nobody is stopped."""
    local.put(A, Moody())
    local.put(B, Local(3))
    assert local.get(B).value.n == 3
    monkeypatch.delattr(sys.modules[__name__], "Local")

    assert local.get(A) == Miss("unknown", "its value cannot be loaded here (ZeroDivisionError: not today)")
    assert local.get(B).kind == "unknown"
    assert local.check(A) is None


def test_what_cannot_be_pickled_leaves_nothing(cache):
    with pytest.raises(TypeError):
        cache.put(A, threading.Lock())

    assert cache.get(A).kind == "gone"
    assert cache.entries() == []


def test_a_write_that_fails_leaves_what_there_was(local, monkeypatch):
    local.put(A, 1)

    class Full(Exception):
        pass

    def chunks(*_):
        yield b"half"
        raise Full

    monkeypatch.setattr("handoff_dask.reuse.entries.Packed.chunks", chunks)
    with pytest.raises(Full):
        local.put(A, 2)
    assert local.get(A).value == 1
    assert [p for p in (Path(local.url) / "parts").rglob("*") if p.is_file()] == []


def test_files_among_a_value_must_be_as_they_were(local, tmp_path):
    written = tmp_path / "out.csv"
    written.write_text("one")
    local.put(A, {"rows": 3, "file": File(written)})
    assert local.get(A).value["file"] == File(written)

    written.write_text("two")
    assert local.get(A) == Miss("file", f"the file {written} of its result has changed")
    written.unlink()
    assert (
        local.check(A).why == f"the file {written} of its result cannot be read (No such file or directory)"
    )
    written.write_text("one")
    assert isinstance(local.get(A), Hit)
    with pytest.raises(FileNotFoundError):
        local.put(B, File(tmp_path / "none"))


def write_often(url, fingerprint, value, count):
    cache = Cache(url)
    for _ in range(count):
        cache.put(fingerprint, np.full(20_000, value))


def test_many_may_write_one_entry(local):
    """Whoever reads while they do sees one of the values, whole."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_often, args=(local.url, A, n, 60)) for n in (1, 2)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(w.is_alive() for w in writers):
        found = local.get(A)
        if isinstance(found, Hit):
            assert len(set(found.value.tolist())) == 1
            seen.add(int(found.value[0]))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0

    assert seen <= {1, 2}
    assert int(local.get(A).value[0]) in {1, 2}
    assert len(local.entries()) == 1


def test_travels_and_is_a_value(tmp_path, monkeypatch):
    cache = Cache(tmp_path, max_bytes=1000)
    assert pickle.loads(pickle.dumps(cache)) == cache
    assert hash(cache) == hash(Cache(str(tmp_path), 1000))
    assert cache != Cache(tmp_path)
    assert cache != str(tmp_path)
    assert repr(cache) == f"Cache({str(tmp_path)!r}, max_bytes=1000)"
    assert repr(Cache("memory://x")) == "Cache('memory://x')"
    # What was named from here is the same from elsewhere.
    monkeypatch.chdir(tmp_path)
    here = Cache("sub")
    monkeypatch.chdir("/")
    pickle.loads(pickle.dumps(here)).put(A, 1)
    assert file_of(Cache(tmp_path / "sub"), A).exists()


@pytest.mark.parametrize(
    ("url", "options", "why"),
    [
        (None, {}, "None is no place"),
        ("", {}, "'' is no place"),
        (3, {}, "3 is no place"),
        ("nosuch://x", {}, "cannot be used"),
        ("x", {"max_bytes": 0}, "max_bytes is 0"),
        ("x", {"max_bytes": -1}, "max_bytes is -1"),
        ("x", {"max_bytes": True}, "max_bytes is True"),
        ("x", {"max_bytes": "1 GB"}, "max_bytes is '1 GB'"),
    ],
)
def test_what_is_refused(url, options, why):
    with pytest.raises(ValidationError, match=why):
        Cache(url, **options)


# --------------------------------------------------------------------------- room


def aged(cache, **ages):
    """Let entries have been used so many seconds ago."""
    for name, age in ages.items():
        os.utime(file_of(cache, name * 40), (time.time() - age,) * 2)


def put_all(cache, names, size=1000):
    for name in names:
        cache.put(name * 40, b"x" * size)


def names_of(entries):
    return "".join(e.fingerprint[0] for e in entries)


def test_what_was_not_used_for_long_is_removed(local):
    put_all(local, "abc")
    aged(local, a=100, b=50, c=10)

    assert names_of(local.entries()) == "abc"
    assert names_of(local.prune(older_than=60)) == "a"
    assert names_of(local.prune(older_than=60)) == ""
    assert local.present([A[:1] * 40, "b" * 40]) == {"b" * 40}


def test_what_was_used_longest_ago_is_removed_first(local):
    put_all(local, "abcd")
    aged(local, a=10, b=40, c=30, d=20)
    one = local.entries()[0].nbytes

    assert names_of(local.prune(keep=2 * one)) == "bc"
    assert names_of(local.entries()) == "da"
    assert local.prune(keep=2 * one) == []
    assert names_of(local.prune(keep=0)) == "da"


def test_a_read_is_a_use(cache, monkeypatch):
    """It is noted in the file system, now and then."""
    put_all(cache, "ab")
    now = time.time()
    monkeypatch.setattr(cache_module.time, "time", lambda: now + 10_000)
    if not cache._store.is_local:
        time.sleep(0.01)
    else:
        aged(cache, a=100, b=50) if not cache.url.startswith("file") else None
        for name, age in (("a", 100), ("b", 50)):
            path = cache._store.path("entries", name * 40)
            os.utime(path, (now - age,) * 2)
    cache.get("a" * 40)

    assert names_of(cache.entries()) == "ba"


def test_uses_are_noted_now_and_then(local, monkeypatch):
    put_all(local, "a")
    now = time.time() + 10
    monkeypatch.setattr(cache_module.time, "time", lambda: now)
    local.get("a" * 40)
    aged(local, a=500)
    before = local.entries()[0].used

    now += cache_module.NOTED_EVERY - 1
    local.get("a" * 40)
    assert local.entries()[0].used == before
    now += 1
    local.get("a" * 40)
    assert local.entries()[0].used > before


def test_it_holds_no_more_than_it_may(tmp_path):
    cache = Cache(tmp_path, max_bytes=20_000)
    for n in range(100):
        cache.put(f"{n:02d}" * 20, b"x" * 1000)
        assert sum(e.nbytes for e in cache.entries()) <= 21_000 + 1_500
    left = {e.fingerprint for e in cache.entries()}
    assert len(left) >= 9
    assert "99" * 20 in left


def test_two_writers_hold_no_more_together_than_one_may(tmp_path):
    """Each looks at what others have written before it has written much itself."""
    caches = [Cache(tmp_path, max_bytes=50_000) for _ in range(4)]
    for n in range(200):
        caches[n % 4].put(f"{n:040x}"[::-1], b"x" * 1000)

    assert sum(e.nbytes for e in caches[0].entries()) <= 50_000 * 1.3


def test_a_value_that_is_too_large_is_not_kept(tmp_path):
    cache = Cache(tmp_path, max_bytes=2000)
    cache.put(A, b"x" * 100)
    cache.put(B, b"x" * 3000)

    assert cache.present([A, B]) == {A}


def test_pruning_by_limit_is_pruning_to_max_bytes(tmp_path):
    unbounded = Cache(tmp_path)
    put_all(unbounded, "abcd")
    one = unbounded.entries()[0].nbytes

    assert unbounded.prune() == []
    assert len(Cache(tmp_path, max_bytes=2 * one).prune()) == 2


def test_what_was_left_half_written_is_removed(local):
    parts = Path(local.url) / "parts"
    local.put(A, 1)
    for name, age in (("old", cache_module.ABANDONED + 10), ("new", 10)):
        (parts / name).write_text("half")
        os.utime(parts / name, (time.time() - age,) * 2)

    local.prune()
    assert [p.name for p in parts.iterdir()] == ["new"]


def test_what_was_computed_from_what_is_forgotten_at_last(local):
    """It outlives its entry, to say that that is gone; not for ever."""
    found = details([cache_function()])["f"]
    record = record_of("f", found)
    local.put(A, 1, record)
    local.note_code("ab" * 20, {"code of f": "1"})
    paths = [p for folder in ("known", "codes") for p in (Path(local.url) / folder).rglob("*") if p.is_file()]
    assert len(paths) == 2

    local.prune(keep=0)
    assert local.known(record["key"]) == record
    assert local.code("ab" * 20) == {"code of f": "1"}
    for path in paths:
        os.utime(path, (time.time() - cache_module.REMEMBERED - 10,) * 2)
    local.prune(older_than=10 * cache_module.REMEMBERED)
    assert local.known(record["key"]) == record
    local.prune(older_than=10)
    assert local.known(record["key"]) is None
    assert local.code("ab" * 20) is None


def cache_function():
    from handoff_dask.graph.functions import Function

    return Function("f", [], int)


def test_a_code_is_written_once(local):
    local.note_code(A, {"x": "1"})
    local.note_code(A, {"x": "2"})

    assert local.code(A) == {"x": "1"}


def test_what_is_no_record_is_none(local):
    local.note_code(A, {"x": "1"})
    path = Path(local.url) / "codes" / A[:2] / A
    for text in ("[1]", "{", ""):
        path.write_text(text)
        assert local.code(A) is None


def test_entries_that_vanish_while_pruning_are_no_problem(local, monkeypatch):
    put_all(local, "ab")
    entries = local.entries()
    for entry in entries:
        file_of(local, entry.fingerprint).unlink()
    monkeypatch.setattr(local, "entries", lambda: entries)

    assert len(local.prune(keep=0)) == 2


def test_a_cache_that_can_only_be_read_can_be_read(local, monkeypatch):
    local.put(A, 1)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(local._store, "touch", refuse)
    assert local.get(A).value == 1


def test_a_pickle_and_its_buffers_are_a_value():
    value = {"a": np.arange(5000), "b": "x"}
    packed = pack(value)

    np.testing.assert_equal(unpack([bytes(data) for data, _ in packed.parts]), value)
    assert packed.nbytes == sum(len(bytes(data)) for data, _ in packed.parts)
