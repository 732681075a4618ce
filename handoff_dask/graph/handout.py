"""Functions the way Handout built them: arguments as pairs of id and position."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, TypeGuard

from handoff_dask.errors import InvalidFunctionError
from handoff_dask.graph.functions import Argument, Code, Function, FunctionId

__all__ = ["function"]


def function(
    id: FunctionId,  # noqa: A002
    code: Code | None,
    *,
    args: Sequence[FunctionId | Argument | tuple[FunctionId | Argument, int]] = (),
    cost: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Function:
    """A :class:`Function`, with its arguments by id or by ``(id, position)``.

    Parameters
    ----------
    id, code, cost, **fields
        As for :class:`Function`.
    args
        Ids, in the order of the call; or pairs of a producer's id and the zero-based position of
        its result in the call.  A pair of which the second is an int is always read as the
        latter: name a tuple id with :class:`Argument`.

    Raises
    ------
    InvalidFunctionError
        If some entries are pairs and some are not, or the positions are no permutation of
        0 … n-1.

    Examples
    --------
    >>> function("power", pow, args=[("exponent", 1), ("base", 0)]).args
    ('base', 'exponent')
    """
    built = Function(id, args, code, cost=cost, **fields)
    pairs = [entry for entry in built.args if _is_pair(entry)]
    if not pairs:
        return built
    if len(pairs) < len(built.args):
        other = next(entry for entry in built.args if not _is_pair(entry))
        raise InvalidFunctionError(
            id,
            f"some of its args are pairs (id, position), but {other!r} is not; write all as pairs or none",
        )
    positions = [int(position) for _, position in pairs]
    if sorted(positions) != list(range(len(pairs))):
        raise InvalidFunctionError(
            id, f"its args have the positions {positions}; number them 0 to {len(pairs) - 1}, each once"
        )
    return replace(built, args=[producer for producer, _ in sorted(pairs, key=itemgetter(1))])


def _is_pair(entry: object) -> TypeGuard[tuple[FunctionId, int]]:
    if not isinstance(entry, tuple) or len(entry) != 2:
        return False
    return isinstance(entry[1], numbers.Integral) and not isinstance(entry[1], bool)
