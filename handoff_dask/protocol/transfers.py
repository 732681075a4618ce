"""Values on their way between processes: they come as bytes, each loaded by itself.

Dask loads a message as a whole.  A value in it that cannot be loaded fails all that came with it, and
leaves its connection out of step with the other side, so that the next request on it fails too.
Over connections of our own, values come as they were sent, and whoever asked loads one after the other.
"""

from __future__ import annotations

from typing import Any

from distributed.core import ConnectionPool
from distributed.protocol.compression import decompress
from distributed.protocol.serialize import Serialize, Serialized, merge_and_deserialize


class Arrived(Serialized):
    """A value that has come and is not loaded: Dask sends and stores it as it came."""

    def __init__(self, header: dict[str, Any], frames: list[Any]) -> None:
        super().__init__(header, frames)  # type: ignore[no-untyped-call]

    @property
    def was_sent(self) -> bool:
        """Whether its sender could pickle it; else an error has come in its place."""
        return "is-collection" in self.header or self.header.get("serializer") != "error"

    def open(self) -> Any:
        """Load it.

        Raises
        ------
        BaseException
            Whatever loading it raises.
        """
        return load(self)


def opaque_pool(of: ConnectionPool, server: object = None) -> ConnectionPool:
    """Connections as those of a pool, over which values come as bytes."""
    return ConnectionPool(
        limit=of.limit,
        deserialize=False,
        serializers=of.serializers,
        deserializers=of.deserializers,
        connection_args=of.connection_args,
        timeout=of.timeout,
        server=server,
    )


def load(value: Any) -> Any:
    """A value as it came over such a connection, loaded.

    Raises
    ------
    BaseException
        Whatever loading it raises.
    """
    if isinstance(value, Serialize):  # it has never left this process
        return value.data
    if not isinstance(value, Serialized):
        return value
    header, frames = dict(value.header), list(value.frames)
    if "compression" in header:
        frames = decompress(header, frames)
    return merge_and_deserialize(header, frames)
