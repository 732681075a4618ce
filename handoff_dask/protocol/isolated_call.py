"""A call of an isolated function, on its worker: it is handed to a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distributed import get_worker

from handoff_dask.graph.functions import name_of
from handoff_dask.protocol.names import NAME


class Isolated:
    """A call that runs in a process of its own."""

    __slots__ = ("call", "carrier", "timeout_s")

    def __init__(
        self, call: Callable[..., Any], timeout_s: float | None, carrier: Mapping[str, str] | None
    ) -> None:
        self.call = call
        self.timeout_s = timeout_s
        #: Filled when the DAG is sent, and shared by all calls of it.
        self.carrier = carrier

    @property
    def __name__(self) -> str:
        return name_of(self.call)

    def __reduce__(self) -> tuple[Any, ...]:
        return Isolated, (self.call, self.timeout_s, self.carrier)

    def __call__(self, *results: Any) -> Any:
        """Have a process call it; in this one where there is no worker."""
        try:
            worker = get_worker()
        except ValueError:  # Dask runs the DAG in this process
            return self.call(*results)
        plugin: Any = worker.plugins[NAME]
        return plugin.run_isolated(self.call, results, self.timeout_s, self.carrier or {})
