"""Files that are complete or absent, in a directory or in a place that fsspec knows.

A file is written under a name of its own and then renamed.  Nothing is changed in place, so no
locks are needed: whoever comes second replaces a file as a whole.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from handoff_dask.errors import ValidationError

__all__ = ["Store"]

#: Where files are while they are written.
PARTS = "parts"


class Store:
    """Files by folder and name, spread over subfolders by the first two letters of the name.

    Raises
    ------
    ValidationError
        If the place is none, or needs a package that is not installed.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        try:
            self._fs, self.root = fsspec.url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise ValidationError(f"cache: {url!r} cannot be used: {error}") from error
        self.root = self.root.rstrip("/")
        #: Whether it is a directory of this machine, or one that looks like it.
        self.is_local = isinstance(self._fs, LocalFileSystem)

    def path(self, folder: str, name: str) -> str:
        """Where a file is."""
        return f"{self.root}/{folder}/{name[:2]}/{name}"

    def exists(self, folder: str, name: str) -> bool:
        """Whether a file is there."""
        return bool(self._fs.exists(self.path(folder, name)))

    def open(self, folder: str, name: str) -> Any:
        """A file, to be read.

        Raises
        ------
        OSError
            If that is not possible.
        """
        return self._fs.open(self.path(folder, name), "rb")

    def write(self, folder: str, name: str, chunks: Iterable[Any]) -> int:
        """Write a file from bytes-like objects; how many bytes it has.

        Raises
        ------
        Exception
            Whatever the file system raises; then the file is what it was.
        """
        part = f"{self.root}/{PARTS}/{uuid.uuid4().hex}"
        total = 0
        try:
            with self._opened(part) as file:
                for chunk in chunks:
                    view = memoryview(chunk)
                    file.write(view)
                    total += view.nbytes
            self._rename(part, self.path(folder, name))
        except BaseException:
            self._remove(part)
            raise
        return total

    def _opened(self, path: str) -> Any:
        try:
            return self._fs.open(path, "wb")
        except FileNotFoundError:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            return self._fs.open(path, "wb")

    def _rename(self, part: str, path: str) -> None:
        if not self.is_local:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.mv(part, path)
            return
        try:
            os.replace(part, path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(part, path)

    def write_json(self, folder: str, name: str, value: Mapping[str, Any]) -> None:
        """Write a file of JSON."""
        self.write(folder, name, [json.dumps(dict(value)).encode()])

    def read_json(self, folder: str, name: str) -> dict[str, Any] | None:
        """What is in a file of JSON; ``None`` if it is not there or no such file."""
        try:
            found = json.loads(self._fs.cat_file(self.path(folder, name)))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def names(self, folder: str, shard: str) -> list[str]:
        """The names of a folder that begin with two letters."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(f"{self.root}/{folder}/{shard}", detail=False)
        except FileNotFoundError:
            return []
        return [name.rpartition("/")[2] for name in found]

    def files(self, folder: str) -> dict[str, tuple[int, float]]:
        """``{name: (bytes, when it was last written, in seconds since the epoch)}`` of a folder."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.find(f"{self.root}/{folder}", detail=True)
        except FileNotFoundError:
            return {}
        return {p.rpartition("/")[2]: (int(i["size"] or 0), _time_of(i)) for p, i in found.items()}

    def touch(self, folder: str, name: str) -> None:
        """Say of a file of this machine that it was written now."""
        os.utime(self.path(folder, name))

    def remove(self, folder: str, name: str) -> None:
        """Remove a file, if another one was not faster."""
        self._remove(f"{self.root}/{PARTS}/{name}" if folder == PARTS else self.path(folder, name))

    def _remove(self, path: str) -> None:
        with suppress(OSError):
            self._fs.rm_file(path)


def _time_of(info: Mapping[str, Any]) -> float:
    """When a file was last written, whatever its file system calls it."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        found: Any = info.get(name)
        if hasattr(found, "timestamp"):
            return float(found.timestamp())
        if isinstance(found, (int, float)):
            return float(found)
    return 0.0
