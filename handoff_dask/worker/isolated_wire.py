"""How calls and results travel between a worker and the processes of its isolated functions.

Small messages go through a socket.  Large buffers go through memory that both sides map: one copy by
the sender, none by the receiver.  That memory has no name, so nothing is left of it when both are gone.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

#: Buffers of one message that have at least so many bytes together go through shared memory.
SHARED_BYTES = 1_000_000
#: What is at the start of each buffer's place is aligned to so many bytes.
ALIGNED = 64
#: One call of the system writes so many bytes at most.
_MOST = 1 << 30


def send_buffers(connection: Connection, buffers: Sequence[memoryview]) -> None:
    """Send buffers; the other side must be reading them by :func:`receive_buffers`."""
    sizes = [buffer.nbytes for buffer in buffers]
    is_shared = sum(sizes) >= SHARED_BYTES and hasattr(os, "memfd_create")
    connection.send_bytes(bytes([is_shared]))
    if not is_shared:
        for buffer in buffers:
            connection.send_bytes(buffer)
        return
    fd = os.memfd_create("handoff", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, _end_of(sizes))
        for buffer, place in zip(buffers, _places(sizes), strict=True):
            _write(fd, buffer, place)
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            socket.send_fds(sock, [b"."], [fd])
    finally:
        os.close(fd)


def receive_buffers(connection: Connection, layout: Sequence[tuple[int, bool]]) -> list[Any]:
    """Receive the buffers of a message.

    Parameters
    ----------
    layout
        Bytes of each, and whether it may be written to.
    """
    if not connection.recv_bytes()[0]:
        found: list[Any] = []
        for _, is_writable in layout:
            data = connection.recv_bytes()
            found.append(bytearray(data) if is_writable else data)
        return found
    with socket.socket(fileno=os.dup(connection.fileno())) as sock:
        _, fds, _, _ = socket.recv_fds(sock, 1, 1)
    try:
        sizes = [size for size, _ in layout]
        whole = memoryview(mmap.mmap(fds[0], _end_of(sizes)))
    finally:
        os.close(fds[0])
    parts = [whole[place : place + size] for place, size in zip(_places(sizes), sizes, strict=True)]
    return [
        part if is_writable else part.toreadonly()
        for part, (_, is_writable) in zip(parts, layout, strict=True)
    ]


def layout_of(buffers: Sequence[memoryview]) -> list[tuple[int, bool]]:
    """Bytes of each buffer, and whether it may be written to."""
    return [(buffer.nbytes, not buffer.readonly) for buffer in buffers]


def _places(sizes: Sequence[int]) -> list[int]:
    """Where each buffer begins in the memory that is shared."""
    places, end = [], 0
    for size in sizes:
        places.append(end)
        end += -(-size // ALIGNED) * ALIGNED
    return places


def _end_of(sizes: Sequence[int]) -> int:
    return _places(sizes)[-1] + sizes[-1]


def _write(fd: int, buffer: memoryview, place: int) -> None:
    flat = buffer.cast("B") if buffer.ndim != 1 or buffer.format != "B" else buffer
    written = 0
    while written < len(flat):
        written += os.pwrite(fd, flat[written : written + _MOST], place + written)
