"""Functions from fields that a user has written, and with what stands for other functions in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypedDict

from handoff_dask.errors import InvalidFunctionError
from handoff_dask.graph.arguments import Reference, id_of, replaced
from handoff_dask.graph.functions import Argument, Collocated, Function, FunctionId, FunctionType
from handoff_dask.graph.growing import CostCode
from handoff_dask.graph.retry import Retry

__all__ = ["TaskFields", "made", "settled", "with_arguments"]


class TaskFields(TypedDict, total=False):
    """What a task may say of its functions; see :class:`Function`."""

    id: FunctionId
    cost: Mapping[str, Any] | CostCode | None
    node: str | Collocated | tuple[str, FunctionId] | None
    type: FunctionType
    max_retries: int | None
    duration: float | None
    priority: float
    timeout: float | None
    isolated: bool
    init: Callable[..., Any] | tuple[Callable[..., Any], Sequence[Any]] | None
    parallelism: int
    batch_size: int | None
    batch_timeout: float | None
    after: Sequence[Any]
    retry: Retry | None
    accept_failed: bool
    cache: bool
    version: Any


class Named(Protocol):
    """Something with an id."""

    @property
    def id(self) -> FunctionId:
        """What names it."""


def made(given: tuple[Any, ...], named: Mapping[str, Any]) -> Function:
    """A function from its fields.

    Raises
    ------
    InvalidFunctionError
        If a field does not exist, is given twice or is wrong.

    Examples
    --------
    >>> made(("total", ["a"]), {"code": sum, "prio": 1})
    Traceback (most recent call last):
    ...
    handoff_dask.errors.UnknownFieldError: function 'total': it has no field 'prio'; did you mean \
'priority'?
    """
    by_position = ("id", "args", "code")
    if not given and "id" not in named:
        raise InvalidFunctionError(None, "it has no id; give add_function a Function or its fields, id first")
    if len(given) > len(by_position) or set(by_position[: len(given)]) & set(named):
        raise InvalidFunctionError(given[0], "give id, args and code once, and its other fields by name")
    whole = {"args": (), "code": None, **dict(zip(by_position, given, strict=False)), **named}
    return Function(**whole)


def settled(function: Function, graph: Named) -> Function:
    """A function as a graph keeps it: it names others by ids.

    Raises
    ------
    InvalidFunctionError
        If it names a reference of another graph.
    """
    after = function.after
    if not (function.inside or any(isinstance(key, Argument) for key in (*function.args, *after))):
        return function

    def named(argument: Argument) -> Any:
        if not isinstance(argument, Reference):
            return argument
        if argument.dag is not graph:
            raise InvalidFunctionError(
                function.id,
                f"it names {argument.id!r} of DAG {argument.dag.id!r}, which is another DAG than "
                f"{graph.id!r}; add both functions to one DAG",
            )
        return Argument(argument.id)

    args = [id_of(named(arg)) if isinstance(arg, Reference) else arg for arg in function.args]
    for key in after:
        if isinstance(key, Reference):
            named(key)
    return replace(with_arguments(function, args, named), after=tuple(map(id_of, after)))


def with_arguments(
    function: Function, args: list[FunctionId | Argument], new: Callable[[Argument], Any]
) -> Function:
    """A function that takes other results: these, and in its plain values what ``new`` gives."""
    if not function.inside:
        return replace(function, args=args)
    kwargs = function.kwargs
    return replace(
        function,
        args=args,
        extra_args=tuple([replaced(value, new) for value in function.extra_args]),
        kwargs=None if kwargs is None else {name: replaced(value, new) for name, value in kwargs.items()},
    )
