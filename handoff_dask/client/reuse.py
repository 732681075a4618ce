"""Results that need not be computed again: what the client knows of them, and reads itself."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from distributed import Future

from handoff_dask.graph.dag import DAG
from handoff_dask.graph.expansion import Body, Expansion
from handoff_dask.graph.functions import Function, FunctionId
from handoff_dask.graph.retry import Retry
from handoff_dask.protocol.reuse import Keeping, ReadCached
from handoff_dask.record.result import ExecutionResult
from handoff_dask.reuse.cache import Cache, DamagedCacheWarning, Hit
from handoff_dask.reuse.fingerprint import details
from handoff_dask.reuse.plan import Plan, plan
from handoff_dask.reuse.reasons import as_cache, note_codes, record_of

__all__ = ["CacheLike", "CachedValues", "Reuse"]

#: What a user may give as a cache.
CacheLike: TypeAlias = Cache | str | os.PathLike[str]


class Computing(Protocol):
    """An execution of functions whose values are missing."""

    async def fetch(self, timeout: float | None = None) -> ExecutionResult:
        """Wait for the end, and fetch the values."""

    async def wait_until_over(self, timeout: float | None = None) -> None:
        """Wait for the end."""


#: Begins to compute functions whose values are missing; called with the ids.
Compute: TypeAlias = Callable[[Collection[Hashable]], Awaitable[Computing]]

#: Entries that are read at once.
READERS = 8
#: How long a read that has missed waits to be told that the entry is there: for ever.
UNTIL_TOLD_S = 1e9


class Reuse:
    """What of one execution is known: by a cache, or from an earlier run that the cluster still has.

    Parameters
    ----------
    cache
        Where results are, if anywhere.
    missed
        Fingerprints that are not to be looked for there; more are added as reads miss.
    earlier
        ``{fingerprint: future}`` of results of the earlier run.
    """

    def __init__(
        self,
        cache: CacheLike | None = None,
        missed: set[str] | None = None,
        earlier: Mapping[str, Future[Any]] | None = None,
    ) -> None:
        self.cache = None if cache is None else as_cache(cache)
        self.missed: set[str] = set() if missed is None else missed
        self._earlier = earlier or {}
        self.plan = Plan()
        #: Functions that do not run and whose results the caller wants, in order.
        self.wanted: tuple[FunctionId, ...] = ()
        #: ``{function: future}`` of an earlier run: of those that are wanted, and of those that are taken.
        self.wanted_futures: Mapping[FunctionId, Future[Any]] = {}
        self.inputs: Mapping[FunctionId, Future[Any]] = {}

    def applied(self, dag: DAG, whole: Expansion, inputs: Mapping[FunctionId, Any]) -> Expansion:
        """Look what is known of an execution; what remains of it to be sent."""
        self.plan = plan(dag, whole, details(dag, inputs), self._present, self.missed)
        wanted = [key for key in whole.outputs if key in self.plan.reused]
        self.wanted = tuple([key for key in wanted if self._future(key) is None])
        self.wanted_futures = {key: f for key in wanted if (f := self._future(key)) is not None}
        self.inputs = {key: f for key in self.plan.read if (f := self._future(key)) is not None}
        if self.cache is not None:
            known = self.plan.details
            note_codes(self.cache, [known[i] for i in self.plan.run if i in known])
        return self._remaining(whole)

    def keys_of_earlier(self) -> dict[str, str]:
        """``{fingerprint: Dask key}`` of what is reused of an earlier run, for one that resumes this one."""
        prints = [self.plan.fingerprint(key) for key in self.plan.reused]
        return {f: str(self._earlier[f].key) for f in prints if f is not None and f in self._earlier}

    def _present(self, fingerprints: Collection[str]) -> set[str]:
        here = {f for f in fingerprints if f in self._earlier}
        rest = set(fingerprints) - here
        return here if self.cache is None else here | self.cache.present(rest)

    def _future(self, function_id: FunctionId) -> Future[Any] | None:
        """The result of an earlier run, if that has it."""
        fingerprint = self.plan.fingerprint(function_id)
        return None if fingerprint is None else self._earlier.get(fingerprint)

    def _remaining(self, whole: Expansion) -> Expansion:
        """The functions that run, and reads in the place of others."""
        run, read = self.plan.run, self.plan.read
        bodies: dict[FunctionId, Body] = {}
        for key, body in whole.bodies.items():
            if key in run:
                after = tuple([other for other in body.after if other in run])
                bodies[key] = body if after == body.after else replace(body, after=after)
            elif key in read and key not in self.inputs:
                bodies[key] = Body(self._read(whole.functions[key]), ())
        outputs = tuple([key for key in whole.outputs if key in run])
        return replace(whole, bodies=bodies, outputs=outputs)

    def _read(self, function: Function) -> Function:
        fingerprint = self.plan.fingerprint(function.id)
        assert fingerprint is not None
        assert self.cache is not None
        # A miss is told to the client, which has the function computed, and then says so.
        retry = Retry(1, delay=UNTIL_TOLD_S, max_delay=UNTIL_TOLD_S, elsewhere=False)
        code = ReadCached(self.cache, fingerprint, function.name)
        return Function(function.id, (), code, retry=retry, priority=function.priority)

    def keeping(self, function_id: FunctionId, call: Callable[..., Any]) -> Callable[..., Any]:
        """A call that keeps its result, if it may."""
        fingerprint = self.plan.fingerprint(function_id)
        if self.cache is None or function_id not in self.plan.run or fingerprint is None:
            return call
        record = record_of(function_id, self.plan.details[function_id])
        return Keeping(call, self.cache, fingerprint, record)

    def has_missed(self, function_id: FunctionId, why: str) -> None:
        """A value that should have been there was not, or cannot be used: it is computed again."""
        fingerprint = self.plan.fingerprint(function_id)
        if fingerprint is not None:
            self.missed.add(fingerprint)
        warnings.warn(f"function {function_id!r} is computed again: {why}", DamagedCacheWarning, stacklevel=2)


class CachedValues:
    """Values of functions that did not run, for the caller.

    Parameters
    ----------
    reuse
        What is known of the execution.
    compute
        Computes what is missing.
    """

    def __init__(self, reuse: Reuse, compute: Compute) -> None:
        self.reuse = reuse
        self._compute = compute

    async def fetch(self, ids: Iterable[Hashable]) -> dict[Hashable, Any]:
        """The values of some functions; what is missing is computed."""
        wanted = list(ids)
        found = await asyncio.to_thread(self._read_all, wanted)
        values = {i: hit.value for i, hit in zip(wanted, found, strict=True) if isinstance(hit, Hit)}
        missing = [i for i in wanted if i not in values]
        if missing:
            computing = await self._compute(missing)
            values.update((await computing.fetch()).results)
        return {i: values[i] for i in wanted}

    async def compute_again(self, function_id: Hashable, why: str) -> None:
        """Have a value computed that a node could not read; it is in the cache afterwards."""
        self.reuse.has_missed(function_id, why)
        computing = await self._compute([function_id])
        await computing.wait_until_over()

    def _read_all(self, ids: list[Hashable]) -> list[Any]:
        with ThreadPoolExecutor(READERS) as threads:
            found = list(threads.map(self._read, ids))
        for function_id, miss in zip(ids, found, strict=True):
            if not isinstance(miss, Hit):
                self.reuse.has_missed(function_id, miss.why)
        return found

    def _read(self, function_id: Hashable) -> Any:
        fingerprint = self.reuse.plan.fingerprint(function_id)
        assert fingerprint is not None
        assert self.reuse.cache is not None
        return self.reuse.cache.get(fingerprint, warn=False)  # told with the function's id
