"""Where a pipeline's stages are: brings items to them, and brings them again after a loss."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from distributed import Client
from distributed.metrics import monotonic

from handoff_dask.client.stream_link import StreamLink
from handoff_dask.graph.stages import StageGraph, Target
from handoff_dask.protocol.stages import Parcel

logger = logging.getLogger(__name__)

#: Seconds after which a node is tried again that could not be reached, and after which it is given up:
#: the scheduler may take as long to notice that it is gone.
TRY_AGAIN_S, GIVE_UP_S = 0.2, 60.0
#: So often may connections between nodes break without an item coming out.
BREAKS = 50


class Routing:
    """The nodes of a pipeline's stages, and the connections to them; used in the client's loop.

    Parameters
    ----------
    client
        Dask's.
    token
        Names the pipeline.
    graph
        Its stages.
    workers
        ``(position of the stage, number of the worker)`` of each function of its run.
    take
        Called with each message of a node.
    begin
        Called when all stages can take items, with what tells each node of the routes; it goes
        on with what must be sent (again).
    interrupt
        Called when items cannot be sent any more.
    fail
        Called with an error if the nodes cannot be reached.
    """

    def __init__(
        self,
        client: Client,
        token: str,
        graph: StageGraph,
        workers: Sequence[tuple[int, int]],
        *,
        take: Callable[[dict[str, Any]], None],
        begin: Callable[[], None],
        interrupt: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._client = client
        self._token = token
        self._graph = graph
        self._workers = workers
        self._take, self._begin, self._interrupt, self._fail = take, begin, interrupt, fail
        #: By position in the run: name and address of the node, as far as it has one.
        self.nodes: dict[int, tuple[str, str]] = {}
        self._ready: set[int] = set()
        self.generation = 0
        self._addresses: list[list[str]] = []
        self.links: dict[str, StreamLink] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._is_outdated = False
        #: Items that had come out when connections between nodes broke last, and how often they have since.
        self._breaks = (-1, 0)
        self._is_closed = False
        self.is_live = False

    # ------------------------------------------------------------------ what is told

    def placed(self, position: int, node: str, address: str) -> None:
        """A worker of a stage has been given a node."""
        self.nodes[position] = (node, address)
        self._ready.discard(position)

    def ready(self, position: int, node: str, address: str) -> None:
        """A worker of a stage can take items."""
        self.nodes[position] = (node, address)
        self._ready.add(position)
        self.renew()

    def lost(self, position: int) -> None:
        """A worker of a stage is gone; another one is placed."""
        self._ready.discard(position)
        self.nodes.pop(position, None)
        self._stop_sending()

    @property
    def is_ready(self) -> bool:
        """Whether every worker of every stage can take items."""
        return len(self._ready) == len(self._workers)

    @property
    def is_placed(self) -> bool:
        """Whether every worker of every stage has a node."""
        return len(self.nodes) == len(self._workers)

    def by_stage(self) -> list[list[tuple[str | None, str | None]]]:
        """``[[(name, address) of each worker] of each stage]``."""
        found: list[list[tuple[str | None, str | None]]] = [[] for _ in self._graph.stages]
        for position, (stage, _) in enumerate(self._workers):
            found[stage].append(self.nodes.get(position, (None, None)))
        return found

    # ------------------------------------------------------------------ connections

    def _stop_sending(self) -> None:
        if self.is_live:
            self.is_live = False
            self._interrupt()

    def broken_between(self, address: str, out: int) -> None:
        """A node has lost, or cannot open, its connection to another; so many items have come out."""
        self._breaks = (out, self._breaks[1] + 1 if self._breaks[0] == out else 1)
        if self._breaks[1] > BREAKS:
            self._fail(OSError(f"nodes cannot reach the node at {address}; items go between them directly"))
        else:
            self.broken()

    def broken(self) -> None:
        """A connection is broken, between nodes or to one: all is sent again."""
        self._stop_sending()
        # If its node is gone, the scheduler will say so meanwhile.
        asyncio.get_running_loop().call_later(TRY_AGAIN_S, self.renew)

    def renew(self) -> None:
        """Connect to all nodes, and send what is unfinished (again)."""
        if self._is_closed or not self.is_ready:
            return
        self._stop_sending()
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect())
        else:
            self._is_outdated = True

    async def _connect(self) -> None:
        try:
            await self._connect_all()
        except Exception as error:  # nobody must wait for a pipeline that cannot begin
            self._fail(error)
        finally:
            self._connecting = None

    async def _connect_all(self) -> None:
        give_up = monotonic() + GIVE_UP_S
        while not self._is_closed and self.is_ready:
            self._is_outdated = False
            by_stage = self.by_stage()
            wanted = dict.fromkeys(str(address) for stage in by_stage for _, address in stage)
            try:
                for address in wanted:
                    await self._link(address)
            except (OSError, asyncio.TimeoutError) as error:
                if monotonic() > give_up:
                    raise OSError(
                        f"the client cannot reach the node at {address}: {error!r}; items go from the client "
                        "to the nodes directly, so they must be reachable from here"
                    ) from error
                await asyncio.sleep(TRY_AGAIN_S)
                continue
            if self._is_outdated:
                continue
            for address in [a for a in self.links if a not in wanted]:
                self.links.pop(address).close()
            self.generation += 1
            self._addresses = [[str(address) for _, address in stage] for stage in by_stage]
            self.is_live = True
            self._begin()
            return

    async def _link(self, address: str) -> None:
        link = self.links.get(address)
        if link is None or link.is_closed:
            self.links[address] = await StreamLink.open(
                self._token,
                address,
                self._client.connection_args,
                take=self._take,
                lost=self.broken,
                generation=lambda: self.generation,
            )

    def routes(self, watermark: int, done: list[int]) -> dict[str, Any]:
        """What every node is told: where the stages are, and which items are done with."""
        names = [[name for name, _ in stage] for stage in self.by_stage()]
        return {
            "op": "routes", "gen": self.generation, "addresses": self._addresses, "names": names,
            "watermark": watermark, "done": done,
        }  # fmt: skip

    def tell(self, message: dict[str, Any]) -> None:
        """Tell every node."""
        for link in self.links.values():
            link.put(dict(message))

    def send(self, number: int, parcels: Sequence[Parcel]) -> None:
        """Send an item to the stages that take it."""
        for parcel, targets in zip(parcels, self._graph.input_targets, strict=True):
            by_address: dict[str, list[Target]] = {}
            for target in targets:
                addresses = self._addresses[target.stage]
                by_address.setdefault(addresses[number % len(addresses)], []).append(target)
            for address, takers in by_address.items():
                link = self.links.get(address)
                if link is not None:
                    link.put((number, parcel, takers))

    def close(self) -> None:
        """End all connections."""
        self._is_closed = True
        self.is_live = False
        if self._connecting is not None:
            self._connecting.cancel()
        for link in self.links.values():
            link.close()
        self.links.clear()
