"""Run distributed's own test suite on clusters with handoff's preload; what fails, once more without.

    python tests/dask_suite/compare.py CHECKOUT [FILE ...] [-k EXPRESSION] [--seconds 3000]

See README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PRELOAD = "['handoff_dask.preload']"
#: Folders of tests that are copied into the installed package.
FOLDERS = ("tests", "shuffle/tests", "deploy/tests", "diagnostics/tests", "comm/tests", "protocol/tests")
#: What is run unless files are named.
USUAL = ("tests", "shuffle/tests", "deploy/tests", "diagnostics/tests")
NEEDED = ("pytest", "pytest-timeout", "pytest-rerunfailures")


def main() -> None:
    """Set the environment up, run, run again, tell."""
    options = parser().parse_args()
    package = set_up(options.environment, options.checkout.resolve())
    results = options.environment / "results"
    results.mkdir(exist_ok=True)
    named = options.files or USUAL
    print(f"with handoff: {' '.join(named)}", flush=True)
    first = run(package, named, options, results / "with.jsonl", preload=True)
    failed = sorted(test for test, row in first.items() if row["outcome"] == "failed")
    print(f"{len(first)} tests, {len(failed)} failed; those again without handoff", flush=True)
    second = run(package, failed, options, results / "without.jsonl", preload=False) if failed else {}
    sys.exit(tell(first, second, reasons()))


def parser() -> argparse.ArgumentParser:
    """What may be said."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checkout", type=Path, help="a checkout of dask/distributed")
    p.add_argument(
        "files", nargs="*", help="tests to run, relative to the package, such as tests/test_client.py"
    )
    p.add_argument("-k", dest="expression", help="as pytest takes it")
    p.add_argument("--place", action="store_true", help="let handoff place all tasks: each asks for a core")
    p.add_argument("--environment", type=Path, default=ROOT / "build" / "dask-suite")
    p.add_argument("--seconds", type=float, help="give up each of the two runs after so many seconds")
    return p


def set_up(environment: Path, checkout: Path) -> Path:
    """Put this package and distributed's tests into an environment; the path of the installed package."""
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "-e", ROOT, *NEEDED], check=True)
    where = "import distributed, os; print(os.path.dirname(distributed.__file__))"
    told = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True)
    package = Path(told.stdout.strip())
    for folder in FOLDERS:
        if (checkout / "distributed" / folder).is_dir():
            shutil.copytree(checkout / "distributed" / folder, package / folder, dirs_exist_ok=True)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(checkout / name, package / name)
    shutil.copy(HERE / "outcomes.py", package / "handoff_outcomes.py")
    return package


def run(
    package: Path, tests: Any, options: argparse.Namespace, file: Path, *, preload: bool
) -> dict[str, dict[str, Any]]:
    """``{test: what became of it}``; of a test that ran more than once, the last."""
    file.unlink(missing_ok=True)
    file.touch()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"OUTCOMES": str(file), "PYTHONUNBUFFERED": "1"}
    if preload and options.place:
        environment["DASK_HANDOFF__DASK_TASKS"] = "place"
        environment["COST_OF_ALL"] = json.dumps({"cpu": 1})
    if preload:
        environment["DASK_DISTRIBUTED__SCHEDULER__PRELOAD"] = PRELOAD
        environment["DASK_DISTRIBUTED__WORKER__PRELOAD"] = PRELOAD
    # Not from within the package: modules of the standard library would be looked for in it.
    command = [options.environment.absolute() / "bin" / "pytest", "-q", "-p", "distributed.handoff_outcomes"]
    command += ["--timeout-method=signal", "--reruns", "1", "--tb=line"]
    command += ["-c", package / "pyproject.toml", "--rootdir", package]
    if options.expression and preload:
        command += ["-k", options.expression]
    log = file.with_suffix(".log").open("w", encoding="utf-8")
    process = subprocess.Popen(
        [*command, *(f"{package}/{test}" for test in tests)],
        cwd=file.parent,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with log:
        try:
            process.wait(options.seconds)
        except subprocess.TimeoutExpired:
            print(f"given up after {options.seconds:.0f} s", flush=True)
        finally:
            # Clusters of tests that were given up are there too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
    if process.returncode not in (0, 1, -15):
        print(f"pytest ended with {process.returncode}; see {file.with_suffix('.log')}", flush=True)
    found: dict[str, dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        # What fails while it is taken down has failed, although its call has passed.
        if row["when"] != "teardown" or row["outcome"] == "failed":
            found[row["test"]] = row
    return found


def reasons() -> dict[str, str]:
    """``{pattern of tests: why they must differ}``."""
    text = (HERE / "differs.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)
    return found


def tell(first: dict[str, dict[str, Any]], second: dict[str, dict[str, Any]], known: dict[str, str]) -> int:
    """Print what differs; 1 if something does that has no reason."""
    count = {
        outcome: sum(r["outcome"] == outcome for r in first.values()) for outcome in ("passed", "skipped")
    }
    print(f"\nwith handoff: {count['passed']} passed, {count['skipped']} skipped")
    unexplained = 0
    for test, row in sorted(first.items()):
        if row["outcome"] != "failed":
            continue
        without = second.get(test, {"outcome": "not run"})["outcome"]
        if without == "failed":
            print(f"fails with and without: {test}")
            continue
        why = next((why for pattern, why in known.items() if fnmatchcase(test, pattern)), None)
        unexplained += why is None
        print(f"differs ({without} without): {test}")
        print(f"    {first_line(row['said'])}\n    {why or 'NO REASON KNOWN'}")
    return int(unexplained > 0)


def first_line(said: str) -> str:
    """Of what a test said."""
    return next(iter(said.splitlines()), "")


if __name__ == "__main__":
    main()
