"""Results and values by DAG id, wherever they are."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from pickle import PickleError
from typing import TYPE_CHECKING, Any

from distributed import CancelledError, Future
from distributed.core import clean_exception
from distributed.protocol import pickle
from distributed.utils_comm import gather_from_workers

from handoff_dask.client.execution import Execution
from handoff_dask.errors import (
    AllocationError,
    ExecutionCancelledError,
    FunctionFailedError,
    HandoffError,
    NotFoundError,
    ValidationError,
)
from handoff_dask.protocol.manifest import token_of
from handoff_dask.record.result import ExecutionResult
from handoff_dask.stores import MemoryResultStore, ResultStore

if TYPE_CHECKING:
    from handoff_dask.client.connection import Connection

logger = logging.getLogger(__name__)

#: Seconds that a worker has to answer before results are fetched through the scheduler instead.
REACH_S = 3.0
#: Foreign runs whose ids are remembered.
REMEMBERED = 16

#: What this process keeps for itself, whatever session it goes through.
_local = MemoryResultStore()


class Results:
    """What a session knows of results and values."""

    def __init__(self, session: Connection, store: Any) -> None:
        self._session = session
        self._own = _checked(store)
        #: Where this process keeps values.
        self.local: ResultStore = _local if self._own is None else self._own
        #: Which run was the latest when a value was kept: ``{(DAG id, id): token}``.
        self._kept_at: dict[tuple[Hashable, Hashable], str | None] = {}
        #: ``{token: {id: key}}`` of other clients' runs.
        self._keys: OrderedDict[str, Mapping[Hashable, str]] = OrderedDict()
        #: Whether workers can be reached from here; None before it was tried.
        self._direct: bool | None = None

    # ------------------------------------------------------------------ this process

    def keep(self, dag_id: Hashable, value_id: Hashable, value: Any) -> None:
        """Keep a value in this process."""
        self.local.store(dag_id, value_id, value)
        self._note(dag_id, value_id)

    def _note(self, dag_id: Hashable, value_id: Hashable) -> None:
        if self._own is not None:
            latest = self._session.execution_of(dag_id)
            self._kept_at[dag_id, value_id] = None if latest is None else latest.token

    async def fetched(self, dag_id: Hashable, token: str, results: Mapping[Hashable, Any]) -> None:
        """Results have come to this process: the user's own store keeps them."""
        if self._own is None:
            return
        for function_id, value in results.items():
            try:
                await asyncio.to_thread(self._own.store, dag_id, function_id, value)
            except Exception:
                # The caller has the value all the same.
                logger.exception("the result store could not keep %r of DAG %r", function_id, dag_id)
            else:
                self._kept_at[dag_id, function_id] = token

    async def _kept(self, dag_id: Hashable, value_id: Hashable) -> bool:
        """Whether this process keeps a value, and no later run has made it old."""
        if self._own is not None:
            latest = self._session.execution_of(dag_id)
            made = latest is not None and value_id in latest.compiled.keys
            if latest is not None and made and self._kept_at.get((dag_id, value_id)) != latest.token:
                return False
        return await asyncio.to_thread(self.local.has, dag_id, value_id)

    async def forget(self, dag_id: Hashable) -> None:
        """Drop what this process keeps of a DAG."""
        named = {dag_id}
        self._kept_at = {key: token for key, token in self._kept_at.items() if key[0] not in named}
        await asyncio.to_thread(self.local.clear, dag_id)

    # ------------------------------------------------------------------ asked by users

    async def get_result(self, of: Any, function_id: Hashable, timeout: float | None) -> Any:
        """A result of an execution, or of the latest one of a DAG id."""
        if isinstance(of, ExecutionResult):
            if function_id in of.results:
                return of.results[function_id]
            raise NotFoundError("result", function_id, f"DAG {of.dag_id!r} has no result of this id")
        if isinstance(of, Execution):
            return await of._get_result(function_id, timeout)
        if self._own is not None and await self._kept(of, function_id):
            return await asyncio.to_thread(self._own.get, of, function_id)
        known = await self._find(of, function_id)
        if known["key"] is not None:
            return await self._take(known["key"], of, function_id)
        execution = self._session.execution_of(of)
        if execution is not None and known["run"] in (None, execution.token):
            return await execution._get_result(function_id, timeout)
        key = self._function_key(known, of, function_id)
        await self._settled(known["run"], key, of, function_id, timeout)
        return await self._take(key, of, function_id)

    async def get_value(self, dag_id: Hashable, value_id: Hashable, from_node: str | None) -> Any:
        """A value from this process, else from wherever it is."""
        if from_node is None and await self._kept(dag_id, value_id):
            return await asyncio.to_thread(self.local.get, dag_id, value_id)
        known = await self._find(dag_id, value_id)
        key = known["key"] or self._function_key(known, dag_id, value_id)
        return await self._take(key, dag_id, value_id, from_node)

    async def store_result(
        self, dag_id: Hashable, function_id: Hashable, value: Any, origin_node: str | None
    ) -> None:
        """Put a value on a node, for every client."""
        name = await self._session.ask(
            "some_node" if origin_node is None else "name_of", node=str(origin_node)
        )
        address = await self._session.ask("address_of", node=name)
        key = f"value-0{uuid.uuid4().hex[:15]}"
        stored: dict[str, Future[Any]] = await self._session.client.scatter(
            {key: value},
            workers=[address],
            hash=False,
            direct=await self._directly(address),
            asynchronous=True,
        )
        await self._session.ask("keep", dag=token_of(dag_id), value=token_of(function_id), key=key)
        del stored  # the scheduler keeps it from here on

    async def lookup(self, dag_id: Hashable, data_id: Hashable) -> str:
        """Name of the node where data is; for what was computed or stored, where it really is."""
        known = await self._find(dag_id, data_id)
        key = known["key"] or known["keys"].get(data_id)
        holders = {} if key is None else await self._session.ask("where", key=key)
        if holders:
            return str(next(iter(holders)))
        if known["location"] is not None:
            return str(known["location"])
        if self._own is not None:
            kept = await asyncio.to_thread(self._own.locations, dag_id)
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
        known: dict[str, Any] = await self._session.ask(
            "find", dag=token_of(dag_id), value=token_of(value_id)
        )
        known["keys"] = keys = {} if known["run"] is None else await self._keys_of(dag_id, known["run"])
        if known.pop("outdated") and value_id in keys:
            known["key"] = None
        return known

    async def _keys_of(self, dag_id: Hashable, token: str) -> Mapping[Hashable, str]:
        """``{id: key}`` of a run's functions."""
        execution = self._session.execution_of(dag_id)
        if execution is not None and execution.token == token:
            return execution.compiled.keys
        if token not in self._keys:
            ids, keys = await self._session.ask("functions_of", token=token)
            self._keys[token] = dict(zip(pickle.loads(ids), keys, strict=True))
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

    async def _settled(
        self, token: str, key: str, dag_id: Hashable, function_id: Hashable, timeout: float | None
    ) -> None:
        """Wait for a function of another client's run."""
        state, facts = await self._session.ask("settled", token=token, key=key, timeout=timeout)
        if state == "waiting":
            raise TimeoutError(f"{function_id!r} of DAG {dag_id!r} is not there within {timeout} s")
        if state == "cancelled":
            raise ExecutionCancelledError(dag_id)
        if state == "failed":
            ids = {k: i for i, k in (await self._keys_of(dag_id, token)).items()}
            raise _failure(ids[facts["key"]], facts)

    # ------------------------------------------------------------------ fetching

    async def gather(self, dag_id: Hashable, futures: Mapping[Hashable, Future[Any]]) -> dict[Hashable, Any]:
        """The values of futures, from the workers that have them where these can be reached.

        Raises
        ------
        HandoffError
            If one cannot travel.
        """
        client, direct = self._session.client, None
        if futures and client.direct_to_workers is None:
            direct = await self._directly(None) or None
        try:
            return dict(await client.gather(dict(futures), direct=direct, asynchronous=True))
        except CancelledError:
            if client.status != "running":  # what it held went with it
                self._session.refuse_if_over()
            raise
        except (TypeError, AttributeError, ImportError, PickleError) as error:
            if len(futures) > 1:  # whose it is, Dask does not say
                for one, future in futures.items():
                    await self.gather(dag_id, {one: future})
            (one,), (about, *_) = futures, str(error).split("\n")
            raise HandoffError(
                f"the result of function {one!r} of DAG {dag_id!r} cannot be fetched ({about}); "
                "let it return what can be pickled, or leave it out of outputs"
            ) from error

    async def _take(
        self, key: str, dag_id: Hashable, value_id: Hashable, from_node: str | None = None
    ) -> Any:
        """A value that is in some worker's memory now."""
        client = self._session.client
        holders: dict[str, str] = await self._session.ask("where", key=key)
        if from_node is not None:
            name = await self._session.ask("name_of", node=str(from_node))
            if name not in holders:
                where = ", ".join(map(repr, holders)) or "no node"
                raise NotFoundError("value", value_id, f"node {name!r} does not hold it; {where} does")
            holders = {name: holders[name]}
        addresses = list(holders.values())
        if addresses and await self._directly(addresses[0]):
            data, *_ = await gather_from_workers({key: addresses}, rpc=client.rpc)
            if key in data:
                return data[key]
        if addresses:
            scheduler: Any = client.scheduler
            answer = await scheduler.gather(keys=[key])
            if answer["status"] == "OK":
                return answer["data"][key]
        raise NotFoundError(
            "value", value_id, f"no node holds it for DAG {dag_id!r}; get_result waits for it"
        )

    async def _directly(self, address: str | None) -> bool:
        """Whether to talk to workers; tried once, with this one or some other."""
        client = self._session.client
        if client.direct_to_workers is not None:
            return bool(client.direct_to_workers)
        if self._direct is None:
            try:
                if address is None:
                    name = await self._session.ask("some_node", node="")
                    address = await self._session.ask("address_of", node=name)
                await asyncio.wait_for(client.rpc(address).identity(), REACH_S)
            except (OSError, asyncio.TimeoutError, NotFoundError) as error:
                logger.info(
                    "worker %s cannot be reached (%r); results pass through the scheduler", address, error
                )
                self._direct = False
            else:
                self._direct = True
        return self._direct


def _failure(function_id: Hashable, facts: Mapping[str, Any]) -> BaseException:
    """What another client's run failed with."""
    if facts["refusal"] is not None:
        return AllocationError(function_id, facts["cost"], *facts["refusal"])
    _, cause, trace = clean_exception(facts["exception"], facts["traceback"])
    if cause is not None and trace is not None:
        cause = cause.with_traceback(trace)
    return FunctionFailedError(function_id, facts["node"], facts["attempts"], cause)


def _checked(store: Any) -> ResultStore | None:
    """A user's own store.

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
