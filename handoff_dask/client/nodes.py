"""What a session says and asks of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handoff_dask.client.connection import Connection, this_worker
from handoff_dask.errors import NotFoundError
from handoff_dask.resources import Capabilities, Cost


class NodeMethods(Connection):
    """The methods of a session that are about nodes."""

    def discover_nodes(self) -> Any:
        """``{node name: capabilities}`` of every worker of the cluster."""
        return self.sync(self._discover)

    async def _discover(self) -> dict[str, dict[str, Any]]:
        await self._start()
        nodes: dict[str, dict[str, Any]] = await self.ask("discover")
        return nodes

    def register_node(self, node: str, capabilities: Mapping[str, Any]) -> Any:
        """Say what a node has, replacing what was registered before.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        ValidationError
            If the capabilities are wrong.
        """
        Capabilities.parse(capabilities)
        return self.sync(self._register, node, capabilities, merge=False)

    def update_node_resources(self, node: str, capabilities: Mapping[str, Any]) -> Any:
        """Merge into what a node has; it may shrink below what is running there.

        Raises
        ------
        NotFoundError
            If no node has this name or address.
        ValidationError
            If the capabilities are wrong.
        """
        Capabilities.parse(capabilities)
        return self.sync(self._register, node, capabilities, merge=True)

    async def _register(self, node: Any, capabilities: Mapping[str, Any], *, merge: bool) -> None:
        await self._start()
        await self.ask("register", node=str(node), capabilities=Capabilities.parse(capabilities), merge=merge)

    def resources_available(self, node: str, req: Mapping[str, Any]) -> Any:
        """Whether a node has room for a cost right now; ``False`` for an unknown node."""
        cost = Cost.parse(req)
        return self.sync(self._available, node, cost)

    async def _available(self, node: Any, cost: Cost) -> bool:
        await self._start()
        return bool(await self.ask("available", node=str(node), cost=cost))

    def register_local_node(self, capabilities: Mapping[str, Any]) -> Any:
        """Say what this worker has; outside a worker, what the embedded cluster's first node has.

        Raises
        ------
        NotFoundError
            If there is neither.
        """
        return self.register_node(self._local_node(), capabilities)

    def _local_node(self) -> str:
        node = this_worker()
        if node is not None:
            return node
        if self._embedded is None:
            raise NotFoundError("node", "local", "this is no worker; name one with register_node")
        return str(next(iter(self._embedded.nodes)))
