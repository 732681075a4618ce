"""Functions, their arguments, and the places where they must run."""

from __future__ import annotations

import importlib
import math
import numbers
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import KW_ONLY, dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Literal, NoReturn, TypeAlias, get_args

from dask.utils import funcname

from handoff_dask.errors import InvalidFunctionError, ValidationError
from handoff_dask.resources import NOTHING, Cost

__all__ = [
    "Argument",
    "Code",
    "Collocated",
    "Function",
    "FunctionId",
    "FunctionType",
    "Inclusion",
    "name_of",
    "resolve_code",
]

#: What names a function in its DAG: any hashable.
FunctionId: TypeAlias = Hashable
#: A callable, or ``"package.module:qualname"``.
Code: TypeAlias = Callable[..., Any] | str

#: ``"regular"``; ``"inline"`` (recomputed inside each dependent); ``"input"`` (a value given at execution).
FunctionType: TypeAlias = Literal["regular", "inline", "input"]
#: How results are passed: ``code(*results)`` or ``code([results])``.
Inclusion: TypeAlias = Literal["variadic", "as_list"]

TYPES: tuple[FunctionType, ...] = get_args(FunctionType)
INCLUSIONS: tuple[Inclusion, ...] = get_args(Inclusion)
_IMPORTABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_set = object.__setattr__


def resolve_code(code: Code) -> Callable[..., Any]:
    """The callable behind a function's code; a string is imported, where this is called.

    Raises
    ------
    ImportError, AttributeError
        If a string names nothing that is there.
    TypeError
        If what it names cannot be called.

    Examples
    --------
    >>> resolve_code("operator:add")(1, 2)
    3
    """
    if not isinstance(code, str):
        return code
    module, _, qualname = code.partition(":")
    found = attrgetter(qualname)(importlib.import_module(module))
    if not callable(found):
        raise TypeError(f"{code!r} names {found!r}, which cannot be called; name a function")
    return found  # type: ignore[no-any-return]


def name_of(code: Code | None) -> str:
    """A short name of a function's code, for keys, pictures and dashboards.

    Examples
    --------
    >>> name_of(len), name_of("operator:itemgetter"), name_of(None)
    ('len', 'itemgetter', 'input')
    """
    if code is None:
        return "input"
    if isinstance(code, str):
        return code.replace(":", ".").rpartition(".")[2]
    while isinstance(code, partial):
        code = code.func
    name = str(funcname(code))
    # An object without a name would show its address: each would seem another code.
    return type(code).__name__ if name == str(code)[: len(name)] else name


@dataclass(frozen=True, slots=True, eq=False)
class Collocated:
    """A place: the node on which another function runs.

    Equal to its plain form, the pair ``("collocated", id)``.

    Examples
    --------
    >>> Collocated("load") == ("collocated", "load")
    True
    """

    #: The other function.
    id: FunctionId

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Collocated):
            return self.id == other.id
        return ("collocated", self.id) == other

    def __hash__(self) -> int:
        return hash(("collocated", self.id))


@dataclass(frozen=True, slots=True)
class Argument:
    """The result of a function, with what to do to it on its way.

    Each side is ``(callable, *extra)``, called as ``callable(value, source_node, target_node,
    *extra)`` with node names: the first on the producer's node, the second on the consumer's.

    Raises
    ------
    InvalidFunctionError
        If the id cannot be hashed or a side has another form.

    Examples
    --------
    >>> Argument("scan", (zip, 9)).travels_as_is
    False
    """

    #: The function that produces it.
    id: FunctionId
    #: ``(callable, *extra)`` on the producer's node, or ``None``.
    serialization_fn: tuple[Any, ...] | None = None
    #: ``(callable, *extra)`` on the consumer's node, or ``None``.
    deserialization_fn: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        _check_id(self.id)
        for side in ("serialization_fn", "deserialization_fn"):
            fn = getattr(self, side)
            if fn is None:
                continue
            if not isinstance(fn, (tuple, list)) or not fn or not callable(fn[0]):
                problem = f"its {side} is {fn!r}; write (callable, *extra)"
                raise InvalidFunctionError(self.id, f"as an argument, {problem}")
            _set(self, side, tuple(fn))

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def travels_as_is(self) -> bool:
        """Whether nothing is done to it on its way."""
        return self.serialization_fn is None and self.deserialization_fn is None


@dataclass(frozen=True, slots=True)
class Function:
    """One step of a DAG.

    It is called as ``code(*results_of_args, *extra_args, **kwargs)``, or with
    ``argument_inclusion="as_list"`` as ``code([results_of_args], *extra_args, **kwargs)``.

    Raises
    ------
    InvalidFunctionError
        If a field has the wrong type, or fields contradict each other.

    Examples
    --------
    >>> total = Function("total", ["a", "b"], sum, argument_inclusion="as_list", cost={"cpu": 2})
    >>> total.args, total.needs
    (('a', 'b'), Cost(amounts=(('cpu', 2000000),), labels=()))
    """

    #: Names it in its DAG: any hashable.
    id: FunctionId
    #: The functions whose results it takes, in order: ids, or :class:`Argument`.
    args: Sequence[FunctionId | Argument]
    #: A callable, or ``"package.module:qualname"``; ``None`` for ``type="input"`` alone.
    code: Code | None
    _: KW_ONLY
    #: Plain values, passed after the results, untouched.
    extra_args: tuple[Any, ...] | list[Any] = ()
    #: Plain values, passed by name, untouched.
    kwargs: Mapping[str, Any] | None = None
    #: ``{resource name: amount, label or False}`` held while it runs; see :class:`Cost`.
    cost: Mapping[str, Any] | None = None
    #: Name or address of the node it must run on, or :class:`Collocated`, or ``None``: anywhere.
    node: str | Collocated | tuple[str, FunctionId] | None = None
    #: ``"regular"``, ``"inline"`` (recomputed inside each dependent) or ``"input"``.
    type: FunctionType = "regular"
    #: How often it is tried again after it raised; ``None``: as the execution says.
    max_retries: int | None = None
    #: ``"variadic"`` or ``"as_list"``.
    argument_inclusion: Inclusion = "variadic"
    #: Expected seconds: a hint for ordering.
    duration: float | None = None
    #: Larger runs earlier.
    priority: float = 0

    def __post_init__(self) -> None:
        _check_id(self.id)
        _set(self, "args", _checked_args(self))
        _check_call(self)
        if self.cost is not None:
            _set(self, "cost", _checked_cost(self))
        if self.node is not None:
            _set(self, "node", _checked_node(self))
        _check_hints(self)
        if self.type != "regular":
            _check_type(self)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def needs(self) -> Cost:
        """Its cost as exact amounts and labels."""
        return Cost.parse(self.cost) if self.cost else NOTHING

    @property
    def argument_ids(self) -> tuple[FunctionId, ...]:
        """The ids of the functions whose results it takes, in order, repeated as they are."""
        return tuple([a.id if isinstance(a, Argument) else a for a in self.args])

    @property
    def name(self) -> str:
        """A short name of its code."""
        return name_of(self.code)


def _refuse(function: Function, problem: str) -> NoReturn:
    raise InvalidFunctionError(function.id, problem)


def _is_hashable(key: object) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def _check_id(key: FunctionId) -> None:
    if not _is_hashable(key):
        raise InvalidFunctionError(key, "its id cannot be hashed; use a string, a number or a tuple of these")


def _checked_args(function: Function) -> tuple[FunctionId | Argument, ...]:
    args = function.args
    if isinstance(args, (str, bytes, Mapping, Set, Argument)) or not isinstance(args, Iterable):
        _refuse(function, f"its args are {args!r}; give a list of the ids whose results it takes, in order")
    found = tuple(args)
    for arg in found:
        if not _is_hashable(arg):
            _refuse(function, f"its argument {arg!r} is no id; name a function, and put values in extra_args")
        if isinstance(arg, Function):
            _refuse(function, f"its argument is the function {arg.id!r} itself; name it by its id")
    return found


def _check_call(function: Function) -> None:
    code = function.code
    if isinstance(code, str):
        if not _IMPORTABLE.fullmatch(code):
            _refuse(function, f'its code is the string {code!r}; write "package.module:qualname"')
    elif code is None:
        if function.type != "input":
            _refuse(
                function, 'it has no code; give a callable, or type="input" for a value given at execution'
            )
    elif not callable(code):
        _refuse(function, f'its code {code!r} cannot be called; give a callable or "package.module:qualname"')
    if type(function.extra_args) is not tuple:
        if not isinstance(function.extra_args, (list, tuple)):
            _refuse(function, f"its extra_args are {function.extra_args!r}; give a list of values")
        _set(function, "extra_args", tuple(function.extra_args))
    if function.kwargs is not None:
        _set(function, "kwargs", _checked_kwargs(function))
    if function.argument_inclusion not in INCLUSIONS:
        known = ", ".join(INCLUSIONS)
        _refuse(function, f"its argument_inclusion is {function.argument_inclusion!r}; it is one of {known}")


def _checked_kwargs(function: Function) -> dict[str, Any]:
    kwargs: Any = function.kwargs
    if not isinstance(kwargs, Mapping):
        _refuse(function, f"its kwargs are {kwargs!r}; give a mapping from name to value")
    for name in kwargs:
        if not isinstance(name, str):
            _refuse(function, f"its kwargs have the name {name!r}, which is not a string; use strings")
    return dict(kwargs)


def _checked_cost(function: Function) -> dict[str, Any]:
    try:
        Cost.parse(function.cost)
    except ValidationError as error:
        raise InvalidFunctionError(function.id, f"its cost is wrong: {error}") from error
    return dict(function.cost or {})


def _checked_node(function: Function) -> str | Collocated:
    node: Any = function.node
    if isinstance(node, tuple) and len(node) == 2 and node[0] == "collocated":
        node = Collocated(node[1])
    if isinstance(node, Collocated):
        if not _is_hashable(node.id):
            _refuse(function, f"it is collocated with {node.id!r}, which is no id; name a function")
        return node
    # Dask's local clusters call their workers 0, 1, 2: as names these are strings.
    if isinstance(node, numbers.Integral) and not isinstance(node, bool):
        node = str(int(node))
    if not isinstance(node, str) or not node:
        _refuse(function, f"its node is {node!r}; give a node's name or address, Collocated(id) or None")
    return node


def _check_hints(function: Function) -> None:
    retries: Any = function.max_retries
    if retries is not None:
        if isinstance(retries, bool) or not isinstance(retries, numbers.Integral) or retries < 0:
            _refuse(
                function, f"its max_retries is {retries!r}; give an int of at least 0, or None to inherit"
            )
        _set(function, "max_retries", int(retries))
    duration, priority = function.duration, function.priority
    if duration is not None and not (_is_finite(duration) and duration >= 0):
        _refuse(function, f"its duration is {duration!r}; give seconds, a finite number of at least 0")
    if type(priority) is not int and not _is_finite(priority):
        _refuse(function, f"its priority is {priority!r}; give a finite number, larger runs earlier")


def _is_finite(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int too large for a float
        return False


def _check_type(function: Function) -> None:
    forbidden: tuple[str, ...]
    if function.type == "inline":
        forbidden, why = ("node", "cost"), "it runs inside its dependents"
    elif function.type == "input":
        forbidden, why = ("args", "code", "cost", "node", "extra_args", "kwargs"), "its value comes later"
    else:
        _refuse(function, f"its type is {function.type!r}; it is one of {', '.join(TYPES)}")
    for field in forbidden:
        value = getattr(function, field)
        # An empty list or mapping says nothing; a callable that is false is still code.
        if value is not None and (field in ("code", "node") or value):
            _refuse(function, f'it has type="{function.type}" and a {field}; {why}, so leave {field} out')
