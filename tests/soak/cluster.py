"""The cluster of a soak as processes of this machine, and what is done to it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from distributed import Client, Status

import handoff_dask as handoff

ROOT = Path(__file__).resolve().parent.parent.parent


class Machine:
    """Processes: a scheduler, workers with nannies, users whose DAGs have so many functions at most."""

    def __init__(self, folder: Path, workers: int, most: int) -> None:
        self.folder, self.most = folder, most
        self.log = folder / "events.jsonl"
        self._names = 0
        self._started: list[subprocess.Popen[bytes]] = []
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.users: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        file = folder / "scheduler.json"
        self.scheduler = self._python(
            "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
            "--dashboard-address", "127.0.0.1:0", "--no-show", "--scheduler-file", str(file),
        )  # fmt: skip
        give_up = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < give_up, "the scheduler does not come up"
            time.sleep(0.05)
        time.sleep(0.2)
        self.address = str(json.loads(file.read_text())["address"])
        for _ in range(workers):
            self.add_worker()

    def _python(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DASK_DISTRIBUTED__SCHEDULER__VALIDATE": "True",
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1000",
            "DASK_LOGGING__DISTRIBUTED": "error",
            "DASK_HANDOFF__EVENT_LOG": str(self.log),
            "DASK_HANDOFF__EVENT_LOG_LIMIT": "2 GB",
            # Of sessions within functions, too: what they have executed is over with them.
            "DASK_HANDOFF__RETAINED_DAGS": "0",
        }
        with open(self.folder / "errors.txt", "ab") as errors:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def add_worker(self, name: str | None = None) -> None:
        """Start a worker."""
        if name is None:
            self._names += 1
            name = f"node{self._names}"
        self.workers[name] = self._python(
            "-m", "distributed.cli.dask_worker", self.address, "--name", name, "--host", "127.0.0.1",
            "--nthreads", "2", "--no-dashboard", "--memory-limit", "2 GB",
            "--resources", "cpu=2 licence=1 ssd=1 memory=1000",
        )  # fmt: skip

    def add_user(self, seed: int, seconds: float) -> None:
        """Start a user."""
        file = self.folder / f"found-{seed}-{len(self.users)}.json"
        notes = self.folder / "notes"
        notes.mkdir(exist_ok=True)
        user = self._python(
            "-m", "tests.soak.user", self.address, str(seed), str(seconds), str(self.most), str(notes),
            str(file),
        )  # fmt: skip
        self.users[f"{seed}-{len(self.users)}"] = user, file

    def worker_process(self, name: str) -> psutil.Process | None:
        """The process under a nanny that runs functions."""
        with suppress(psutil.Error):
            children = psutil.Process(self.workers[name].pid).children(recursive=True)
            found = [c for c in children if "spawn_main" in " ".join(c.cmdline())]
            return found[0] if found else None
        return None

    def end(self) -> None:
        """End all that was started."""
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


class Harms:
    """A seeded plan of harm to a cluster, carried out from a thread."""

    def __init__(self, machine: Machine, rng: random.Random, least: int) -> None:
        self.machine, self.rng, self.least = machine, rng, least
        self.counts: Counter[str] = Counter()
        self.over = threading.Event()
        self._client = Client(machine.address, set_as_default=False)
        self._session = handoff.Handoff(self._client).start()
        self._thread = threading.Thread(target=self._go, daemon=True)
        #: What undoes a harm, at its time: in threads of their own, since harms may wait for what is stopped.
        self._undoing: list[threading.Timer] = []
        self.kinds: list[Callable[[], None]] = [
            self.kill_worker, self.kill_node, self.stop_worker, self.retire, self.add, self.shrink, self.grow,
            self.restart_worker, self.pause, self.block_scheduler, self.stop_scheduler, self.interrupt_user,
            self.kill_user, self.stop_user, self.unregister, self.rebalance, self.other_client,
            self.drop_connection, self.ask_much, self.collect,
        ]  # fmt: skip

    def start(self, seconds: float) -> None:
        """Do harm for so many seconds."""
        self._ends = time.monotonic() + seconds
        self._thread.start()

    def join(self) -> None:
        """Until the last harm is done, and what was stopped goes on."""
        # Some calls of Dask's own client wait for ever for a worker that has been killed meanwhile.
        self._thread.join(max(0.0, self._ends - time.monotonic()) + 20)
        for timer in list(self._undoing):
            timer.join()
        if self._thread.is_alive():
            self.counts["a call of Dask's own client hangs"] += 1
        self._client.close(timeout=2)

    def _go(self) -> None:
        plan = list(self.kinds)
        self.rng.shuffle(plan)
        while time.monotonic() < self._ends:
            time.sleep(self.rng.random() * 1.2)
            harm = plan.pop() if plan else self.rng.choice(self.kinds)
            with suppress(handoff.HandoffError, OSError, psutil.Error, KeyError, IndexError, TimeoutError):
                harm()
                self.counts[f"harm: {harm.__name__}"] += 1

    def _name(self) -> str:
        alive = [name for name, process in self.machine.workers.items() if process.poll() is None]
        return self.rng.choice(alive)

    def _user(self) -> tuple[str, subprocess.Popen[bytes]]:
        alive = [(n, user) for n, (user, _) in self.machine.users.items() if user.poll() is None]
        return self.rng.choice(alive)

    def _after(self, seconds: float, undo: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, undo)
        self._undoing.append(timer)
        timer.start()

    # ------------------------------------------------------------------ kinds

    def kill_worker(self) -> None:
        process = self.machine.worker_process(self._name())
        if process is not None:
            process.kill()

    def kill_node(self) -> None:
        name = self._name()
        os.killpg(self.machine.workers[name].pid, signal.SIGKILL)
        self.machine.workers.pop(name).wait(20)
        self._after(2, lambda: self.machine.add_worker(name))

    def stop_worker(self) -> None:
        process = self.machine.worker_process(self._name())
        if process is not None:
            process.suspend()
            self._after(2, lambda: _resume(process))

    def retire(self) -> None:
        if len(self.machine.workers) <= self.least:
            return
        name = self._name()
        self._client.retire_workers(names=[name], close_workers=True)
        process = self.machine.workers.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        self._after(1, self.machine.add_worker)

    def add(self) -> None:
        if len(self.machine.workers) < self.least + 2:
            self.machine.add_worker()

    def shrink(self) -> None:
        name = self._name()
        self._session.update_node_resources(name, {"cpu": 1, "memory": 500})
        self._after(2, lambda: self._grow(name))

    def _grow(self, name: str) -> None:
        with suppress(handoff.HandoffError):
            self._session.update_node_resources(name, {"cpu": 2, "memory": 1000})

    def grow(self) -> None:
        self._session.update_node_resources(self._name(), {"cpu": 3})

    def unregister(self) -> None:
        self._session.unregister_node(self._name())

    def restart_worker(self) -> None:
        self._client.restart_workers([self._name()], timeout=20, raise_for_error=False)

    def pause(self) -> None:
        address = self._address()
        self._client.run(_set_status, Status.paused.name, workers=[address])
        self._after(1, lambda: self._unpause(address))

    def _unpause(self, address: str) -> None:
        with suppress(Exception):
            self._client.run(_set_status, Status.running.name, workers=[address])

    def _address(self) -> str:
        return self.rng.choice(list(self._client.scheduler_info(n_workers=-1)["workers"]))

    def block_scheduler(self) -> None:
        self._client.run_on_scheduler(time.sleep, self.rng.random())

    def stop_scheduler(self) -> None:
        os.kill(self.machine.scheduler.pid, signal.SIGSTOP)
        time.sleep(self.rng.random())
        os.kill(self.machine.scheduler.pid, signal.SIGCONT)

    def interrupt_user(self) -> None:
        self._user()[1].send_signal(signal.SIGINT)

    def kill_user(self) -> None:
        _, user = self._user()
        user.kill()
        user.wait(20)
        self.machine.add_user(self.rng.randrange(10**6), max(0.0, self._ends - time.monotonic()))

    def stop_user(self) -> None:
        _, user = self._user()
        user.send_signal(signal.SIGSTOP)
        self._after(2, lambda: user.send_signal(signal.SIGCONT))

    def rebalance(self) -> None:
        self._client.rebalance()

    def other_client(self) -> None:
        with Client(self.machine.address, set_as_default=False) as client, handoff.Handoff(client) as session:
            session.submit([handoff.Function(n, [], time.sleep, extra_args=[0.2]) for n in range(8)])

    def drop_connection(self) -> None:
        """A client goes without a word."""
        client = Client(self.machine.address, set_as_default=False)
        handoff.Handoff(client).submit(
            [handoff.Function(n, [], time.sleep, extra_args=[0.2]) for n in range(8)]
        )
        client.scheduler_comm.comm.abort()
        client.close(timeout=1)

    def ask_much(self) -> None:
        for _ in range(50):
            self._session.discover_nodes()

    def collect(self) -> None:
        self._client.run(_collect)


def _set_status(status: str, dask_worker: Any) -> None:
    dask_worker.status = Status[status]


def _collect() -> None:
    import gc

    gc.collect()


def _resume(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.resume()
