"""Timelines: what ran when, on which thread of which node."""

from __future__ import annotations

import html
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from handoff_dask.record.execution import ExecutionRecord
from handoff_dask.visualization.graph import record_of
from handoff_dask.visualization.lanes import lanes_of
from handoff_dask.visualization.page import page
from handoff_dask.visualization.texts import id_texts

__all__ = ["Timeline", "timeline"]

#: Height of the picture in a notebook.
NOTEBOOK_PIXELS = 640


class Timeline:
    """What ran when, on which thread of which node; made by :func:`timeline`.

    In Jupyter it shows itself, with the use of resources below each node.
    """

    #: One dict per function that has started, in the order of their starts: ``id`` (text),
    #: ``node``, ``lane`` (a thread of the node, from 0), and ``ready``, ``placed``, ``start``,
    #: ``stop`` (seconds since the epoch, or ``None``), ``cause`` (of its waiting), ``status``.
    rows: list[dict[str, Any]]

    def __init__(self, record: ExecutionRecord) -> None:
        self._record = record
        lanes = lanes_of(record)
        texts = id_texts(f.id for f in record.functions)
        started = [f for f in record.functions if f.node is not None and f.start is not None]
        self.rows = [
            {
                "id": texts[f.id],
                "node": f.node,
                "lane": lanes[f.node or ""][f.id],
                "ready": f.ready,
                "placed": f.placed,
                "start": f.start,
                "stop": f.stop,
                "cause": f.cause,
                "status": f.status,
            }
            for f in sorted(started, key=lambda f: f.start or 0.0)
        ]

    def __repr__(self) -> str:
        nodes = len({row["node"] for row in self.rows})
        return f"<Timeline: {len(self.rows)} functions on {nodes} nodes>"

    def save(self, path: str | PathLike[str]) -> str:
        """Write the picture as an HTML page that needs nothing else; returns the path."""
        Path(path).write_text(self._page(), encoding="utf-8", newline="\n")
        return fspath(path)

    def _page(self) -> str:
        return page(self._record, ["timeline"])

    def _repr_html_(self) -> str:
        # A frame of its own: neither the notebook's styles nor hostile ids get through its walls.
        return (
            f'<iframe srcdoc="{html.escape(self._page())}" title="Timeline" '
            'sandbox="allow-scripts allow-forms" '
            f'style="width:100%;height:{NOTEBOOK_PIXELS}px;border:0"></iframe>'
        )


def timeline(result: Any) -> Timeline:
    """What ran when, on which thread of which node, as data and as a picture.

    Parameters
    ----------
    result
        An ``ExecutionResult``, an ``Execution`` (also while it runs), or an ``ExecutionRecord``.

    Examples
    --------
    >>> from handoff_dask.record.execution import FunctionRecord
    >>> fit = FunctionRecord(id="fit", name="fit", node="a", status="finished", start=1.0, stop=3.0)
    >>> timeline(ExecutionRecord(dag_id="d", status="finished", functions=(fit,))).rows
    [{'id': 'fit', 'node': 'a', 'lane': 0, 'ready': None, 'placed': None, 'start': 1.0, 'stop': 3.0,
      'cause': '', 'status': 'finished'}]
    """
    return Timeline(record_of(result))
