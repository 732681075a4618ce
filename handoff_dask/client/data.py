"""What a session does with results and data."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from handoff_dask.client.connection import Connection, this_worker
from handoff_dask.client.execution import Execution
from handoff_dask.client.options import timeout_s
from handoff_dask.errors import NotFoundError, ValidationError
from handoff_dask.graph.functions import FunctionId
from handoff_dask.protocol.manifest import token_of
from handoff_dask.record.result import ExecutionResult


class DataMethods(Connection):
    """The methods of a session that are about results and data."""

    def await_completion(self, execution: Execution | ExecutionResult, timeout: float | None = None) -> Any:
        """Wait for an execution; its dict of results.

        Raises
        ------
        TimeoutError
            If it has not ended within ``timeout`` seconds.  It goes on.
        HandoffError
            What the execution fails with.
        """
        if not isinstance(execution, (Execution, ExecutionResult)):
            raise ValidationError(f"{execution!r} is no execution; give what submit or execute has returned")
        return self.wait_for(self._await_completion, execution, timeout_s(timeout))

    async def _await_completion(
        self, execution: Execution | ExecutionResult, timeout: float | None
    ) -> Mapping[FunctionId, Any]:
        if isinstance(execution, ExecutionResult):
            return execution.results
        return (await execution._result(timeout)).results

    def get_result(self, execution_or_dag_id: Any, id: FunctionId, timeout: float | None = 5.0) -> Any:  # noqa: A002
        """One function's result, as soon as it is there.

        Parameters
        ----------
        execution_or_dag_id
            An execution, its result, or the id of a DAG: of its executions the latest counts.
        id
            The function.
        timeout
            Seconds; ``None`` waits for ever.

        Raises
        ------
        NotFoundError
            If nothing is known of it.
        TimeoutError
            If it is not there in time.
        """
        _refuse_unhashable(execution_or_dag_id, id)
        limit = timeout_s(timeout)
        return self.wait_for(self._started_first, self.results.get_result, execution_or_dag_id, id, limit)

    def store_result(
        self,
        dag_id: Hashable,
        id: FunctionId,  # noqa: A002
        value: Any,
        origin_node: str | None = None,
    ) -> Any:
        """Keep a value in a node's memory, for every client, until :meth:`forget`.

        Without ``origin_node`` it is this worker's node, inside a function; elsewhere the one with
        the least in its memory.

        Raises
        ------
        NotFoundError
            If no node has the name ``origin_node``.
        """
        _refuse_unhashable(dag_id, id)
        if origin_node is None:
            origin_node = this_worker()
        return self.sync(self._started_first, self.results.store_result, dag_id, id, value, origin_node)

    def store_value(self, dag_id: Hashable, id: FunctionId, value: Any) -> None:  # noqa: A002
        """Keep a value in this process only."""
        _refuse_unhashable(dag_id, id)
        self.results.keep(dag_id, id, value)

    def get_local_value(self, dag_id: Hashable, id: FunctionId) -> Any:  # noqa: A002
        """A value that this process keeps.

        Raises
        ------
        NotFoundError
            If it keeps none of this name.
        """
        _refuse_unhashable(dag_id, id)
        local = self.results.local
        if not local.has(dag_id, id):  # a user's own store may raise whatever it likes
            raise NotFoundError("value", id, f"nothing of DAG {dag_id!r} is kept here under it")
        return local.get(dag_id, id)

    def get_value(self, dag_id: Hashable, id: FunctionId, from_node: str | None = None) -> Any:  # noqa: A002
        """A value of this process, else from wherever it is; with ``from_node``, from there.

        Raises
        ------
        NotFoundError
            If nobody has it, or that node has not.
        """
        _refuse_unhashable(dag_id, id)
        return self.sync(self._started_first, self.results.get_value, dag_id, id, from_node)

    def register_data_location(self, dag_id: Hashable, data_id: Hashable, node: str) -> Any:
        """Say on which node some data is.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        """
        _refuse_unhashable(dag_id, data_id)
        return self.sync(self._register_location, dag_id, data_id, node)

    async def _register_location(self, dag_id: Hashable, data_id: Hashable, node: Any) -> None:
        await self._start()
        await self.ask("register_location", dag=token_of(dag_id), value=token_of(data_id), node=str(node))

    def lookup_data_location(self, dag_id: Hashable, data_id: Hashable) -> Any:
        """Name of the node where data is: for a result, where it really is.

        Raises
        ------
        NotFoundError
            If nobody knows.
        """
        _refuse_unhashable(dag_id, data_id)
        return self.sync(self._started_first, self.results.lookup, dag_id, data_id)

    def forget(self, dag_id: Hashable) -> Any:
        """Drop a DAG's finished executions, its stored values and locations; one that runs goes on."""
        _refuse_unhashable(dag_id)
        return self.sync(self._forget, dag_id)

    async def _forget(self, dag_id: Hashable) -> None:
        await self._start()
        execution = self._by_dag.get(dag_id)
        if execution is not None and execution.token not in self._live:
            del self._by_dag[dag_id]
        named = {dag_id}  # a number of numpy's is equal to a tuple in as many ways as that has items
        for past in [past for past in self._retained if past.dag_id in named]:
            self._retained.remove(past)
            past.release()
        await self.results.forget(dag_id)
        await self.ask("forget", dag=token_of(dag_id))

    async def _started_first(self, function: Any, *args: Any) -> Any:
        await self._start()
        return await function(*args)


def _refuse_unhashable(*ids: object) -> None:
    for i in ids:
        try:
            hash(i)
        except TypeError:
            raise ValidationError(
                f"{i!r} cannot be an id; use what can be hashed, a string or a tuple say"
            ) from None
