"""The session: everything a user does with a cluster."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from handoff_dask import telemetry
from handoff_dask.client import options as checks
from handoff_dask.client.compile import Compiled
from handoff_dask.client.compile import compile as compile_dag
from handoff_dask.client.data import DataMethods
from handoff_dask.client.execution import Execution
from handoff_dask.client.explain import explain
from handoff_dask.client.input_checks import refuse_cancelled
from handoff_dask.client.nodes import NodeMethods
from handoff_dask.client.sending import send
from handoff_dask.errors import AllocationError
from handoff_dask.graph.dag import DAG, as_dag
from handoff_dask.graph.functions import Function, FunctionId
from handoff_dask.protocol.outcome import Outcome

Graph = DAG | Iterable[Function]


class Handoff(NodeMethods, DataMethods):
    """A session on a Dask cluster; a context manager.

    Parameters
    ----------
    client
        A Dask client; with none, the one that is current in Dask; with none there either, an
        embedded cluster is started on this machine.
    nodes
        ``{name: capabilities}`` of the embedded cluster; one node of this machine's cores and
        memory if ``None``.
    resource_tracker
        A :class:`~handoff_dask.ResourceTracker` of the user's own.  A copy of it on the scheduler
        is told every node, asked before and told after every placement of this session, and may
        refuse.
    result_store
        A :class:`~handoff_dask.ResultStore` of the user's own, for the results that come to this
        process and the values it stores.
    allocator
        The strategy of executions that name none.

    Raises
    ------
    ValidationError
        If one of these is of the wrong kind, or cannot be sent.

    Notes
    -----
    With an asynchronous client, every method that waits returns an awaitable.
    """

    # ------------------------------------------------------------------ execution

    def submit(
        self,
        dag: Graph,
        *,
        inputs: Mapping[FunctionId, Any] | None = None,
        allocation_strategy: Any = None,
        allocator: Any = None,
        resources: Iterable[Mapping[str, Any]] | None = None,
        max_retries: int | None = None,
        max_concurrency: int | None = None,
        outputs: Collection[FunctionId] | None = None,
        timeout: float | None = None,
        progress: bool = False,
        **unknown: Any,
    ) -> Any:
        """Start to execute a DAG, and return at once.

        Parameters
        ----------
        dag
            A DAG, or a list of functions.
        inputs
            ``{id: value}`` of its inputs.
        allocation_strategy
            A name, or an own strategy; see the guide to scheduling.
        allocator
            The same, as Handoff calls it.
        resources
            ``[{"node": name, "capabilities": {…}}, …]``: confines the execution to these nodes,
            and on each to the smaller of this and what it has.
        max_retries
            How often a function that raised is tried again, where it does not say itself.
        max_concurrency
            The most functions that run at once.
        outputs
            Ids of the functions whose results are wanted; only what these need runs.
        timeout
            Seconds, after which the execution is cancelled.
        progress
            Show a progress bar in a terminal or a notebook; elsewhere nothing is shown.

        Returns
        -------
        Execution

        Raises
        ------
        ValidationError
            If the DAG or an option is wrong.
        AllocationError
            If a function can run on no node that is there.
        """
        checks.refuse_unknown(unknown)
        if allocation_strategy is None and allocator is None:
            allocator = self._allocator
        dag = as_dag(dag)
        options = checks.parse(
            allocation_strategy=allocation_strategy,
            allocator=allocator,
            resources=resources,
            max_retries=max_retries,
            max_concurrency=max_concurrency,
        )
        limit = checks.timeout_s(timeout)
        carried: dict[str, str] | None = {} if telemetry.carries() else None
        compiled = compile_dag(
            dag, inputs=inputs or {}, outputs=outputs, options=options, announced=True, carrier=carried
        )
        context = contextvars.copy_context()

        def carry() -> None:
            # Once the DAG is sure to begin, and in the trace of whoever submits it.
            if carried is not None:
                carried.update(context.run(telemetry.carrier, dag.id))

        return self.sync(self._submit, dag, compiled, limit, checks.switch("progress", progress), carry)

    async def _submit(
        self,
        dag: DAG,
        compiled: Compiled,
        timeout: float | None,
        progress: bool,
        carry: Callable[[], None],
    ) -> Execution:
        self.refuse_if_over()
        if not self._started:
            await self._start()
        refuse_cancelled(compiled.held)
        compiled.manifest.listener = self.name
        ids = compiled.expansion.outputs
        keys = [compiled.keys[i] for i in ids]
        if not keys:
            execution = Execution(self, dag, compiled, {})
            execution.has_ended(Outcome(token=compiled.manifest.token, status="finished"), None, None)
            await self._hearing.tell_empty(dag.id, compiled.manifest.options.strategy_name)
            return execution
        await self._hearing.sync()
        refused = await self.ask("announce", manifest=compiled.manifest)
        if refused is not None:
            position, reasons, problem = refused
            function_id = list(compiled.keys)[position]
            cost = compiled.expansion.functions[function_id].cost
            raise AllocationError(function_id, cost, reasons, problem)
        carry()
        try:
            self.refuse_if_over()  # stopped meanwhile: nobody would cancel it
            futures = send(self.client, compiled.graph, keys)
        except Exception as error:  # whatever pickling the user's values raises
            await self.ask("withdraw", token=compiled.manifest.token)
            compiled.refuse_what_cannot_travel(error)
            raise
        execution = Execution(self, dag, compiled, dict(zip(ids, futures, strict=True)))
        self._live[compiled.manifest.token] = execution
        self._by_dag[dag.id] = execution
        self.watch()
        execution.guard(timeout)
        execution.mind()
        if progress:
            execution.show_progress()
        execution.plan()
        return execution

    def execute(self, dag: Graph, **options: Any) -> Any:
        """Execute a DAG and wait for it; takes the options of :meth:`submit`.

        Returns
        -------
        ExecutionResult

        Raises
        ------
        ValidationError, AllocationError, FunctionFailedError
            As :meth:`submit` and :meth:`Execution.result`.
        TimeoutError
            If it has not ended within ``timeout`` seconds; it is cancelled.
        """
        if self.asynchronous:
            return self._execute(dag, options)
        execution = self.submit(dag, **options)
        try:
            return execution.result()
        except BaseException:
            # Ctrl-C too: nobody is left who could want it.
            execution.cancel()
            raise

    async def _execute(self, dag: Graph, options: dict[str, Any]) -> Any:
        execution = await self.submit(dag, **options)
        try:
            return await execution._result(None)
        except BaseException:
            await asyncio.shield(execution._cancel())
            raise

    execute_distributed = execute

    def explain(self, execution_or_dag_id: Any, id: FunctionId) -> Any:  # noqa: A002
        """Why a function waits, or where it ran and why there.

        Parameters
        ----------
        execution_or_dag_id
            An execution, its result, or the id of a DAG: of its executions the latest counts,
            whoever has submitted it.
        id
            The function.

        Returns
        -------
        FunctionExplanation

        Raises
        ------
        NotFoundError
            If nothing is known of it, or it never runs on its own.
        """
        return self.sync(self._started_first, explain, self, execution_or_dag_id, id)
