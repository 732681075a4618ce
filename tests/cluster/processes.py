"""Schedulers, workers and scripts as real processes on this machine; each is ended by its handle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from stage import PATIENCE_S, until_sync

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent

#: Seconds that a process may take to come up, on a machine that is busy with other tests.
START_S = 60.0


def environment(**more: str) -> dict[str, str]:
    """What processes find: this checkout, the modules of these tests, a scheduler that checks itself."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        "DASK_DISTRIBUTED__SCHEDULER__VALIDATE": "True",
        "DASK_DISTRIBUTED__WORKER__VALIDATE": "True",
        "DASK_LOGGING__DISTRIBUTED": "warning",
        **more,
    }


@contextmanager
def started(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Python with these arguments; ended with the block, with all that it has started."""
    options = {"text": True, "env": environment(), **options}
    with subprocess.Popen([sys.executable, *arguments], start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """End a process that leads a session, and its session."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


@contextmanager
def scheduler(directory: Path, *options: str) -> Iterator[str]:
    """``dask scheduler``; its scheduler file."""
    file = directory / "scheduler.json"
    command = ["-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    command += ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file), *options]
    with started(*command, cwd=directory) as process:
        until_sync(lambda: file.exists() or process.poll() is not None, patience_s=START_S)
        assert process.poll() is None
        yield str(file)


@contextmanager
def worker(file: str, name: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """``dask worker``."""
    command = ["-m", "dask", "worker", "--scheduler-file", file, "--name", name, "--host", "127.0.0.1"]
    command += ["--no-dashboard", *options]
    with started(*command, cwd=Path(file).parent) as process:
        yield process


def run(*arguments: str, **options: Any) -> str:
    """What Python with these arguments prints; it must end well."""
    options = {"text": True, "env": environment(), "timeout": START_S, **options}
    said = subprocess.run([sys.executable, *arguments], capture_output=True, check=False, **options)
    assert said.returncode == 0, said.stderr
    return said.stdout


def offspring() -> set[int]:
    """Processes that this one has started, and they, and so on."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def gone(*pids: int) -> None:
    """Until these processes are no more."""

    def there() -> list[int]:
        alive = []
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    alive.append(pid)
        return alive

    until_sync(lambda: not there(), lambda: f"processes {there()} are still there")


# ---------------------------------------------------------------------- codes, run in other processes


def busy_until(path: str, other: str) -> int:
    """Say that it runs, and keep its core busy until another one does; its process."""
    Path(path).touch()
    give_up = time.monotonic() + PATIENCE_S
    while not Path(other).exists():
        assert time.monotonic() < give_up, f"{other} has not come"
    return os.getpid()


def waits_for(path: str, *args: Any) -> int:
    """Note its start beside the path, and wait until the path is there; its process."""
    with open(f"{path}.started", "a") as file:
        file.write(f"{os.getpid()}\n")
    give_up = time.monotonic() + PATIENCE_S
    while not Path(path).exists():
        assert time.monotonic() < give_up, f"{path} has not come"
        time.sleep(0.005)
    return os.getpid()


def starts(path: Path) -> list[int]:
    """The processes in which :func:`waits_for` has begun to wait for a path."""
    noted = Path(f"{path}.started")
    return [int(line) for line in noted.read_text().split()] if noted.exists() else []


def dies_at_first(path: str) -> int:
    """Take its process down, the first time."""
    if not Path(path).exists():
        Path(path).touch()
        os._exit(1)
    return os.getpid()


def waits_for_number(value: int, path: str) -> int:
    """The same, after another one."""
    return waits_for(path, value)
