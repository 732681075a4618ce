"""Starts the processes of isolated functions.

On Linux they are forked from a zygote, a process that has imported handoff_dask already: that takes some
milliseconds, an import takes seconds.  There is one zygote for each number of threads, since libraries look
at that when they are imported.  Elsewhere, where forking is not safe, each process is started anew.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import sleep

import psutil

#: Seconds between two looks at how much memory a function holds, and whether somebody still wants it.
LOOK_S = 0.02
#: Seconds between two looks whether a process that was killed is gone.
GONE_S = 0.002
MEGABYTE = 1_000_000
CHILD = Path(__file__).with_name("isolated_child.py")
ZYGOTE = Path(__file__).with_name("isolated_zygote.py")
#: What each process has of its own, although its zygote is that of others too.
OWN = ("CUDA_VISIBLE_DEVICES",)


class CancelledInProcess(Exception):
    """The process of a function has been ended because nobody wants it any longer."""


class Process:
    """One process, and the socket to it.

    Parameters
    ----------
    pid
        Its number.
    connection
        To it.
    status
        Gives its exit code, negative if a signal has ended it; ``None`` while it runs.
    """

    def __init__(self, pid: int, connection: Connection, status: Callable[[], int | None]) -> None:
        self.pid = pid
        self.connection = connection
        self._ask_status = status
        self._code: int | None = None
        self._lock = threading.Lock()
        with contextlib.suppress(psutil.Error):
            self._status = psutil.Process(pid)
        #: Whether it has said that it is ready, and how many megabytes it held then.
        self.is_ready = False
        self.fresh_mb = 0.0
        self.idle_since = 0.0

    def memory_mb(self) -> float:
        """Megabytes that it holds."""
        try:
            return float(self._status.memory_info().rss) / MEGABYTE
        except (psutil.Error, AttributeError):
            return 0.0

    def has_ended(self) -> bool:
        """Whether it has."""
        with self._lock:
            if self._code is None:
                self._code = self._ask_status()
            return self._code is not None

    def kill(self) -> None:
        """End it now, with all that it has started; from any thread."""
        with self._lock:
            if self._code is not None:  # its number may be another one's by now
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)  # before it leads a group of its own

    def exit_code(self) -> int:
        """Wait until it has ended; its exit code, negative if a signal has ended it."""
        while not self.has_ended():
            sleep(GONE_S)
        assert self._code is not None
        return self._code

    def end(self) -> None:
        """End it, and forget it."""
        self.kill()
        self.exit_code()
        self.connection.close()


class Starter:
    """Starts processes; from any thread."""

    def __init__(self) -> None:
        # On Linux a process ends with the thread that started it: one that lasts.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="handoff-isolated")
        self._zygotes: dict[tuple[tuple[str, str], ...], _Zygote] = {}
        self._lock = threading.Lock()

    def start(self, environment: Mapping[str, str], is_cancelled: Callable[[], bool]) -> Process:
        """A process with these variables in its environment.

        Raises
        ------
        CancelledInProcess
            If nobody wants it any longer.
        """
        if sys.platform != "linux":
            return self._thread.submit(_started, environment).result()
        common = tuple((name, value) for name, value in environment.items() if name not in OWN)
        own = {name: value for name, value in environment.items() if name in OWN}
        for _ in range(2):
            with self._lock:
                zygote = self._zygotes.get(common)
                if zygote is None:
                    zygote = self._zygotes[common] = self._thread.submit(_Zygote, dict(common)).result()
            try:
                return zygote.fork(own, is_cancelled)
            except (EOFError, OSError):  # somebody has ended it
                with self._lock:
                    if self._zygotes.get(common) is zygote:
                        del self._zygotes[common]
                zygote.close()
        raise RuntimeError("the process from which those of isolated functions are forked ends at once")

    def close(self) -> None:
        """Start no more; what was started ends."""
        with self._lock:
            zygotes, self._zygotes = list(self._zygotes.values()), {}
        for zygote in zygotes:
            zygote.close()
        self._thread.shutdown(wait=False)


class _Zygote:
    """The process from which others are forked, as its worker has it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._popen, self._connection = _script(ZYGOTE, environment)
        self._is_ready = False
        self._lock = threading.Lock()

    def fork(self, environment: Mapping[str, str], is_cancelled: Callable[[], bool]) -> Process:
        while not self._lock.acquire(timeout=LOOK_S):
            if is_cancelled():
                raise CancelledInProcess
        try:
            while not self._is_ready:
                if is_cancelled():
                    raise CancelledInProcess
                if wait([self._connection], timeout=LOOK_S):
                    self._connection.recv_bytes()
                    self._is_ready = True
            ours, theirs = socket.socketpair()
            with theirs:
                self._connection.send_bytes(pickle.dumps(("fork", dict(environment))))
                with socket.socket(fileno=os.dup(self._connection.fileno())) as sock:
                    socket.send_fds(sock, [b"."], [theirs.fileno()])
            pid: int = pickle.loads(self._connection.recv_bytes())
        finally:
            self._lock.release()
        return Process(pid, Connection(ours.detach()), lambda: self._status(pid))

    def _status(self, pid: int) -> int | None:
        with self._lock:
            try:
                self._connection.send_bytes(pickle.dumps(("status", pid)))
                code: int | None = pickle.loads(self._connection.recv_bytes())
                return code
            except (EOFError, OSError):  # its processes have ended with it
                return -signal.SIGKILL

    def close(self) -> None:
        """End it, and with it what was forked from it."""
        self._popen.kill()
        self._popen.wait()
        with self._lock:
            self._connection.close()


def _script(path: Path, environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a script of ours with a socket to it."""
    ours, theirs = socket.socketpair()
    # What the worker can import, its processes can.
    modules = os.pathsep.join(filter(None, sys.path))
    with theirs:
        popen = subprocess.Popen(
            [sys.executable, str(path), str(theirs.fileno())],
            env={**os.environ, "PYTHONPATH": modules, **environment},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    return popen, Connection(ours.detach())


def _started(environment: Mapping[str, str]) -> Process:
    popen, connection = _script(CHILD, environment)
    return Process(popen.pid, connection, popen.poll)
