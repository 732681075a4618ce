"""The cluster's own count of what is in use, as a client sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cloudpickle

from handoff_dask.errors import NotFoundError, ValidationError
from handoff_dask.resources import Cost
from handoff_dask.trackers import ResourceTracker

if TYPE_CHECKING:
    from handoff_dask.client.nodes import NodeMethods


class ClusterTracker:
    """The cluster's tracker: a :class:`~handoff_dask.ResourceTracker` behind which is the ledger.

    What is claimed here counts for every placement of every client, until it is released or this
    client disconnects.  With an asynchronous client every method returns an awaitable.

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

    def __init__(self, session: NodeMethods) -> None:
        self._session = session

    def __repr__(self) -> str:
        return f"<ClusterTracker of {self._session.client!r}>"

    def register(self, node: str, caps: Mapping[str, Any]) -> Any:
        """Say what a node has; see :meth:`Handoff.register_node`.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        ValidationError
            If a capability is neither an amount nor a label.
        """
        return self._session.register_node(node, caps)

    def available(self, node: str, req: Mapping[str, Any]) -> Any:
        """Whether the node has room for the requirement now; an unknown node has none.

        Raises
        ------
        ValidationError
            If the requirement is wrong.
        """
        return self._session.resources_available(node, req)

    def request(self, node: str, req: Mapping[str, Any]) -> Any:
        """Claim the requirement; false, and nothing claimed, if there is no room.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        ValidationError
            If the requirement is wrong.
        """
        return self._session.sync(self._ask, "claim", node, Cost.parse(req))

    def release(self, node: str, req: Mapping[str, Any]) -> Any:
        """Give back what this client has claimed; what it has not is not there to give.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        ValidationError
            If the requirement is wrong.
        """
        return self._session.sync(self._ask, "give_back", node, Cost.parse(req))

    async def _ask(self, method: str, node: Any, cost: Cost) -> Any:
        await self._session._start()
        return await self._session.ask(method, node=str(node), cost=cost)

    def get_capabilities(self, node: str | None = None) -> Any:
        """What one node has, or ``{node: what it has}``, whatever is in use.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        """
        return self._session.sync(self._capabilities, node)

    async def _capabilities(self, node: Any) -> dict[str, Any]:
        nodes = await self._session._discover()
        if node is None:
            return nodes
        name = await self._session.ask("name_of", node=str(node))
        if name not in nodes:
            raise NotFoundError("node", node, "it has just left")
        found: dict[str, Any] = nodes[name]
        return found


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
