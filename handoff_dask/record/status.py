"""The statuses of functions and executions."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, get_args

from handoff_dask.errors import ValidationError

__all__ = [
    "CANCELLED",
    "FAILED",
    "FINISHED",
    "PENDING",
    "REUSED",
    "RUNNING",
    "SKIPPED",
    "WAITING",
    "LOCAL_NODE",
    "ExecutionStatus",
    "FunctionStatus",
    "OnFailure",
    "choice_on_failure",
]

#: ``"pending"``: arguments are missing.  ``"waiting"``: for a node.  ``"skipped"``: it needs what has failed.
#: ``"reused"``: it did not run, since its result was known.
FunctionStatus: TypeAlias = Literal[
    "pending", "waiting", "running", "finished", "failed", "cancelled", "skipped", "reused"
]
ExecutionStatus: TypeAlias = Literal["pending", "running", "finished", "failed", "cancelled"]

PENDING: Final = "pending"
WAITING: Final = "waiting"
RUNNING: Final = "running"
FINISHED: Final = "finished"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
SKIPPED: Final = "skipped"
REUSED: Final = "reused"

#: What becomes of an execution when a function has failed for good.  ``"stop"``: nothing further starts.
#: ``"continue"``: what does not need it still runs, then the failure is raised.  ``"return"``: the same,
#: and the result is returned.
OnFailure: TypeAlias = Literal["stop", "continue", "return"]

#: The name of the only node there is when a DAG is executed in this process.
LOCAL_NODE: Final = "local"


def choice_on_failure(value: Any) -> OnFailure:
    """What is to become of an execution when a function has failed.

    Raises
    ------
    ValidationError
        If it is none of the choices.
    """
    choices: tuple[OnFailure, ...] = get_args(OnFailure)
    for choice in choices:
        if value == choice:
            return choice
    raise ValidationError(f"on_failure is {value!r}; give one of {', '.join(map(repr, choices))}")
