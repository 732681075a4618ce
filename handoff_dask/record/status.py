"""The statuses of functions and executions."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

__all__ = [
    "CANCELLED",
    "FAILED",
    "FINISHED",
    "PENDING",
    "RUNNING",
    "WAITING",
    "LOCAL_NODE",
    "ExecutionStatus",
    "FunctionStatus",
]

#: ``"pending"``: arguments are missing.  ``"waiting"``: for a node.
FunctionStatus: TypeAlias = Literal["pending", "waiting", "running", "finished", "failed", "cancelled"]
ExecutionStatus: TypeAlias = Literal["pending", "running", "finished", "failed", "cancelled"]

PENDING: Final = "pending"
WAITING: Final = "waiting"
RUNNING: Final = "running"
FINISHED: Final = "finished"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"

#: The name of the only node there is when a DAG is executed in this process.
LOCAL_NODE: Final = "local"
