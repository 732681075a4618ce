"""Events of an execution, told without one."""

from __future__ import annotations

from typing import Any

from handoff_dask import telemetry

T0 = 1_700_000_000.0


def tell(*event: str, **facts: Any) -> None:
    """Tell an event of handoff; what its table calls measurements goes there."""
    name = ("handoff", *event)
    known = telemetry.EVENTS[name].measurements
    telemetry.execute(
        name,
        {k: v for k, v in facts.items() if k in known},
        {k: v for k, v in facts.items() if k not in known},
    )


def dag(part: str, dag_id: Any = "etl", **facts: Any) -> None:
    about = {"function_count": 2, "allocation_strategy": "fastest", "status": "running"}
    tell("execution", "dag", part, dag_id=dag_id, **{**about, **facts})


def function(
    part: str, function_id: Any = "load", attempt: int = 1, dag_id: Any = "etl", **facts: Any
) -> None:
    about = {
        "dag_id": dag_id,
        "function_id": function_id,
        "node": "a",
        "attempt": attempt,
        "cost": {"cpu": 2},
    }
    tell("execution", "function", part, **{**about, **facts})
