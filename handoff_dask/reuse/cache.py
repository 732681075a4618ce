"""A cache of results: a directory, or a place that fsspec knows, written and read by any number at once.

::

    entries/ab/abcd…       one value each, by fingerprint; see handoff_dask.reuse.entries
    known/12/1234…         what a function's last result was computed from, by its id and code
    codes/56/5678…         what a code consists of, by its digest
    parts/…                what is being written

Values are pickles: whoever can write a cache can run code in the runs that read it.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from handoff_dask.errors import ValidationError
from handoff_dask.reuse.entries import DamagedEntryError, pack, read_head, read_parts, unpack
from handoff_dask.reuse.file import digest_of_file
from handoff_dask.reuse.owners import PYTHON
from handoff_dask.reuse.store import Store

__all__ = ["Cache", "DamagedCacheWarning", "Entry", "Hit", "Miss"]

#: So many entries are looked for one by one; for more, their folders are listed.
FEW = 50
#: A use is noted at most this often for one entry, in seconds.
NOTED_EVERY = 3600.0
#: Whatever was being written so long ago was left by a process that is gone.
ABANDONED = 86400.0
#: What was computed from what is kept so long after its entry is gone.
REMEMBERED = 90 * 86400.0
#: After pruning, a full cache has this share of what it may hold, so that not every entry prunes.
LEFT = 0.9
#: The directory is looked through again when this share of its room has been written.
LOOK_EVERY = 0.05


class DamagedCacheWarning(UserWarning):
    """An entry of a cache is damaged; its function is computed again."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A value that a cache has."""

    value: Any
    #: What the entry says of itself: ``fingerprint``, ``time``, ``python``, ``name``, …
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Miss:
    """That a cache does not have a value."""

    #: ``"gone"`` (not there), ``"damaged"``, ``"file"`` or ``"unknown"`` (cannot be loaded here).
    kind: str
    #: Why, in words.
    why: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of an entry without reading it."""

    fingerprint: str
    nbytes: int
    #: When it was last used, or written, in seconds since the epoch.
    used: float


class Cache:
    """Results by fingerprint, in a directory or in a place that fsspec knows.

    Whoever can write the place can run code in the runs that read it.

    Parameters
    ----------
    url
        A directory, or an fsspec URL such as ``"s3://bucket/cache"``; each node must reach it.
    max_bytes
        How much it may hold, about; what was used longest ago is removed first.  ``None``: all.
    storage_options
        What fsspec's file system is made with.

    Raises
    ------
    ValidationError
        If the place is none, or needs a package that is not installed.

    Examples
    --------
    >>> cache = Cache("memory://example")
    >>> cache.put("0f" * 20, [1, 2])
    >>> cache.get("0f" * 20).value, cache.get("1f" * 20).kind
    ([1, 2], 'gone')
    """

    #: Where results are, and what computed them, in words.
    where = "in the cache"
    before = "with this cache"

    def __init__(
        self,
        url: str | os.PathLike[str],
        max_bytes: int | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        given: Any = url
        if not isinstance(given, (str, os.PathLike)) or not os.fspath(given):
            raise ValidationError(f"cache: {given!r} is no place; give a directory or an fsspec URL")
        limit: Any = max_bytes
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit <= 0):
            raise ValidationError(f"cache: max_bytes is {limit!r}; give a number of bytes, or None")
        #: Where it is.
        self.url = str(os.fspath(given))
        #: How much it may hold.
        self.max_bytes = max_bytes
        self._options = dict(storage_options or {})
        self._store = Store(self.url, self._options)
        if self._store.is_local:
            # A worker may stand in another directory.
            self.url = self._store.root
        self._lock = threading.Lock()
        self._noted: dict[str, float] = {}
        #: How much there is, as far as is known, and how much of that has been written since it was looked.
        self._held: float | None = None
        self._since_look = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self.url, self.max_bytes, self._options)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cache):
            return NotImplemented
        return (self.url, self.max_bytes, self._options) == (other.url, other.max_bytes, other._options)

    def __hash__(self) -> int:
        return hash((self.url, self.max_bytes))

    def __repr__(self) -> str:
        limit = "" if self.max_bytes is None else f", max_bytes={self.max_bytes}"
        return f"Cache({self.url!r}{limit})"

    # ------------------------------------------------------------------ values

    def get(self, fingerprint: str, *, warn: bool = True) -> Hit | Miss:
        """The value of a fingerprint, or why there is none; a damaged entry is warned of.

        Parameters
        ----------
        fingerprint
            As :func:`~handoff_dask.reuse.fingerprint.fingerprint` gives it.
        warn
            Whether to warn of damage here.
        """
        found = self._read(fingerprint, keep=True)
        if isinstance(found, Miss):
            if warn:
                self._warn(fingerprint, found)
            return found
        head, parts = found
        try:
            value = unpack(parts)
        except Exception as error:  # whatever the user's classes raise
            return Miss("unknown", f"its value cannot be loaded here ({type(error).__name__}: {error})")
        self._note_use(fingerprint)
        return Hit(value, head)

    def check(self, fingerprint: str) -> Miss | None:
        """Why :meth:`get` would give no value, as far as can be told without loading it; else ``None``."""
        found = self._read(fingerprint, keep=False)
        return found if isinstance(found, Miss) else None

    def _read(self, fingerprint: str, keep: bool) -> tuple[dict[str, Any], list[Any]] | Miss:
        try:
            with self._store.open("entries", fingerprint) as file:
                head = read_head(file)
                if head.get("fingerprint") != fingerprint:
                    raise DamagedEntryError("it is the entry of another fingerprint")
                parts = [part if keep else None for part in read_parts(file, head)]
        except FileNotFoundError:
            return Miss("gone", "it is not in the cache")
        except DamagedEntryError as error:
            return Miss("damaged", f"its entry in the cache is damaged: {error}")
        except OSError as error:
            return Miss("damaged", f"its entry in the cache cannot be read ({error})")
        for file_path, digest in head["files"].items():
            why = _why_not(file_path, digest)
            if why is not None:
                return Miss("file", why)
        return head, parts

    def _warn(self, fingerprint: str, miss: Miss) -> None:
        if miss.kind == "damaged":
            text = (
                f"{self.url}: the entry {fingerprint} is not used and its function computed again: {miss.why}"
            )
            warnings.warn(text, DamagedCacheWarning, stacklevel=3)

    def present(self, fingerprints: Iterable[str]) -> set[str]:
        """Those of which there is an entry; whether it is whole is seen when it is read."""
        wanted = set(fingerprints)
        if len(wanted) < FEW:
            return {f for f in wanted if self._store.exists("entries", f)}
        shards = sorted({fingerprint[:2] for fingerprint in wanted})
        return {name for shard in shards for name in self._store.names("entries", shard)} & wanted

    def put(self, fingerprint: str, value: Any, record: Mapping[str, Any] | None = None) -> None:
        """Keep a value.

        Parameters
        ----------
        fingerprint
            What the value depends on.
        value
            Anything that cloudpickle takes.
        record
            What it was computed from, of :func:`~handoff_dask.reuse.reasons.record_of`: kept so that
            a later run can say what has changed.

        Raises
        ------
        Exception
            If the value cannot be pickled, or the place not be written.
        """
        packed = pack(value)
        about = {"fingerprint": fingerprint, "time": time.time(), "python": PYTHON, "nbytes": packed.nbytes}
        if record is not None:
            about["name"] = record.get("name", "")
        if self.max_bytes is None or packed.nbytes <= self.max_bytes:
            self._note_written(self._store.write("entries", fingerprint, packed.chunks(about)))
        if record is not None:
            self._store.write_json("known", str(record["key"]), record)

    # ------------------------------------------------------------------ what was computed from what

    def note_code(self, digest: str, parts: Mapping[str, str]) -> None:
        """Keep what a code consists of, under its digest."""
        if not self._store.exists("codes", digest):
            self._store.write_json("codes", digest, parts)

    def code(self, digest: str) -> dict[str, str] | None:
        """What a code consisted of, if that is kept."""
        return self._store.read_json("codes", digest)

    def known(self, key: str) -> dict[str, Any] | None:
        """What a function's last result was computed from, if that is kept."""
        return self._store.read_json("known", key)

    # ------------------------------------------------------------------ room

    def entries(self) -> list[Entry]:
        """All entries, those that were used longest ago first."""
        uses = self._store.files("used")
        entries = [
            Entry(name, nbytes, max(used, uses.get(name, (0, 0.0))[1]))
            for name, (nbytes, used) in self._store.files("entries").items()
        ]
        return sorted(entries, key=lambda e: (e.used, e.fingerprint))

    def prune(self, older_than: float | None = None, keep: int | None = None) -> list[Entry]:
        """Remove entries that were not used for long, then those used longest ago until it is small enough.

        Parameters
        ----------
        older_than
            Seconds: what was not used for longer is removed.
        keep
            Bytes that the rest may have; ``max_bytes`` if ``None``.

        Returns
        -------
        list
            The removed entries.
        """
        now = time.time()
        keep = self.max_bytes if keep is None else keep
        entries = self.entries()
        total = sum(e.nbytes for e in entries)
        removed = []
        for entry in entries:
            too_old = older_than is not None and now - entry.used > older_than
            if not too_old and (keep is None or total <= keep):
                continue
            self._store.remove("entries", entry.fingerprint)
            self._store.remove("used", entry.fingerprint)
            total -= entry.nbytes
            removed.append(entry)
        self._sweep("parts", now - ABANDONED)
        for folder in ("known", "codes"):
            self._sweep(folder, now - max(REMEMBERED, older_than or 0.0))
        with self._lock:
            self._held, self._since_look = float(total), 0.0
        return removed

    def _sweep(self, folder: str, before: float) -> None:
        for name, (_, written) in self._store.files(folder).items():
            if written < before:
                self._store.remove(folder, name)

    def _note_written(self, nbytes: int) -> None:
        """Prune when there is too much; others write too, so that what there is is looked at now and then."""
        if self.max_bytes is None:
            return
        with self._lock:
            self._since_look += nbytes
            look = self._held is None or self._since_look > LOOK_EVERY * self.max_bytes
            if not look:
                assert self._held is not None
                self._held += nbytes
                look = self._held > self.max_bytes
        if look:
            total = sum(e.nbytes for e in self.entries())
            with self._lock:
                self._held, self._since_look = float(total), 0.0
            if total > self.max_bytes:
                self.prune(keep=int(LEFT * self.max_bytes))

    def _note_use(self, fingerprint: str) -> None:
        """Say that an entry has been used, by the time of its file or of one beside it."""
        now = time.time()
        if now - self._noted.get(fingerprint, 0.0) < NOTED_EVERY:
            return
        self._noted[fingerprint] = now
        # It may be read-only, or the entry have just been removed.
        with suppress(Exception):
            if self._store.is_local:
                self._store.touch("entries", fingerprint)
            else:
                self._store.write("used", fingerprint, [b"."])


def _remade(url: str, max_bytes: int | None, options: dict[str, Any]) -> Cache:
    return Cache(url, max_bytes, storage_options=options)


def _why_not(path: str, digest: str) -> str | None:
    """Why a file is not what it was, if so."""
    try:
        now = digest_of_file(path)
    except OSError as error:
        return f"the file {path} of its result cannot be read ({error.strerror or error})"
    return None if now == digest else f"the file {path} of its result has changed"
