"""A Dask cluster of processes, as users start them: one scheduler, one worker for each node."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distributed import Client

from benchmarks.scenarios import threads_of

#: Workers import the functions of this package.
ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def cluster(nodes: Mapping[str, Mapping[str, float]], *, resources: bool = True) -> Iterator[Client]:
    """A client of a new cluster with these nodes; all of it ends with the context.

    ``resources`` says whether the workers are told what they have, by ``--resources``.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        file = folder / "scheduler.json"
        processes = _Processes(folder)
        stack.callback(processes.end)
        processes.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                        "--no-show", "--scheduler-file", str(file))  # fmt: skip
        for name, offer in nodes.items():
            told = " ".join(f"{key}={value}" for key, value in offer.items())
            processes.start("worker", "--scheduler-file", str(file), "--host", "127.0.0.1",
                            "--name", name, "--no-nanny", "--no-dashboard",
                            "--nthreads", str(threads_of(offer)),
                            *(["--resources", told] if resources else []))  # fmt: skip
        client = stack.enter_context(Client(scheduler_file=str(file), timeout=60))
        client.wait_for_workers(len(nodes), timeout=60)
        # Whoever is first to import it would pay for it.
        client.run(__import__, "benchmarks.bodies")
        yield client


class _Processes:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *args: str) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        log = self._folder / f"{len(self._running)}.log"
        with log.open("wb") as output:
            self._running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *args],
                    env={**os.environ, "PYTHONPATH": path},
                    cwd=self._folder,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )

    def end(self) -> None:
        """End them all; those that do not listen are killed."""
        for process in self._running:
            process.terminate()
        patience_until = time.monotonic() + 5
        for process in self._running:
            try:
                process.wait(max(0.1, patience_until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
