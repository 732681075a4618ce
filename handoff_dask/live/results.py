"""Results and values by DAG id, wherever they are."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from dask.base import tokenize
from distributed import Future
from distributed.protocol import pickle

from handoff_dask.errors import NotFoundError
from handoff_dask.live.execution import Execution
from handoff_dask.records import ExecutionResult
from handoff_dask.stores import MemoryResultStore, ResultStore

if TYPE_CHECKING:
    from handoff_dask.live.session import Handoff

#: What this process keeps for itself, whatever session it goes through.
_local = MemoryResultStore()


class Results:
    """What a session knows of results and values."""

    def __init__(self, session: Handoff, store: ResultStore | None) -> None:
        self._session = session
        self._own = store
        #: Where this process keeps values.
        self.local: ResultStore = _local if store is None else store

    def fetched(self, dag_id: Hashable, results: dict[Hashable, Any]) -> None:
        """Results have come to this process: the user's own store keeps them."""
        if self._own is not None:
            for function_id, value in results.items():
                self._own.store(dag_id, function_id, value)

    async def get_result(self, of: Any, function_id: Hashable, timeout: float | None) -> Any:
        """A result of an execution, or of the latest one of a DAG id."""
        if isinstance(of, ExecutionResult):
            if function_id in of.results:
                return of.results[function_id]
            raise NotFoundError("result", function_id, f"DAG {of.dag_id!r} has no result of this id")
        if isinstance(of, Execution):
            return await of._get_result(function_id, timeout)
        if self._own is not None and self._own.has(of, function_id):
            return self._own.get(of, function_id)
        execution = self._session.execution_of(of)
        if execution is not None and function_id in execution.futures:
            return await execution._get_result(function_id, timeout)
        key = await self._key_of(of, function_id)
        return await self._fetch(key, of, function_id, timeout)

    async def get_value(self, dag_id: Hashable, value_id: Hashable, from_node: str | None) -> Any:
        """A value from this process, else from wherever it is."""
        if from_node is None and self.local.has(dag_id, value_id):
            return self.local.get(dag_id, value_id)
        key = await self._key_of(dag_id, value_id)
        if from_node is None:
            return await self._fetch(key, dag_id, value_id, None)
        holders = await self._session.ask("where", key=key)
        node = await self._session.ask("name_of", node=str(from_node))
        if node not in holders:
            raise NotFoundError("value", value_id, f"node {from_node!r} does not hold it; {holders} do")
        address = await self._session.ask("address_of", node=node)
        answer = await self._session.client.rpc(address).get_data(keys=[key], who=None, max_connections=False)
        return pickle.loads(pickle.dumps(answer["data"][key]))

    async def _key_of(self, dag_id: Hashable, value_id: Hashable) -> str:
        """The Dask key of a stored value or a computed result."""
        known = await self._session.ask("find", dag=tokenize(dag_id), value=tokenize(value_id))
        if known["key"] is not None:
            return str(known["key"])
        if known["run"] is None:
            raise NotFoundError("value", value_id, f"no execution or stored value of DAG {dag_id!r} is known")
        ids, keys, positions = known["run"]
        for position in positions:
            if pickle.loads(ids)[position] == value_id:
                return str(keys[position])
        raise NotFoundError("value", value_id, f"DAG {dag_id!r} has no function of this id that runs")

    async def _fetch(self, key: str, dag_id: Hashable, value_id: Hashable, timeout: float | None) -> Any:
        future: Future[Any] = Future(key, self._session.client)
        try:
            return await asyncio.wait_for(self._session.client.gather(future, asynchronous=True), timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"{value_id!r} of DAG {dag_id!r} is not there within {timeout} s") from None

    async def store_result(
        self, dag_id: Hashable, function_id: Hashable, value: Any, origin_node: str | None
    ) -> None:
        """Put a value on a node, for every client."""
        workers = None
        if origin_node is not None:
            workers = [await self._session.ask("address_of", node=str(origin_node))]
        key = f"value-0{uuid.uuid4().hex[:15]}"
        stored = await self._session.client.scatter(
            {key: value}, workers=workers, hash=False, asynchronous=True
        )
        await self._session.ask("keep", dag=tokenize(dag_id), value=tokenize(function_id), key=key)
        del stored  # the scheduler keeps it from here on

    async def lookup(self, dag_id: Hashable, data_id: Hashable) -> str:
        """Name of the node where data is; for what was computed or stored, where it really is."""
        known = await self._session.ask("find", dag=tokenize(dag_id), value=tokenize(data_id))
        try:
            key = await self._key_of(dag_id, data_id)
        except NotFoundError:
            holders = []
        else:
            holders = await self._session.ask("where", key=key)
        if holders:
            return str(holders[0])
        if known["location"] is not None:
            return str(known["location"])
        raise NotFoundError("data", data_id, f"no location of it is known for DAG {dag_id!r}")
