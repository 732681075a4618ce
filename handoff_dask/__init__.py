"""Handoff for Python, as an integration of Dask distributed.

Functions with a cost form a DAG.  A node is a Dask worker with capabilities.  A scheduler plugin
places each function on a node when it can start there.

>>> import handoff_dask as handoff
>>> dag = handoff.DAG("sums").add_function(handoff.Function("one", [], int, extra_args=["1"]))
>>> dag.validate()
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, NoReturn

from distributed import Client

from handoff_dask import telemetry, visualization
from handoff_dask.allocators import SimpleAllocator, Strategy
from handoff_dask.client.async_session import AsyncHandoff
from handoff_dask.client.collection import make_collection
from handoff_dask.client.compile import Compiled, compile  # noqa: A004
from handoff_dask.client.dask_costs import cost
from handoff_dask.client.default import link_of, session_for, start, stop
from handoff_dask.client.execution import AsyncExecution, Execution
from handoff_dask.client.execution_core import refuse_other_than_execution, results_of
from handoff_dask.client.explanations import FunctionExplanation
from handoff_dask.client.options import timeout_s
from handoff_dask.client.pipeline import AsyncPipeline, Pipeline
from handoff_dask.client.reuse import CacheLike
from handoff_dask.client.session import Handoff
from handoff_dask.errors import (
    AllocationError,
    CyclicDependencyError,
    DuplicateFunctionError,
    ExecutionCancelledError,
    FunctionFailedError,
    FunctionTimeoutError,
    HandoffError,
    InvalidFunctionError,
    MemoryExceededError,
    MissingFunctionError,
    NotFoundError,
    PipelineEndedError,
    ProcessEndedError,
    SessionEndedError,
    StageLostError,
    ValidationError,
)
from handoff_dask.graph.arguments import Reference
from handoff_dask.graph.dag import DAG, new
from handoff_dask.graph.functions import Argument, Collocated, Failed, Function, FunctionId
from handoff_dask.graph.growing import growing
from handoff_dask.graph.handout import function
from handoff_dask.graph.retry import Retry
from handoff_dask.graph.tasks import Task, task
from handoff_dask.local import execute_local
from handoff_dask.record.current import Current, attempt_here, devices_here
from handoff_dask.record.execution import Timing
from handoff_dask.record.overview import ExecutionInfo
from handoff_dask.record.result import ExecutionResult
from handoff_dask.record.status import OnFailure
from handoff_dask.record.suggestions import CostSuggestion, CostSuggestions, suggest_costs
from handoff_dask.record.usage import Usage
from handoff_dask.reuse.cache import Cache
from handoff_dask.reuse.file import File
from handoff_dask.reuse.fingerprint import fingerprint
from handoff_dask.reuse.reasons import Reason
from handoff_dask.reuse.reasons import why_rerun as _why_rerun
from handoff_dask.stores import ResultStore
from handoff_dask.streaming import OnNodeLoss
from handoff_dask.trackers import ResourceTracker, SimpleResourceTracker
from handoff_dask.version import VERSION
from handoff_dask.visualization.displays import add_displays
from handoff_dask.worker.context import attempt_on_worker, devices_on_worker

__version__ = VERSION

__all__ = [
    "DAG",
    "AllocationError",
    "Argument",
    "Cache",
    "AsyncExecution",
    "AsyncHandoff",
    "AsyncPipeline",
    "Collocated",
    "Compiled",
    "Current",
    "CyclicDependencyError",
    "DuplicateFunctionError",
    "Execution",
    "ExecutionCancelledError",
    "ExecutionInfo",
    "ExecutionResult",
    "Failed",
    "File",
    "Function",
    "FunctionFailedError",
    "FunctionTimeoutError",
    "MemoryExceededError",
    "ProcessEndedError",
    "Handoff",
    "HandoffError",
    "CostSuggestion",
    "CostSuggestions",
    "Usage",
    "InvalidFunctionError",
    "MissingFunctionError",
    "NotFoundError",
    "Pipeline",
    "PipelineEndedError",
    "Reference",
    "ResourceTracker",
    "ResultStore",
    "Reason",
    "Retry",
    "SessionEndedError",
    "SimpleAllocator",
    "SimpleResourceTracker",
    "StageLostError",
    "Task",
    "Timing",
    "ValidationError",
    "attach",
    "await_completion",
    "compile",
    "cost",
    "current",
    "devices",
    "discover_nodes",
    "execute",
    "execute_distributed",
    "execute_local",
    "executions",
    "explain",
    "fingerprint",
    "forget",
    "function",
    "get_local_value",
    "growing",
    "get_result",
    "get_value",
    "lookup_data_location",
    "new",
    "register_data_location",
    "register_local_node",
    "register_node",
    "register_shared",
    "resources_available",
    "shared_resources",
    "start",
    "stop",
    "store_result",
    "store_value",
    "stream",
    "submit",
    "suggest_costs",
    "task",
    "telemetry",
    "unregister_node",
    "update_node_resources",
    "visualization",
    "why_rerun",
]


make_collection()
add_displays()


def execute(
    dag: DAG | Iterable[Function],
    *,
    client: Client | None = None,
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
    resume: Execution | Hashable | None = None,
    **unknown: NoReturn,
) -> ExecutionResult:
    """Execute a DAG, and wait for its results.

    Parameters
    ----------
    dag
        A DAG, or a list of functions.
    client
        A Dask client.  If ``None``, the session made by :func:`start`, or the client that is current in
        Dask; if there is neither, an embedded cluster is started on this machine.
    inputs
        ``{id: value}`` of the DAG's inputs.
    allocation_strategy
        ``"first_available"``, ``"load_balanced"``, ``"cost_optimized"``, ``"fastest"``, or a strategy of
        the user's own.  If ``None``, the session's ``allocator``, else the setting
        ``handoff.allocation-strategy`` (``"first_available"``).
    allocator
        The same under Handoff's name; give one of the two.
    resources
        ``[{"node": name, "capabilities": {…}}, …]``: confines the execution to these nodes, and on each
        to the smaller of these capabilities and what it has.
    max_retries
        How often a function that raised is tried again, unless it says so itself.  If ``None``, the
        setting ``handoff.max-retries`` (3).
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
        Ids or references of the functions whose results are wanted, or ``"sinks"``: those that nothing
        else takes.  Only what these need runs.  All functions if ``None``.
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
        Results, nodes and times by function id.  With an asynchronous client, an awaitable of it.

    Raises
    ------
    ValidationError
        If the DAG or an option is wrong.  Nothing has run.
    AllocationError
        If a function can run on no node that is there.
    FunctionFailedError
        If a function has failed for good; its exception is the cause.
    TimeoutError
        If the execution has not ended within ``timeout`` seconds; it is cancelled.

    Examples
    --------
    ::

        dag = handoff.DAG("sums")
        dag.add_function(handoff.Function("one", [], int, extra_args=["1"], cost={"cpu": 1}))
        handoff.execute(dag).results  # {"one": 1}
    """
    return session_for(client).execute(
        dag,
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
        **unknown,
    )


execute_distributed = execute


def submit(
    dag: DAG | Iterable[Function],
    *,
    client: Client | None = None,
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
    resume: Execution | Hashable | None = None,
    detach: bool = False,
    **unknown: NoReturn,
) -> Execution:
    """Start to execute a DAG, and return at once.

    Parameters
    ----------
    dag
        A DAG, or a list of functions.
    client
        A Dask client.  If ``None``, the session made by :func:`start`, or the client that is current in
        Dask; if there is neither, an embedded cluster is started on this machine.
    inputs
        ``{id: value}`` of the DAG's inputs.
    allocation_strategy
        ``"first_available"``, ``"load_balanced"``, ``"cost_optimized"``, ``"fastest"``, or a strategy of
        the user's own.  If ``None``, the session's ``allocator``, else the setting
        ``handoff.allocation-strategy`` (``"first_available"``).
    allocator
        The same under Handoff's name; give one of the two.
    resources
        ``[{"node": name, "capabilities": {…}}, …]``: confines the execution to these nodes, and on each
        to the smaller of these capabilities and what it has.
    max_retries
        How often a function that raised is tried again, unless it says so itself.  If ``None``, the
        setting ``handoff.max-retries`` (3).
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
        Ids or references of the functions whose results are wanted, or ``"sinks"``: those that nothing
        else takes.  Only what these need runs.  All functions if ``None``.
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
    Execution
        With an asynchronous client, an awaitable of it.

    Raises
    ------
    ValidationError
        If the DAG or an option is wrong.
    AllocationError
        If a function can run on no node that is there.
    """
    return session_for(client).submit(
        dag,
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
        **unknown,
    )


def stream(
    dag: DAG | Iterable[Function],
    *,
    client: Client | None = None,
    allocation_strategy: Strategy | None = None,
    allocator: Strategy | None = None,
    resources: Iterable[Mapping[str, Any]] | None = None,
    max_in_flight: int | None = None,
    join_timeout: float | None = None,
    on_node_loss: OnNodeLoss = "move",
    ordered: bool = True,
    **unknown: NoReturn,
) -> Pipeline:
    """Make a DAG into warm stages, through which items flow; returns at once.

    Parameters
    ----------
    dag
        A DAG with at least one input, or a list of functions.  Each regular function is a stage.
    client
        A Dask client.  If ``None``, the session made by :func:`start`, or the client that is current in
        Dask; if there is neither, an embedded cluster is started on this machine.
    allocation_strategy, allocator, resources
        As for :func:`submit`; the stages hold their costs until the pipeline ends.
    max_in_flight
        Items inside at most, from push until their results are taken; 10 for each stage if ``None``.
    join_timeout
        Seconds, after which an item that has some arguments of a stage and lacks others fails; no limit
        if ``None``.
    on_node_loss
        ``"move"``: the stages of a node that goes are moved to others, and what was inside them is done
        again.  ``"fail"``: the pipeline fails.
    ordered
        Whether results come in the order of pushing; else as they come, as pairs ``(number, result)``.

    Returns
    -------
    Pipeline
        With an asynchronous client, an awaitable of it.

    Raises
    ------
    ValidationError
        If the DAG or an option is wrong.
    AllocationError
        If a stage can run on no node that is there, or not all of them can at the same time.

    Examples
    --------
    ::

        dag = handoff.DAG("words")
        dag.add_function(handoff.Function("text", [], None, type="input"))
        dag.add_function(handoff.Function("words", ["text"], str.split))
        dag.add_function(handoff.Function("count", ["words"], len))
        with handoff.stream(dag) as pipeline:
            list(pipeline.map(["to be", "or not to be"]))  # [2, 4]
    """
    return session_for(client).stream(
        dag,
        allocation_strategy=allocation_strategy,
        allocator=allocator,
        resources=resources,
        max_in_flight=max_in_flight,
        join_timeout=join_timeout,
        on_node_loss=on_node_loss,
        ordered=ordered,
        **unknown,
    )


def await_completion(
    execution: Execution | ExecutionResult, timeout: float | None = None
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
    return link_of(execution).wait_for(results_of, execution, timeout_s(timeout))


def get_result(
    execution_or_dag_id: Execution | ExecutionResult | Hashable,
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
    if isinstance(execution_or_dag_id, Execution):
        return execution_or_dag_id.get_result(id, timeout)
    return session_for().get_result(execution_or_dag_id, id, timeout)


def current() -> Current | None:
    """The attempt of the function that runs here, in a node's thread or in this process.

    Returns
    -------
    Current
        With ``dag_id``, ``function_id``, ``attempt`` (from 1), ``node``, ``cost`` and ``devices``; ``None``
        outside of a function of a DAG.

    Examples
    --------
    >>> def where():
    ...     return current().node
    >>> execute_local([Function("f", [], where)])["f"], current()
    ('local', None)
    """
    return attempt_here() or attempt_on_worker()


def devices() -> dict[str, list[int]]:
    """Indices of the devices that the function has which runs here: ``{"gpu": [1]}``.

    A function that claims ``gpu`` has concrete devices of its node for its time.  No device is given
    twice beyond its amount; two functions that claim half a device may share one.  Empty for a function
    that claims none, and outside of functions.
    """
    here = devices_here()
    return devices_on_worker() if here is None else dict(here)


def explain(
    execution_or_dag_id: Execution | ExecutionResult | Hashable,
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
        ``str()`` of it is a text; ``to_dict()`` gives the same as data.

    Raises
    ------
    NotFoundError
        If nothing is known of it, or it never runs on its own.
    """
    if isinstance(execution_or_dag_id, (Execution, Pipeline)):
        return execution_or_dag_id.explain(id)
    return session_for().explain(execution_or_dag_id, id)


def why_rerun(
    dag: DAG | Iterable[Function],
    *,
    cache: CacheLike | None = None,
    resume: Execution | Hashable | None = None,
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
    if cache is not None and resume is None:
        return _why_rerun(dag, cache=cache, inputs=inputs)  # a cache needs no cluster
    return session_for().why_rerun(dag, cache=cache, resume=resume, inputs=inputs)


def executions() -> list[ExecutionInfo]:
    """What the cluster runs and remembers, whoever has submitted it, the latest first."""
    return session_for().executions()


def attach(dag_id: Hashable) -> Execution:
    """The execution of a DAG, whoever has submitted it: to wait for it, fetch its results, or cancel it.

    Parameters
    ----------
    dag_id
        The DAG's id: the latest of its executions counts; or the token of one execution.

    Raises
    ------
    NotFoundError
        If the cluster does not have it any more.
    """
    return session_for().attach(dag_id)


def discover_nodes() -> dict[str, dict[str, Any]]:
    """``{node name: capabilities}`` of every worker of the cluster."""
    return session_for().discover_nodes()


def register_node(node: str, capabilities: Mapping[str, Any]) -> None:
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
    return session_for().register_node(node, capabilities)


def update_node_resources(node: str, capabilities: Mapping[str, Any]) -> None:
    """Merge into what a node has; an amount may become smaller than what is in use.

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
    return session_for().update_node_resources(node, capabilities)


def unregister_node(node: str) -> None:
    """Take back what was registered for a node: it has again what its worker offers.

    Parameters
    ----------
    node
        Name or address of a node.

    Raises
    ------
    NotFoundError
        If nothing is registered for a node of this name or address.
    """
    return session_for().unregister_node(node)


def register_local_node(capabilities: Mapping[str, Any]) -> None:
    """Set what this worker has; outside of a worker, what the embedded cluster's first node has.

    Parameters
    ----------
    capabilities
        ``{resource: amount or label}``.

    Raises
    ------
    NotFoundError
        If there is neither.
    ValidationError
        If the capabilities are wrong.
    """
    return session_for().register_local_node(capabilities)


def register_shared(name: str, amount: float) -> None:
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
    return session_for().register_shared(name, amount)


def shared_resources() -> dict[str, int | float]:
    """``{name: amount}`` of the resources that the whole cluster shares."""
    return session_for().shared_resources()


def resources_available(node: str, req: Mapping[str, Any]) -> bool:
    """Whether a node has room for a cost right now.

    Parameters
    ----------
    node
        Name or address of a node.
    req
        The cost.

    Returns
    -------
    bool
        ``False`` for an unknown node.

    Raises
    ------
    ValidationError
        If the cost is wrong.
    """
    return session_for().resources_available(node, req)


def store_result(
    dag_id: Hashable,
    id: FunctionId,  # noqa: A002
    value: Any,
    origin_node: str | None = None,
) -> None:
    """Keep a value in a node's memory, for every client, until :func:`forget`.

    Parameters
    ----------
    dag_id, id
        The name of the value.
    value
        What can be pickled.
    origin_node
        The node.  If ``None``, this worker's node inside a function; elsewhere the node with the least
        in its memory.

    Raises
    ------
    NotFoundError
        If no node has the name ``origin_node``.
    """
    return session_for().store_result(dag_id, id, value, origin_node)


def store_value(dag_id: Hashable, id: FunctionId, value: Any) -> None:  # noqa: A002
    """Keep a value in this process only.

    Parameters
    ----------
    dag_id, id
        The name of the value.
    value
        Anything.
    """
    session_for().store_value(dag_id, id, value)


def get_local_value(dag_id: Hashable, id: FunctionId) -> Any:  # noqa: A002
    """A value that this process keeps.

    Parameters
    ----------
    dag_id, id
        The name of the value.

    Raises
    ------
    NotFoundError
        If this process keeps none of this name.
    """
    return session_for().get_local_value(dag_id, id)


def get_value(dag_id: Hashable, id: FunctionId, from_node: str | None = None) -> Any:  # noqa: A002
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
    return session_for().get_value(dag_id, id, from_node)


def register_data_location(dag_id: Hashable, data_id: Hashable, node: str) -> None:
    """Record on which node some data is.

    Parameters
    ----------
    dag_id, data_id
        The name of the data.
    node
        Name or address of a node.

    Raises
    ------
    NotFoundError
        If no node has this name or address.
    """
    return session_for().register_data_location(dag_id, data_id, node)


def lookup_data_location(dag_id: Hashable, data_id: Hashable) -> str:
    """Name of the node where data is; for a computed result, where it really is.

    Parameters
    ----------
    dag_id, data_id
        The name of the data.

    Raises
    ------
    NotFoundError
        If no location is known.
    """
    return session_for().lookup_data_location(dag_id, data_id)


def forget(dag_id: Hashable) -> None:
    """Drop a DAG's executions that have ended, its stored values and locations.

    Parameters
    ----------
    dag_id
        The id of the DAG.  An execution that still runs goes on.
    """
    return session_for().forget(dag_id)
