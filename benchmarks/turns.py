"""Courses run in turn, each in a process of its own, and what they came to is kept in a file.

Systems take turns, so that a slow minute of the machine meets all of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.cluster import ROOT

#: Where results go, whatever the working directory.
OUT = ROOT / "bench-out"


class Session:
    """The results of one call of the benchmarks, written after every course."""

    def __init__(self, what: str, folder: Path = OUT) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{what}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        self.data: dict[str, Any] = {"what": what, "machine": machine.describe(), "rows": []}

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Keep one result; the machine's load is added to it."""
        row = {**row, "load": machine.load()}
        self.data["rows"].append(row)
        self.path.write_text(json.dumps(self.data, indent=1), encoding="utf-8")
        return row


def sessions(what: str, paths: list[Path], folder: Path = OUT) -> list[dict[str, Any]]:
    """Results of one kind: those of the files named, or the latest there are."""
    chosen = paths or sorted(folder.glob(f"{what}-*.json"))[-1:]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in chosen]
    return [session for session in found if session["what"] == what]


def in_process(function: str, limit_s: float, /, **arguments: Any) -> dict[str, Any]:
    """Call ``module:function`` in a new process; past the limit it is killed with all it started.

    Arguments and the result are what JSON can say.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.turns", function],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        answer, _ = process.communicate(json.dumps(arguments), timeout=limit_s)
    except BaseException as error:
        # The cluster's processes are of the same group.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            return {"status": f"killed after {limit_s:.0f} s"}
        raise
    if process.returncode:
        return {"status": f"ended with {process.returncode}"}
    result: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return result


def main() -> None:
    """Be the process."""
    module, _, name = sys.argv[1].partition(":")
    result = getattr(import_module(module), name)(**json.load(sys.stdin))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
