"""Futures that have travelled: they belong to no client until one takes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from distributed import Client, Future


def adopt(futures: Iterable[Future[Any]], client: Client) -> None:
    """Let a client follow what others have computed, as it does with published data sets.

    A future that has been unpickled belongs to no client, and would never hear how it ends.
    """
    for future in futures:
        future.bind_client(client)
    client._inform_scheduler_of_futures()
