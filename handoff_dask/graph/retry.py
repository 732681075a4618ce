"""How a failed function is tried again: how often, after how long, after which exceptions, and where."""

from __future__ import annotations

import math
import numbers
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

from handoff_dask.errors import ValidationError

__all__ = ["Retry", "given_retry"]

#: A class of exceptions, or several.
Exceptions: TypeAlias = "type[BaseException] | tuple[type[BaseException], ...]"
_set = object.__setattr__


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, when, where and after which exceptions a function is tried again.

    Between two attempts the function holds nothing.

    Raises
    ------
    ValidationError
        If a field has the wrong type or is out of range.

    Examples
    --------
    >>> retry = Retry(5, delay=1.0, max_delay=5.0, on=OSError, not_on=FileNotFoundError)
    >>> [retry.wait(n) for n in range(1, 6)]
    [1.0, 2.0, 4.0, 5.0, 5.0]
    >>> retry.retries(ConnectionError()), retry.retries(FileNotFoundError()), retry.retries(ValueError())
    (True, False, False)
    """

    #: How many further attempts there are after the first.
    times: int = 3
    _: KW_ONLY
    #: Seconds before the second attempt.
    delay: float = 0.0
    #: What each further wait is multiplied by.
    factor: float = 2.0
    #: No wait is longer, in seconds.
    max_delay: float = 60.0
    #: Each wait is varied by up to this share of itself, from 0 to 1, so that functions that
    #: failed together are not all tried again together.
    jitter: float = 0.0
    #: The exceptions that are worth another attempt: a class or a tuple of classes.
    on: Exceptions = (Exception,)
    #: The exceptions that are not, although ``on`` has them.
    not_on: Exceptions = ()
    #: Whether the next attempt goes to a node where the function has not failed yet, if there is one.
    elsewhere: bool = True

    def __post_init__(self) -> None:
        times: Any = self.times
        if isinstance(times, bool) or not isinstance(times, numbers.Integral) or times < 0:
            raise ValidationError(f"Retry: times is {times!r}; give an int of at least 0")
        _set(self, "times", int(times))
        self._check_number("delay", 0.0, math.inf, "seconds, a finite number of at least 0")
        self._check_number("factor", 0.0, math.inf, "a finite number of at least 0")
        self._check_number("jitter", 0.0, 1.0, "a number from 0 to 1")
        self._check_number("max_delay", 0.0, None, "seconds, a number of at least 0")
        for field in ("on", "not_on"):
            _set(self, field, _classes(field, getattr(self, field)))
        if not isinstance(self.elsewhere, bool):
            raise ValidationError(f"Retry: elsewhere is {self.elsewhere!r}; give True or False")

    def _check_number(self, field: str, least: float, most: float | None, wanted: str) -> None:
        given: Any = getattr(self, field)
        fits = isinstance(given, numbers.Real) and not isinstance(given, bool)
        try:
            value = float(given) if fits else math.nan
        except OverflowError:  # an int too large for a float
            value = math.nan
        if not value >= least or (most is not None and (value > most or math.isinf(value))):
            raise ValidationError(f"Retry: {field} is {given!r}; give {wanted}")
        _set(self, field, value)

    def retries(self, error: BaseException | type[BaseException]) -> bool:
        """Whether an exception, or one of this class, is worth another attempt.

        Parameters
        ----------
        error
            What the function raised, or its class.
        """
        kind = error if isinstance(error, type) else type(error)
        return issubclass(kind, self.on) and not issubclass(kind, self.not_on)

    @property
    def retries_all(self) -> bool:
        """Whether every exception is worth another attempt."""
        return self.on == (Exception,) and not self.not_on

    @property
    def bare(self) -> Retry:
        """The same without the classes of exceptions, which the scheduler need not know."""
        return Retry(
            self.times,
            delay=self.delay,
            factor=self.factor,
            max_delay=self.max_delay,
            jitter=self.jitter,
            elsewhere=self.elsewhere,
        )

    def wait(self, n: int, chance: float = 0.5) -> float:
        """How many seconds to wait before the n-th further attempt.

        Parameters
        ----------
        n
            Which further attempt, from 1.
        chance
            A random number from 0 to 1; it chooses among the waits that ``jitter`` allows, of which
            0.5 is the middle.

        Examples
        --------
        >>> retry = Retry(delay=10, jitter=0.1)
        >>> retry.wait(1, 0.0), retry.wait(1), retry.wait(1, 1.0), retry.wait(9, 1.0)
        (9.0, 10.0, 11.0, 60.0)
        """
        if n < 1:
            raise ValidationError(f"Retry: there is no wait {n!r}; waits are counted from 1")
        try:
            plain = min(self.delay * self.factor ** (n - 1), self.max_delay) if self.delay else 0.0
        except OverflowError:
            plain = self.max_delay
        # What is cut at max_delay is still spread, below it.
        low, high = plain * (1 - self.jitter), min(plain * (1 + self.jitter), self.max_delay)
        return low + (high - low) * chance


def _classes(field: str, given: Any) -> tuple[type[BaseException], ...]:
    classes = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise ValidationError(
                f"Retry: {field} has {each!r}, which is no class of exceptions; give one, or a tuple of them"
            )
    return classes


def given_retry(max_retries: int | None, retry: Any, default: int) -> Retry:
    """How functions are tried again that do not say so themselves, by the options of an execution.

    Parameters
    ----------
    max_retries
        How many further attempts; checked already.
    retry
        What the user gave as ``retry``.
    default
        How many, if neither is given.

    Raises
    ------
    ValidationError
        If both are given, or ``retry`` is none.
    """
    if retry is None:
        return Retry(default if max_retries is None else max_retries)
    if not isinstance(retry, Retry):
        raise ValidationError(f"retry is {retry!r}; give a Retry, or max_retries=n for Retry(n)")
    if max_retries is not None:
        raise ValidationError("max_retries and retry are both given; max_retries=n is short for Retry(n)")
    return retry
