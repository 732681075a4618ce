"""Whether a call fits the signature of its code, as far as Python can tell without calling it.

Only what Python itself goes by is looked at: the code object of a function, the ``__init__`` of a
class, the ``__call__`` of an object.  ``__wrapped__`` and ``__signature__`` are not believed: a
decorator may add and drop arguments.  Where nothing certain is known the call is taken to fit.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Literal

from handoff_dask.errors import InvalidFunctionError
from handoff_dask.graph.functions import Argument, Function, name_of, resolve_code
from handoff_dask.graph.items import Expand

__all__ = ["check_calls", "wrong_calls"]

#: What stands in a partial for an argument that comes later, from Python 3.14 on.
_PLACEHOLDER = getattr(functools, "Placeholder", None)
_LRU_CACHE = type(functools.lru_cache(lambda: None))
_VARARGS, _VARKEYWORDS = inspect.CO_VARARGS, inspect.CO_VARKEYWORDS


@dataclass(frozen=True, slots=True)
class Shape:
    """What a function takes."""

    #: Names of the arguments that may be given by position, in order.
    positional: tuple[str, ...]
    #: How many of these may be given by position alone.
    positional_only: int
    #: How many of the positional ones, counted from the last, may be left out.
    optional: int
    #: ``{name: whether it may be left out}`` of those given by name alone.
    keyword_only: dict[str, bool]
    #: Whether it takes any further arguments by position, and by name.
    any_positional: bool = False
    any_keyword: bool = False

    @staticmethod
    def of(function: FunctionType) -> Shape:
        """What a function written in Python takes."""
        code: CodeType = function.__code__
        count = code.co_argcount
        defaults, named = function.__defaults__ or (), function.__kwdefaults__ or {}
        by_name = code.co_varnames[count : count + code.co_kwonlyargcount]
        return Shape(
            code.co_varnames[:count],
            code.co_posonlyargcount,
            len(defaults),
            {name: name in named for name in by_name},
            bool(code.co_flags & _VARARGS),
            bool(code.co_flags & _VARKEYWORDS),
        )

    @staticmethod
    def described(signature: inspect.Signature) -> Shape:
        """What a function of the standard library takes, by its own description."""
        kinds = {kind: [p for p in signature.parameters.values() if p.kind is kind] for kind in _KINDS}
        only, both, by_name = (kinds[kind] for kind in _KINDS[:3])
        positional = [*only, *both]
        return Shape(
            tuple(p.name for p in positional),
            len(only),
            sum(p.default is not p.empty for p in positional),
            {p.name: p.default is not p.empty for p in by_name},
            bool(kinds[inspect.Parameter.VAR_POSITIONAL]),
            bool(kinds[inspect.Parameter.VAR_KEYWORD]),
        )

    def problem(self, count: int, names: Iterable[str]) -> str | None:
        """Why a call with so many values by position, and these by name, does not fit; else ``None``."""
        room = len(self.positional)
        if count > room and not self.any_positional:
            return f"it takes {room} by position at most"
        given = set(names)
        for name in sorted(given):
            place = self.positional.index(name) if name in self.positional else -1
            if place >= self.positional_only:
                if place < count:
                    return f"{name!r} would be given twice, by position and by name"
            elif name not in self.keyword_only and not self.any_keyword:
                return f"it takes nothing by the name {name!r}"
        needed = self.positional[count : room - self.optional]
        missing = [
            name
            for place, name in enumerate(needed, count)
            if place < self.positional_only or name not in given
        ]
        missing += [
            name for name, may_lack in self.keyword_only.items() if not may_lack and name not in given
        ]
        return f"nothing is given for {', '.join(map(repr, missing))}" if missing else None

    def __str__(self) -> str:
        required = len(self.positional) - self.optional
        parts = [name if place < required else f"{name}=…" for place, name in enumerate(self.positional)]
        if self.positional_only:
            parts.insert(self.positional_only, "/")
        if self.any_positional:
            parts.append("*args")
        elif self.keyword_only:
            parts.append("*")
        parts += [f"{name}=…" if may_lack else name for name, may_lack in self.keyword_only.items()]
        return f"({', '.join([*parts, '**kwargs'] if self.any_keyword else parts)})"


_KINDS = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
)
_OF_OBJECT = [inspect.getattr_static(object, name) for name in ("__new__", "__init__")]
#: What takes nothing at all.
_NOTHING = Shape((), 0, 0, {})


#: Marks a module, among the calls that are known to fit, that cannot be imported here.
_ABSENT = "absent"


def check_calls(
    functions: Iterable[Function], how: Literal["executed", "streamed", "either"] = "executed"
) -> None:
    """Refuse the first function whose code cannot be called with what it would be given.

    Parameters
    ----------
    functions
        The functions.
    how
        A stream calls a function that has a state or batches with other values than an execution
        does.  With ``"either"`` it is enough that one of the two calls fits.

    Raises
    ------
    InvalidFunctionError
        That says what is given and what the code takes.

    Examples
    --------
    >>> check_calls([Function("a", [], "operator:add", extra_args=[1])])
    Traceback (most recent call last):
    ...
    handoff_dask.errors.InvalidFunctionError: function 'a': its call gives 1 value by position \
(0 results, 1 of extra_args), but add(a, b, /) does not fit: nothing is given for 'b'; mend args, extra_args \
or kwargs
    """
    for error in wrong_calls(functions, how):
        raise error


def wrong_calls(
    functions: Iterable[Function], how: Literal["executed", "streamed", "either"] = "executed"
) -> Iterator[InvalidFunctionError]:
    """An error for each function that :func:`check_calls` refuses."""
    known: set[Hashable] = set()
    for function in functions:
        if function.args or function.inside:
            for arg in (*function.args, *function.inside):
                if isinstance(arg, Argument) and not arg.travels_as_is:
                    yield from _wrong_transfers(function, arg, known)
        code = function.code
        if code is None:
            continue
        if isinstance(code, Expand):
            function, code = _item_of(function, code), code.template.code
        results = len(function.args) if function.argument_inclusion == "variadic" else 1
        counts = [results + len(function.extra_args)]
        if how != "executed" and (function.init is not None or function.is_batched):
            streamed = (function.init is not None) + (1 if function.is_batched else results)
            counts = [*counts[: how == "either"], streamed + len(function.extra_args)]
        names = tuple(function.kwargs) if function.kwargs else ()
        # Equal calls of one code are looked at once.
        if any((id(code), count, names) in known for count in counts):
            continue
        problem = None
        for count in counts:
            problem = _problem(code, count, names, known)
            if problem is None:
                known.add((id(code), count, names))
                break
        if problem is not None:
            yield InvalidFunctionError(function.id, _told(function, counts[-1], problem))


def _item_of(function: Function, code: Expand) -> Function:
    """What an item of a map is called with, whatever the lists hold."""
    items = (None,) * len(function.args)
    return replace(code.template, extra_args=items)


def _told(function: Function, count: int, problem: tuple[str, str]) -> str:
    takes, why = problem
    extra = len(function.extra_args)
    gathered = function.argument_inclusion != "variadic"
    given_first = count - extra
    if given_first != len(function.args) and (function.init is not None or function.is_batched):
        results = "the state, and results" if function.init is not None else "a batch of results"
    else:
        results = "all results as one" if gathered else _counted(given_first, "result")
    by_name = f" and {', '.join(map(repr, function.kwargs))} by name" if function.kwargs else ""
    given = f"{_counted(count, 'value')} by position ({results}, {extra} of extra_args){by_name}"
    return (
        f"its call gives {given}, but {name_of(function.code)}{takes} does not fit: {why}; "
        "mend args, extra_args or kwargs"
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _wrong_transfers(
    function: Function, arg: Argument, known: set[Hashable]
) -> Iterator[InvalidFunctionError]:
    for side in ("serialization_fn", "deserialization_fn"):
        step = getattr(arg, side)
        if step is None:
            continue
        code, extra = step[0], len(step) - 1
        problem = _problem(code, 3 + extra, (), known)
        if problem is not None:
            takes, why = problem
            yield InvalidFunctionError(
                function.id,
                f"the {side} of its argument {arg.id!r} is called with the value, two node names and "
                f"{extra} more, but {name_of(code)}{takes} does not fit: {why}",
            )


def _problem(code: Any, count: int, names: tuple[str, ...], known: set[Hashable]) -> tuple[str, str] | None:
    """What the code takes and why the call does not fit, if that is certain; ``known`` are calls that fit."""
    if isinstance(code, str):
        module = code.partition(":")[0]
        if (module, _ABSENT) in known:
            return None
        try:
            code = resolve_code(code)
        # It may well be there on the nodes.
        except (Exception, SystemExit):
            if module not in sys.modules:
                # To look for a module that is not there takes milliseconds: once is enough.
                known.add((module, _ABSENT))
            return None
    hidden = 0
    while (step := _unwrapped(code)) is not None:
        code, before, by_name, left = step
        count, hidden, names = count - left + before, hidden + before, (*names, *by_name)
        if count < before:
            return "", f"{left} values by position are needed for its placeholders"
        # Methods and partials are made anew at each use; what they call is not.
        if (id(code), count, names) in known:
            return None
    shape = _shape(code)
    problem = None if shape is None else shape.problem(count, names)
    if shape is None or problem is None:
        known.add((id(code), count, names))
        return None
    return str(_without(shape, hidden)), problem


def _without(shape: Shape, hidden: int) -> Shape:
    """What a caller still sees of it when the first arguments are given already."""
    return Shape(
        shape.positional[hidden:],
        max(0, shape.positional_only - hidden),
        shape.optional,
        shape.keyword_only,
        shape.any_positional,
        shape.any_keyword,
    )


def _unwrapped(code: Any) -> tuple[Any, int, tuple[str, ...], int] | None:
    """What a callable calls: with how many values before, by which names, how many of them given later."""
    if isinstance(code, (FunctionType, BuiltinFunctionType)):
        return None
    if isinstance(code, functools.partial):
        if type(code).__call__ is not functools.partial.__call__:
            return None
        later = sum(value is _PLACEHOLDER for value in code.args) if _PLACEHOLDER is not None else 0
        return code.func, len(code.args), tuple(code.keywords), later
    if isinstance(code, MethodType):
        return code.__func__, 1, (), 0
    if isinstance(code, _LRU_CACHE):
        return code.__wrapped__, 0, (), 0
    if isinstance(code, type):
        return _constructor(code)
    return _method(type(code), "__call__")


def _constructor(cls: type) -> tuple[Any, int, tuple[str, ...], int] | None:
    made = _method(type(cls), "__call__")
    if made is not None:
        return made
    if type(cls).__call__ is not type.__call__:
        return None
    new = inspect.getattr_static(cls, "__new__", None)
    new = new.__func__ if isinstance(new, staticmethod) else new
    if isinstance(new, FunctionType):
        # What it makes need not be of the class; then __init__ is not called.
        return new, 1, (), 0
    return _method(cls, "__init__")


def _method(cls: type, name: str) -> tuple[Any, int, tuple[str, ...], int] | None:
    """A method written in Python, as the class has it."""
    found = inspect.getattr_static(cls, name, None)
    if isinstance(found, staticmethod):
        return found.__func__, 0, (), 0
    return (found, 1, (), 0) if isinstance(found, FunctionType) else None


def _shape(code: Any) -> Shape | None:
    if isinstance(code, FunctionType):
        return Shape.of(code)
    if isinstance(code, type):
        # Whatever may take arguments somewhere has a method of its own for it.
        makers = [inspect.getattr_static(code, name, None) for name in ("__new__", "__init__")]
        plain = type(code).__call__ is type.__call__ and makers == _OF_OBJECT
        return _NOTHING if plain else None
    if isinstance(code, BuiltinFunctionType) and _is_of_standard_library(code):
        try:
            return Shape.described(inspect.signature(code))
        except (ValueError, TypeError):
            return None
    return None


def _is_of_standard_library(code: BuiltinFunctionType) -> bool:
    """Others' modules may describe what they like."""
    owner: Any = code.__self__
    if not isinstance(owner, ModuleType):
        return False
    return owner.__name__.partition(".")[0] in sys.stdlib_module_names
