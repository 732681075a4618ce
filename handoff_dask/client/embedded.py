"""The embedded cluster: a scheduler in this process, and a worker process for each node."""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from dask.system import CPU_COUNT
from distributed import Client, Scheduler
from distributed.deploy.spec import ProcessInterface, SpecCluster
from distributed.system import MEMORY_LIMIT

from handoff_dask.client.forks import is_of_parent
from handoff_dask.errors import ValidationError
from handoff_dask.resources import MEGABYTE, Capabilities

#: Threads of a node whose cpu is smaller: what waits for files or the network needs few cores.
LEAST_THREADS = 4
#: What says to native libraries how many threads they may use.
NATIVE_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
#: Seconds until all nodes must be there.
START_S = 60

#: What the process of a node runs: ``dask spec``, and the end of it all once nobody holds the other
#: end of its standard input any more.  A worker whose scheduler is gone would wait for what it runs.
NODE = """
import os, signal, sys, threading
from distributed.cli.dask_spec import main

def end_with_parent():
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=end_with_parent, daemon=True).start()
main()
"""


def this_machine() -> dict[str, Any]:
    """The capabilities of one node that has all of this machine."""
    return {"cpu": CPU_COUNT, "memory": MEMORY_LIMIT / MEGABYTE}


class NodeProcess(ProcessInterface):
    """One node: a nanny and its worker in processes of their own.

    They are started by command, not by :mod:`multiprocessing`, so that the user's script is not
    run a second time and needs no ``if __name__ == "__main__"``.
    """

    def __init__(self, scheduler: str, name: str, options: Mapping[str, Any]) -> None:
        self.scheduler = scheduler
        self.name = name
        self.options = dict(options)
        self.process: asyncio.subprocess.Process | None = None
        super().__init__(scheduler=scheduler, name=name)  # type: ignore[no-untyped-call]

    async def start(self) -> None:
        """Start the process; it connects by itself."""
        spec = {"cls": "distributed.Nanny", "opts": {"name": self.name, **self.options}}
        command = [sys.executable, "-c", NODE, self.scheduler, "--spec", json.dumps(spec)]
        # What can be imported here can be imported there.
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        environment = {
            "DASK_LOGGING__DISTRIBUTED": "warning",
            "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
            **os.environ,
            "PYTHONPATH": path,
        }
        self.process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdin=asyncio.subprocess.PIPE, start_new_session=True
        )
        await super().start()  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """End the nanny, and the worker with it."""
        process, self.process = self.process, None
        if process is not None and process.returncode is None:
            with suppress(ProcessLookupError):
                # The nanny leads a session of its own: this ends it and what it has started.
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        await super().close()  # type: ignore[no-untyped-call]


class EmbeddedCluster:
    """A scheduler in this process and a worker process for each node.

    Parameters
    ----------
    nodes
        ``{name: capabilities}``; one node of this machine's cores and memory if ``None``.

    Raises
    ------
    ValidationError
        If ``nodes`` is wrong.
    """

    def __init__(self, nodes: Mapping[str, Mapping[str, Any]] | None) -> None:
        if nodes is None:
            nodes = {"local": this_machine()}
        given: Any = nodes
        if not isinstance(given, Mapping) or not given:
            raise ValidationError(f"nodes is {nodes!r}; give a mapping from node name to capabilities")
        #: ``{name: capabilities}`` as given.
        self.nodes = {str(name): capabilities for name, capabilities in nodes.items()}
        workers = {
            name: {
                "cls": NodeProcess,
                "options": {"name": name, "options": _options(capabilities, len(nodes))},
            }
            for name, capabilities in self.nodes.items()
        }
        self.cluster = SpecCluster(
            scheduler={
                "cls": Scheduler,
                # Whoever wants a dashboard may have one on the usual port; this cluster leaves it alone.
                "options": {
                    "host": "127.0.0.1",
                    "port": 0,
                    "dashboard": False,
                    "dashboard_address": "127.0.0.1:0",
                },
            },
            workers=workers,
            silence_logs=logging.WARNING,
            name="handoff",
        )
        self.client = Client(self.cluster, set_as_default=False)
        atexit.register(self.close)
        try:
            self.client.wait_for_workers(len(workers), timeout=START_S)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it; a process that was forked from its own leaves it alone."""
        atexit.unregister(self.close)
        if is_of_parent(self.client):
            return
        # Dask complains of what is lost with the workers, which is what was asked for.
        with _silenced("distributed.scheduler", "distributed.batched"):
            self.client.close()
            self.cluster.close()


@contextmanager
def _silenced(*names: str) -> Iterator[None]:
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for log in levels:
        log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for log, level in levels.items():
            log.setLevel(level)


def _options(capabilities: Mapping[str, Any], nodes: int) -> dict[str, Any]:
    offered = Capabilities.parse(capabilities)
    cores = offered.to_dict().get("cpu", CPU_COUNT)
    # What a node says of its memory is for placing; its processes share this machine's.
    return {
        "nthreads": max(LEAST_THREADS, int(cores)),
        "memory_limit": MEMORY_LIMIT // nodes,
        # Functions that claim several cores may use them; Dask's default is one.
        "env": dict.fromkeys(NATIVE_THREADS, str(max(1, int(cores)))),
        "host": "127.0.0.1",
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",
    }
