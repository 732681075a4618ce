"""The session: everything a user does with a cluster."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import cloudpickle
from dask.base import tokenize
from distributed import Client, get_client, get_worker, rejoin, secede
from distributed.comm.core import CommClosedError
from distributed.protocol import pickle

from handoff_dask import config, telemetry
from handoff_dask.dag import DAG, as_dag
from handoff_dask.errors import AllocationError, HandoffError, NotFoundError
from handoff_dask.functions import Function, FunctionId
from handoff_dask.live import options as checks
from handoff_dask.live.cluster_tracker import ClusterTracker, pack_tracker
from handoff_dask.live.compile import Compiled
from handoff_dask.live.compile import compile as compile_dag
from handoff_dask.live.embedded import EmbeddedCluster
from handoff_dask.live.execution import Execution
from handoff_dask.live.hearing import Hearing
from handoff_dask.live.protocol import NAME, Outcome
from handoff_dask.live.results import Results
from handoff_dask.live.scheduler_plugin import HandoffSchedulerPlugin
from handoff_dask.live.sending import send
from handoff_dask.records import ExecutionResult
from handoff_dask.resources import Capabilities, Cost

logger = logging.getLogger(__name__)

Graph = DAG | Iterable[Function]


class Handoff:
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

    def __init__(
        self,
        client: Client | None = None,
        *,
        nodes: Mapping[str, Mapping[str, Any]] | None = None,
        resource_tracker: Any = None,
        result_store: Any = None,
        allocator: Any = None,
    ) -> None:
        self._embedded: EmbeddedCluster | None = None
        self._nodes = nodes
        if allocator is not None:
            checks.strategy_of(None, allocator)
        self._allocator = allocator
        self._tracker = pack_tracker(resource_tracker)
        self._started = False
        self._closed = False
        self._starting: asyncio.Task[None] | None = None
        self._lock = threading.RLock()
        #: Executions that have not ended, by token.
        self._live: dict[str, Execution] = {}
        #: The latest execution of each DAG id that anybody still holds.
        self._by_dag: weakref.WeakValueDictionary[Hashable, Execution] = weakref.WeakValueDictionary()
        self._retained: deque[Execution] = deque()
        self._watching: asyncio.Task[None] | None = None
        if client is None:
            client = self._own_client(nodes)
        #: The Dask client of this session.
        self.client: Client = client
        #: What the scheduler knows it by: a client may have several sessions.
        self.name = f"{client.id}-{uuid.uuid4().hex}"
        self._hearing = Hearing(self)
        #: What this session knows of results and values.
        self.results = Results(self, result_store)
        #: The cluster's tracker: what is claimed with it counts for every placement.
        self.resource_tracker = ClusterTracker(self)

    def _own_client(self, nodes: Mapping[str, Mapping[str, Any]] | None) -> Client:
        client = current_client() if nodes is None else None
        if client is not None:
            return client
        self._embedded = EmbeddedCluster(nodes)
        return self._embedded.client

    # ------------------------------------------------------------------ life

    @property
    def asynchronous(self) -> bool:
        """Whether methods return awaitables, as the client's do."""
        return bool(self.client.asynchronous)

    @property
    def is_embedded(self) -> bool:
        """Whether it has started a cluster of its own."""
        return self._embedded is not None

    @property
    def is_usable(self) -> bool:
        """Whether it has not been stopped and its client is still there."""
        return not self._closed and self.client.status not in ("closed", "closing")

    @property
    def has_plugin(self) -> bool:
        """Whether the scheduler's plugin has been installed, as far as is known here."""
        return self._started

    def ids_of(self, token: str) -> tuple[Hashable, list[Hashable]] | None:
        """The ids of a run of this session, as the user wrote them."""
        execution = self._live.get(token)
        if execution is None:
            return None
        return execution.dag_id, list(execution.compiled.keys)

    @property
    def scheduler_address(self) -> str:
        """Where the scheduler of this session listens."""
        scheduler: Any = self.client.scheduler
        return str(scheduler.address)

    def execution_of(self, dag_id: Hashable) -> Execution | None:
        """The latest execution of a DAG id that this session still holds."""
        return self._by_dag.get(dag_id)

    def sync(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a coroutine function on the client's loop; wait for it, or return its awaitable."""
        return self.client.sync(function, *args, **kwargs)

    def wait_for(self, function: Any, *args: Any) -> Any:
        """The same as :meth:`sync`, for what waits for functions: a task lets go of its thread meanwhile."""
        if self.asynchronous:
            return self.sync(function, *args)
        with thread_let_go():
            return self.sync(function, *args)

    def start(self) -> Any:
        """Install the plugins on the scheduler and on all present and future workers; the session."""
        return self.sync(self._start)

    async def _start(self) -> Handoff:
        self._refuse_if_over()
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._install())
        await asyncio.shield(self._starting)
        return self

    async def _install(self) -> None:
        await self.client.register_plugin(HandoffSchedulerPlugin())
        if self._embedded is not None:
            for name, capabilities in self._embedded.nodes.items():
                await self._register(name, capabilities, merge=False)
        if self._tracker is not None:
            await self.ask("use_tracker", tracker=self._tracker)
        self._started = True
        await self._hearing.sync(greet=True)

    def _refuse_if_over(self) -> None:
        if self._closed:
            raise HandoffError("this session has been stopped; start another one")
        if not self.is_usable:
            raise HandoffError("the client of this session is closed; start a session with another one")

    def stop(self) -> Any:
        """End the session: cancel what it still runs; leave the user's client and cluster alone."""
        if self.asynchronous:
            return self.sync(self._stop)
        if self.is_usable:
            self.sync(self._stop)
        else:  # its loop may be gone with the client
            self._closed = True
            self._hearing.close()
        if self._embedded is not None:
            self._embedded.close()
        return None

    async def _stop(self) -> None:
        usable, self._closed = self.is_usable, True
        self._hearing.close()
        self._retained.clear()
        if not usable:
            return
        try:
            for execution in list(self._live.values()):
                await execution._cancel()
            if self._tracker is not None and self._started:
                await self.ask("use_tracker", tracker=None)
            if self._starting is not None:
                await self.ask("leave", listener=self.name)
        except (CommClosedError, OSError):
            logger.info("the scheduler is gone; there is nothing to cancel")
        if self._watching is not None:
            self._watching.cancel()

    def __enter__(self) -> Handoff:
        self.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.stop()

    async def __aenter__(self) -> Handoff:
        return await self._start()

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._stop()

    # ------------------------------------------------------------------ the scheduler

    async def ask(self, method: str, **arguments: Any) -> Any:
        """Ask the scheduler's plugin.

        Raises
        ------
        HandoffError
            What the plugin refuses it with.
        """
        answer = await getattr(self.client.scheduler, NAME)(
            method=method, client=self.client.id, arguments=cloudpickle.dumps(arguments)
        )
        if "error" in answer:
            raise pickle.loads(answer["error"])
        return answer["as_is"] if "as_is" in answer else pickle.loads(answer["value"])

    def watch(self) -> None:
        """Begin to listen to the scheduler, unless that is so."""
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        """Listen to the scheduler while something of this session runs."""
        try:
            while self._live or self._hearing.listens:
                answer = await getattr(self.client.scheduler, NAME)(
                    method="watch",
                    client=self.client.id,
                    arguments=cloudpickle.dumps({"listener": self.name}),
                )
                for kind, content in answer["messages"]:
                    await self._told(kind, content)
                    self._hearing.heard += 1
        except Exception as error:  # a lost connection, however it shows itself
            lost = HandoffError(f"the scheduler is gone ({error!r}); connect a new client and submit again")
            for execution in list(self._live.values()):
                execution.is_lost(lost)
            self._live.clear()
            if not isinstance(error, (CommClosedError, OSError)):
                raise
        finally:
            self._watching = None
            if not self.is_usable:
                self._hearing.close()

    async def _told(self, kind: str, content: Any) -> None:
        if kind == "status":
            token, _ = content
            if token in self._live:
                self._live[token].has_begun()
        elif kind == "events":
            await self._hearing.take(content)
        elif kind == "ended":
            packed, exception, traceback = content
            outcome: Outcome = pickle.loads(packed)
            execution = self._live.pop(outcome.token, None)
            if execution is not None:
                await self._hearing.catch_up()
                execution.has_ended(outcome, exception, traceback)
                self._retain(execution)

    async def expects(self, execution: Execution) -> bool:
        """Whether the graph of an execution, which has failed, never reached the scheduler's plugin."""
        if not self.is_usable:
            return False
        try:
            never = await self.ask("withdraw", token=execution.compiled.manifest.token)
        except (CommClosedError, OSError, RuntimeError):  # the connection, or all of them, are closed
            return False
        if never:
            self._live.pop(execution.compiled.manifest.token, None)
        return bool(never)

    def _retain(self, execution: Execution) -> None:
        self._retained.append(execution)
        while len(self._retained) > config.get("retained-dags"):
            self._retained.popleft()

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

        return self.sync(self._submit, dag, compiled, limit, bool(progress), carry)

    async def _submit(
        self,
        dag: DAG,
        compiled: Compiled,
        timeout: float | None,
        progress: bool,
        carry: Callable[[], None],
    ) -> Execution:
        self._refuse_if_over()
        if not self._started:
            await self._start()
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

    # ------------------------------------------------------------------ nodes

    def discover_nodes(self) -> Any:
        """``{node name: capabilities}`` of every worker of the cluster."""
        return self.sync(self._discover)

    async def _discover(self) -> dict[str, dict[str, Any]]:
        await self._start()
        nodes: dict[str, dict[str, Any]] = await self.ask("discover")
        return nodes

    def register_node(self, node: str, capabilities: Mapping[str, Any]) -> Any:
        """Say what a node has, replacing what was registered before.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        ValidationError
            If the capabilities are wrong.
        """
        Capabilities.parse(capabilities)
        return self.sync(self._register, node, capabilities, merge=False)

    def update_node_resources(self, node: str, capabilities: Mapping[str, Any]) -> Any:
        """Merge into what a node has; it may shrink below what is running there.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        ValidationError
            If the capabilities are wrong.
        """
        Capabilities.parse(capabilities)
        return self.sync(self._register, node, capabilities, merge=True)

    async def _register(self, node: Any, capabilities: Mapping[str, Any], *, merge: bool) -> None:
        if self._starting is None:
            await self._start()
        await self.ask("register", node=str(node), capabilities=Capabilities.parse(capabilities), merge=merge)

    def resources_available(self, node: str, req: Mapping[str, Any]) -> Any:
        """Whether a node has room for a cost right now; ``False`` for an unknown node."""
        cost = Cost.parse(req)
        return self.sync(self._available, node, cost)

    async def _available(self, node: Any, cost: Cost) -> bool:
        await self._start()
        return bool(await self.ask("available", node=str(node), cost=cost))

    def register_local_node(self, capabilities: Mapping[str, Any]) -> Any:
        """Say what this worker has; outside a worker, what the embedded cluster's first node has.

        Raises
        ------
        NotFoundError
            If there is neither.
        """
        return self.register_node(self._local_node(), capabilities)

    def _local_node(self) -> str:
        node = _this_worker()
        if node is not None:
            return node
        if self._embedded is None:
            raise NotFoundError("node", "local", "this is no worker; name one with register_node")
        return str(next(iter(self._embedded.nodes)))

    # ------------------------------------------------------------------ results and data

    def await_completion(self, execution: Execution | ExecutionResult, timeout: float | None = None) -> Any:
        """Wait for an execution; its dict of results.

        Raises
        ------
        TimeoutError
            If it has not ended within ``timeout`` seconds.  It goes on.
        HandoffError
            What the execution fails with.
        """
        return self.wait_for(self._await_completion, execution, timeout)

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
        return self.wait_for(self._started_first, self.results.get_result, execution_or_dag_id, id, timeout)

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
        if origin_node is None:
            origin_node = _this_worker()
        return self.sync(self._started_first, self.results.store_result, dag_id, id, value, origin_node)

    def store_value(self, dag_id: Hashable, id: FunctionId, value: Any) -> None:  # noqa: A002
        """Keep a value in this process only."""
        self.results.keep(dag_id, id, value)

    def get_local_value(self, dag_id: Hashable, id: FunctionId) -> Any:  # noqa: A002
        """A value that this process keeps.

        Raises
        ------
        NotFoundError
            If it keeps none of this name.
        """
        return self.results.local.get(dag_id, id)

    def get_value(self, dag_id: Hashable, id: FunctionId, from_node: str | None = None) -> Any:  # noqa: A002
        """A value of this process, else from wherever it is; with ``from_node``, from there.

        Raises
        ------
        NotFoundError
            If nobody has it, or that node has not.
        """
        return self.sync(self._started_first, self.results.get_value, dag_id, id, from_node)

    def register_data_location(self, dag_id: Hashable, data_id: Hashable, node: str) -> Any:
        """Say on which node some data is.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        """
        return self.sync(self._register_location, dag_id, data_id, node)

    async def _register_location(self, dag_id: Hashable, data_id: Hashable, node: Any) -> None:
        await self._start()
        await self.ask("register_location", dag=tokenize(dag_id), value=tokenize(data_id), node=str(node))

    def lookup_data_location(self, dag_id: Hashable, data_id: Hashable) -> Any:
        """Name of the node where data is: for a result, where it really is.

        Raises
        ------
        NotFoundError
            If nobody knows.
        """
        return self.sync(self._started_first, self.results.lookup, dag_id, data_id)

    def forget(self, dag_id: Hashable) -> Any:
        """Drop a DAG's finished executions, its stored values and locations; one that runs goes on."""
        return self.sync(self._forget, dag_id)

    async def _forget(self, dag_id: Hashable) -> None:
        await self._start()
        execution = self._by_dag.get(dag_id)
        if execution is not None and execution.token not in self._live:
            del self._by_dag[dag_id]
        for past in [past for past in self._retained if past.dag_id == dag_id]:
            self._retained.remove(past)
            past.release()
        await self.results.forget(dag_id)
        await self.ask("forget", dag=tokenize(dag_id))

    async def _started_first(self, function: Any, *args: Any) -> Any:
        await self._start()
        return await function(*args)


def _this_worker() -> str | None:
    """Address of the worker in whose task this is called, if it is called in one."""
    try:
        return str(get_worker().address)
    except ValueError:
        return None


@contextmanager
def thread_let_go() -> Iterator[None]:
    """Inside a task, let others have its thread, as ``Client.get`` does; elsewhere nothing.

    Else functions that execute DAGs could take all threads, and wait for ever for one to be free.
    """
    try:
        secede()
    except (ValueError, KeyError):  # this is no task, or it has let go already
        yield
        return
    try:
        yield
    finally:
        rejoin()


def current_client() -> Client | None:
    """The client that is current in Dask: inside a task, its worker's."""
    client: Client
    try:
        client = Client.current()
    except ValueError:
        pass
    else:
        return client
    try:
        get_worker()
    except ValueError:
        return None
    client = get_client()
    return client
