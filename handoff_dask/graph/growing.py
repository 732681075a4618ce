"""Costs that are not the same for each attempt: amounts that grow, and callables that are asked."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from handoff_dask.errors import ValidationError
from handoff_dask.resources import UNITS, Cost, units_of

__all__ = ["CostCode", "Growing", "check_cost", "growing", "growth_of"]

#: Gives the cost of an attempt: called as ``cost(attempt, {argument id: bytes})``.
CostCode: TypeAlias = Callable[[int, Mapping[Any, int]], Mapping[str, Any]]

#: Resources that a cost can only have amounts of.
COUNTED = ("cpu", "gpu")


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
    least = _amount(first)
    most = None if upto is None else _amount(upto)
    if not least:
        raise ValidationError("growing: the first amount is 0, which cannot grow; give more")
    if isinstance(factor, bool) or not isinstance(factor, numbers.Real) or not 1 < factor < math.inf:
        raise ValidationError(f"growing: the factor is {factor!r}; give a finite number above 1")
    if most is not None and most < least:
        raise ValidationError(f"growing: upto is {upto!r}, less than the first amount; give more")
    return Growing(least, float(factor), most)


def _amount(given: Any) -> float:
    try:
        return units_of("memory", given) / UNITS
    except OverflowError:  # an int too large for a float
        raise ValidationError(f"growing: the amount {given!r} is too large; give less") from None


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


def check_cost(cost: Any) -> None:
    """Refuse what is no cost of a function.

    Raises
    ------
    ValidationError
        If it is none.
    """
    for name in COUNTED:
        text = cost.get(name) if isinstance(cost, Mapping) else None
        if isinstance(text, str):
            raise ValidationError(f"{name}: {text!r} is a text, and {name} is counted; give a number")
    Cost.parse(cost)


def check_cost_code(code: Callable[..., Any]) -> None:
    """Refuse a callable that cannot be called with an attempt and the sizes of the arguments.

    Raises
    ------
    ValidationError
        If it takes other arguments, as far as Python can tell.
    """
    try:
        signature = inspect.signature(code)
    except (TypeError, ValueError):  # of some built-in callables it is not known
        return
    try:
        signature.bind(1, {})
    except TypeError as error:
        raise ValidationError(
            f"{code!r} cannot be called as cost(attempt, inputs): {error}; let it take these two"
        ) from None
