"""Requests about nodes."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from handoff_dask.client.scheduler_link import Ask, this_worker
from handoff_dask.errors import NotFoundError, ValidationError
from handoff_dask.resources import Capabilities, Cost, amount_of, units_of

#: So many megabytes no machine has: they are bytes.
BYTES = 100_000_000


class Nodes:
    """Requests to the scheduler about nodes and what they have.

    Parameters
    ----------
    ask
        Asks the scheduler.
    start
        Installs the plugins, unless they are installed already.
    """

    def __init__(self, ask: Ask, start: Callable[[], Awaitable[object]]) -> None:
        self._ask = ask
        self._start = start

    async def discover(self) -> dict[str, dict[str, Any]]:
        """``{node name: capabilities}`` of every worker of the cluster."""
        await self._start()
        nodes: dict[str, dict[str, Any]] = await self._ask("discover")
        return nodes

    async def notes(self) -> dict[str, list[str]]:
        """``{node name: what a person should know of it}``."""
        await self._start()
        notes: dict[str, list[str]] = await self._ask("node_notes")
        return notes

    async def register(self, node: object, capabilities: Mapping[str, Any], *, merge: bool) -> None:
        """Replace what a node has, or merge into it."""
        await self._start()
        parsed = Capabilities.parse(capabilities)
        memory = amount_of(parsed.amounts.get("memory", 0))
        if memory >= BYTES:
            warnings.warn(
                f"node {str(node)!r} is to have {memory:g} MB of memory; memory is in megabytes: "
                f"did you mean {memory / 1e6:g}?",
                stacklevel=2,
            )
        await self._ask("register", node=str(node), capabilities=parsed, merge=merge)

    async def unregister(self, node: object) -> None:
        """Take back what was registered for a node."""
        await self._start()
        await self._ask("unregister", node=str(node))

    async def register_shared(self, name: str, units: int) -> None:
        """Say how much the whole cluster has of a resource."""
        await self._start()
        await self._ask("register_shared", name=name, units=units)

    async def shared(self) -> dict[str, int | float]:
        """``{name: amount}`` of the resources that the whole cluster shares."""
        await self._start()
        shared: dict[str, int | float] = await self._ask("shared_resources")
        return shared

    async def available(self, node: object, cost: Cost) -> bool:
        """Whether a node has room for a cost now."""
        await self._start()
        return bool(await self._ask("available", node=str(node), cost=cost))

    async def claim(self, node: object, cost: Cost) -> bool:
        """Claim a cost for this client; false if there is no room."""
        await self._start()
        return bool(await self._ask("claim", node=str(node), cost=cost))

    async def release(self, node: object, cost: Cost) -> None:
        """Give back what this client has claimed."""
        await self._start()
        await self._ask("give_back", node=str(node), cost=cost)

    async def capabilities(self, node: object = None) -> dict[str, Any]:
        """What one node has, or ``{node: what it has}``."""
        nodes = await self.discover()
        if node is None:
            return nodes
        name = await self._ask("name_of", node=str(node))
        if name not in nodes:
            raise NotFoundError("node", node, "it has just left")
        return nodes[name]


def shared_units(name: object, amount: object) -> int:
    """How much there is of a shared resource, in units.

    Raises
    ------
    ValidationError
        If it is no name, or no amount.

    Examples
    --------
    >>> shared_units("licences", 8)
    8000000
    """
    if not isinstance(name, str) or not name:
        raise ValidationError(f"{name!r} is no name of a resource; give a string")
    if name in ("price", "cpu_intensive"):
        raise ValidationError(f"{name!r} means something else; choose another name")
    if isinstance(amount, (bool, str)):
        raise ValidationError(f"the amount of {name!r} is {amount!r}; give a number")
    return units_of(name, amount)


def local_node(embedded: Mapping[str, Any] | None) -> str:
    """The worker that runs this code; outside of a worker, the first node of the embedded cluster.

    Raises
    ------
    NotFoundError
        If there is neither.
    """
    node = this_worker()
    if node is not None:
        return node
    if embedded is None:
        raise NotFoundError("node", "local", "this is no worker; name one with register_node")
    return str(next(iter(embedded)))
