"""The summary of a session that is shown in a notebook, or when it is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolz import frequencies, merge_with, valfilter

from handoff_dask.client.execution_core import ExecutionCore
from handoff_dask.client.page_link import page_link
from handoff_dask.client.scheduler_link import SchedulerLink
from handoff_dask.visualization.displays import amounts_text
from handoff_dask.visualization.summary import STATUS_COLOURS, Summary, id_text, listed

#: Seconds that the scheduler has to answer.
PATIENCE_S = 2.0


def session_summary(
    kind: str, link: SchedulerLink, executions: Sequence[ExecutionCore], *, has_plugin: bool, embedded: bool
) -> Summary:
    """A session, its nodes, and its executions.

    Parameters
    ----------
    kind
        The name of its class.
    link
        The link to the scheduler.
    executions
        Those that it holds, the latest last.
    has_plugin
        Whether the scheduler's plugin has been installed: only then does it know the nodes.
    embedded
        Whether the cluster belongs to the session.
    """
    if not link.is_usable:
        state, colour = ("stopped" if link.is_closed else "its client is closed"), STATUS_COLOURS["cancelled"]
    elif has_plugin:
        state, colour = "started", STATUS_COLOURS["finished"]
    else:
        state, colour = "not started yet", STATUS_COLOURS["pending"]
    nodes = _nodes(link, has_plugin)
    rows = []
    if nodes:
        rows.append(("nodes", f"{len(nodes):,}: {listed(sorted(nodes))}"))
        rows.append(("total", amounts_text(_total(nodes))))
    elif link.is_usable:
        rows.append(("nodes", _counted(link)))
    if executions:
        numbers = frequencies(execution.status for execution in executions)
        rows.append(("executions", ", ".join(f"{n:,} {status}" for status, n in numbers.items())))
        latest = executions[-1]
        rows.append(("latest", f"{id_text(latest.dag_id)}: {latest.status}"))
    return Summary(
        kind=kind,
        name=("embedded cluster" if embedded else _address(link)),
        state=state,
        colour=colour,
        rows=rows,
        table=_table(nodes),
        link=_page(link) if link.is_usable and has_plugin else None,
    )


def _nodes(link: SchedulerLink, has_plugin: bool) -> Mapping[str, Mapping[str, Any]]:
    """The nodes and their capabilities; empty where the scheduler cannot be asked."""
    if link.asynchronous or not (has_plugin and link.is_usable):
        return {}
    try:
        nodes: Mapping[str, Mapping[str, Any]] = link.client.sync(
            link.ask, "discover", callback_timeout=PATIENCE_S
        )
    except Exception:  # whatever is wrong with the connection, it is no reason not to print
        return {}
    return nodes


def _counted(link: SchedulerLink) -> str:
    """What the client itself knows of the nodes, as of its last look."""
    identity: Any = getattr(link.client, "_scheduler_identity", None) or {}
    nodes, threads = identity.get("n_workers", 0), identity.get("total_threads", 0)
    return f"{nodes:,}, with {threads:,} threads; discover_nodes() tells what they have"


def _total(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of each amount over all nodes."""
    amounts = [valfilter(_is_amount, capabilities) for capabilities in nodes.values()]
    found: dict[str, Any] = merge_with(sum, *amounts)
    return found


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _table(nodes: Mapping[str, Mapping[str, Any]]) -> tuple[Sequence[str], Sequence[Sequence[str]]] | None:
    if len(nodes) < 2:
        return None
    names = list(dict.fromkeys(name for capabilities in nodes.values() for name in capabilities))[:6]
    rows = []
    for node in sorted(nodes):
        values = [
            amounts_text({name: nodes[node][name]}).partition(" ")[2] if name in nodes[node] else "–"
            for name in names
        ]
        rows.append([id_text(node), *values])
    return ["node", *map(id_text, names)], rows


def _address(link: SchedulerLink) -> str:
    try:
        return link.address
    except AttributeError:  # the client has lost its scheduler
        return str(link.client)


def _page(link: SchedulerLink) -> str | None:
    try:
        return page_link(link.client)
    except Exception:  # the address of the dashboard may be templated in ways that fail
        return None
