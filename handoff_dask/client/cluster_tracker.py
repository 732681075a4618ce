"""The cluster's own resource tracker, as clients use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cloudpickle

from handoff_dask.client.nodes import Nodes
from handoff_dask.client.scheduler_link import SchedulerLink
from handoff_dask.errors import ValidationError
from handoff_dask.resources import Capabilities, Cost
from handoff_dask.trackers import ResourceTracker


class ClusterTracker:
    """The cluster's tracker: a :class:`~handoff_dask.ResourceTracker` backed by the scheduler's ledger.

    A claim counts for every placement of every client, until it is released or this client
    disconnects.  With an asynchronous client every method returns an awaitable.

    Parameters
    ----------
    link
        The link to the scheduler.
    nodes
        Makes the requests.

    Examples
    --------
    ::

        tracker = session.resource_tracker
        if tracker.request("node1", {"gpu": 1}):
            try:
                ...  # use the device outside of any DAG
            finally:
                tracker.release("node1", {"gpu": 1})
    """

    def __init__(self, link: SchedulerLink, nodes: Nodes) -> None:
        self._link = link
        self._nodes = nodes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._link.client!r}>"

    def register(self, node: str, caps: Mapping[str, Any]) -> None:
        """Set what a node has; see :meth:`Handoff.register_node`.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        ValidationError
            If a capability is neither an amount nor a label.
        """
        Capabilities.parse(caps)
        return self._link.sync(self._nodes.register, node, caps, merge=False)

    def available(self, node: str, req: Mapping[str, Any]) -> bool:
        """Whether the node has room for the requirement now; an unknown node has none.

        Raises
        ------
        ValidationError
            If the requirement is wrong.
        """
        return self._link.sync(self._nodes.available, node, Cost.parse(req))

    def request(self, node: str, req: Mapping[str, Any]) -> bool:
        """Claim the requirement; false, and nothing claimed, if there is no room.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        ValidationError
            If the requirement is wrong.
        """
        return self._link.sync(self._nodes.claim, node, Cost.parse(req))

    def release(self, node: str, req: Mapping[str, Any]) -> None:
        """Give back what this client has claimed; anything beyond that is ignored.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        ValidationError
            If the requirement is wrong.
        """
        return self._link.sync(self._nodes.release, node, Cost.parse(req))

    def get_capabilities(self, node: str | None = None) -> dict[str, Any]:
        """What one node has, or ``{node: what it has}``, whatever is in use.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        """
        return self._link.sync(self._nodes.capabilities, node)


class AsyncClusterTracker:
    """The methods of :class:`ClusterTracker` as coroutines."""

    def __init__(self, link: SchedulerLink, nodes: Nodes) -> None:
        self._link = link
        self._nodes = nodes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._link.client!r}>"

    async def register(self, node: str, caps: Mapping[str, Any]) -> None:
        """Set what a node has; see :meth:`AsyncHandoff.register_node`."""
        Capabilities.parse(caps)
        await self._link.run(self._nodes.register, node, caps, merge=False)

    async def available(self, node: str, req: Mapping[str, Any]) -> bool:
        """Whether the node has room for the requirement now; an unknown node has none."""
        return await self._link.run(self._nodes.available, node, Cost.parse(req))

    async def request(self, node: str, req: Mapping[str, Any]) -> bool:
        """Claim the requirement; false, and nothing claimed, if there is no room."""
        return await self._link.run(self._nodes.claim, node, Cost.parse(req))

    async def release(self, node: str, req: Mapping[str, Any]) -> None:
        """Give back what this client has claimed; anything beyond that is ignored."""
        await self._link.run(self._nodes.release, node, Cost.parse(req))

    async def get_capabilities(self, node: str | None = None) -> dict[str, Any]:
        """What one node has, or ``{node: what it has}``, whatever is in use."""
        return await self._link.run(self._nodes.capabilities, node)


def pack_tracker(tracker: Any) -> bytes | None:
    """A user's tracker as it is sent to the scheduler.

    Raises
    ------
    ValidationError
        If it is no tracker, or cannot be pickled.
    """
    if tracker is None:
        return None
    if isinstance(tracker, type):
        try:
            tracker = tracker()
        except Exception as error:  # whatever the user's __init__ raises
            raise ValidationError(
                f"resource_tracker {tracker!r} cannot be made without arguments ({error!r}); give an instance"
            ) from error
    if not isinstance(tracker, ResourceTracker):
        raise ValidationError(
            f"{tracker!r} is no resource tracker; "
            "give it register, available, request, release and get_capabilities"
        )
    try:
        return bytes(cloudpickle.dumps(tracker))
    except Exception as error:  # whatever the object's own pickling raises
        raise ValidationError(
            f"resource_tracker {tracker!r} cannot be sent to the scheduler: {error!r}"
        ) from error
