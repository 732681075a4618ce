"""What runs in the process of an isolated function.

It is forked from a zygote (``isolated_zygote.py``), or started as a script where that cannot be.  The worker
is at the other end of a socket: requests come from there, and answers, output and log records go there.
When the worker goes, however that happens, the process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pickle
import resource
import select
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

#: Of Linux's ``prctl``: the signal that comes when the parent's thread ends.
PR_SET_PDEATHSIG = 1
MEGABYTE = 1_000_000


def main(fd: int) -> None:
    """Answer requests until the parent is gone."""
    _end_with_parent(fd)
    _seed()
    connection = Connection(fd)
    lock = threading.Lock()

    def send(kind: str, *content: Any) -> None:
        with lock:
            connection.send_bytes(pickle.dumps((kind, content)))

    def ask(kind: str) -> Any:
        send(kind)
        return pickle.loads(connection.recv_bytes())

    # What each call needs; before the worker counts on the process.
    from handoff_dask.worker.isolated_wire import layout_of, receive_buffers, send_buffers

    sys.stdout, sys.stderr = _Stream(send, "out"), _Stream(send, "err")
    logging.getLogger().addHandler(_Forwarding(send))
    send("ready", _memory_mb())
    while True:
        try:
            head = pickle.loads(connection.recv_bytes())
            buffers = receive_buffers(connection, head["buffers"])
        except EOFError:
            return
        logging.getLogger().setLevel(head["log_level"])
        before = _cpu_s()
        _forget_peak()
        kind, data, parts = _answer(head, buffers, lambda: ask("current"))
        # Nothing is kept of a call while the process waits for the next one.
        del head, buffers
        usage = (_cpu_s() - before, _peak_mb())
        with lock:
            connection.send_bytes(pickle.dumps((kind, (usage, layout_of(parts)))))
            connection.send_bytes(data)
            send_buffers(connection, parts)
        del data, parts


def _answer(
    head: dict[str, Any], buffers: list[Any], current: Callable[[], Any]
) -> tuple[str, bytes, list[memoryview]]:
    """Run a call; what it gives or raises, pickled, and its large buffers beside that."""
    import cloudpickle
    from distributed.protocol import pickle as with_tracebacks

    from handoff_dask.bridges.opentelemetry import run_in_context
    from handoff_dask.record.current import running_with

    try:
        call, results = pickle.loads(head["call"], buffers=buffers)
        with running_with(current, head["devices"]):
            value = run_in_context(head["carrier"], lambda: call(*results))
        parts: list[memoryview] = []
        data = cloudpickle.dumps(value, protocol=5, buffer_callback=lambda b: parts.append(b.raw()))
        return "value", data, parts
    except SystemExit as error:
        return "exit", pickle.dumps(error.code if isinstance(error.code, int) else repr(error.code)), []
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ is not None else None
        try:
            packed = with_tracebacks.dumps((error, trace))
            with_tracebacks.loads(packed)
        except Exception:  # whatever the user's exception does when it is pickled
            instead = RuntimeError(f"{type(error).__name__}: {error}")
            packed = with_tracebacks.dumps((instead, None))
        return "error", packed, []


class _Stream:
    """Stands for standard output or error: what is written goes to the parent."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, send: Callable[..., None], kind: str) -> None:
        self._send = send
        self._kind = kind

    def write(self, text: str) -> int:
        """Send it."""
        if text:
            self._send(self._kind, text)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def isatty(self) -> bool:
        """It is no terminal."""
        return False


class _Forwarding(logging.Handler):
    """Sends log records to the parent, where they are handled."""

    def __init__(self, send: Callable[..., None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send what another process can read."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        plain = {k: v for k, v in vars(record).items() if isinstance(v, (str, int, float))}
        self._send("log", {**plain, "msg": text, "args": None, "exc_info": None, "exc_text": None})


def _end_with_parent(fd: int) -> None:
    """End this process when its parent or the worker goes, whatever it is doing then."""
    die_with_parent()

    def watch() -> None:
        poll = select.poll()
        poll.register(fd, 0)  # nothing but that the other end is closed
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, name="handoff-parent", daemon=True).start()


def die_with_parent() -> None:
    """Have the system end this process when the thread goes that has started it; on Linux only."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _seed() -> None:
    """Let each process have random numbers of its own; Python sees to its own generator itself."""
    numbers = sys.modules.get("numpy.random")
    if numbers is not None:
        numbers.seed()


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _status_mb(name: str) -> float | None:
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(name):
                return int(line.split()[1]) * 1024 / MEGABYTE
    return None


def _memory_mb() -> float:
    return _status_mb("VmRSS:") or 0.0


def _peak_mb() -> float | None:
    """The most memory since :func:`_forget_peak`; ``None`` where the system cannot tell."""
    return _status_mb("VmHWM:")


def _forget_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as refs:
        refs.write("5")


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, whose modules are no one's to import by their bare names
    main(int(sys.argv[1]))
