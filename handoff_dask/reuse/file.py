"""A file that stands for its content."""

from __future__ import annotations

import os
import stat
import threading
import time
from hashlib import blake2b
from typing import Any, TypeAlias

from handoff_dask.errors import ValidationError

__all__ = ["File", "digest_of_file", "state_of_file"]

#: What says that a file is as it was: device, inode, size, and the times of the last changes of
#: content and of anything, in nanoseconds.
State: TypeAlias = "tuple[int, int, int, int, int]"
BLOCK = 1 << 20
#: File systems tell times in steps of up to two seconds: a file that was changed that short before
#: it was read may change again without a trace.
UNCERTAIN_NS = 2_000_000_000
MOST_KNOWN = 100_000


class File(os.PathLike[str]):
    """The path of a file, of which the content counts.

    As a plain value or an input of a function it enters the function's fingerprint by what is in
    the file; neither its name nor its place matters.  As a result it counts as there as long as
    the file has the content that it had.  Files are equal if their paths are.

    Parameters
    ----------
    path
        Of a regular file, which need not be there yet.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     one, two = File(f"{folder}/one"), File(f"{folder}/two")
    ...     sizes = [Path(file).write_text("same") for file in (one, two)]
    ...     one == two, one.digest() == two.digest()
    (False, True)
    """

    __slots__ = ("path",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        given: Any = path
        try:
            found = os.fspath(given)
        except TypeError as error:
            raise ValidationError(f"File: {given!r} is no path; give a string or a path") from error
        if not isinstance(found, str) or not found:
            raise ValidationError(f"File: {given!r} is no path; give a string that is not empty")
        self.path = found

    def __fspath__(self) -> str:
        return self.path

    def digest(self) -> str:
        """A digest of what is in the file now.

        Raises
        ------
        OSError
            If it cannot be read, or changes while it is.
        """
        return digest_of_file(self.path)

    def __eq__(self, other: object) -> bool:
        return self.path == other.path if isinstance(other, File) else NotImplemented

    def __hash__(self) -> int:
        return hash((File, self.path))

    def __reduce__(self) -> tuple[Any, ...]:
        return File, (self.path,)

    def __str__(self) -> str:
        return self.path

    def __repr__(self) -> str:
        return f"File({self.path!r})"


_known: dict[str, tuple[State, str]] = {}
_lock = threading.Lock()


def digest_of_file(path: str | os.PathLike[str]) -> str:
    """A digest of a file's content; read again only if the file may have changed.

    Raises
    ------
    OSError
        If it cannot be read, is no regular file, or changes while it is read.
    """
    place = os.path.abspath(os.fspath(path))
    for _ in range(3):
        with open(place, "rb") as file:
            state = _state(os.fstat(file.fileno()), place)
            with _lock:
                known = _known.get(place)
            if known is not None and known[0] == state:
                return known[1]
            began = time.time_ns()
            hashed = blake2b(digest_size=20)
            left = state[2]
            # No further than it went: a file that grows has no end.
            while left > 0 and (block := file.read(min(BLOCK, left))):
                hashed.update(block)
                left -= len(block)
            if _state(os.fstat(file.fileno()), place) != state or _state(os.stat(place), place) != state:
                continue
        digest = hashed.hexdigest()
        if began - max(state[3], state[4]) > UNCERTAIN_NS:
            with _lock:
                while len(_known) >= MOST_KNOWN:
                    _known.pop(next(iter(_known)))
                _known[place] = state, digest
        return digest
    raise OSError(f"{place} changes while it is read; wait until it is written")


def state_of_file(path: str) -> object:
    """What says that a file is as it was, without reading it; ``None`` if it is not there."""
    try:
        return _state(os.stat(path), path)
    except OSError:
        return None


def _state(found: os.stat_result, place: str) -> State:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{place} is no regular file; name a file")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
