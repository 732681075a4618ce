"""The story of ``docs/failures.md`` and ``docs/resume.md``, by its commands, with fewer files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import run

import handoff_dask as handoff
from handoff_dask.cli import handoff as command

SURVEY = str(Path(__file__).resolve().parent.parent.parent / "examples" / "survey.py")
COUNT = 24


@pytest.fixture
def survey(tmp_path, monkeypatch):
    """The example's module, and its files."""
    monkeypatch.setattr(sys, "path", [str(Path(SURVEY).parent), *sys.path])
    monkeypatch.setenv("SURVEY", str(tmp_path))
    import survey

    yield survey
    del sys.modules["survey"]


def ran(*arguments):
    """Exit code and what a run says as JSON."""
    done = CliRunner().invoke(command, ["run", *arguments, "--json"])
    return done.exit_code, json.loads(done.stdout)


def test_the_story_by_its_commands(survey, tmp_path, on_cluster):
    survey.make_files(tmp_path, COUNT)
    cache = ["--cache", str(tmp_path / "cache")]
    job = [*cache, "--keep-going", *on_cluster]

    code, first = ran(f"{SURVEY}:survey", *job)
    assert (code, first["status"], first["results"]) == (1, "failed", {})
    assert set(first["failed"]) == {f"('read', '{n:05}')" for n in survey.broken(COUNT)}
    assert len(first["skipped"]) == 4
    done = {i: f["attempts"] for i, f in first["timings"].items() if i not in first["failed"]}
    assert len(done) == 2 * (COUNT - 3)
    assert [i for i, attempts in done.items() if attempts > 1] == ["('calibrate', '00007')"]

    survey.make_files(tmp_path, COUNT, repair=True)
    _, told = run("why-rerun", f"{SURVEY}:survey", *cache)
    assert told == f"7 would run, {2 * (COUNT - 3)} are reused\n"
    code, second = ran(f"{SURVEY}:survey", *job)
    assert (code, list(second["failed"]), second["skipped"]) == (1, ["report"], {})
    assert "ZeroDivisionError" in second["failed"]["report"]
    assert (len(second["timings"]), len(second["reused"])) == (7, 2 * (COUNT - 3))

    code, third = ran(f"{SURVEY}:mended", *job)
    assert (code, list(third["timings"]), len(third["reused"])) == (0, ["report"], 2 * COUNT)
    assert third["results"] == {"report": "23 stations, highest mean 26.3"}
    code, fourth = ran(f"{SURVEY}:mended", *job)
    assert (code, fourth["timings"], fourth["results"]) == (0, {}, third["results"])


def test_the_story_by_the_api(survey, tmp_path, session, capsys):
    survey.story(session, tmp_path, COUNT)

    assert capsys.readouterr().out.splitlines() == [
        "first run: ran 21 read, 21 calibrate; 1 at a later attempt; 3 failed, 4 skipped, 0 reused",
        "three files repaired: {'reused': 42, 'new': 7}",
        "second run: ran 3 read, 3 calibrate; 0 at a later attempt; 1 failed, 0 skipped, 42 reused"
        " (division by zero)",
        "bug mended: ran 1 report; 0 at a later attempt; 0 failed, 0 skipped, 48 reused",
        "23 stations, highest mean 26.3",
        "once more: ran nothing; 0 at a later attempt; 0 failed, 0 skipped, 49 reused",
    ]


def test_what_the_cluster_still_has_is_resumed_too(survey, tmp_path, session):
    """Without a cache, and why beforehand."""
    survey.make_files(tmp_path, COUNT)
    execution = session.submit(survey.survey(folder=tmp_path), on_failure="continue")
    with pytest.raises(handoff.FunctionFailedError, match="3 functions failed"):
        execution.result()
    survey.make_files(tmp_path, COUNT, repair=True)
    why = session.why_rerun(survey.mended(), resume="survey")
    assert sum(reason.kind == "reused" for reason in why.values()) == 2 * (COUNT - 3)
    result = session.execute(survey.mended(), resume="survey")
    assert (len(result.reused), len(result.timings)) == (2 * (COUNT - 3), 7)
