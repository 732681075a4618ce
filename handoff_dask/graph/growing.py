"""Amounts of a cost that grow after an attempt has run out of memory."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from handoff_dask.errors import ValidationError
from handoff_dask.resources import UNITS, units_of

__all__ = ["Growing", "growing", "growth_of"]


class Growing(float):
    """How an amount grows; as a number it is what the first attempt claims."""

    factor: float
    upto: float | None

    def __new__(cls, first: float, factor: float, upto: float | None) -> Growing:
        """See :func:`growing`."""
        new = super().__new__(cls, first)
        new.factor, new.upto = factor, upto
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        return Growing, (float(self), self.factor, self.upto)

    def __repr__(self) -> str:
        upto = "" if self.upto is None else f", upto={self.upto:g}"
        return f"growing({float(self):g}, factor={self.factor:g}{upto})"


def growing(first: float | str, factor: float = 2.0, upto: float | str | None = None) -> Growing:
    """An amount of a cost that grows: after an attempt that ran out of memory the next claims more.

    Parameters
    ----------
    first
        What the first attempt claims: a number, or for ``memory`` a text with a unit.
    factor
        How many times as much each further attempt claims.
    upto
        The most that is claimed; ``None``: as much as the node has that has most.

    Raises
    ------
    ValidationError
        If an amount is wrong, or the factor is not above 1.

    Examples
    --------
    >>> {"memory": growing("500 MB", upto=4000)}
    {'memory': growing(500, factor=2, upto=4000)}
    """
    amounts = [None if amount is None else units_of("memory", amount) / UNITS for amount in (first, upto)]
    least, most = amounts
    assert least is not None
    if not least:
        raise ValidationError("growing: the first amount is 0, which cannot grow; give more")
    if isinstance(factor, bool) or not isinstance(factor, numbers.Real) or not 1 < factor < math.inf:
        raise ValidationError(f"growing: the factor is {factor!r}; give a finite number above 1")
    if most is not None and most < least:
        raise ValidationError(f"growing: upto is {upto!r}, less than the first amount; give more")
    return Growing(least, float(factor), most)


def growth_of(cost: Mapping[str, Any]) -> dict[str, tuple[float, int | None]]:
    """What grows of a cost: ``{resource: (factor, the most in units or None)}``.

    Examples
    --------
    >>> growth_of({"cpu": 1, "memory": growing(500)})
    {'memory': (2.0, None)}
    """
    return {
        name: (amount.factor, None if amount.upto is None else units_of(name, amount.upto))
        for name, amount in cost.items()
        if type(amount) is Growing
    }
