"""Results and stored values by DAG id, wherever they are."""

from __future__ import annotations

import logging
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

from distributed import Future
from distributed.core import clean_exception
from distributed.protocol import pickle
from toolz import keyfilter

from handoff_dask.client.compile import Compiled
from handoff_dask.client.fetching import Fetcher
from handoff_dask.client.scheduler_link import SchedulerLink
from handoff_dask.client.user_calls import call_user
from handoff_dask.errors import (
    AllocationError,
    ExecutionCancelledError,
    FunctionFailedError,
    NotFoundError,
    ValidationError,
    original,
)
from handoff_dask.graph.arguments import id_of
from handoff_dask.protocol.manifest import token_of, with_items
from handoff_dask.stores import MemoryResultStore, ResultStore

logger = logging.getLogger(__name__)

#: How many runs of other clients are remembered with their ids.
REMEMBERED = 16

#: What this process keeps for itself, whatever session it goes through.
_local = MemoryResultStore()


class Run(Protocol):
    """An execution, as far as results need it."""

    @property
    def token(self) -> str:
        """Its name on the scheduler."""

    @property
    def compiled(self) -> Compiled:
        """What was sent to Dask."""

    async def fetch_result(self, function_id: Hashable, timeout: float | None) -> Any:
        """Wait for a function's result, and fetch it."""


class Results:
    """Finds results and values, and keeps those of this process.

    Parameters
    ----------
    link
        The link to the scheduler.
    fetcher
        Fetches values from workers.
    latest
        The latest execution of a DAG id that this session still holds.
    store
        The user's own result store, or ``None``.
    """

    def __init__(
        self,
        link: SchedulerLink,
        fetcher: Fetcher,
        latest: Callable[[Hashable], Run | None],
        store: ResultStore | None,
    ) -> None:
        self._link = link
        self._fetcher = fetcher
        self._latest = latest
        self._own = store
        #: Where this process keeps values.
        self.local: ResultStore = _local if store is None else store
        #: For what the user's own store keeps, the run that was the latest then, and whether the user has
        #: put it there: ``{(DAG id, id): (token, by hand)}``.
        self._kept_at: dict[tuple[Hashable, Hashable], tuple[str | None, bool]] = {}
        #: ``{token: {id: key}}`` of other clients' runs.
        self._keys: OrderedDict[str, Mapping[Hashable, str]] = OrderedDict()

    # ------------------------------------------------------------------ this process

    def keep(self, dag_id: Hashable, value_id: Hashable, value: Any) -> None:
        """Keep a value in this process."""
        value_id = id_of(value_id)
        self.local.store(dag_id, value_id, value)
        if self._own is not None:
            latest = self._latest(dag_id)
            self._kept_at[dag_id, value_id] = (None if latest is None else latest.token, True)

    def kept(self, dag_id: Hashable, value_id: Hashable) -> Any:
        """A value that this process keeps.

        Raises
        ------
        NotFoundError
            If it keeps none of this name.
        """
        value_id = id_of(value_id)
        if not self.local.has(dag_id, value_id):  # a user's own store may raise whatever it likes
            raise NotFoundError("value", value_id, f"nothing of DAG {dag_id!r} is kept here under it")
        return self.local.get(dag_id, value_id)

    async def collect(
        self, dag_id: Hashable, token: str, futures: Mapping[Hashable, Future[Any]]
    ) -> dict[Hashable, Any]:
        """Fetch the results of a run, and put them into the user's own store."""
        results = await self._fetcher.gather(dag_id, futures)
        if self._own is not None:
            await self._store_all(self._own, dag_id, token, results)
        return results

    async def _store_all(
        self, store: ResultStore, dag_id: Hashable, token: str, results: Mapping[Hashable, Any]
    ) -> None:
        for function_id, value in results.items():
            try:
                await call_user(store.store, dag_id, function_id, value)
            except Exception:
                # The caller has the value all the same.
                logger.exception("the result store could not keep %r of DAG %r", function_id, dag_id)
            else:
                self._kept_at[dag_id, function_id] = (token, False)

    async def _is_kept(self, dag_id: Hashable, value_id: Hashable, known: Mapping[str, Any]) -> bool:
        """Whether this process keeps a value, and no later run that the cluster knows has made it old.

        Parameters
        ----------
        known
            What the cluster knows of it.
        """
        if self._own is not None and known["run"] is not None:
            made_by, by_hand = self._kept_at.get((dag_id, value_id), (None, False))
            is_latest = made_by == known["run"] or (by_hand and value_id not in known["keys"])
            if not is_latest:
                return False
        return await call_user(self.local.has, dag_id, value_id)

    async def forget(self, dag_id: Hashable) -> None:
        """Drop what this process keeps of a DAG."""
        named = {dag_id}
        self._kept_at = keyfilter(lambda key: key[0] not in named, self._kept_at)
        await call_user(self.local.clear, dag_id)

    # ------------------------------------------------------------------ requests of users

    async def get_result(self, dag_id: Hashable, function_id: Hashable, timeout: float | None) -> Any:
        """A result of the latest execution of a DAG id."""
        known = await self._find(dag_id, function_id)
        if self._own is not None and await self._is_kept(dag_id, function_id, known):
            return await call_user(self._own.get, dag_id, function_id)
        if known["key"] is not None:
            return await self._fetcher.fetch(known["key"], dag_id, function_id)
        latest = self._latest(dag_id)
        if latest is not None and known["run"] in (None, latest.token):
            return await latest.fetch_result(function_id, timeout)
        key = self._function_key(known, dag_id, function_id)
        await self._wait_until_settled(known["run"], key, dag_id, function_id, timeout)
        return await self._fetcher.fetch(key, dag_id, function_id)

    async def get_value(self, dag_id: Hashable, value_id: Hashable, from_node: str | None) -> Any:
        """A value from this process, else from wherever it is."""
        value_id = id_of(value_id)
        if from_node is None and self._own is None and await call_user(self.local.has, dag_id, value_id):
            return await call_user(self.local.get, dag_id, value_id)
        known = await self._find(dag_id, value_id)
        if from_node is None and await self._is_kept(dag_id, value_id, known):
            return await call_user(self.local.get, dag_id, value_id)
        key = known["key"] or self._function_key(known, dag_id, value_id)
        return await self._fetcher.fetch(key, dag_id, value_id, from_node)

    async def store_result(
        self, dag_id: Hashable, function_id: Hashable, value: Any, origin_node: str | None
    ) -> None:
        """Put a value on a node, for every client."""
        function_id = id_of(function_id)
        name = await self._link.ask("some_node" if origin_node is None else "name_of", node=str(origin_node))
        address = await self._link.ask("address_of", node=name)
        key = f"value-0{uuid.uuid4().hex[:15]}"
        stored: dict[str, Future[Any]] = await self._link.client.scatter(
            {key: value},
            workers=[address],
            hash=False,
            direct=await self._fetcher.is_direct(address),
            asynchronous=True,
        )
        await self._link.ask("keep", dag=token_of(dag_id), value=token_of(function_id), key=key)
        del stored  # the scheduler keeps it from here on

    async def lookup(self, dag_id: Hashable, data_id: Hashable) -> str:
        """Name of the node where data is; for what was computed or stored, where it really is."""
        data_id = id_of(data_id)
        known = await self._find(dag_id, data_id)
        key = known["key"] or known["keys"].get(data_id)
        holders = {} if key is None else await self._link.ask("where", key=key)
        if holders:
            return str(next(iter(holders)))
        if known["location"] is not None:
            return str(known["location"])
        if self._own is not None:
            kept = await call_user(self._own.locations, dag_id)
            if data_id in kept:
                return str(kept[data_id])
        raise NotFoundError("data", data_id, f"no location of it is known for DAG {dag_id!r}")

    # ------------------------------------------------------------------ where things are

    async def _find(self, dag_id: Hashable, value_id: Hashable) -> dict[str, Any]:
        """What is known of a value.

        ``key`` of what was stored under the id, unless a later run made it anew; ``run``, the
        token of the latest run, and ``keys`` of its functions by id; ``location``, where a user
        said that it is.
        """
        known: dict[str, Any] = await self._link.ask("find", dag=token_of(dag_id), value=token_of(value_id))
        known["keys"] = keys = (
            {} if known["run"] is None else await self._keys_of(dag_id, known["run"], value_id)
        )
        if known.pop("outdated") and value_id in keys:
            known["key"] = None
        return known

    async def _keys_of(
        self, dag_id: Hashable, token: str, value_id: Hashable = None
    ) -> Mapping[Hashable, str]:
        """``{id: key}`` of a run's functions."""
        execution = self._latest(dag_id)
        if execution is not None and execution.token == token:
            return execution.compiled.keys
        if token not in self._keys or value_id not in self._keys[token]:  # it may be an item of a map by now
            ids, keys, spawned = await self._link.ask("functions_of", token=token)
            self._keys[token] = dict(zip(with_items(pickle.loads(ids), spawned), keys, strict=True))
            while len(self._keys) > REMEMBERED:
                self._keys.popitem(last=False)
        return self._keys[token]

    def _function_key(self, known: Mapping[str, Any], dag_id: Hashable, value_id: Hashable) -> str:
        """The key of a function of the latest run."""
        if known["run"] is None:
            raise NotFoundError("value", value_id, f"no execution or stored value of DAG {dag_id!r} is known")
        key = known["keys"].get(value_id)
        if key is None:
            raise NotFoundError("value", value_id, f"DAG {dag_id!r} has no function of this id that runs")
        return str(key)

    async def _wait_until_settled(
        self, token: str, key: str, dag_id: Hashable, function_id: Hashable, timeout: float | None
    ) -> None:
        """Wait for a function of another client's run."""
        state, facts = await self._link.ask("settled", token=token, key=key, timeout=timeout)
        if state == "waiting":
            raise TimeoutError(f"{function_id!r} of DAG {dag_id!r} is not there within {timeout} s")
        if state == "cancelled":
            raise ExecutionCancelledError(dag_id)
        if state == "failed":
            ids = {k: i for i, k in (await self._keys_of(dag_id, token)).items()}
            raise _failure(ids[facts["key"]], facts)


def _failure(function_id: Hashable, facts: Mapping[str, Any]) -> BaseException:
    """What another client's run failed with."""
    if facts["refusal"] is not None:
        return AllocationError(function_id, facts["cost"], *facts["refusal"])
    _, cause, trace = clean_exception(facts["exception"], facts["traceback"])
    if cause is not None and trace is not None:
        cause = cause.with_traceback(trace)
    cause = original(cause)
    return FunctionFailedError(function_id, facts["node"], facts["attempts"], cause)


def checked_store(store: Any) -> ResultStore | None:
    """A user's own store; a class is called without arguments.

    Raises
    ------
    ValidationError
        If it is none.
    """
    if isinstance(store, type):
        try:
            store = store()
        except Exception as error:  # whatever the user's __init__ raises
            raise ValidationError(
                f"result_store {store!r} cannot be made without arguments ({error!r}); give an instance"
            ) from error
    if store is None or isinstance(store, ResultStore):
        return store
    raise ValidationError(f"{store!r} is no result store; give it store, get, has, clear and locations")
