"""A bad day: many small files of which three are broken, a flaky function, and one with a bug.

Run it with ``python examples/survey.py FOLDER [COUNT]``: it makes COUNT files (2,000) in FOLDER/files and
tells what ran each time, until the report is there.  The same from a shell, once the files are there::

    python examples/survey.py FOLDER 2000 --only-files
    export SURVEY=FOLDER
    dask handoff run examples/survey.py:survey --keep-going --cache FOLDER/cache
    python examples/survey.py FOLDER 2000 --repair
    dask handoff why-rerun examples/survey.py:survey --cache FOLDER/cache
    dask handoff run examples/survey.py:survey --keep-going --cache FOLDER/cache
    dask handoff run examples/survey.py:mended --keep-going --cache FOLDER/cache

``docs/failures.md`` and ``docs/resume.md`` tell that story.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import handoff_dask as handoff

#: Every so manieth station answers at the second attempt only.
FLAKY = 100


def read(file: handoff.File) -> list[float]:
    """The values of one file; three of the files hold none."""
    values: list[float] = json.loads(Path(file).read_text())
    return values


def calibrate(values: list[float], number: int) -> list[float]:
    """Values in units; asks a station for its calibration, which may be busy."""
    here = handoff.current()
    if number % FLAKY == 7 and here is not None and here.attempt == 1:
        raise ConnectionError(f"station {number} is busy")
    return [2.0 * value for value in values]


def report(*calibrated: list[float]) -> str:
    """What came of it; with a bug: some files have no values."""
    means = [sum(values) / len(values) for values in calibrated]
    return f"{len(means)} stations, highest mean {max(means):.1f}"


def mended_report(*calibrated: list[float]) -> str:
    """The same, mended."""
    means = [sum(values) / len(values) for values in calibrated if values]
    return f"{len(means)} stations, highest mean {max(means):.1f}"


def survey(code: Callable[..., str] = report, folder: Path | None = None) -> handoff.DAG:
    """Read and calibrate each file, and report."""
    if folder is None:
        folder = Path(os.environ["SURVEY"])
    dag, each = handoff.DAG("survey"), handoff.Retry(2, on=ConnectionError)
    paths = sorted((folder / "files").iterdir())
    for number, path in enumerate(paths):
        name, cost = path.stem, {"cpu": 1}
        dag.add_function(
            id=("read", name), code=read, extra_args=[handoff.File(path)], cost=cost, max_retries=0
        )
        dag.add_function(
            id=("calibrate", name),
            args=[("read", name)],
            code=calibrate,
            extra_args=[number],
            cost=cost,
            retry=each,
        )
    calibrated = [("calibrate", path.stem) for path in paths]
    return dag.add_function(id="report", args=calibrated, code=code, cost={"cpu": 1}, max_retries=0)


def mended() -> handoff.DAG:
    """The same survey with the bug mended."""
    return survey(mended_report)


def broken(count: int) -> list[int]:
    """Numbers of the three files that are broken."""
    return [count // 4, count // 2, count - 2]


def make_files(folder: Path, count: int, *, repair: bool = False) -> None:
    """Write the files, or the three broken ones anew."""
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    for number in broken(count) if repair else range(count):
        values = [float(number), number / 7] if number % 250 != 3 else []
        text = "[1.0, 2." if number in broken(count) and not repair else json.dumps(values)
        (files / f"{number:05}.json").write_text(text)


def told(name: str, result: handoff.ExecutionResult) -> str:
    """What ran, in a line."""
    ran = Counter(i[0] if isinstance(i, tuple) else i for i in result.timings if i not in result.failed)
    again = sum(timing.attempts > 1 for timing in result.timings.values())
    counts = ", ".join(f"{count} {what}" for what, count in ran.items()) or "nothing"
    return (
        f"{name}: ran {counts}; {again} at a later attempt; {len(result.failed)} failed, "
        f"{len(result.skipped)} skipped, {len(result.reused)} reused"
    )


def story(session: handoff.Handoff, folder: Path, count: int) -> None:
    """Run the survey until the report is there; print what ran each time."""
    options: dict[str, Any] = {"on_failure": "return", "cache": folder / "cache"}
    make_files(folder, count)
    print(told("first run", session.execute(survey(folder=folder), **options)))
    make_files(folder, count, repair=True)
    why = handoff.why_rerun(survey(folder=folder), cache=folder / "cache")
    print(f"three files repaired: {dict(Counter(reason.kind for reason in why.values()))}")
    result = session.execute(survey(folder=folder), **options)
    print(told("second run", result), f"({result.failed['report']})")
    result = session.execute(survey(mended_report, folder), **options)
    print(told("bug mended", result))
    print(result.results["report"])
    print(told("once more", session.execute(survey(mended_report, folder), **options)))


def main(arguments: list[str]) -> None:
    """Make the files, and run the story unless only files are wanted."""
    folder = Path(arguments[0])
    count = int(arguments[1]) if len(arguments) > 1 else 2000
    if "--only-files" in arguments or "--repair" in arguments:
        make_files(folder, count, repair="--repair" in arguments)
        return
    with handoff.Handoff(nodes={"a": {"cpu": 2}, "b": {"cpu": 2}}) as session:
        story(session, folder, count)


if __name__ == "__main__":
    main(sys.argv[1:])
