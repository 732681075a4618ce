"""Tables and bars as text of a given width."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handoff_dask.visualization.texts import visible

#: Between two columns.
GAP = "  "
#: A column is not cut below this.
NARROWEST = 8


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines of a table; the widest columns are cut until it fits.

    Parameters
    ----------
    header
        The columns' names; one that begins with ``">"`` is set to the right.
    rows
        Their texts.
    width
        Columns of the terminal.

    Examples
    --------
    >>> for line in table(["NODE", ">CPU"], [["a node of a long name", "12"], ["b", "4"]], 18):
    ...     print(line)
    NODE           CPU
    a node of a …   12
    b                4
    """
    names = [name.removeprefix(">") for name in header]
    cells = [names, *([visible(text) for text in row] for row in rows)]
    widths = [max(width_of(row[i]) for row in cells) for i in range(len(names))]
    available = width - len(GAP) * (len(names) - 1)
    while sum(widths) > available and max(widths) > NARROWEST:
        widest = widths.index(max(widths))
        others = max((w for i, w in enumerate(widths) if i != widest), default=0)
        widths[widest] -= max(1, min(sum(widths) - available, widths[widest] - max(others, NARROWEST)))
    right = [name.startswith(">") for name in header]
    return [
        cut(GAP.join(_set(text, w, r) for text, w, r in zip(row, widths, right, strict=True)).rstrip(), width)
        for row in cells
    ]


def _set(text: str, width: int, right: bool) -> str:
    text = cut(text, width)
    space = " " * (width - width_of(text))
    return space + text if right else text + space


def width_of(text: str) -> int:
    """Columns that a text takes in a terminal.

    Examples
    --------
    >>> width_of("node"), width_of("節点"), width_of("e\u0301")
    (4, 4, 1)
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def cut(text: str, width: int) -> str:
    """As much of a text as fits.

    Examples
    --------
    >>> cut("a long text", 6), cut("節点節点", 6)
    ('a lon…', '節点…')
    """
    if width_of(text) <= width:
        return text
    kept = ""
    for c in text:
        if width_of(kept + c) > width - 1:
            break
        kept += c
    return kept + "…"


def bar(used: float, total: float, width: int = 8) -> str:
    """How much of a thing is in use.

    Examples
    --------
    >>> bar(3, 4), bar(0, 4), bar(0.1, 4), bar(9, 4)
    ('██████░░', '░░░░░░░░', '█░░░░░░░', '████████')
    """
    filled = round(width * min(1.0, used / total)) if total > 0 else 0
    if used > 0:
        filled = max(1, filled)
    return "█" * filled + "░" * (width - filled)


def number(value: float) -> str:
    """A number with at most six digits.

    Examples
    --------
    >>> number(3), number(0.1), number(16000.0)
    ('3', '0.1', '16000')
    """
    return str(value) if isinstance(value, int) else f"{value:g}"


def amounts(node: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """``(resource, used, of how much)`` of a node of an overview."""
    return [
        (name, node["used"].get(name, 0), total)
        for name, total in node["capabilities"].items()
        if isinstance(total, (int, float)) and not isinstance(total, bool) and name != "price"
    ]


def shared_text(shared: Iterable[Mapping[str, Any]]) -> str:
    """What the whole cluster shares, of an overview.

    Examples
    --------
    >>> shared_text([{"name": "licences", "used": 3, "amount": 8}])
    'licences 3/8'
    """
    return ", ".join(
        f"{visible(one['name'])} {number(one['used'])}/{number(one['amount'])}" for one in shared
    )


def labels(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node's capabilities that are no amounts."""
    known = {name for name, _, _ in amounts(node)}
    return {
        n: v for n, v in node["capabilities"].items() if n not in known and n != "price" and v is not False
    }
