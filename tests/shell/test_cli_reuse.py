"""``dask handoff``: caches, and why functions would run again."""

from __future__ import annotations

import json
import re

from commands import error_of, run


def test_a_cache_on_the_command_line(file, on_cluster, tmp_path):
    place = str(tmp_path / "cache")
    job = ["run", file, "--input", "n=21", "--cache", place, *on_cluster]

    out, err = run("why-rerun", file, "--cache", place, "--input", "n=21")
    assert out.splitlines() == [
        f"{i}: new: it has not been computed with this cache" for i in ("('pack', 1)", "unpack")
    ]
    assert err == "2 would run, 0 are reused\n"

    assert run(*job)[0] == "unpack: 42\n"
    out, err = run(*job)
    assert out == "unpack: 42\n"
    assert "nothing to run" in err
    said = json.loads(run("why-rerun", file, "--cache", place, "--input", "n=21", "--json")[0])
    assert {one["kind"] for one in said.values()} == {"reused"}
    out, _ = run("why-rerun", file, "--cache", place, "--input", "n=22")
    assert out.startswith("('pack', 1): argument: its argument 'n' has changed\n")


def test_a_cache_is_looked_at_and_pruned(file, on_cluster, tmp_path):
    place = str(tmp_path / "cache")
    run("run", file, "--input", "n=21", "--cache", place, "--quiet", *on_cluster)

    assert re.fullmatch(r".*cache: 2 entries, .*B\n", run("cache", place)[0])
    assert run("cache", place, "--prune", "30d", "--keep", "10GB")[0].endswith("2 entries, " + _size(place))
    out, _ = run("cache", place, "--keep", "1B")
    assert out.startswith("removed 2 entries, ")
    assert json.loads(run("cache", place, "--json")[0])["entries"] == 0
    assert "--prune is 'soon'" in error_of("cache", place, "--prune", "soon", code=2)
    assert "--keep is 'much'" in error_of("cache", place, "--keep", "much", code=2)


def _size(place):
    return run("cache", place)[0].rpartition("entries, ")[2]


def test_a_run_is_resumed(file, on_cluster):
    error = error_of("run", f"{file}:Makers.one", "--resume", "nobody", *on_cluster, code=2)

    assert "no execution 'nobody'" in error


def test_a_cache_in_a_place_that_fsspec_knows(file, on_cluster, tmp_path):
    """A URL, with options for its file system."""
    there = ["--cache", f"file://{tmp_path}/cache", "--storage-option", "auto_mkdir=true"]
    job = ["run", file, "--input", "n=4", *there, *on_cluster]
    assert run(*job)[0] == "unpack: 8\n"
    assert run(*job)[1].endswith(": nothing to run, 2 reused\n")
    out, err = run("why-rerun", file, "--input", "n=4", *there)
    assert (out, err) == ("", "0 would run, 2 are reused\n")
    assert json.loads(run("cache", there[1], *there[2:], "--json")[0])["entries"] == 2
    told = json.loads(run(*job, "--json")[0])
    assert (told["reused"], told["allocations"]) == (["('pack', 1)", "unpack"], {})


def test_options_of_a_cache_that_are_none(file, on_cluster, tmp_path):
    where = ["run", file, "--input", "n=4", *on_cluster]
    cache = ["--cache", str(tmp_path)]
    assert "write NAME=VALUE" in error_of(*where, *cache, "--storage-option", "secret", code=2)
    assert "without --cache" in error_of(*where, "--storage-option", "key=1", code=2)
    assert "cannot be used" in error_of(*where, "--cache", "nowhere://x", code=2)
