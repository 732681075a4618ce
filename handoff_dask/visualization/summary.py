"""A summary of something: a few lines of text for a terminal, a small table for a notebook."""

from __future__ import annotations

import html
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from handoff_dask.visualization.texts import shortened, visible

__all__ = ["STATUS_COLOURS", "Summary", "id_text", "listed"]

#: The colour of each status, readable on light and on dark paper.
STATUS_COLOURS: Mapping[str, str] = {
    "finished": "#009e73",
    "running": "#56a0d3",
    "waiting": "#e69f00",
    "pending": "#999999",
    "failed": "#d55e00",
    "cancelled": "#b06f9a",
    "skipped": "#8c6bb1",
    "reused": "#66c2a5",
}

#: Characters of an id, and of a value in a table.
ID, VALUE = 48, 160
#: Rows of a table that are shown.
TABLE_ROWS = 12

_FONT = "font-family: system-ui, sans-serif; font-size: 13px; line-height: 1.45"
_FAINT = "opacity: .65"
_LABEL = f"font-weight: normal; {_FAINT}"
# Said again for pages that make tables differ from the text around them.
_TABLE = "border-collapse: collapse; border: 0; font-size: inherit; color: inherit"
_CELL = "text-align: left; padding: 1px 14px 1px 0; border: 0; background: none; vertical-align: top"
_NUMBER = _CELL.replace("left", "right") + "; font-variant-numeric: tabular-nums; white-space: nowrap"


def id_text(key: Hashable) -> str:
    r"""An id in one short line: a string as it is, anything else as its ``repr``.

    Examples
    --------
    >>> id_text("load\n"), id_text(("fit", 3))
    ('load\\n', "('fit', 3)")
    """
    try:
        text = (key or "''") if isinstance(key, str) else repr(key)
    except Exception:  # whatever the type's own __repr__ raises
        text = f"<{type(key).__name__}>"
    return shortened(visible(shortened(text, 4 * ID)), ID)


def listed(names: Sequence[str], limit: int = 6) -> str:
    """Names in a row, not more than so many.

    Examples
    --------
    >>> listed(["a", "b", "c", "d"], 2)
    'a, b and 2 more'
    """
    shown = ", ".join(id_text(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a person wants to know first.

    ``str()`` of it is for a terminal, :meth:`html` for a notebook.
    """

    #: What it is: ``"DAG"``, ``"Execution of DAG"``, ...
    kind: str
    #: Its name.
    name: str
    #: How it stands, in a word or two.
    state: str = ""
    #: The colour of the state.
    colour: str = STATUS_COLOURS["pending"]
    #: Labels and values; the first row is left out where :attr:`counts` are drawn, which say the same.
    rows: Sequence[tuple[str, str]] = ()
    #: ``{status: functions}``, drawn as a bar.
    counts: Mapping[str, int] = field(default_factory=dict)
    #: The head and the rows of a table; all columns but the first hold numbers.
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    #: An ``<svg>`` element.
    picture: str = ""
    #: An address where more can be seen.
    link: str | None = None

    def __str__(self) -> str:
        head = f"{self.kind} {self.name}" + (f": {self.state}" if self.state else "")
        rows = [*self.rows, *([("page", self.link)] if self.link else [])]
        width = max((len(label) for label, _ in rows), default=0)
        return "\n".join(
            [head, *(f"  {label:<{width}}  {shortened(visible(v), VALUE)}" for label, v in rows)]
        )

    def html(self) -> str:
        """An HTML fragment with styles of its own; colours follow the notebook's theme."""
        parts = [self._head(), self._bar(), self._rows(), self._table(), self._picture()]
        body = "".join(part for part in parts if part)
        return (
            f'<div style="{_FONT}; max-width: 860px; padding: 8px 12px; margin: 2px 0; '
            f'border: 1px solid rgba(128, 128, 128, .35); border-radius: 6px">{body}</div>'
        )

    def _head(self) -> str:
        badge = ""
        if self.state:
            badge = (
                '<span style="margin-left: 10px; padding: 1px 8px; border-radius: 9px; white-space: nowrap; '
                f'font-size: 12px; border: 1px solid {self.colour}">'
                f'<span style="color: {self.colour}">●</span> {_escaped(self.state)}</span>'
            )
        return (
            f'<div style="margin-bottom: 4px"><span style="{_FAINT}">{_escaped(self.kind)}</span> '
            f'<strong style="overflow-wrap: anywhere">{_escaped(self.name)}</strong>{badge}</div>'
        )

    def _bar(self) -> str:
        counts = {status: number for status, number in self.counts.items() if number}
        total = sum(counts.values())
        if not total:
            return ""
        parts = "".join(
            f'<div style="width: {100 * n / total:.2f}%; background: {_colour(s)}"></div>'
            for s, n in counts.items()
        )
        words = "".join(
            f'<span style="margin-right: 14px; white-space: nowrap">'
            f'<span style="color: {_colour(s)}">■</span> {n:,} {_escaped(s)}</span>'
            for s, n in counts.items()
        )
        return (
            '<div style="display: flex; height: 7px; border-radius: 4px; overflow: hidden; '
            f'margin: 5px 0 3px; background: rgba(128, 128, 128, .2)">{parts}</div>'
            f'<div style="font-size: 12px; margin-bottom: 5px">{words}</div>'
        )

    def _rows(self) -> str:
        if not (self.rows or self.link):
            return ""
        rows = [
            f'<tr style="background: none"><th style="{_CELL}; {_LABEL}">{_escaped(k)}</th>'
            f'<td style="{_CELL}; overflow-wrap: anywhere">{_escaped(v)}</td></tr>'
            for k, v in (self.rows[1:] if any(self.counts.values()) else self.rows)
        ]
        if self.link:
            address = html.escape(self.link, quote=True)
            rows.append(
                f'<tr style="background: none"><th style="{_CELL}; {_LABEL}">page</th>'
                f'<td style="{_CELL}"><a href="{address}" style="color: #3b82c4">{address}</a></td></tr>'
            )
        return f'<table style="{_TABLE}; margin: 2px 0">{"".join(rows)}</table>'

    def _table(self) -> str:
        if self.table is None or not self.table[1]:
            return ""
        head, rows = self.table
        line = "border-bottom: 1px solid rgba(128, 128, 128, .35)"
        cells = "".join(
            f'<th style="{_NUMBER if n else _CELL}; {_LABEL}; {line}">{_escaped(name)}</th>'
            for n, name in enumerate(head)
        )
        shown = [f'<tr style="background: none">{cells}</tr>']
        for row in rows[:TABLE_ROWS]:
            cells = "".join(
                f'<td style="{_NUMBER if n else _CELL}">{_escaped(cell)}</td>' for n, cell in enumerate(row)
            )
            shown.append(f'<tr style="background: none">{cells}</tr>')
        more = ""
        if len(rows) > TABLE_ROWS:
            more = f'<div style="{_FAINT}">and {len(rows) - TABLE_ROWS:,} more</div>'
        style = f"{_TABLE}; margin: 6px 0"
        return f'<table style="{style}">{"".join(shown)}</table>{more}'

    def _picture(self) -> str:
        return f'<div style="overflow-x: auto; margin-top: 6px">{self.picture}</div>' if self.picture else ""


def _escaped(text: str) -> str:
    return html.escape(shortened(visible(text), VALUE), quote=True)


def _colour(status: str) -> str:
    return STATUS_COLOURS.get(status, STATUS_COLOURS["pending"])
