"""Pictures of DAGs and executions."""

from handoff_dask.visualization.graph import ExecutionGraph, dag_graph, execution_graph
from handoff_dask.visualization.page import report
from handoff_dask.visualization.timelines import Timeline, timeline
from handoff_dask.visualization.utilization import resource_utilization

__all__ = [
    "ExecutionGraph",
    "Timeline",
    "dag_graph",
    "execution_graph",
    "report",
    "resource_utilization",
    "timeline",
]
