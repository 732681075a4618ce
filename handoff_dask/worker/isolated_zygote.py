"""What the processes of isolated functions are forked from: it has imported what all of them need.

It is started as a script by a worker, and has one thread only, so that forking is safe.  The worker asks
it through a socket, one request at a time: ``fork`` (with the socket of the new process) answers its number,
``status`` how a process has ended, or ``None``.  It ends with its worker, and its processes end with it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
import warnings
from multiprocessing.connection import Connection
from typing import Any


def main(fd: int) -> None:
    """Answer requests until the worker is gone."""
    from handoff_dask.worker import isolated_child as child

    child.die_with_parent()
    # What is in the zygote is in all its processes: nothing of a worker's, and no other thread.
    warnings.simplefilter("ignore", DeprecationWarning)
    connection = Connection(fd)
    connection.send_bytes(pickle.dumps("ready"))
    while True:
        try:
            request, content = pickle.loads(connection.recv_bytes())
        except (EOFError, ConnectionError):
            return
        if request == "status":
            answer: Any = _status(content)
        else:
            theirs = _receive_fd(connection)
            answer = os.fork()
            if answer == 0:
                connection.close()
                _become(child, theirs, content)
            os.close(theirs)
        connection.send_bytes(pickle.dumps(answer))


def _become(child: Any, fd: int, environment: dict[str, str]) -> None:
    """In the new process: serve calls, and end."""
    code = 1
    try:
        os.setsid()
        os.environ.update(environment)
        child.main(fd)
        code = 0
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _receive_fd(connection: Connection) -> int:
    with socket.socket(fileno=os.dup(connection.fileno())) as sock:
        _, fds, _, _ = socket.recv_fds(sock, 1, 1)
    return int(fds[0])


def _status(pid: int) -> int | None:
    """The exit code of a process, negative if a signal has ended it; ``None`` while it runs."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # asked again
        return -9
    return None if not found else os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, whose modules are no one's to import by their bare names
    main(int(sys.argv[1]))
