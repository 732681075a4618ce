"""Colours that stay apart for colour-blind eyes, on light and on dark paper.

The first seven are those of Okabe and Ito (2008) without black; the rest are of Paul Tol's
"muted" scheme.  With more things than colours, the colours come again: no picture tells things
apart by colour alone.
"""

from __future__ import annotations

__all__ = ["COLOURS", "OTHER", "colour", "tint"]

COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#f0e442",
    "#882255",
    "#999933",
    "#332288",
    "#44aa99",
    "#aa4499",
)

#: What has no colour of its own.
OTHER = "#999999"


def colour(index: int) -> str:
    """The colour of the thing with this number, from 0."""
    return COLOURS[index % len(COLOURS)]


def tint(hexadecimal: str, strength: float = 0.4) -> str:
    """The colour mixed with white, so that black text is readable on it.

    Examples
    --------
    >>> tint("#0072b2", 0.5)
    '#80b8d8'
    """
    channels = (int(hexadecimal[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 - (255 - c) * strength):02x}" for c in channels)
