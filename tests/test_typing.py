"""What a type checker, and with it an editor, knows of the front door."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import handoff_dask as handoff
from handoff_dask.allocators import StrategyName
from handoff_dask.placement.strategies import BUILT_IN

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = Path(__file__).with_name("typed_sample.py")

#: The options of an execution, in SPEC's order but for what only some of these take.
OPTIONS = {
    "inputs": None,
    "allocation_strategy": None,
    "allocator": None,
    "resources": None,
    "max_retries": None,
    "retry": None,
    "max_concurrency": None,
    "priority": 0,
    "share": 1.0,
    "outputs": None,
    "timeout": None,
    "progress": False,
    "on_failure": "stop",
    "cache": None,
    "resume": None,
}


def checked(folder, *command):
    """What a checker says of the sample, alone in a folder; empty if all is well."""
    shutil.copy(SAMPLE, folder)
    settings = {
        "include": [SAMPLE.name],
        "typeCheckingMode": "standard",
        "reportUnnecessaryTypeIgnoreComment": "error",
        "reportUnnecessaryComparison": "error",
        "pythonVersion": "3.10",
        "extraPaths": [str(ROOT)],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_mypy_knows_the_front_door(tmp_path):
    rules = ["--strict", "--python-version", "3.10", "--follow-imports", "silent"]
    settings = ["--config-file", str(ROOT / "pyproject.toml")]

    assert checked(tmp_path, "mypy", *settings, *rules, SAMPLE.name) == ""


def test_pyright_knows_the_front_door(tmp_path):
    assert checked(tmp_path, "pyright", "--pythonpath", sys.executable) == ""


@pytest.mark.parametrize(
    "call",
    [
        handoff.execute,
        handoff.submit,
        handoff.execute_distributed,
        *(
            getattr(session, name)
            for session in (handoff.Handoff, handoff.AsyncHandoff)
            for name in ("execute", "submit", "execute_distributed", "execute_local")
        ),
    ],
    ids=lambda call: f"{call.__module__}.{call.__qualname__}",
)
def test_an_editor_shows_every_option_with_its_default(call):
    parameters = inspect.signature(call).parameters.values()
    shown = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "client"}
    annotated = [p.name for p in parameters if p.annotation is p.empty]

    only = {"detach": False} if call.__name__ == "submit" else {}
    assert shown == {**OPTIONS, **only}
    assert annotated in ([], ["self"])


def test_both_sessions_have_the_same_methods():
    """What one can do, the other can; the coroutines are those of the methods that wait."""
    blocking, asynchronous = (
        {
            name: list(inspect.signature(value).parameters)
            for name, value in inspect.getmembers(session, inspect.isfunction)
            if not name.startswith("_") and value.__qualname__ == f"{session.__name__}.{name}"
        }
        for session in (handoff.Handoff, handoff.AsyncHandoff)
    )

    assert blocking == asynchronous
    coroutines = {n for n in asynchronous if inspect.iscoroutinefunction(getattr(handoff.AsyncHandoff, n))}
    assert asynchronous.keys() - coroutines == {"store_value", "get_local_value"}


def test_the_types_name_the_strategies_that_there_are():
    assert get_args(StrategyName) == tuple(BUILT_IN)
