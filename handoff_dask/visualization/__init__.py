"""Pictures of DAGs and of what became of them."""

from handoff_dask.visualization.graph import ExecutionGraph, dag_graph, execution_graph
from handoff_dask.visualization.utilization import resource_utilization

__all__ = ["ExecutionGraph", "dag_graph", "execution_graph", "resource_utilization"]
