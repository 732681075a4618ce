"""Handoff for Python, as an integration of Dask distributed.

Functions with a cost form a DAG; a node is a Dask worker with capabilities; a scheduler plugin
binds each function to a node when it can start there.

>>> import handoff_dask as handoff
>>> dag = handoff.DAG("sums").add_function(handoff.Function("one", [], int, extra_args=["1"]))
>>> dag.validate()
"""

from __future__ import annotations

from typing import Any

from handoff_dask import telemetry, visualization
from handoff_dask.allocators import SimpleAllocator
from handoff_dask.client.collection import make_collection
from handoff_dask.client.compile import Compiled, compile  # noqa: A004
from handoff_dask.client.default import session_for, session_of, start, stop
from handoff_dask.client.execution import Execution
from handoff_dask.client.session import Handoff
from handoff_dask.errors import (
    AllocationError,
    CyclicDependencyError,
    DuplicateFunctionError,
    ExecutionCancelledError,
    FunctionFailedError,
    HandoffError,
    InvalidFunctionError,
    MissingFunctionError,
    NotFoundError,
    SessionEndedError,
    ValidationError,
)
from handoff_dask.graph.dag import DAG, new
from handoff_dask.graph.functions import Argument, Collocated, Function
from handoff_dask.graph.handout import function
from handoff_dask.local import execute_local
from handoff_dask.record.execution import Timing
from handoff_dask.record.result import ExecutionResult
from handoff_dask.stores import ResultStore
from handoff_dask.trackers import ResourceTracker, SimpleResourceTracker

__all__ = [
    "DAG",
    "AllocationError",
    "Argument",
    "Collocated",
    "Compiled",
    "CyclicDependencyError",
    "DuplicateFunctionError",
    "Execution",
    "ExecutionCancelledError",
    "ExecutionResult",
    "Function",
    "FunctionFailedError",
    "Handoff",
    "HandoffError",
    "InvalidFunctionError",
    "MissingFunctionError",
    "NotFoundError",
    "ResourceTracker",
    "ResultStore",
    "SessionEndedError",
    "SimpleAllocator",
    "SimpleResourceTracker",
    "Timing",
    "ValidationError",
    "await_completion",
    "compile",
    "discover_nodes",
    "execute",
    "execute_distributed",
    "execute_local",
    "explain",
    "forget",
    "function",
    "get_local_value",
    "get_result",
    "get_value",
    "lookup_data_location",
    "new",
    "register_data_location",
    "register_local_node",
    "register_node",
    "resources_available",
    "start",
    "stop",
    "store_result",
    "store_value",
    "submit",
    "telemetry",
    "update_node_resources",
    "visualization",
]


make_collection()


def execute(dag: Any, *, client: Any = None, **options: Any) -> Any:
    """Execute a DAG and wait for it; see :meth:`Handoff.execute`."""
    return session_for(client).execute(dag, **options)


def execute_distributed(dag: Any, *, client: Any = None, **options: Any) -> Any:
    """The same as :func:`execute`."""
    return execute(dag, client=client, **options)


def submit(dag: Any, *, client: Any = None, **options: Any) -> Any:
    """Start to execute a DAG, and return at once; see :meth:`Handoff.submit`."""
    return session_for(client).submit(dag, **options)


def discover_nodes() -> Any:
    """``{node name: capabilities}`` of every worker of the cluster."""
    return session_for().discover_nodes()


def register_node(node: str, capabilities: Any) -> Any:
    """Say what a node has; see :meth:`Handoff.register_node`."""
    return session_for().register_node(node, capabilities)


def update_node_resources(node: str, capabilities: Any) -> Any:
    """Merge into what a node has; see :meth:`Handoff.update_node_resources`."""
    return session_for().update_node_resources(node, capabilities)


def register_local_node(capabilities: Any) -> Any:
    """Say what this worker has, or the embedded cluster's first node."""
    return session_for().register_local_node(capabilities)


def resources_available(node: str, req: Any) -> Any:
    """Whether a node has room for a cost right now."""
    return session_for().resources_available(node, req)


def await_completion(execution: Any, timeout: float | None = None) -> Any:
    """Wait for an execution; its dict of results.  See :meth:`Handoff.await_completion`."""
    return session_of(execution).await_completion(execution, timeout)


def get_result(execution_or_dag_id: Any, id: Any, timeout: float | None = 5.0) -> Any:  # noqa: A002
    """One function's result, as soon as it is there.  See :meth:`Handoff.get_result`."""
    return session_of(execution_or_dag_id).get_result(execution_or_dag_id, id, timeout)


def explain(execution_or_dag_id: Any, id: Any) -> Any:  # noqa: A002
    """Why a function waits, or where it ran and why there.  See :meth:`Handoff.explain`."""
    return session_of(execution_or_dag_id).explain(execution_or_dag_id, id)


def store_result(dag_id: Any, id: Any, value: Any, origin_node: str | None = None) -> Any:  # noqa: A002
    """Keep a value in a node's memory, for every client.  See :meth:`Handoff.store_result`."""
    return session_for().store_result(dag_id, id, value, origin_node)


def store_value(dag_id: Any, id: Any, value: Any) -> None:  # noqa: A002
    """Keep a value in this process only."""
    session_for().store_value(dag_id, id, value)


def get_local_value(dag_id: Any, id: Any) -> Any:  # noqa: A002
    """A value that this process keeps.  See :meth:`Handoff.get_local_value`."""
    return session_for().get_local_value(dag_id, id)


def get_value(dag_id: Any, id: Any, from_node: str | None = None) -> Any:  # noqa: A002
    """A value of this process, else from wherever it is.  See :meth:`Handoff.get_value`."""
    return session_for().get_value(dag_id, id, from_node)


def register_data_location(dag_id: Any, data_id: Any, node: str) -> Any:
    """Say on which node some data is.  See :meth:`Handoff.register_data_location`."""
    return session_for().register_data_location(dag_id, data_id, node)


def lookup_data_location(dag_id: Any, data_id: Any) -> Any:
    """Name of the node where data is.  See :meth:`Handoff.lookup_data_location`."""
    return session_for().lookup_data_location(dag_id, data_id)


def forget(dag_id: Any) -> Any:
    """Drop a DAG's finished execution, its stored values and locations."""
    return session_for().forget(dag_id)
