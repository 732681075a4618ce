"""A scheduler and three unlike workers on this machine, as compose.yaml has them, for one program.

    python examples/deployment/cluster.py python my_program.py

The program finds the cluster by ``DASK_SCHEDULER_ADDRESS``: neither ``Client(…)`` nor ``handoff.start`` has
to be written.  When it ends the cluster ends, and its exit code is that of this script.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distributed import Client

PRELOAD = ["--preload", "handoff_dask.preload"]
NODES = {
    "small": ["--nthreads", "2", "--memory-limit", "1GB"],
    "large": ["--nthreads", "4", "--memory-limit", "4GB", "--resources", "cpu=4"],
    "accelerated": ["--nthreads", "4", "--memory-limit", "4GB", "--resources", "cpu=2 gpu=1"],
}
#: Seconds that the cluster may take to come up.
PATIENCE_S = 60


def start(*command: str) -> subprocess.Popen[bytes]:
    """Start one of Dask's programs; what it logs is not shown."""
    return subprocess.Popen([sys.executable, "-m", "dask", *command], stderr=subprocess.DEVNULL)


def main(program: list[str]) -> int:
    """Run a program on a cluster of its own; its exit code."""
    if not program:
        print(__doc__)
        return 2
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "scheduler.json")
        here = ["--host", "127.0.0.1"]
        try:
            processes.append(
                start("scheduler", *here, "--port", "0", "--scheduler-file", file, "--no-dashboard", *PRELOAD)
            )
            for name, has in NODES.items():
                options = ["--scheduler-file", file, "--no-dashboard", "--local-directory", folder]
                processes.append(start("worker", *here, "--name", name, *options, *has, *PRELOAD))
            end = time.monotonic() + PATIENCE_S
            while not Path(file).exists() and time.monotonic() < end:
                time.sleep(0.1)
            with Client(scheduler_file=file, timeout=PATIENCE_S) as client:
                client.wait_for_workers(len(NODES), timeout=PATIENCE_S)
                address = client.scheduler.address
            environment = {**os.environ, "DASK_SCHEDULER_ADDRESS": address}
            return subprocess.run(program, env=environment, check=False).returncode
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait(PATIENCE_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
