"""A pipeline's part on one node: its stages' workers there, and the connections between nodes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from distributed.comm.core import Comm, connect

from handoff_dask.graph.stages import CONSTANT, Target
from handoff_dask.protocol.stages import STREAM, Entry, Parcel, entries_of
from handoff_dask.protocol.stream_sender import StreamSender
from handoff_dask.worker.stage_worker import StageWorker

logger = logging.getLogger(__name__)


class Routes(NamedTuple):
    """Where every worker of every stage is."""

    generation: int
    #: ``[[address of each worker] of each stage]``, and the same with the nodes' names.
    addresses: list[list[str]]
    names: list[list[str]]


_NOWHERE = Routes(0, [], [])


class StreamHost:
    """The workers of one pipeline's stages on this node.

    Parameters
    ----------
    token
        Names the pipeline.
    address
        Of this node.
    loop
        The node's event loop.
    connection_args
        With which Dask opens connections to other nodes.
    """

    def __init__(
        self, token: str, address: str, loop: asyncio.AbstractEventLoop, connection_args: dict[str, Any]
    ) -> None:
        self.token = token
        self._address = address
        self._loop = loop
        self._connection_args = connection_args
        self.workers: dict[tuple[int, int], StageWorker] = {}
        self._routes = _NOWHERE
        self._peers: dict[str, StreamSender] = {}
        self._lock = threading.Lock()
        self._client: StreamSender | None = None
        #: Messages of peers that know newer routes than this node.
        self._early: list[dict[str, Any]] = []
        self._is_closed = False
        #: Values that have come from other processes, and that have gone there.
        self._received = self._sent = 0

    # ------------------------------------------------------------------ from the stages' threads

    def node_of(self, stage: int, number: int) -> str:
        """Name of the node that has an item in a stage."""
        names = self._routes.names[stage]
        return names[number % len(names) if number != CONSTANT else 0]

    def send(
        self, number: int, parcels: list[tuple[Target, Parcel]], sink: tuple[int, Parcel] | None
    ) -> None:
        """Send values of an item to who takes them; the one that leaves, to the client."""
        routes = self._routes
        if not routes.addresses:
            return  # it is kept, and sent when there are routes
        remote: dict[str, dict[int, tuple[Parcel, list[Target]]]] = {}
        for target, parcel in parcels:
            addresses = routes.addresses[target.stage]
            count = len(addresses)
            for worker in range(count) if number == CONSTANT else (number % count,):
                if addresses[worker] == self._address:
                    stage = self.workers.get((target.stage, worker))
                    if stage is not None:
                        stage.arrive(number, target.slot, parcel)
                else:
                    of = remote.setdefault(addresses[worker], {})
                    of.setdefault(id(parcel), (parcel, []))[1].append(target)
        for address, entries in remote.items():
            for parcel, targets in entries.values():
                # A constant goes to a node once, however many workers take it there.
                self._peer(address).put((number, _sendable(parcel), list(dict.fromkeys(targets))))
        if sink is not None and self._client is not None:
            self._client.put((number, _sendable(sink[1]), [Target(-1, sink[0])]))
            self._sent += 1
        self._sent += len(remote)

    def _peer(self, address: str) -> StreamSender:
        peer = self._peers.get(address)
        if peer is None:
            with self._lock:
                peer = self._peers.get(address)
                if peer is None:
                    peer = self._peers[address] = StreamSender(
                        self._loop,
                        partial(self._connect, address),
                        lambda: self._routes.generation,
                        partial(self._lost, address),
                    )
        return peer

    async def _connect(self, address: str) -> Comm:
        comm: Comm = await connect(address, **self._connection_args)
        await comm.write({"op": STREAM, "token": self.token, "is_client": False, "reply": False})
        return comm

    def _lost(self, address: str) -> None:
        """A connection has broken: the client decides, once it knows what has become of the node."""
        if not self._is_closed and self._client is not None:
            self._client.put({"op": "broken", "gen": self._routes.generation, "address": address})

    # ------------------------------------------------------------------ from the network

    async def serve(self, comm: Comm, is_client: bool) -> None:
        """Take what comes over a connection, until it ends."""
        if is_client:
            self._serve_client(comm)
        try:
            while not self._is_closed:
                self._take(await comm.read())
        except OSError:
            pass
        finally:
            if is_client and self._client is not None and self._client.comm is comm:
                self._client.close()
                self._client = None
            comm.abort()

    def _serve_client(self, comm: Comm) -> None:
        async def there() -> Comm:
            return comm

        before = self._client
        self._client = StreamSender(self._loop, there, lambda: self._routes.generation, lambda: None)
        self._client.comm = comm
        if before is not None:
            before.close()

    def _take(self, message: dict[str, Any]) -> None:
        handler: Callable[..., None] = getattr(self, f"_on_{message.pop('op')}")
        handler(**message)

    def _on_items(self, gen: int, **message: Any) -> None:
        if gen > self._routes.generation:
            self._early.append({"gen": gen, **message})
            return
        entries = entries_of(message)
        self._received += len(entries)
        for entry in entries:
            self._arrived(entry)

    def _arrived(self, entry: Entry) -> None:
        number, parcel, targets = entry
        for stage, slot in targets:
            if number == CONSTANT:
                here = [worker for (s, _), worker in list(self.workers.items()) if s == stage]
            else:
                found = self.workers.get((stage, number % len(self._routes.addresses[stage])))
                here = [] if found is None else [found]
            for worker in here:
                worker.arrive(number, slot, parcel)

    def _on_routes(
        self, gen: int, addresses: list[list[str]], names: list[list[str]], watermark: int, done: list[int]
    ) -> None:
        """The stages have been placed, or placed again: what was kept is sent once more."""
        self._routes = Routes(gen, addresses, names)
        self._received = self._sent = 0
        used = {a for of_stage in addresses for a in of_stage}
        for address in [a for a, peer in self._peers.items() if a not in used or peer.is_closed]:
            self._peers.pop(address).close()
        workers = list(self.workers.values())
        for worker in workers:
            worker.done(watermark, done)
        for worker in workers:
            worker.send_again()
        early, self._early = self._early, []
        for message in early:
            self._on_items(**message)

    def _on_done(self, watermark: int, done: list[int]) -> None:
        for worker in list(self.workers.values()):
            worker.done(watermark, done)

    def _on_flush(self) -> None:
        for worker in list(self.workers.values()):
            worker.flush()

    def _on_census(self, number: int) -> None:
        stands = [worker.stands() for worker in list(self.workers.values())]
        if self._client is not None:
            self._client.put(
                {
                    "op": "census",
                    "number": number,
                    "is_idle": all(stand["is_idle"] for stand in stands),
                    "has_batch": any(stand["has_batch"] for stand in stands),
                    "counts": [self._received, self._sent, sum(stand["items"] for stand in stands)],
                }
            )

    def _on_stop(self) -> None:
        for worker in list(self.workers.values()):
            worker.stop()

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """The last worker has ended here."""
        self._is_closed = True
        for peer in self._peers.values():
            peer.close()
        if self._client is not None:
            self._client.close()


def _sendable(parcel: Parcel) -> Parcel:
    """The parcel, pickled; if that cannot be done, the error in its place."""
    try:
        parcel.pack()
    except BaseException as error:  # whatever the user's __reduce__ raises
        parcel = Parcel(error, failed=True)
        parcel.pack()
    return parcel
