"""Tells handlers of this process what happens to a pipeline and its items."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from distributed.metrics import time

from handoff_dask import telemetry
from handoff_dask.protocol.stages import Parcel
from handoff_dask.telemetry.events import Event

ITEM = ("handoff", "stream", "item")
PIPELINE = ("handoff", "stream", "pipeline")


class StreamTelemetry:
    """The events of one pipeline.

    Parameters
    ----------
    dag_id
        Of its DAG.
    stages
        How many stages it has.
    deliver
        Calls handlers, in a thread of their own.
    """

    def __init__(
        self, dag_id: Hashable, stages: int, deliver: Callable[[list[tuple[Event, Any, Any]]], None]
    ) -> None:
        self._dag_id = dag_id
        self._about = {"dag_id": dag_id, "stage_count": stages}
        self._deliver = deliver
        self._began = time()
        self._has_ended = False

    @property
    def wants_items(self) -> bool:
        """Whether a handler wants to hear of items."""
        return telemetry.has_handlers(ITEM)

    def item_began(self, number: int, at: float) -> None:
        """An item was pushed."""
        self._deliver([((*ITEM, "start"), {"system_time": at}, {"dag_id": self._dag_id, "item": number})])

    def item_ended(self, number: int, began: float, failure: Parcel | None) -> None:
        """An item has come out, or its exception has."""
        about: dict[str, Any] = {"dag_id": self._dag_id, "item": number}
        if failure is not None:
            about["exception"] = failure.load()
        what = "stop" if failure is None else "exception"
        self._deliver([((*ITEM, what), {"system_time": began, "duration": time() - began}, about)])

    def pipeline_began(self) -> None:
        """The pipeline was made."""
        about = {**self._about, "status": "running"}
        self._deliver([((*PIPELINE, "start"), {"system_time": self._began}, about)])

    def pipeline_ended(self, status: str, error: BaseException | None) -> None:
        """The pipeline is over."""
        if self._has_ended:
            return
        self._has_ended = True
        about: dict[str, Any] = {**self._about, "status": status}
        if error is not None:
            about["exception"] = error
        what = "stop" if error is None else "exception"
        measured = {"system_time": self._began, "duration": time() - self._began}
        self._deliver([((*PIPELINE, what), measured, about)])
