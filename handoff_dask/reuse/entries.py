r"""One value of a cache as one file: a head that says what follows, then pickled data and its buffers.

::

    handoff-cache-1\n      the format
    8 bytes                length of the head, big endian
    20 bytes               digest of the head
    head                   JSON: what the entry is, and size and digest of each part
    parts                  a pickle, then the buffers that it refers to, each padded to 64 bytes

The pickle is of protocol 5: large buffers, those of arrays and frames, stand beside it.  They are
written from where they are, and read into the memory in which the value then lives.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator, Mapping
from typing import IO, Any

import cloudpickle

from handoff_dask.reuse.file import File
from handoff_dask.reuse.nodes import SIZE, digest_of

__all__ = ["DamagedEntryError", "Packed", "pack", "read_head", "read_parts", "unpack"]

MAGIC = b"handoff-cache-1\n"
ALIGNED = 64
#: No head is longer; what claims to be is damaged.
LONGEST_HEAD = 1 << 26
#: A buffer shorter than this stays in the pickle: to keep it apart would take more than it saves.
SHORT_BUFFER = 4096
Buffer = Any  # a bytes-like object


class DamagedEntryError(Exception):
    """What has been read is not what was written."""


class Packed:
    """A value as the parts of an entry."""

    def __init__(self, parts: list[tuple[Buffer, bool]], files: dict[str, str]) -> None:
        #: The pickle and its buffers, each with whether it may be written to.
        self.parts = parts
        #: ``{path: digest}`` of the files that are part of the value.
        self.files = files

    @property
    def nbytes(self) -> int:
        """How many bytes the parts have."""
        return sum(memoryview(data).nbytes for data, _ in self.parts)

    def chunks(self, about: Mapping[str, Any]) -> Iterator[Buffer]:
        """What is to be written, in order."""
        told = [
            {"size": memoryview(data).nbytes, "digest": digest_of(data).hex(), "writable": writable}
            for data, writable in self.parts
        ]
        head = json.dumps({**about, "files": self.files, "parts": told}).encode()
        yield MAGIC
        yield len(head).to_bytes(8, "big")
        yield digest_of(head)
        yield head
        position = len(MAGIC) + 8 + SIZE + len(head)
        for data, _ in self.parts:
            padding = -position % ALIGNED
            yield bytes(padding)
            yield data
            position += padding + memoryview(data).nbytes


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Notes the files that it meets."""

    def __init__(self, file: IO[bytes], **options: Any) -> None:
        super().__init__(file, **options)
        self.files: dict[str, str] = {}

    def persistent_id(self, value: Any) -> None:
        if type(value) is File:
            self.files[str(value)] = value.digest()


def pack(value: Any) -> Packed:
    """A value as the parts of an entry.

    Raises
    ------
    Exception
        If it cannot be pickled, or holds a :class:`~handoff_dask.reuse.file.File` that is not there.
    """
    buffers: list[tuple[Buffer, bool]] = []

    def beside(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < SHORT_BUFFER:
            return True
        buffers.append((raw, not raw.readonly))
        return False

    stream = io.BytesIO()
    pickler = _Pickler(stream, protocol=5, buffer_callback=beside)
    pickler.dump(value)
    return Packed([(stream.getbuffer(), False), *buffers], pickler.files)


def unpack(parts: list[Buffer]) -> Any:
    """The value of the parts of an entry.

    Raises
    ------
    Exception
        Whatever the classes of the value raise, or ``ImportError`` where one is missing.
    """
    return pickle.loads(parts[0], buffers=parts[1:])


def read_head(file: IO[bytes]) -> dict[str, Any]:
    """What an entry says of itself.

    Raises
    ------
    DamagedEntryError
        If that is not what was written.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise DamagedEntryError("it does not begin as an entry does")
    size = int.from_bytes(file.read(8), "big")
    digest = file.read(SIZE)
    head = file.read(size) if size <= LONGEST_HEAD else b""
    if len(head) != size or digest_of(head) != digest:
        raise DamagedEntryError("what it says of itself is damaged")
    found: dict[str, Any] = json.loads(head)
    found["start"] = len(MAGIC) + 8 + SIZE + size
    return found


def read_parts(file: IO[bytes], head: Mapping[str, Any]) -> Iterator[Buffer]:
    """The parts of an entry, each checked, and read into the memory in which the value will live.

    Raises
    ------
    DamagedEntryError
        If a part is not what was written.
    """
    position = head["start"]
    for part in head["parts"]:
        padding = -position % ALIGNED
        file.read(padding)
        data = bytearray(part["size"])
        if _fill(file, memoryview(data)) != part["size"]:
            raise DamagedEntryError("its end is missing")
        if digest_of(data).hex() != part["digest"]:
            raise DamagedEntryError("its content is damaged")
        position += padding + part["size"]
        yield data if part["writable"] else memoryview(data).toreadonly()


def _fill(file: IO[bytes], view: memoryview) -> int:
    """Read as much as there is room for; how much that was."""
    filled = 0
    while filled < len(view):
        count = file.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    return filled
