"""Maps over lists that are known only when their functions have ended: the items are made while the DAG runs.

The function of such a map, whose code is :class:`Expand`, becomes two: one that takes the lists and
makes the items (:class:`Spawn`), and one that takes the results of the items (:class:`Gather`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from handoff_dask.errors import InvalidFunctionError, ValidationError
from handoff_dask.graph.arguments import fill
from handoff_dask.graph.functions import Argument, Code, Function, FunctionId, name_of, resolve_code

__all__ = ["Expand", "Gather", "Rows", "Spawn", "rows_of", "spawned"]


@dataclass(frozen=True, slots=True)
class Rows:
    """What the items of a map are called with."""

    #: For each item what it gets by position.
    rows: list[tuple[Any, ...]]
    #: The results that stand in the constants, in order.
    inside: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class _ItemCode:
    """What is known of the items before there are any."""

    #: A function with the code, the constants and all that is said of an item; without id and values.
    template: Function

    @property
    def __name__(self) -> str:
        return name_of(self.template.code)

    def call(self, row: Sequence[Any], inside: Sequence[Any]) -> Any:
        """Call the code of one item here."""
        assert self.template.code is not None
        rest = iter(inside)
        kwargs = {name: fill(value, rest) for name, value in (self.template.kwargs or {}).items()}
        return resolve_code(self.template.code)(*row, **kwargs)

    def items(self, of: FunctionId, rows: Sequence[tuple[Any, ...]], first: int = 0) -> Iterator[Function]:
        """The functions of the items, with ids ``(of, 0)``, ``(of, 1)``, …."""
        return self.template.copies(((of, first + n) for n in range(len(rows))), rows)


@dataclass(frozen=True, slots=True)
class Expand(_ItemCode):
    """The code of a map over lists; called itself, it makes all calls one after the other."""

    def __call__(self, *given: Any) -> list[Any]:
        """Call the code for each row of the lists, which come before the results inside the constants."""
        count = len(given) - len(self.template.inside)
        return [self.call(row, given[count:]) for row in rows_of(given[:count], self.__name__)]


@dataclass(frozen=True, slots=True)
class Spawn(_ItemCode):
    """The code of the function that takes the lists and makes the items."""

    #: The function that takes the results of the items.
    of: FunctionId = None

    def __call__(self, *given: Any) -> Rows:
        """Put the rows together."""
        count = len(given) - len(self.template.inside)
        return Rows(rows_of(given[:count], self.__name__), given[count:])


@dataclass(frozen=True, slots=True)
class Gather(_ItemCode):
    """The code of the function that takes the results of the items, in order."""

    #: How many items there are, once they are functions of the run.
    count: int | None = field(default=None)

    def __call__(self, rows: Any, *results: Any) -> list[Any]:
        """The results; computed here where nobody has made the items functions of the run."""
        if isinstance(rows, Rows):
            return [self.call(row, rows.inside) for row in rows.rows]
        return list(results)


def rows_of(lists: Sequence[Any], name: str) -> list[tuple[Any, ...]]:
    """What each item gets of lists of equal lengths.

    Raises
    ------
    ValidationError
        If one is no list, or the lengths differ.

    Examples
    --------
    >>> rows_of([[1, 2], "ab"], "join")
    [(1, 'a'), (2, 'b')]
    """
    columns = []
    for n, items in enumerate(lists):
        try:
            columns.append(list(items))
        except TypeError as error:
            raise ValidationError(
                f"{name}.expand takes lists, but argument {n} is of type {type(items).__name__}; "
                "let its function return a list"
            ) from error
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(str(len(column)) for column in columns)
        raise ValidationError(f"{name}.expand got lists of lengths {lengths}; they must be of equal lengths")
    return list(zip(*columns, strict=True))


def spawned(function: Function) -> list[Function]:
    """The two functions that a map over lists becomes: one before the items, and one after them.

    Raises
    ------
    InvalidFunctionError
        If its fields have no meaning for items.
    """
    assert isinstance(function.code, Expand)
    template = function.code.template
    spawn = replace(
        function, id=("expand", function.id), code=Spawn(template, function.id), cost=None, node=None
    )
    return [spawn, Function(function.id, [spawn.id], Gather(template), priority=function.priority)]


def expanded(key: FunctionId, code: Code, lists: list[FunctionId | Argument], template: Function) -> Function:
    """The function of a map over lists, as a DAG has it."""
    if template.type != "regular" or not (template.node is None or isinstance(template.node, str)):
        raise InvalidFunctionError(
            key, "expand makes functions while the DAG runs: they are regular, and not collocated"
        )
    return Function(
        key,
        lists,
        Expand(replace(template, id=key, after=())),
        extra_args=template.inside,
        cost=template.cost,
        node=template.node,
        priority=template.priority,
        after=template.after,
    )
