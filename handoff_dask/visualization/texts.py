"""Ids, costs and numbers as text that is safe to show anywhere."""

from __future__ import annotations

import numbers
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

__all__ = ["dag_name", "id_texts", "plain", "shortened", "visible"]

#: The id of a DAG that the user has given none.
_UUID = re.compile("[0-9a-f]{32}")


def id_texts(ids: Iterable[Hashable]) -> dict[Hashable, str]:
    """A text for each id, no two alike: a string is itself, anything else its ``repr``.

    Where texts collide, the strings keep theirs and the others say what they are.

    Examples
    --------
    >>> id_texts(["a", 2, ("b", 1)])
    {'a': 'a', 2: '2', ('b', 1): "('b', 1)"}
    >>> id_texts([1, "1"])
    {1: '1 (int)', '1': '1'}
    """
    distinct = list(dict.fromkeys(ids))
    taken = {i for i in distinct if isinstance(i, str)}
    texts: dict[Hashable, str] = {}
    for i in distinct:
        if isinstance(i, str):
            texts[i] = i
            continue
        text = candidate = repr(i)
        number = 1
        while candidate in taken:
            again = f" #{number}" if number > 1 else ""
            candidate = f"{text} ({type(i).__name__}{again})"
            number += 1
        taken.add(candidate)
        texts[i] = candidate
    return texts


def dag_name(dag_id: Hashable, last: Hashable = None) -> Hashable:
    """How a DAG is shown: its id; where it has none of the user's, the name of its last function.

    Examples
    --------
    >>> dag_name("nightly", "total"), dag_name("0123456789abcdef" * 2, ("fit", 1))
    ('nightly', "('fit', 1) (01234567)")
    """
    if last is None or not (isinstance(dag_id, str) and _UUID.fullmatch(dag_id)):
        return dag_id
    return f"{last if isinstance(last, str) else repr(last)} ({dag_id[:8]})"


def visible(text: str) -> str:
    r"""The text with everything written out that is no printable character.

    What remains is valid in XML and shows what is there: no line breaks, no text that runs
    backwards, no lone surrogates.

    Examples
    --------
    >>> visible("a\nb\x00\u202e")
    'a\\nb\\x00\\u202e'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, limit: int) -> str:
    """The text in at most ``limit`` characters, its middle left out.

    Examples
    --------
    >>> shortened("a" * 20 + "z" * 20, 9)
    'aaaa…zzzz'
    """
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]}…{text[len(text) - (limit - head - 1) :]}"


def plain(value: Any) -> Any:
    """A value of a cost as JSON knows it.

    Examples
    --------
    >>> from fractions import Fraction
    >>> plain(Fraction(1, 2)), plain("4 GB"), plain(float("inf"))
    (0.5, '4 GB', 'inf')
    """
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, numbers.Integral):
        return int(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return str(value)
    return number if abs(number) < float("inf") else str(value)
