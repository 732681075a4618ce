"""Why a function would run again, told before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from handoff_dask.graph.dag import DAG, as_dag
from handoff_dask.graph.functions import Function, FunctionId
from handoff_dask.reuse.bytecode import leaf
from handoff_dask.reuse.cache import Cache, Miss
from handoff_dask.reuse.fingerprint import Details, details
from handoff_dask.reuse.nodes import digest_of

__all__ = ["KINDS", "Reason", "as_cache", "note_codes", "opting_out", "record_of", "why_rerun"]

KINDS = (
    "reused",
    "new",
    "code",
    "version",
    "value",
    "argument",
    "file",
    "gone",
    "damaged",
    "unknown",
    "off",
)
#: More changes than this are counted, not named.
NAMED = 3


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a function would run again, or that it would not.

    Examples
    --------
    >>> print(Reason("code", ("code of job.scale",)))
    code of job.scale has changed
    """

    #: One of :data:`KINDS`.
    kind: str
    #: What has changed: parts of the code, values, files, or ids of arguments.
    names: tuple[str, ...] = ()
    #: More in words, where there is more to say.
    why: str = ""

    def __str__(self) -> str:
        if self.why:
            return self.why
        if self.kind == "reused":
            return "its result is in the cache"
        named = ", ".join(self.names[:NAMED])
        more = f" and {len(self.names) - NAMED} more" if len(self.names) > NAMED else ""
        verb = "have" if len(self.names) > 1 else "has"
        return f"{named}{more} {verb} changed" if named else f"its {self.kind} has changed"


def as_cache(cache: Cache | str | os.PathLike[str]) -> Cache:
    """A cache as it is; a place, made into one.

    Raises
    ------
    ValidationError
        If it is neither.
    """
    return cache if isinstance(cache, Cache) else Cache(cache)


def key_of(function_id: FunctionId, name: str) -> str:
    """Under what a cache keeps what a function was computed from: its id and the name of its code.

    Examples
    --------
    >>> key_of("a", "clean") == key_of("a", "clean"), key_of("a", "clean") == key_of("b", "clean")
    (True, False)
    """
    return digest_of(_told(function_id), leaf(name) or b"").hex()


def _told(key: Any) -> bytes:
    """An id as bytes: the same in every process for ids of plain values."""
    plain = leaf(key)
    if plain is not None:
        return plain
    if isinstance(key, tuple):
        return digest_of(*[_told(item) for item in key])
    return repr(key).encode("utf-8", "surrogatepass")


def record_of(function_id: FunctionId, found: Details) -> dict[str, Any]:
    """What a cache keeps beside a function's result, to tell later what has changed; plain JSON.

    Parameters
    ----------
    function_id
        The function's id.
    found
        Of :func:`~handoff_dask.reuse.fingerprint.details`.
    """
    return {
        "key": key_of(function_id, found.code.name),
        "fingerprint": found.fingerprint,
        "name": found.code.name,
        "code": found.code.digest,
        "code_files": dict(found.code.files),
        "version": found.version,
        "values": dict(found.values),
        "files": dict(found.files),
        "arguments": [list(arg) for arg in found.arguments],
    }


def note_codes(cache: Cache, found: Iterable[Details]) -> None:
    """Keep in a cache what the codes of a run consist of, each once.

    Parameters
    ----------
    cache
        Where the run keeps its results.
    found
        Of the functions of the run.
    """
    for code in {each.code.digest: each.code for each in found if each.code.digest}.values():
        cache.note_code(code.digest, code.parts)


def opting_out(dag: DAG) -> frozenset[FunctionId]:
    """The functions that are never reused: by ``cache=False``, their own or that of what runs inside them.

    Parameters
    ----------
    dag
        A valid DAG.
    """
    found: set[FunctionId] = set()
    for key in dag.order():
        function = dag.functions[key]
        inside = (a for a in function.argument_ids if dag.functions[a].type == "inline")
        if not function.cache or any(a in found for a in inside):
            found.add(key)
    return frozenset(found)


def why_rerun(
    dag: DAG | Iterable[Function],
    *,
    cache: Cache | str | os.PathLike[str],
    inputs: Mapping[FunctionId, Any] | None = None,
    verify: bool = True,
) -> dict[FunctionId, Reason]:
    """Why each regular function would run again with a cache; nothing runs.

    Parameters
    ----------
    dag
        A DAG, or a list of functions.
    cache
        A cache, or where it is.
    inputs
        ``{input id: value}``.
    verify
        Whether entries are read to see that they are whole; else it is enough that they are there.

    Returns
    -------
    dict
        ``{function id: reason}``.  An entry that is in the cache counts as reused, whatever becomes
        of the functions before it.

    Raises
    ------
    ValidationError
        If the DAG or the cache is wrong.

    Examples
    --------
    >>> reasons = why_rerun([Function("a", [], int)], cache="memory://nothing")
    >>> reasons["a"].kind, str(reasons["a"])
    ('new', 'it has not been computed with this cache')
    """
    return reasons_of(dag, as_cache(cache), inputs, verify=verify)


class Known(Protocol):
    """What knows results: a cache, or an earlier run."""

    #: Where results are, and what computed them, in words.
    where: str
    before: str

    def present(self, fingerprints: Iterable[str]) -> set[str]:
        """Those of which there is a result."""
        ...

    def check(self, fingerprint: str) -> Miss | None:
        """Why a result that is there cannot be used."""
        ...

    def known(self, key: str) -> Mapping[str, Any] | None:
        """What a function's last result was computed from."""
        ...

    def code(self, digest: str) -> Mapping[str, str] | None:
        """What a code consisted of."""
        ...


def reasons_of(
    dag: DAG | Iterable[Function],
    known: Known,
    inputs: Mapping[FunctionId, Any] | None = None,
    *,
    verify: bool = True,
) -> dict[FunctionId, Reason]:
    """Why each regular function would run again, by what knows results; see :func:`why_rerun`."""
    dag = as_dag(dag)
    found = details(dag, inputs)
    wanted = [f for f in dag.functions.values() if f.type == "regular"]
    off = opting_out(dag)
    prints = [found[f.id].fingerprint for f in wanted if f.id not in off]
    present = known.present([p for p in prints if p is not None])
    asking = _Asking(known, verify, off)
    return {f.id: asking.why(f, found[f.id], present) for f in wanted}


class _Asking:
    """One question of a DAG to what knows results."""

    def __init__(self, known: Known, verify: bool, off: frozenset[FunctionId]) -> None:
        self.source = known
        self.off = off
        self.verify = verify
        self._codes: dict[str, Mapping[str, str] | None] = {}
        self._checked: dict[str, Miss | None] = {}

    def why(self, function: Function, now: Details, present: set[str]) -> Reason:
        """Why a function would run again."""
        if function.id in self.off:
            own = not function.cache
            return Reason(
                "off", why="it has cache=False" if own else "an inline function in it has cache=False"
            )
        if now.fingerprint is None:
            return Reason("unknown", why=f"what it depends on cannot be told: {now.unknown}")
        if now.fingerprint in present:
            miss = self._check(now.fingerprint)
            where = self.source.where
            return (
                Reason("reused", why=f"its result is {where}")
                if miss is None
                else Reason(miss.kind, why=miss.why)
            )
        before = self.source.known(key_of(function.id, now.code.name))
        if before is None:
            return Reason("new", why=f"it has not been computed {self.source.before}")
        if before.get("fingerprint") == now.fingerprint:
            return Reason("gone", why=f"its result is no longer {self.source.where}")
        return self._changed(before, now)

    def _check(self, fingerprint: str) -> Miss | None:
        if not self.verify:
            return None
        if fingerprint not in self._checked:
            self._checked[fingerprint] = self.source.check(fingerprint)
        return self._checked[fingerprint]

    def _changed(self, before: Mapping[str, Any], now: Details) -> Reason:
        """What differs between what was computed and what would be."""
        if before.get("version") != now.version:
            return Reason("version", why="its version has changed")
        changed = _different(before.get("code_files", {}), now.code.files)
        changed += _different(before.get("files", {}), now.files)
        if changed:
            return Reason("file", tuple(f"the file {name}" for name in dict.fromkeys(changed)))
        if before.get("code") != now.code.digest:
            return self._changed_code(str(before.get("code")), now)
        values = _different(before.get("values", {}), now.values)
        if values:
            return Reason("value", tuple(values))
        old = [list(arg) for arg in before.get("arguments", ())]
        new = [list(arg) for arg in now.arguments]
        if [key for key, _ in old] != [key for key, _ in new]:
            return Reason("argument", why=f"its arguments were {_listed(old)} and are {_listed(new)}")
        names = dict.fromkeys(key for (key, was), (_, is_now) in zip(old, new, strict=True) if was != is_now)
        return Reason("argument", tuple(f"its argument {key}" for key in names))

    def _changed_code(self, digest: str, now: Details) -> Reason:
        if digest not in self._codes:
            self._codes[digest] = self.source.code(digest)
        parts = self._codes[digest]
        names = [] if parts is None else _different(parts, now.code.parts)
        return Reason("code", tuple(names))


def _different(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names that are in one alone, or have another value."""
    return [name for name in {**now, **before} if before.get(name) != now.get(name)]


def _listed(arguments: list[list[Any]]) -> str:
    return f"[{', '.join(str(key) for key, _ in arguments)}]"
