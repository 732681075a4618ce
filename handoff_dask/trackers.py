"""Resource trackers: count what is in use on each node."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from handoff_dask.errors import NotFoundError
from handoff_dask.resources import Capabilities, Cost, amount_of

__all__ = ["ResourceTracker", "SimpleResourceTracker"]


@runtime_checkable
class ResourceTracker(Protocol):
    """Counts what is in use on each node.  Requirements are written as a function's cost."""

    def register(self, node: str, caps: Mapping[str, Any]) -> None:
        """Say what a node has; what was said of it before is replaced."""

    def available(self, node: str, req: Mapping[str, Any]) -> bool:
        """Whether the node has room for the requirement now."""

    def request(self, node: str, req: Mapping[str, Any]) -> bool:
        """Claim the requirement; false, and nothing claimed, if there is no room."""

    def release(self, node: str, req: Mapping[str, Any]) -> None:
        """Give back what was claimed."""

    def get_capabilities(self, node: str | None = None) -> Mapping[str, Any]:
        """What one node has, or ``{node: what it has}``."""


class SimpleResourceTracker:
    """A tracker in memory.  Any thread may use it; it travels with what it counts.

    Examples
    --------
    >>> tracker = SimpleResourceTracker()
    >>> tracker.register("a", {"cpu": 2})
    >>> tracker.request("a", {"cpu": 1.5}), tracker.request("a", {"cpu": 1}), tracker.in_use("a")
    (True, False, {'cpu': 1.5})
    >>> tracker.release("a", {"cpu": 1.5})
    >>> tracker.available("a", {"cpu": 2})
    True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._capabilities: dict[str, Capabilities] = {}
        self._used: dict[str, dict[str, int]] = {}

    def register(self, node: str, caps: Mapping[str, Any]) -> None:
        """Say what a node has; what was said of it before is replaced, what is claimed stays so.

        Raises
        ------
        ValidationError
            If a capability is neither an amount nor a label.
        """
        capabilities = Capabilities.parse(caps)
        with self._lock:
            self._capabilities[str(node)] = capabilities
            self._used.setdefault(str(node), {})

    def available(self, node: str, req: Mapping[str, Any] | None) -> bool:
        """Whether the node has room for the requirement now; an unknown node has none.

        Raises
        ------
        ValidationError
            If the requirement is wrong.
        """
        cost = Cost.parse(req)
        with self._lock:
            return str(node) in self._capabilities and self._has_room(str(node), cost)

    def request(self, node: str, req: Mapping[str, Any] | None) -> bool:
        """Claim the requirement; false, and nothing claimed, if there is no room.

        Raises
        ------
        NotFoundError
            If the node has not been registered.
        ValidationError
            If the requirement is wrong.
        """
        cost = Cost.parse(req)
        with self._lock:
            used = self._used_on(node)
            if not self._has_room(str(node), cost):
                return False
            for name, units in cost.amounts:
                used[name] = used.get(name, 0) + units
            return True

    def release(self, node: str, req: Mapping[str, Any] | None) -> None:
        """Give back what was claimed; what was never claimed is not there to give.

        Raises
        ------
        NotFoundError
            If the node has not been registered.
        ValidationError
            If the requirement is wrong.
        """
        cost = Cost.parse(req)
        with self._lock:
            used = self._used_on(node)
            for name, units in cost.amounts:
                left = used.pop(name, 0) - units
                if left > 0:
                    used[name] = left

    def get_capabilities(self, node: str | None = None) -> dict[str, Any]:
        """What one node has, or ``{node: what it has}``, whatever is in use.

        Raises
        ------
        NotFoundError
            If the node has not been registered.
        """
        with self._lock:
            if node is None:
                return {name: found.to_dict() for name, found in self._capabilities.items()}
            self._used_on(node)
            return self._capabilities[str(node)].to_dict()

    def in_use(self, node: str) -> dict[str, int | float]:
        """``{resource: amount}`` that is claimed on a node.

        Raises
        ------
        NotFoundError
            If the node has not been registered.
        """
        with self._lock:
            return {name: amount_of(units) for name, units in self._used_on(node).items()}

    def _used_on(self, node: str) -> dict[str, int]:
        try:
            return self._used[str(node)]
        except KeyError:
            known = ", ".join(map(repr, self._capabilities)) or "none"
            raise NotFoundError("node", node, f"register it first; known: {known}") from None

    def _has_room(self, node: str, cost: Cost) -> bool:
        capabilities, used = self._capabilities[node], self._used[node]
        return capabilities.has_labels(cost) and all(
            used.get(name, 0) + units <= capabilities.amounts.get(name, 0) for name, units in cost.amounts
        )

    def __getstate__(self) -> dict[str, Any]:
        # A lock cannot travel, and a copy needs its own.  What a subclass has added travels along.
        with self._lock:
            return {
                **{name: value for name, value in self.__dict__.items() if name != "_lock"},
                "_capabilities": dict(self._capabilities),
                "_used": {node: dict(used) for node, used in self._used.items()},
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
