"""The session for asynchronous use: the methods of :class:`Handoff` as coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from handoff_dask.allocators import Strategy
from handoff_dask.client.cluster_tracker import AsyncClusterTracker
from handoff_dask.client.execution import AsyncExecution
from handoff_dask.client.execution_core import refuse_other_than_execution, results_of
from handoff_dask.client.explanations import FunctionExplanation
from handoff_dask.client.nodes import local_node, shared_units
from handoff_dask.client.options import refuse_unhashable, refuse_unknown, timeout_s
from handoff_dask.client.pipeline import AsyncPipeline
from handoff_dask.client.reuse import CacheLike
from handoff_dask.client.scheduler_link import this_worker
from handoff_dask.client.session_core import SessionCore
from handoff_dask.client.stream_submission import prepare_stream
from handoff_dask.graph.dag import DAG
from handoff_dask.graph.functions import Function, FunctionId
from handoff_dask.graph.retry import Retry
from handoff_dask.local import execute_local
from handoff_dask.record.overview import ExecutionInfo
from handoff_dask.record.result import ExecutionResult
from handoff_dask.record.status import OnFailure
from handoff_dask.resources import Capabilities, Cost
from handoff_dask.reuse.reasons import Reason
from handoff_dask.streaming import OnNodeLoss

S = TypeVar("S", bound="AsyncHandoff")


class AsyncHandoff(SessionCore):
    """A session on a Dask cluster whose methods are coroutines; an asynchronous context manager.

    The parameters and errors are those of :class:`~handoff_dask.Handoff`.  The client may be
    asynchronous or not.  An embedded cluster, if one is needed, is started by the constructor.

    Examples
    --------
    ::

        async with Client(address, asynchronous=True) as client:
            async with handoff.AsyncHandoff(client) as session:
                result = await session.execute(dag)
                execution = await session.submit(dag)
                async for id, value in execution.as_completed():
                    ...
    """

    @property
    def resource_tracker(self) -> AsyncClusterTracker:
        """The cluster's resource tracker: a claim made with it counts for every placement."""
        return AsyncClusterTracker(self.link, self._nodes)

    # ------------------------------------------------------------------ life

    async def start(self: S) -> S:
        """Install the plugins on the scheduler and on all present and future workers.

        Returns
        -------
        AsyncHandoff
            This session.
        """
        await self.link.run(self._start)
        return self

    async def stop(self) -> None:
        """End the session: cancel what it still runs.  The user's client and cluster stay."""
        if self.asynchronous or self.is_usable:
            await self.link.run(self._stop)
        else:
            self._close()
        if self._embedded is not None or self._connected is not None:
            await asyncio.to_thread(self._close_own)

    async def __aenter__(self: S) -> S:
        return await self.start()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    # ------------------------------------------------------------------ executions

    async def submit(
        self,
        dag: DAG | Iterable[Function],
        *,
        inputs: Mapping[FunctionId, Any] | None = None,
        allocation_strategy: Strategy | None = None,
        allocator: Strategy | None = None,
        resources: Iterable[Mapping[str, Any]] | None = None,
        max_retries: int | None = None,
        retry: Retry | None = None,
        max_concurrency: int | None = None,
        priority: float = 0,
        share: float = 1.0,
        outputs: Collection[FunctionId] | None = None,
        timeout: float | None = None,
        progress: bool = False,
        on_failure: OnFailure = "stop",
        cache: CacheLike | None = None,
        resume: AsyncExecution | Hashable | None = None,
        detach: bool = False,
        **unknown: NoReturn,
    ) -> AsyncExecution:
        """Start to execute a DAG, and return at once.

        Parameters
        ----------
        dag
            A DAG, or a list of functions.
        inputs
            ``{id: value}`` of the DAG's inputs.
        allocation_strategy
            ``"first_available"``, ``"load_balanced"``, ``"cost_optimized"``, ``"fastest"``, or a
            strategy of the user's own.  If ``None``, the session's ``allocator``, else the setting
            ``handoff.allocation-strategy``.
        allocator
            The same under Handoff's name; give one of the two.
        resources
            ``[{"node": name, "capabilities": {…}}, …]``: confines the execution to these nodes, and on
            each to the smaller of these capabilities and what it has.
        max_retries
            How often a function that raised is tried again, unless it says so itself.  If ``None``,
            the setting ``handoff.max-retries``.
        retry
            How, as a :class:`Retry`; give one of the two.
        max_concurrency
            The largest number of functions that run at once; no limit if ``None``.
        priority
            Of the whole run: of what becomes free, runs of larger priority get what they can use first,
            whatever the priorities of their functions.
        share
            What the run may hold beside others of equal priority, in proportion: of two clients whose
            runs have the shares 3 and 1, the first gets three quarters of what both want.
        outputs
            Ids or references of the functions whose results are wanted, or ``"sinks"``: those that
            nothing else takes.  Only what these need runs.  All functions if ``None``.
        timeout
            Seconds, after which the execution is cancelled; no limit if ``None``.
        progress
            Show a progress bar in a terminal or a notebook; elsewhere write lines to standard error.
        on_failure
            What becomes of the execution when a function has failed for good.  ``"stop"``: nothing further
            of it starts.  ``"continue"``: all that does not need the function still runs, then the failure is
            raised.  ``"return"``: the same, and the result is returned, with what has failed in ``failed``
            and what needed it in ``skipped``.
        cache
            Where results are kept and found: a directory, an fsspec URL or a :class:`Cache`, which each
            node must reach.  A function whose result is there does not run.
        resume
            An earlier execution, or the id of its DAG, failed or not: what the cluster still has of its
            results is not computed again.
        detach
            Whether the execution outlives this client: :func:`attach` gives it to any other.

        Returns
        -------
        AsyncExecution

        Raises
        ------
        ValidationError
            If the DAG or an option is wrong.
        AllocationError
            If a function can run on no node that is there.
        """
        prepare = self._preparation(
            dag,
            unknown,
            inputs=inputs,
            allocation_strategy=allocation_strategy,
            allocator=allocator,
            resources=resources,
            max_retries=max_retries,
            retry=retry,
            max_concurrency=max_concurrency,
            priority=priority,
            share=share,
            outputs=outputs,
            timeout=timeout,
            progress=progress,
            on_failure=on_failure,
            cache=cache,
            resume=resume,
            detach=detach,
        )
        return await self.link.run(self._submit, prepare(), AsyncExecution)

    async def execute(
        self,
        dag: DAG | Iterable[Function],
        *,
        inputs: Mapping[FunctionId, Any] | None = None,
        allocation_strategy: Strategy | None = None,
        allocator: Strategy | None = None,
        resources: Iterable[Mapping[str, Any]] | None = None,
        max_retries: int | None = None,
        retry: Retry | None = None,
        max_concurrency: int | None = None,
        priority: float = 0,
        share: float = 1.0,
        outputs: Collection[FunctionId] | None = None,
        timeout: float | None = None,
        progress: bool = False,
        on_failure: OnFailure = "stop",
        cache: CacheLike | None = None,
        resume: AsyncExecution | Hashable | None = None,
        **unknown: NoReturn,
    ) -> ExecutionResult:
        """Execute a DAG, and wait for its results.

        Parameters
        ----------
        dag
            A DAG, or a list of functions.
        inputs
            ``{id: value}`` of the DAG's inputs.
        allocation_strategy
            ``"first_available"``, ``"load_balanced"``, ``"cost_optimized"``, ``"fastest"``, or a
            strategy of the user's own.  If ``None``, the session's ``allocator``, else the setting
            ``handoff.allocation-strategy``.
        allocator
            The same under Handoff's name; give one of the two.
        resources
            ``[{"node": name, "capabilities": {…}}, …]``: confines the execution to these nodes, and on
            each to the smaller of these capabilities and what it has.
        max_retries
            How often a function that raised is tried again, unless it says so itself.  If ``None``,
            the setting ``handoff.max-retries``.
        retry
            How, as a :class:`Retry`; give one of the two.
        max_concurrency
            The largest number of functions that run at once; no limit if ``None``.
        priority
            Of the whole run: of what becomes free, runs of larger priority get what they can use first,
            whatever the priorities of their functions.
        share
            What the run may hold beside others of equal priority, in proportion: of two clients whose
            runs have the shares 3 and 1, the first gets three quarters of what both want.
        outputs
            Ids or references of the functions whose results are wanted, or ``"sinks"``: those that
            nothing else takes.  Only what these need runs.  All functions if ``None``.
        timeout
            Seconds, after which the execution is cancelled; no limit if ``None``.
        progress
            Show a progress bar in a terminal or a notebook; elsewhere write lines to standard error.
        on_failure
            What becomes of the execution when a function has failed for good.  ``"stop"``: nothing further
            of it starts.  ``"continue"``: all that does not need the function still runs, then the failure is
            raised.  ``"return"``: the same, and the result is returned, with what has failed in ``failed``
            and what needed it in ``skipped``.
        cache
            Where results are kept and found: a directory, an fsspec URL or a :class:`Cache`, which each
            node must reach.  A function whose result is there does not run.
        resume
            An earlier execution, or the id of its DAG, failed or not: what the cluster still has of its
            results is not computed again.

        Returns
        -------
        ExecutionResult

        Raises
        ------
        ValidationError, AllocationError
            As :meth:`submit`.
        FunctionFailedError
            If a function has failed for good; its exception is the cause.
        TimeoutError
            If the execution has not ended within ``timeout`` seconds; it is cancelled.
        """
        prepare = self._preparation(
            dag,
            unknown,
            inputs=inputs,
            allocation_strategy=allocation_strategy,
            allocator=allocator,
            resources=resources,
            max_retries=max_retries,
            retry=retry,
            max_concurrency=max_concurrency,
            priority=priority,
            share=share,
            outputs=outputs,
            timeout=timeout,
            progress=progress,
            on_failure=on_failure,
            cache=cache,
            resume=resume,
        )
        return await self.link.run(self._execute, prepare, AsyncExecution)

    execute_distributed = execute

    async def execute_local(
        self,
        dag: DAG | Iterable[Function],
        *,
        inputs: Mapping[FunctionId, Any] | None = None,
        allocation_strategy: Strategy | None = None,
        allocator: Strategy | None = None,
        resources: Iterable[Mapping[str, Any]] | None = None,
        max_retries: int | None = None,
        retry: Retry | None = None,
        max_concurrency: int | None = None,
        priority: float = 0,
        share: float = 1.0,
        outputs: Collection[FunctionId] | None = None,
        timeout: float | None = None,
        progress: bool = False,
        on_failure: OnFailure = "stop",
        cache: CacheLike | None = None,
        resume: AsyncExecution | Hashable | None = None,
        **unknown: NoReturn,
    ) -> ExecutionResult:
        """Execute a DAG in this process, in a thread of its own.

        ``node``, ``cost`` and the options about nodes are ignored, so that the same call can run in
        one process or on many.  The parameters are those of :func:`~handoff_dask.execute_local`.

        Returns
        -------
        ExecutionResult
            Its only node is ``"local"``.

        Raises
        ------
        ValidationError
            If the DAG or an option is wrong.
        FunctionFailedError
            If a function raised and has no retries left.
        TimeoutError
            After ``timeout`` seconds.
        """
        refuse_unknown(unknown)
        return await asyncio.to_thread(
            execute_local,
            dag,
            inputs=inputs,
            outputs=outputs,
            max_retries=max_retries,
            retry=retry,
            timeout=timeout,
            progress=progress,
            on_failure=on_failure,
            cache=cache,
        )

    async def stream(
        self,
        dag: DAG | Iterable[Function],
        *,
        allocation_strategy: Strategy | None = None,
        allocator: Strategy | None = None,
        resources: Iterable[Mapping[str, Any]] | None = None,
        max_in_flight: int | None = None,
        join_timeout: float | None = None,
        on_node_loss: OnNodeLoss = "move",
        ordered: bool = True,
        **unknown: NoReturn,
    ) -> AsyncPipeline:
        """Make a DAG into warm stages, through which items flow; returns at once.

        Parameters
        ----------
        dag
            A DAG with at least one input, or a list of functions.  Each regular function is a stage.
        allocation_strategy, allocator, resources
            As for :meth:`submit`; the stages hold their costs until the pipeline ends.
        max_in_flight
            Items inside at most, from push until their results are taken; 10 for each stage if ``None``.
        join_timeout
            Seconds, after which an item that has some arguments of a stage and lacks others fails; no
            limit if ``None``.
        on_node_loss
            ``"move"``: the stages of a node that goes are moved to others, and what was inside them is
            done again.  ``"fail"``: the pipeline fails.
        ordered
            Whether results come in the order of pushing; else as they come, as pairs ``(number, result)``.

        Returns
        -------
        AsyncPipeline

        Raises
        ------
        ValidationError
            If the DAG or an option is wrong.
        AllocationError
            If a stage can run on no node that is there, or not all of them can at the same time.
        """
        prepared = prepare_stream(
            dag,
            unknown,
            allocation_strategy=allocation_strategy,
            allocator=allocator,
            resources=resources,
            max_in_flight=max_in_flight,
            join_timeout=join_timeout,
            on_node_loss=on_node_loss,
            ordered=ordered,
            default_allocator=self._allocator,
        )
        return await self.link.run(self._stream, prepared, AsyncPipeline)

    async def await_completion(
        self, execution: AsyncExecution | ExecutionResult, timeout: float | None = None
    ) -> Mapping[FunctionId, Any]:
        """Wait for an execution.

        Parameters
        ----------
        execution
            An execution; or its result, which is there already.
        timeout
            Seconds; ``None`` waits for ever.

        Returns
        -------
        mapping
            ``{function id: value}``.

        Raises
        ------
        TimeoutError
            If it has not ended by then.  It goes on.
        HandoffError
            What the execution fails with.
        """
        refuse_other_than_execution(execution)
        return await self.link.run(results_of, execution, timeout_s(timeout))

    async def explain(
        self,
        execution_or_dag_id: AsyncExecution | ExecutionResult | Hashable,
        id: FunctionId | None = None,  # noqa: A002
    ) -> FunctionExplanation:
        """Why a function waits, or where it ran and why there.

        Parameters
        ----------
        execution_or_dag_id
            An execution, its result, a pipeline, or a DAG's id: the latest of its executions counts,
            whichever client has submitted it.  Or the key of a task of Dask's own that handoff places, or
            its future.
        id
            The function; not for a task of Dask's own.

        Returns
        -------
        FunctionExplanation

        Raises
        ------
        NotFoundError
            If nothing is known of it, or it never runs on its own.
        """
        return await self.link.run(self._started_first, self._explain, execution_or_dag_id, id)

    async def why_rerun(
        self,
        dag: DAG | Iterable[Function],
        *,
        cache: CacheLike | None = None,
        resume: AsyncExecution | Hashable | None = None,
        inputs: Mapping[FunctionId, Any] | None = None,
    ) -> dict[FunctionId, Reason]:
        """Why each function would run again; nothing runs.

        Parameters
        ----------
        dag
            A DAG, or a list of functions.
        cache
            A cache, or where it is: why, with ``execute(dag, cache=…)``.
        resume
            An execution or the id of its DAG: why, with ``execute(dag, resume=…)``.
        inputs
            ``{input id: value}``.

        Returns
        -------
        dict
            ``{function id: reason}``.

        Raises
        ------
        NotFoundError
            If the cluster has no such execution that can be resumed.
        ValidationError
            If the DAG or the cache is wrong, or not exactly one of ``cache`` and ``resume`` is given.
        """
        return await self.link.run(self._started_first, self._why_rerun, dag, cache, resume, inputs)

    async def executions(self) -> list[ExecutionInfo]:
        """What the cluster runs and remembers, whoever has submitted it, the latest first."""
        return await self.link.run(self._started_first, self._list_executions)

    async def attach(self, dag_id: Hashable) -> AsyncExecution:
        """The execution of a DAG, whoever has submitted it.

        Parameters
        ----------
        dag_id
            The DAG's id: the latest of its executions counts; or the token of one execution.

        Raises
        ------
        NotFoundError
            If the cluster does not have it any more.
        """
        refuse_unhashable(dag_id)
        return await self.link.run(self._started_first, self._attach, dag_id, AsyncExecution)

    # ------------------------------------------------------------------ nodes

    async def discover_nodes(self) -> dict[str, dict[str, Any]]:
        """``{node name: capabilities}`` of every worker of the cluster."""
        return await self.link.run(self._nodes.discover)

    async def register_node(self, node: str, capabilities: Mapping[str, Any]) -> None:
        """Set what a node has, replacing an earlier registration.

        Parameters
        ----------
        node
            Name or address of a node.
        capabilities
            ``{resource: amount or label}``.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        ValidationError
            If the capabilities are wrong.
        """
        Capabilities.parse(capabilities)
        await self.link.run(self._nodes.register, node, capabilities, merge=False)

    async def update_node_resources(self, node: str, capabilities: Mapping[str, Any]) -> None:
        """Merge into what a node has.

        An amount may become smaller than what is in use; then nothing new starts there until there is
        room.  The parameters and errors are those of :meth:`register_node`.
        """
        Capabilities.parse(capabilities)
        await self.link.run(self._nodes.register, node, capabilities, merge=True)

    async def node_notes(self) -> dict[str, list[str]]:
        """``{node name: what keeps functions from using what they claim there, and what mends it}``."""
        return await self.link.run(self._nodes.notes)

    async def unregister_node(self, node: str) -> None:
        """Take back what was registered for a node: it has again what its worker offers.

        Raises
        ------
        NotFoundError
            If nothing is registered for a node of this name or address.
        """
        await self.link.run(self._nodes.unregister, node)

    async def register_local_node(self, capabilities: Mapping[str, Any]) -> None:
        """Set what this worker has; outside of a worker, what the embedded cluster's first node has.

        Raises
        ------
        NotFoundError
            If there is neither.
        ValidationError
            If the capabilities are wrong.
        """
        node = local_node(None if self._embedded is None else self._embedded.nodes)
        await self.register_node(node, capabilities)

    async def register_shared(self, name: str, amount: float) -> None:
        """Make a resource of the whole cluster: licences, say, or connections to one server.

        Any function whose cost names it holds it while it runs, wherever that is, over all DAGs and
        clients.  Saying it again changes the amount; if there is less than is held, nothing more
        starts that needs it until there is room.

        Parameters
        ----------
        name
            Of the resource; no node declares it.
        amount
            How much there is.

        Raises
        ------
        ValidationError
            If the amount is wrong, or a node declares the name.
        """
        await self.link.run(self._nodes.register_shared, name, shared_units(name, amount))

    async def shared_resources(self) -> dict[str, int | float]:
        """``{name: amount}`` of the resources that the whole cluster shares."""
        return await self.link.run(self._nodes.shared)

    async def resources_available(self, node: str, req: Mapping[str, Any]) -> bool:
        """Whether a node has room for a cost right now; ``False`` for an unknown node.

        Raises
        ------
        ValidationError
            If the cost is wrong.
        """
        return await self.link.run(self._nodes.available, node, Cost.parse(req))

    # ------------------------------------------------------------------ results and data

    async def get_result(
        self,
        execution_or_dag_id: AsyncExecution | ExecutionResult | Hashable,
        id: FunctionId,  # noqa: A002
        timeout: float | None = 5.0,
    ) -> Any:
        """Wait for one function's result, and fetch it.

        Parameters
        ----------
        execution_or_dag_id
            An execution, its result, or the id of a DAG: the latest of its executions counts.
        id
            The function.
        timeout
            Seconds; ``None`` waits for ever.

        Returns
        -------
        Any
            What the function returned.

        Raises
        ------
        NotFoundError
            If nothing is known of it.
        TimeoutError
            If it is not there in time.
        """
        refuse_unhashable(execution_or_dag_id, id)
        return await self.link.run(self._get_result, execution_or_dag_id, id, timeout_s(timeout))

    async def store_result(
        self,
        dag_id: Hashable,
        id: FunctionId,  # noqa: A002
        value: Any,
        origin_node: str | None = None,
    ) -> None:
        """Keep a value in a node's memory, for every client, until :meth:`forget`.

        Parameters
        ----------
        dag_id, id
            The name of the value.
        value
            What can be pickled.
        origin_node
            The node.  If ``None``, this worker's node inside a function; elsewhere the node with the
            least in its memory.

        Raises
        ------
        NotFoundError
            If no node has the name ``origin_node``.
        """
        refuse_unhashable(dag_id, id)
        if origin_node is None:
            origin_node = this_worker()
        await self.link.run(self._started_first, self._results.store_result, dag_id, id, value, origin_node)

    def store_value(self, dag_id: Hashable, id: FunctionId, value: Any) -> None:  # noqa: A002
        """Keep a value in this process only."""
        refuse_unhashable(dag_id, id)
        self._results.keep(dag_id, id, value)

    def get_local_value(self, dag_id: Hashable, id: FunctionId) -> Any:  # noqa: A002
        """A value that this process keeps.

        Raises
        ------
        NotFoundError
            If it keeps none of this name.
        """
        refuse_unhashable(dag_id, id)
        return self._results.kept(dag_id, id)

    async def get_value(
        self,
        dag_id: Hashable,
        id: FunctionId,  # noqa: A002
        from_node: str | None = None,
    ) -> Any:
        """A value that this process keeps, else from wherever it is.

        Parameters
        ----------
        dag_id, id
            The name of the value.
        from_node
            The node to fetch it from; any if ``None``.

        Raises
        ------
        NotFoundError
            If no node has it, or ``from_node`` has not.
        """
        refuse_unhashable(dag_id, id)
        return await self.link.run(self._started_first, self._results.get_value, dag_id, id, from_node)

    async def register_data_location(self, dag_id: Hashable, data_id: Hashable, node: str) -> None:
        """Record on which node some data is.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        """
        refuse_unhashable(dag_id, data_id)
        await self.link.run(self._register_location, dag_id, data_id, node)

    async def lookup_data_location(self, dag_id: Hashable, data_id: Hashable) -> str:
        """Name of the node where data is; for a computed result, where it really is.

        Raises
        ------
        NotFoundError
            If no location is known.
        """
        refuse_unhashable(dag_id, data_id)
        return await self.link.run(self._started_first, self._results.lookup, dag_id, data_id)

    async def forget(self, dag_id: Hashable) -> None:
        """Drop a DAG's executions that have ended, its stored values and locations."""
        refuse_unhashable(dag_id)
        await self.link.run(self._forget, dag_id)
