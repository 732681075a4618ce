"""Exact amounts and labels by name: what a function costs, what a node is capable of.

Amounts are integers in millionths of what the user wrote (``cpu: 0.1`` is 100_000; one unit of
``memory``, which is in megabytes, is one byte), so that sums are exact: ten times 0.1 of 1 fit.
"""

from __future__ import annotations

import numbers
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

from dask.utils import parse_bytes

from handoff_dask.errors import ValidationError

__all__ = ["Capabilities", "Cost", "amount_of", "units_of"]

#: Units in an amount of one.
UNITS = 1_000_000
#: No amount is larger: they are shown as floats, too.
MOST = Decimal(10) ** 100
#: Bytes in one amount of ``memory``.
MEGABYTE = 1_000_000

#: Devices are given by index, so a node has no more than so many.
MOST_DEVICES = 4096

#: Digits of a float that are trusted; what lies behind them is the noise of binary fractions.
_TRUSTED = Decimal(1).scaleb(-12)


def units_of(name: str, value: Any) -> int:
    """An amount as the user writes it, in units.

    A positive amount below one unit is one unit; the rest is rounded down, so that n times 1/n
    never exceeds 1.

    Raises
    ------
    ValidationError
        For what is no finite number of at least 0.

    Examples
    --------
    >>> units_of("cpu", 0.1), units_of("memory", "4 GB"), units_of("cpu", 1 / 3)
    (100000, 4000000000, 333333)
    """
    if name == "memory" and isinstance(value, str):
        return _parse_memory(value)
    if isinstance(value, Fraction):
        exact = Decimal(value.numerator) / Decimal(value.denominator)
    elif isinstance(value, Decimal):
        exact = value
    elif isinstance(value, numbers.Integral) and not isinstance(value, bool):
        exact = Decimal(int(value))
    elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        exact = Decimal(repr(float(value)))
    else:
        raise ValidationError(f"{name}: {value!r} is not a number; give an amount of at least 0")
    if not exact.is_finite() or exact < 0:
        raise ValidationError(f"{name}: {value!r} is not an amount; give a finite number of at least 0")
    if exact > MOST:
        raise ValidationError(f"{name}: {value!r} is more than there can be; give {MOST:.0e} at most")
    if exact == exact.to_integral_value():
        return int(exact) * UNITS
    units = int((exact.quantize(_TRUSTED) * UNITS).to_integral_value(ROUND_FLOOR))
    return units or 1


def quantity(name: str, units: int) -> str:
    """An amount as messages have it: of memory with its unit.

    Examples
    --------
    >>> quantity("cpu", 500_000), quantity("memory", 16_000_000_000)
    ('0.5', '16000 MB')
    """
    return f"{amount_of(units)} MB" if name == "memory" else str(amount_of(units))


def _parse_memory(text: str) -> int:
    stripped = text.strip()
    if not stripped or stripped[-1].isdigit() or stripped[-1] == ".":
        raise ValidationError(
            f'memory: {text!r} has no unit; write "4 GB" or "512 MiB", or a number of megabytes'
        )
    try:
        if stripped[0].isalpha():  # to Dask, a unit alone is one of it
            raise ValueError("it has no number")
        size = parse_bytes(stripped)
    except (OverflowError, ValueError) as error:
        raise ValidationError(f'memory: {text!r} is not a size; write "4 GB" or "512 MiB"') from error
    if size < 0:
        raise ValidationError(f"memory: {text!r} is negative; give a size of at least 0")
    return int(size)


def amount_of(units: int) -> int | float:
    """Units as the user writes them: an int where it is whole.

    Examples
    --------
    >>> amount_of(100_000), amount_of(2_000_000)
    (0.1, 2)
    """
    whole, rest = divmod(units, UNITS)
    return whole if not rest else units / UNITS


@dataclass(frozen=True, slots=True)
class Cost:
    """What a function holds while it runs, and what its node must have.

    Made by :meth:`parse`; equal costs are equal and hash alike, so they can name a queue.
    """

    #: ``((name, units), …)``, sorted by name, each positive.
    amounts: tuple[tuple[str, int], ...] = ()
    #: ``((name, True or the string), …)``, sorted by name.
    labels: tuple[tuple[str, str | bool], ...] = ()

    @classmethod
    def parse(cls, cost: Mapping[str, Any] | None) -> Cost:
        """Read a ``cost=`` mapping.

        Raises
        ------
        ValidationError
            For what is no mapping, a name that is no string, or a value that is neither an
            amount (a finite number of at least 0), a label (``True`` or a string) nor ``False``.

        Examples
        --------
        >>> Cost.parse({"cpu": 0.5, "has_cuda": True, "zone": "eu"})
        Cost(amounts=(('cpu', 500000),), labels=(('has_cuda', True), ('zone', 'eu')))
        >>> Cost.parse({"cpu_intensive": True}) == Cost.parse({"cpu": 1})
        True
        """
        if cost is None:
            return NOTHING
        if not isinstance(cost, Mapping):
            raise ValidationError(f"cost: {cost!r} is not a mapping from resource name to amount or label")
        flat = [x for item in cost.items() for x in item]
        try:
            hash(tuple(flat))
        except TypeError:
            return _parse_cost.__wrapped__(*flat)
        return _parse_cost(*flat)

    def to_dict(self) -> dict[str, Any]:
        """The cost as a user writes it; a label asked to be several things is a list."""
        out: dict[str, Any] = {n: amount_of(u) for n, u in self.amounts}
        for name, value in self.labels:
            if name in out:
                earlier = out[name]
                out[name] = [*earlier, value] if isinstance(earlier, list) else [earlier, value]
            else:
                out[name] = value
        return out

    def to_amounts(self) -> dict[str, int | float]:
        """The amounts alone, as a user (or Dask's ``resources=``) writes them."""
        return {n: amount_of(u) for n, u in self.amounts}

    def without(self, name: str) -> Cost:
        """The cost but for one amount."""
        return Cost(tuple(pair for pair in self.amounts if pair[0] != name), self.labels)

    def plus(self, other: Cost) -> Cost:
        """What a node needs to hold both of two at the same time: the sums of amounts, all labels.

        Examples
        --------
        >>> Cost.parse({"cpu": 1}).plus(Cost.parse({"cpu": 2, "ssd": True})).to_dict()
        {'cpu': 3, 'ssd': True}
        """
        amounts = dict(self.amounts)
        for name, units in other.amounts:
            amounts[name] = amounts.get(name, 0) + units
        return replace(self.union(other), amounts=tuple(sorted(amounts.items())))

    def union(self, other: Cost) -> Cost:
        """What a node needs to hold either of two: the larger amounts, all labels.

        Two values of one label may both be asked: a node that lists both has both.
        """
        amounts = dict(self.amounts)
        for name, units in other.amounts:
            amounts[name] = max(amounts.get(name, 0), units)
        labels = {*self.labels, *other.labels}
        # A string or an amount satisfies True, so beside one True asks for nothing more.
        named = {name for name, value in labels if value is not True} | amounts.keys()
        labels = {(name, value) for name, value in labels if value is not True or name not in named}
        return Cost(tuple(sorted(amounts.items())), tuple(sorted(labels)))


NOTHING = Cost()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a node offers.  Made by :meth:`parse`."""

    #: ``{name: units}``, zeros included.
    amounts: Mapping[str, int] = field(default_factory=dict)
    #: ``{name: the strings it has, True, or False for a label that is known to be absent}``.
    labels: Mapping[str, bool | frozenset[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, capabilities: Mapping[str, Any] | None) -> Capabilities:
        """Read a ``capabilities`` mapping; a label may be ``True``, a string or a list of strings.

        Raises
        ------
        ValidationError
            As :meth:`Cost.parse`.

        Examples
        --------
        >>> Capabilities.parse({"cpu": 4, "zone": ["eu", "us"], "has_cuda": False}).to_dict()
        {'cpu': 4, 'zone': ['eu', 'us'], 'has_cuda': False}
        """
        if capabilities is None:
            return cls()
        if not isinstance(capabilities, Mapping):
            raise ValidationError(
                f"capabilities: {capabilities!r} is not a mapping from resource name to amount or label"
            )
        amounts: dict[str, int] = {}
        labels: dict[str, bool | frozenset[str]] = {}
        for name, value in capabilities.items():
            _check_name(name)
            value = _plain(value)
            if isinstance(value, bool):
                labels[name] = value
            elif isinstance(value, str) and name != "memory":
                labels[name] = frozenset([value])
            elif isinstance(value, (list, tuple, set, frozenset)):
                if not all(isinstance(v, str) for v in value):
                    raise ValidationError(f"{name}: {value!r} is not a list of strings")
                labels[name] = frozenset(map(str.__str__, value))
            else:
                amounts[name] = units_of(name, value)
        if amounts.get("gpu", 0) > MOST_DEVICES * UNITS:
            raise ValidationError(
                f"gpu: {capabilities['gpu']!r} are more devices than a node has; give {MOST_DEVICES} at most"
            )
        return cls(amounts, labels)

    def to_dict(self) -> dict[str, Any]:
        """The capabilities as a user writes them."""
        out: dict[str, Any] = {n: amount_of(u) for n, u in self.amounts.items()}
        for name, value in self.labels.items():
            if isinstance(value, bool):
                out[name] = value
            else:
                values = sorted(value)
                out[name] = values[0] if len(values) == 1 else values
        return out

    def updated(self, other: Capabilities) -> Capabilities:
        """These with the other's entries put over them; a name is an amount or a label, not both."""
        amounts = {n: u for n, u in self.amounts.items() if n not in other.labels}
        labels = {n: v for n, v in self.labels.items() if n not in other.amounts}
        return Capabilities({**amounts, **other.amounts}, {**labels, **other.labels})

    def without(self, names: Iterable[str]) -> Capabilities:
        """These but for some names."""
        left_out = frozenset(names)
        amounts = {n: u for n, u in self.amounts.items() if n not in left_out}
        return Capabilities(amounts, {n: v for n, v in self.labels.items() if n not in left_out})

    def confined(self, other: Capabilities, declared: Collection[str] = ()) -> Capabilities:
        """The smaller of the two, by name; a name that ``other`` leaves out stays as it is here.

        Of names in ``declared``, of which nothing is said here, it is what ``other`` says.
        """
        if declared:
            more = {n: u for n, u in other.amounts.items() if n in declared}
            labels_too = {n: v for n, v in other.labels.items() if n in declared}
            bare = Capabilities({**self.amounts, **more}, {**self.labels, **labels_too})
            return bare.confined(other)
        amounts = {n: min(u, other.amounts.get(n, u)) for n, u in self.amounts.items()}
        labels = dict(self.labels)
        for name, value in other.labels.items():
            mine = labels.get(name)
            if value is False:
                labels[name] = False
                amounts.pop(name, None)
            elif isinstance(mine, frozenset) and isinstance(value, frozenset):
                labels[name] = mine & value
        return Capabilities(amounts, labels)

    def has_labels(self, cost: Cost) -> bool:
        """Whether every label of the cost is here."""
        return not any(self.lacks_label(name, value) for name, value in cost.labels)

    def lacks_label(self, name: str, value: str | bool) -> bool:
        """Whether one label is missing: ``True`` asks for any, a string for itself."""
        mine = self.labels.get(name)
        if value is True:
            return not mine and self.amounts.get(name, 0) <= 0
        return not isinstance(mine, frozenset) or value not in mine

    def could_hold(self, cost: Cost) -> bool:
        """Whether the node could hold the cost when idle."""
        mine = self.amounts
        return all(mine.get(n, 0) >= u for n, u in cost.amounts) and self.has_labels(cost)

    @property
    def price(self) -> float:
        """Price per second: the ``price`` capability, 0 if absent."""
        return self.amounts.get("price", 0) / UNITS


def undeclared(named: Iterable[Capabilities], offered: Iterable[Capabilities]) -> frozenset[str]:
    """Names in the first capabilities of which none of the others says anything."""
    known = {name for has in offered for name in (*has.amounts, *has.labels)}
    return frozenset(n for names in named for n in (*names.amounts, *names.labels) if n not in known)


@lru_cache(maxsize=4096, typed=True)
def _parse_cost(*flat: Any) -> Cost:
    """Read names and values in turn.  A DAG has few distinct costs, so each is read once."""
    cost = dict(zip(flat[::2], flat[1::2], strict=True))
    amounts: dict[str, int] = {}
    labels: dict[str, str | bool] = {}
    for name, value in cost.items():
        _check_name(name)
        value = _plain(value)
        if name == "cpu_intensive":
            if not isinstance(value, bool):
                raise ValidationError(f"cpu_intensive: {value!r} is neither True nor False")
            if value and "cpu" not in cost:
                amounts["cpu"] = UNITS
        elif isinstance(value, bool):
            if value:
                labels[name] = True
        elif isinstance(value, str) and name != "memory":
            labels[name] = value
        else:
            units = units_of(name, value)
            if units:
                amounts[name] = units
    return Cost(tuple(sorted(amounts.items())), tuple(sorted(labels.items())))


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ValidationError(f"resource name {name!r} is not a string; write names such as 'cpu'")


def _plain(value: Any) -> Any:
    """Labels as Python's own: numpy's booleans and strings are labels too, where there is no numpy."""
    if isinstance(value, str):
        return str.__str__(value)
    if type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    return value
