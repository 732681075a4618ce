"""The connections between a pipeline in the client and its stages' nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from distributed.comm.core import Comm, connect

from handoff_dask.protocol.stages import STREAM
from handoff_dask.protocol.stream_sender import StreamSender

#: Seconds to connect to a node.
CONNECT_S = 10.0


class StreamLink:
    """A connection to one node.

    Parameters
    ----------
    comm
        The connection.
    loop
        The client's event loop.
    take
        Called with each message.
    lost
        Called, once, if the connection breaks.
    generation
        Gives the number of the present routes.
    """

    def __init__(
        self,
        comm: Comm,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[dict[str, Any]], None],
        lost: Callable[[], None],
        generation: Callable[[], int],
    ) -> None:
        self._comm = comm
        self._take = take
        self._lost = lost
        self._is_closed = False

        async def there() -> Comm:
            return comm

        self._sender = StreamSender(loop, there, generation, self._has_broken)
        self.put = self._sender.put
        self._reading = asyncio.ensure_future(self._read())

    @staticmethod
    async def open(
        token: str,
        address: str,
        connection_args: dict[str, Any],
        **parameters: Any,
    ) -> StreamLink:
        """Connect to a node; the other parameters are those of the class.

        Raises
        ------
        OSError
            If the node cannot be reached.
        """
        comm = await connect(address, timeout=CONNECT_S, **connection_args)
        await comm.write({"op": STREAM, "token": token, "is_client": True, "reply": False})
        return StreamLink(comm, asyncio.get_running_loop(), **parameters)

    async def _read(self) -> None:
        try:
            while True:
                self._take(await self._comm.read())
        except OSError:
            self._has_broken()

    def _has_broken(self) -> None:
        if not self._is_closed:
            self.close()
            self._lost()

    @property
    def is_closed(self) -> bool:
        """Whether nothing goes over it any more."""
        return self._is_closed

    def close(self) -> None:
        """End it."""
        self._is_closed = True
        self._sender.close()
        self._comm.abort()
        if self._reading is not asyncio.current_task():
            self._reading.cancel()
