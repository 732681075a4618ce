"""A file stands for its content."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest

from handoff_dask.errors import ValidationError
from handoff_dask.graph.functions import Function
from handoff_dask.reuse import file as file_module
from handoff_dask.reuse.file import File, digest_of_file
from handoff_dask.reuse.fingerprint import details, fingerprint


def read(path):
    return Path(path).read_text()


def of(path):
    return fingerprint([Function("f", [], read, extra_args=[File(path)])])["f"]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    return tmp_path / "a.txt"


def test_is_a_path_and_a_value(path):
    file = File(path)

    assert os.fspath(file) == str(file) == file.path == str(path)
    assert read(file) == "one"
    assert file == File(str(path)) != File(path.parent / "b.txt")
    assert file != str(path)
    assert len({file, File(path)}) == 1
    assert pickle.loads(pickle.dumps(file)) == file
    assert repr(file) == f"File({str(path)!r})"
    assert File(file) == file


@pytest.mark.parametrize("given", [None, 3, b"a", "", ["a"]])
def test_what_is_no_path_is_refused(given):
    with pytest.raises(ValidationError, match="File: "):
        File(given)


def test_its_content_counts_and_nothing_else(path, tmp_path):
    """Neither name nor place nor time (nextflow's caches went by these)."""
    before = of(path)
    os.utime(path, (1, 1))
    assert of(path) == before
    shutil.copy(path, tmp_path / "b.dat")
    assert of(tmp_path / "b.dat") == before
    path.write_text("two")
    assert of(path) != before
    path.write_text("one")
    assert of(path) == before


def test_a_change_that_keeps_size_and_time_is_seen(path):
    """The time of the last change of anything at all cannot be set by hand."""
    os.utime(path, (1000, 1000))
    before = digest_of_file(path)
    path.write_text("two")
    os.utime(path, (1000, 1000))

    assert digest_of_file(path) != before


@pytest.mark.parametrize("name", ["mtime", "ctime"])
def test_a_file_that_was_just_changed_is_read_again(path, monkeypatch, name):
    """Within the steps in which a file system tells times a change leaves no trace."""
    place = str(path)
    digest_of_file(path)
    assert place not in file_module._known

    def later(ns):
        monkeypatch.setattr(file_module.time, "time_ns", lambda: path.stat().st_ctime_ns + ns)

    later(file_module.UNCERTAIN_NS)
    os.utime(path, (1, 1)) if name == "ctime" else None
    later(file_module.UNCERTAIN_NS)
    digest_of_file(path)
    assert place not in file_module._known
    later(file_module.UNCERTAIN_NS + 1)
    digest_of_file(path)
    assert place in file_module._known


def test_a_file_that_is_known_is_not_read_again(path, monkeypatch):
    monkeypatch.setattr(file_module.time, "time_ns", lambda: path.stat().st_ctime_ns + 10**10)
    before = digest_of_file(path)
    monkeypatch.setattr(file_module, "blake2b", None)

    assert digest_of_file(path) == before
    monkeypatch.undo()
    path.write_text("two")
    assert digest_of_file(path) != before


def test_few_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(file_module, "MOST_KNOWN", 2)
    monkeypatch.setattr(file_module, "_known", {})
    monkeypatch.setattr(file_module.time, "time_ns", lambda: 2**62)
    for name in "abc":
        (tmp_path / name).write_text(name)
        digest_of_file(tmp_path / name)

    assert [Path(p).name for p in file_module._known] == ["b", "c"]


def test_what_cannot_be_read_is_told(tmp_path):
    found = details([Function("f", [], read, extra_args=[File(tmp_path)])])["f"]
    assert found.fingerprint is None
    assert "cannot be read: Is a directory" in found.unknown
    with pytest.raises(FileNotFoundError):
        File(tmp_path / "none").digest()


def test_a_device_is_no_file():
    with pytest.raises(OSError, match="is no regular file"):
        digest_of_file("/dev/null")


def test_a_file_that_changes_while_it_is_read_has_no_digest(path, monkeypatch):
    class Nosy:
        def __init__(self, **_):
            pass

        def update(self, block):
            with path.open("a") as more:
                more.write("x")

    monkeypatch.setattr(file_module, "blake2b", Nosy)

    with pytest.raises(OSError, match="changes while it is read"):
        digest_of_file(path)


def test_large_files_are_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(file_module, "BLOCK", 10)
    found = set()
    for end in "ab":
        (tmp_path / end).write_text("x" * 35 + end)
        found.add(digest_of_file(tmp_path / end))

    assert len(found) == 2


def test_files_inside_values_are_named(path):
    found = details([Function("f", [], read, extra_args=[{"in": [File(path)]}])])["f"]

    assert found.files == {str(path): File(path).digest()}
