"""Where the page of a client's scheduler is."""

from __future__ import annotations

from distributed import Client

from handoff_dask.protocol.names import NAME


def page_link(client: Client) -> str | None:
    """Where the page of a client's scheduler is; ``None`` if the client is not connected."""
    dashboard = client.dashboard_link
    return None if dashboard is None else f"{dashboard.rpartition('/')[0]}/{NAME}"
