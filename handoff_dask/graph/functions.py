"""Functions, their arguments, and the places where they must run."""

from __future__ import annotations

import difflib
import importlib
import math
import numbers
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import partial
from operator import attrgetter
from typing import Any, Literal, NoReturn, TypeAlias, get_args

from dask.utils import funcname

from handoff_dask.errors import InvalidFunctionError, UnknownFieldError, ValidationError
from handoff_dask.graph.arguments import (
    Argument,
    Collocated,
    FunctionId,
    Inclusion,
    Structure,
    arguments_in,
    check_id,
    id_of,
    is_hashable,
)
from handoff_dask.graph.growing import CostCode, check_cost, check_cost_code
from handoff_dask.graph.retry import Retry
from handoff_dask.resources import NOTHING, Cost

__all__ = [
    "Argument",
    "Code",
    "Collocated",
    "Failed",
    "Function",
    "FunctionId",
    "FunctionType",
    "Inclusion",
    "Structure",
    "id_of",
    "name_of",
    "resolve_code",
]

#: A callable, or ``"package.module:qualname"``.
Code: TypeAlias = Callable[..., Any] | str

#: ``"regular"``; ``"inline"`` (recomputed inside each dependent); ``"input"`` (a value given at execution).
FunctionType: TypeAlias = Literal["regular", "inline", "input"]

TYPES: tuple[FunctionType, ...] = get_args(FunctionType)
INCLUSIONS: tuple[Inclusion, ...] = get_args(Inclusion)
_IMPORTABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_set = object.__setattr__
#: What says how code runs, and an input has none.
_NOT_OF_INPUTS = (
    "args",
    "code",
    "cost",
    "node",
    "extra_args",
    "kwargs",
    "after",
    "timeout",
    "isolated",
    "max_retries",
    "retry",
    "accept_failed",
    "version",
)


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


@dataclass(frozen=True, slots=True)
class Failed:
    """What a function with ``accept_failed=True`` gets in the place of an argument that failed.

    Examples
    --------
    >>> [a for a in (1, Failed("load", OSError("gone")), 3) if not isinstance(a, Failed)]
    [1, 3]
    """

    #: The function that failed: the argument itself, or what the argument needed.
    function_id: FunctionId
    #: What it raised.
    error: BaseException


@dataclass(frozen=True, slots=True)
class Function:
    """One step of a DAG.

    It is called as ``code(*results_of_args, *extra_args, **kwargs)``; with
    ``argument_inclusion="as_list"`` as ``code([results_of_args], *extra_args, **kwargs)``, with
    ``"as_dict"`` as ``code({id: result}, *extra_args, **kwargs)``.  Where an :class:`Argument` is an
    entry of ``extra_args`` or a value of ``kwargs``, the call gets that function's result there.

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
    #: Plain values, passed after the results, untouched; an :class:`Argument` stands for a result.
    extra_args: tuple[Any, ...] | list[Any] = ()
    #: Plain values, passed by name, untouched; an :class:`Argument` stands for a result.
    kwargs: Mapping[str, Any] | None = None
    #: ``{resource name: amount, label or False}`` held while it runs; see :class:`Cost`.  Or a callable
    #: ``cost(attempt, inputs)`` that gives it: ``attempt`` counts from 1, ``inputs`` is ``{argument id: bytes
    #: of its result}``.  It is asked on the scheduler before each attempt, when the arguments are there.
    cost: Mapping[str, Any] | CostCode | None = None
    #: Name or address of the node it must run on, or :class:`Collocated`, or ``None``: anywhere.
    node: str | Collocated | tuple[str, FunctionId] | None = None
    #: ``"regular"``, ``"inline"`` (recomputed inside each dependent) or ``"input"``.
    type: FunctionType = "regular"
    #: How often it is tried again after it raised; ``None``: as the execution says.
    max_retries: int | None = None
    #: ``"variadic"``, ``"as_list"`` or ``"as_dict"``.
    argument_inclusion: Inclusion = "variadic"
    #: Expected seconds: a hint for ordering.
    duration: float | None = None
    #: Larger runs earlier.
    priority: float = 0
    #: Seconds that an attempt may take; ``None``: as long as it likes.
    timeout: float | None = None
    #: Whether it runs in a process of its own on its node.
    isolated: bool = False
    #: Ids of functions that must have ended well before it starts; it does not get their results.
    after: Sequence[FunctionId] = ()
    #: For streams: a callable, or ``(callable, args)``, run once per worker of the stage; it gives the state.
    init: Callable[..., Any] | tuple[Callable[..., Any], Sequence[Any]] | None = None
    #: For streams: how many workers the stage has, each with a cost and a node of its own.
    parallelism: int = 1
    #: For streams: so many ready items are given to the code at once, as a list.
    batch_size: int | None = None
    #: For streams: seconds that a batch waits for more items after the first one.
    batch_timeout: float | None = None
    #: What stands for results in ``extra_args`` and ``kwargs``, in order.
    inside: tuple[Argument, ...] = field(init=False, repr=False, compare=False, default=())
    #: How it is tried again after it raised; ``max_retries=n`` is short for ``Retry(n)``.
    retry: Retry | None = None
    #: Whether it runs although arguments failed; it gets a :class:`Failed` in the place of each.  It does
    #: not where the execution stops at the first failure.
    accept_failed: bool = False
    #: Whether its result may be kept in a cache and reused.  ``False`` of an inline function holds for
    #: those that it runs in.
    cache: bool = True
    #: Changed by hand when its result changes for a reason that its code does not show: a plain value.
    version: Any = None

    def __new__(cls, *given: Any, **named: Any) -> Function:
        """Refuse what is no field, before Python does so without a word on what was meant."""
        if not FIELDS.issuperset(named):
            refuse_unknown_fields(given[0] if given else named.get("id"), named)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        check_id(self.id)
        _set(self, "args", _checked_args(self))
        _check_call(self)
        if self.cost is not None:
            _set(self, "cost", _checked_cost(self))
        if self.node is not None:
            _set(self, "node", _checked_node(self))
        if self.after != ():
            _set(self, "after", _checked_after(self))
        _check_hints(self)
        _check_stage(self)
        _check_failures(self)
        if self.type != "regular":
            _check_type(self)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def needs(self) -> Cost:
        """Its cost as exact amounts and labels; nothing where that is asked later."""
        known = self.known_cost
        return Cost.parse(known) if known else NOTHING

    @property
    def known_cost(self) -> Mapping[str, Any]:
        """Its cost as far as it is known before the function is ready; a callable has yet to be asked."""
        return {} if self.cost is None or not isinstance(self.cost, Mapping) else self.cost

    @property
    def argument_ids(self) -> tuple[FunctionId, ...]:
        """The ids of the functions whose results it takes, in the order of the call, repeated as they are."""
        return tuple([a.id if isinstance(a, Argument) else a for a in (*self.args, *self.inside)])

    @property
    def dependencies(self) -> tuple[FunctionId, ...]:
        """The ids of all functions that must end before it starts: its arguments, then ``after``."""
        return (*self.argument_ids, *map(id_of, self.after)) if self.after else self.argument_ids

    @property
    def is_batched(self) -> bool:
        """Whether a stream gives its items to the code in batches."""
        return self.batch_size is not None or self.batch_timeout is not None

    @property
    def retries(self) -> Retry | None:
        """How it is tried again, by ``retry`` or ``max_retries``; ``None``: as the execution says."""
        return self.retry if self.max_retries is None else Retry(self.max_retries)

    @property
    def name(self) -> str:
        """A short name of its code."""
        return name_of(self.code)

    def copies(self, ids: Iterable[FunctionId], rows: Iterable[tuple[Any, ...]]) -> Iterator[Function]:
        """Copies with other ids and plain values, in which no result stands; they are not checked again."""
        setters = {slot: getattr(Function, slot).__set__ for slot in Function.__slots__}
        values = [(set_value, getattr(self, slot)) for slot, set_value in setters.items()]
        set_id, set_extra_args = setters["id"], setters["extra_args"]
        new = object.__new__
        for key, row in zip(ids, rows, strict=True):
            copy = new(Function)
            for set_value, value in values:
                set_value(copy, value)
            set_id(copy, key)
            set_extra_args(copy, row)
            yield copy


#: The fields that a user may give.
FIELDS = frozenset(field.name for field in fields(Function) if field.init)


def refuse_unknown_fields(function_id: FunctionId, named: Iterable[str]) -> None:
    """Refuse what is no field of a function.

    Raises
    ------
    UnknownFieldError
        With the field that is most like it.

    Examples
    --------
    >>> Function("total", ["a"], sum, prio=1)
    Traceback (most recent call last):
    ...
    handoff_dask.errors.UnknownFieldError: function 'total': it has no field 'prio'; did you mean \
'priority'?
    """
    for name in named:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"its fields are {', '.join(sorted(FIELDS))}"
            raise UnknownFieldError(function_id, f"it has no field {name!r}; {hint}")


def _refuse(function: Function, problem: str) -> NoReturn:
    raise InvalidFunctionError(function.id, problem)


def _checked_args(function: Function) -> tuple[FunctionId | Argument, ...]:
    args = function.args
    if isinstance(args, (str, bytes, Mapping, Set, Argument)) or not isinstance(args, Iterable):
        _refuse(function, f"its args are {args!r}; give a list of the ids whose results it takes, in order")
    found = tuple(args)
    for arg in found:
        if not is_hashable(arg):
            _refuse(function, f"its argument {arg!r} is no id; name a function, and put values in extra_args")
        if isinstance(arg, Function):
            _refuse(function, f"its argument is the function {arg.id!r} itself; name it by its id")
    return found


def _checked_after(function: Function) -> tuple[FunctionId, ...]:
    after: Any = function.after
    if isinstance(after, (str, bytes, Mapping, Argument)) or not isinstance(after, Iterable):
        _refuse(function, f"its after is {after!r}; give a tuple of the ids that must end before it")
    found = tuple(after)
    for key in found:
        if not is_hashable(key):
            _refuse(function, f"it runs after {key!r}, which is no id; name a function")
        if isinstance(key, Function):
            _refuse(function, f"it runs after the function {key.id!r} itself; name it by its id")
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
    if function.extra_args or function.kwargs:
        _find_arguments(function)
    if function.argument_inclusion not in INCLUSIONS:
        known = ", ".join(INCLUSIONS)
        _refuse(function, f"its argument_inclusion is {function.argument_inclusion!r}; it is one of {known}")


def _find_arguments(function: Function) -> None:
    inside: list[Argument] = []
    for value in (*function.extra_args, *(function.kwargs or {}).values()):
        if isinstance(value, (Argument, Structure)):
            inside += arguments_in(value)
    if inside:
        _set(function, "inside", tuple(inside))


def _checked_kwargs(function: Function) -> dict[str, Any]:
    kwargs: Any = function.kwargs
    if not isinstance(kwargs, Mapping):
        _refuse(function, f"its kwargs are {kwargs!r}; give a mapping from name to value")
    for name in kwargs:
        if not isinstance(name, str):
            _refuse(function, f"its kwargs have the name {name!r}, which is not a string; use strings")
    return dict(kwargs)


def _checked_cost(function: Function) -> dict[str, Any] | CostCode:
    cost = function.cost
    try:
        if cost is not None and not isinstance(cost, Mapping) and callable(cost):
            check_cost_code(cost)
            return cost
        check_cost(cost)
    except ValidationError as error:
        raise InvalidFunctionError(function.id, f"its cost is wrong: {error}") from error
    return dict(cost or {})


def _checked_node(function: Function) -> str | Collocated:
    node: Any = function.node
    if isinstance(node, tuple) and len(node) == 2 and node[0] == "collocated":
        node = Collocated(node[1])
    if isinstance(node, Collocated):
        if not is_hashable(node.id):
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
    if not isinstance(function.isolated, bool):
        _refuse(function, f"its isolated is {function.isolated!r}; give True or False")
    timeout = function.timeout
    if timeout is not None and not (_is_finite(timeout) and timeout > 0):
        _refuse(function, f"its timeout is {timeout!r}; give seconds, a finite number above 0, or None")


def _check_stage(function: Function) -> None:
    """What only streams heed."""
    init: Any = function.init
    size, timeout = function.batch_size, function.batch_timeout
    if init is not None:
        if callable(init):
            init = (init, ())
        if not (isinstance(init, (tuple, list)) and len(init) == 2 and callable(init[0])) or not isinstance(
            init[1], (tuple, list)
        ):
            _refuse(function, f"its init is {function.init!r}; give a callable, or (callable, args)")
        _set(function, "init", (init[0], tuple(init[1])))
    if not _is_count(function.parallelism):
        _refuse(function, f"its parallelism is {function.parallelism!r}; give an int of at least 1")
    if size is not None and not _is_count(size):
        _refuse(function, f"its batch_size is {size!r}; give an int of at least 1, or None")
    if timeout is not None and (not _is_finite(timeout) or timeout < 0):
        _refuse(function, f"its batch_timeout is {timeout!r}; give seconds, a finite number of at least 0")


def _is_count(value: Any) -> bool:
    return type(value) is not bool and isinstance(value, numbers.Integral) and int(value) >= 1


def _check_failures(function: Function) -> None:
    retry: Any = function.retry
    if retry is not None:
        if not isinstance(retry, Retry):
            _refuse(function, f"its retry is {retry!r}; give a Retry, or max_retries=n for Retry(n)")
        if function.max_retries is not None:
            _refuse(function, "it has a retry and max_retries, which is short for Retry(n); give one of them")
    for name in ("accept_failed", "cache"):
        given: Any = getattr(function, name)
        if not isinstance(given, bool):
            _refuse(function, f"its {name} is {given!r}; give True or False")
    if function.type == "input" and not function.cache:
        _refuse(function, 'it has type="input" and cache=False; it is not computed, so leave cache out')


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
        forbidden = ("node", "cost", "timeout", "isolated", "max_retries", "retry", "accept_failed")
        why = "it runs inside its dependents"
    elif function.type == "input":
        forbidden, why = _NOT_OF_INPUTS, "its value comes later"
    else:
        _refuse(function, f"its type is {function.type!r}; it is one of {', '.join(TYPES)}")
    for name in ("init", "batch_size", "batch_timeout"):
        if getattr(function, name) is not None:
            _refuse(
                function, f'it has type="{function.type}" and a {name}; only regular functions are stages'
            )
    if function.parallelism != 1:
        _refuse(
            function, f'it has type="{function.type}" and a parallelism; only regular functions are stages'
        )
    for name in forbidden:
        value = getattr(function, name)
        # An empty list or mapping says nothing; a callable that is false is still code.
        if value is not None and (name in ("code", "node", "max_retries", "retry", "version") or value):
            _refuse(function, f'it has type="{function.type}" and a {name}; {why}, so leave {name} out')
