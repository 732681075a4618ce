"""Futures that have travelled: they belong to no client until one takes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from distributed import Client, Future


def adopt(futures: Iterable[Future[Any]], client: Client) -> None:
    """Let a client follow what others have computed, as it does with published data sets.

    A future that has been unpickled belongs to no client, and would never hear how it ends.
    """
    adopted = list(futures)
    for future in adopted:
        future.bind_client(client)
    # Dask's own way asks for all futures of the client, also for those that are gone.
    keys = list({future.key for future in adopted})
    client._send_to_scheduler({"op": "client-desires-keys", "keys": keys})
