"""How long functions take: what earlier ones of their kind have taught."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass

from handoff_dask.resources import Cost

#: Weight of the latest duration in a running mean.
_LATEST = 0.3
#: Below this many seconds it matters whether a function is short for sure.
SHORT_S = 0.05
#: Functions of a kind take about the same time if so many have been seen, and the longest of late took no
#: more than so many times their mean.
STEADY_FROM, STEADY = 8, 1.2
#: A function whose duration differs from the mean of its kind by no more than this factor, or by no more than
#: so many seconds, is like the others: threads that share a machine differ by that much.
NOISE, NOISE_S = 1.15, 0.02
#: Functions remembered one by one; the oldest half goes when there are more.
_REMEMBERED = 100_000
#: The same for kinds and families of functions.
_REMEMBERED_FAMILIES = 10_000
#: What tells functions of one family apart: numbers, and what looks like a hash.
_DIGITS = re.compile(r"[0-9a-f]{8,}|[0-9]+")


@dataclass(slots=True)
class Kind:
    """Functions of one code and cost."""

    #: Running mean, in seconds.
    mean_s: float = 0.0
    #: The longest of late, in seconds: falls slowly, rises at once.
    longest_s: float = 0.0
    #: How many have taught it.
    count: int = 0
    #: Size of the results, in bytes: a running mean.
    nbytes: float = 0.0

    @property
    def is_steady(self) -> bool:
        """Whether all of them take about the same time, as far as has been seen."""
        return self.count >= STEADY_FROM and self.longest_s <= STEADY * self.mean_s

    def learn(self, duration_s: float, nbytes: int | None = None) -> None:
        """Take one more into account."""
        self.count += 1
        if nbytes is not None:
            self.nbytes += max(_LATEST / 3, 1 / self.count) * (nbytes - self.nbytes)
        if self.count == 1:
            self.mean_s = self.longest_s = duration_s
            return
        self.mean_s += max(_LATEST / 3, 1 / self.count) * (duration_s - self.mean_s)
        # One outlier of a busy machine is forgotten after some ten functions, not after dozens.
        fading = self.longest_s + _LATEST * (duration_s - self.longest_s)
        self.longest_s = max(duration_s, fading)


def family_of(function_id: Hashable) -> str:
    """A function's id without the numbers in it; empty for ids that are neither text, numbers nor tuples.

    Examples
    --------
    >>> family_of("part-3-11"), family_of(("align", "s7")), family_of(7)
    ('part-#-#', 'align,s#', '#')
    """
    if isinstance(function_id, str):
        return _DIGITS.sub("#", function_id)
    if isinstance(function_id, tuple):
        return ",".join(map(family_of, function_id))
    return "#" if isinstance(function_id, int) else ""


def _is_noise(duration_s: float, mean_s: float) -> bool:
    return abs(duration_s - mean_s) <= NOISE_S or mean_s / NOISE <= duration_s <= mean_s * NOISE


#: Of so many costs of one code it is known how long functions take; costs may be computed from the data.
_REMEMBERED_COSTS = 256


class Estimates:
    """Expected durations, from what has run before: by function, by family, by code and cost, by code.

    A *family* is the functions of one code and cost whose ids differ in numbers only (:func:`family_of`):
    where one code does everything, the ids tell what it does.

    Examples
    --------
    >>> from handoff_dask.resources import NOTHING
    >>> estimates = Estimates()
    >>> estimates.expected("resize", NOTHING, "a") is None
    True
    >>> estimates.kind("resize", NOTHING).learn(2.0)
    >>> estimates.remember("resize", "b", 3.0)
    >>> estimates.expected("resize", NOTHING, "a"), estimates.expected("resize", NOTHING, "b")
    (2.0, 3.0)
    """

    def __init__(self) -> None:
        self._functions: dict[tuple[str, Hashable], float] = {}
        #: By code, cost and family; the family "" is all functions of that code and cost.
        self._kinds: dict[tuple[str, Cost, str], Kind] = {}
        self._codes: dict[str, dict[Cost, Kind]] = {}

    def kind(self, code: str, cost: Cost, family: str = "") -> Kind:
        """What is known of functions of one code and cost, or of one family of them, to be taught."""
        kind = self._kinds.get((code, cost, family))
        if kind is None:
            kind = self._kinds[code, cost, family] = Kind()
            if not family:
                costs = self._codes.setdefault(code, {})
                costs[cost] = kind
                if len(costs) > _REMEMBERED_COSTS:
                    oldest = next(iter(costs))
                    del costs[oldest], self._kinds[code, oldest, ""]
            elif len(self._kinds) > _REMEMBERED_FAMILIES:
                families = [key for key in self._kinds if key[2]]
                for key in families[: _REMEMBERED_FAMILIES // 2]:
                    del self._kinds[key]
        return kind

    def known(self, code: str, cost: Cost, family: str = "") -> Kind | None:
        """The same, or None if no function like it has run."""
        return self._kinds.get((code, cost, family))

    def is_steady(self, code: str, cost: Cost, family: str = "") -> bool:
        """Whether functions of a family take about the same time; of a new one those of all of its code."""
        kind = self._kinds.get((code, cost, family))
        if kind is None or kind.count < STEADY_FROM:
            kind = self._kinds.get((code, cost, ""))
        return kind is not None and kind.is_steady

    def remember(self, code: str, function_id: Hashable, duration_s: float) -> None:
        """Note how long one function took."""
        before = self._functions.get((code, function_id))
        mean = duration_s if before is None else before + _LATEST * (duration_s - before)
        self._functions[code, function_id] = mean
        if len(self._functions) > _REMEMBERED:
            for key in list(self._functions)[: _REMEMBERED // 2]:
                del self._functions[key]

    def remembers(self, code: str, function_id: Hashable) -> bool:
        """Whether this very function has taught how long it takes."""
        return (code, function_id) in self._functions

    def expected(self, code: str, cost: Cost, function_id: Hashable, family: str = "") -> float | None:
        """How long a function is expected to take, in seconds; None if nothing like it has run."""
        remembered = self._functions.get((code, function_id))
        kind = self._kinds.get((code, cost, family)) or self._kinds.get((code, cost, ""))
        if remembered is not None:
            # The order of functions that take the same time must not change from run to run.
            if kind is not None and _is_noise(remembered, kind.mean_s):
                return kind.mean_s
            return remembered
        if kind is not None:
            # What is sometimes short must not pass for short: others would wait behind it.
            return kind.longest_s if kind.mean_s < SHORT_S else kind.mean_s
        others = self._codes.get(code)
        if not others:
            return None
        return sum(kind.mean_s for kind in others.values()) / len(others)
