"""What a function takes of others: results, as they are or changed on their way, and where they stand."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any, Final, Literal, NoReturn, TypeAlias

from handoff_dask.errors import InvalidFunctionError, ValidationError

__all__ = ["RESULT", "Argument", "Collocated", "FunctionId", "Reference", "Structure", "fill", "id_of"]

#: What names a function in its DAG: any hashable.
FunctionId: TypeAlias = Hashable
#: How results are passed: ``code(*results)``, ``code([results])`` or ``code({id: result})``.
Inclusion: TypeAlias = Literal["variadic", "as_list", "as_dict"]
#: How many ids are compared with one that is not there.
LOOKED_AT = 2000
#: Types of values in which nothing can stand.
_PLAIN = frozenset({str, int, float, complex, bool, bytes, type(None)})
_set = object.__setattr__


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

    def __post_init__(self) -> None:
        _set(self, "id", id_of(self.id))

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
        check_id(self.id)
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


class Reference(Argument):
    """The result of a function of a DAG, before it has run; what a task gives inside ``with DAG(…)``."""

    __slots__ = ("dag",)

    #: The DAG that has the function.
    dag: Any

    def __init__(self, id: FunctionId, dag: Any) -> None:  # noqa: A002
        _set_id(self, id)
        _set_serialization(self, None)
        _set_deserialization(self, None)
        _set_dag(self, dag)

    def __repr__(self) -> str:
        return f"<Reference {self.id!r} of DAG {self.dag.id!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.dag is other.dag and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def _unknown(self, *args: Any) -> NoReturn:
        raise TypeError(
            f"the result of {self.id!r} is not known before the DAG has run; give the reference to a task, "
            "which gets the result (task.expand makes one call for each item of a list)"
        )

    __bool__ = __iter__ = __len__ = __getitem__ = _unknown

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"the reference {self.id!r} stands where it cannot be replaced by its result; "
            "give it as an argument, or inside lists, tuples and dicts"
        )


# There may be hundreds of thousands of them: these set what is frozen, and take half the time of setattr.
_set_id, _set_serialization, _set_deserialization = (
    getattr(Argument, name).__set__ for name in ("id", "serialization_fn", "deserialization_fn")
)
_set_dag = Reference.dag.__set__


def id_of(named: Any) -> FunctionId:
    """The id of a function that is named by its id, or by an :class:`Argument` (a reference is one).

    Examples
    --------
    >>> id_of("load"), id_of(Argument("load"))
    ('load', 'load')
    """
    return named.id if isinstance(named, Argument) else named


def did_you_mean(key: object, known: Iterable[object], what: str = "a function") -> str:
    """What to say of an id that is not there.

    Examples
    --------
    >>> did_you_mean("laod", ["load", "merge"]), did_you_mean(3, ["load"])
    ("did you mean 'load'?", 'name a function of it')
    """
    return nearest(key, known) or f"name {what} of it"


def nearest(key: object, known: Iterable[object]) -> str:
    """Which id may be meant by one that is not there, as a question; empty if none is like it."""

    def text(one: object) -> str:
        return one if isinstance(one, str) else repr(one)

    texts = {text(other): other for other in islice(known, LOOKED_AT)}
    near = difflib.get_close_matches(text(key), texts, 1)
    return f"did you mean {texts[near[0]]!r}?" if near else ""


def is_hashable(key: object) -> bool:
    """Whether something can be an id."""
    try:
        hash(key)
    except TypeError:
        return False
    return True


def check_id(key: FunctionId) -> None:
    """Refuse what cannot be an id.

    Raises
    ------
    InvalidFunctionError
        If it cannot be hashed.
    """
    if not is_hashable(key):
        raise InvalidFunctionError(key, "its id cannot be hashed; use a string, a number or a tuple of these")


class _Mark(Enum):
    RESULT = "result"

    def __repr__(self) -> str:
        return self.name


#: Stands for the next result, in a call that is on its way to its node.
RESULT: Final = _Mark.RESULT


@dataclass(frozen=True, slots=True)
class Structure:
    """A list, tuple or dict in which results stand, at any depth.

    Examples
    --------
    >>> pair = Structure.of({"left": [Argument("a"), 1]}, Argument)
    >>> pair.arguments, fill(pair, iter(["value of a"]))
    ((Argument(id='a', serialization_fn=None, deserialization_fn=None),), {'left': ['value of a', 1]})
    """

    #: The value, with :data:`RESULT` in each place of a result.
    value: Any
    #: What stands in these places, in order: arguments, or futures in an input.
    arguments: tuple[Any, ...]

    @staticmethod
    def of(value: Any, kind: type) -> Any:
        """The structure of a value in which some of this kind stand; the value itself if none does."""
        found: list[Any] = []

        def marked(part: Any) -> Any:
            if isinstance(part, kind):
                found.append(part)
                return RESULT
            return part

        template = rebuilt(value, marked)
        return Structure(template, tuple(found)) if found else value


def has_any(value: Any, kind: type) -> bool:
    """Whether something of a kind stands in a value, at any depth of lists, tuples and dicts.

    Raises
    ------
    ValidationError
        If it stands in a set, where it cannot be replaced.
    """
    if isinstance(value, kind):
        return True
    if isinstance(value, (list, tuple)):
        return any(has_any(part, kind) for part in value if type(part) not in _PLAIN)
    if type(value) is dict:
        return any(has_any(part, kind) for part in value.values() if type(part) not in _PLAIN)
    if isinstance(value, (set, frozenset)) and any(isinstance(part, kind) for part in value):
        raise ValidationError(f"{value!r} is a set with a reference in it; give a list or a tuple")
    return False


def fill(value: Any, results: Iterator[Any]) -> Any:
    """A plain value as it is; with the next results in their places where results stand."""
    if isinstance(value, Structure):
        return rebuilt(value.value, lambda part: next(results) if part is RESULT else part)
    return next(results) if value is RESULT or isinstance(value, Argument) else value


def without_ids(value: Any) -> Any:
    """What goes to a node in the place of an argument: the ids are not needed there."""
    if isinstance(value, Argument):
        return RESULT
    return Structure(value.value, ()) if isinstance(value, Structure) else value


def replaced(value: Any, new: Callable[[Argument], Any]) -> Any:
    """A plain value in which other arguments stand; itself where none does."""
    if isinstance(value, Argument):
        return new(value)
    if isinstance(value, Structure):
        return Structure(value.value, tuple([new(argument) for argument in value.arguments]))
    return value


def arguments_in(value: Any) -> tuple[Argument, ...]:
    """The results that stand in a plain value: for itself, or in its structure."""
    if isinstance(value, Argument):
        return (value,)
    return value.arguments if isinstance(value, Structure) else ()


def rebuilt(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """A copy of lists, tuples and dicts, with what ``leaf`` makes of each thing in them."""
    kind = type(value)
    if kind is list:
        return [rebuilt(part, leaf) for part in value]
    if kind is dict:
        return {key: rebuilt(part, leaf) for key, part in value.items()}
    if isinstance(value, tuple):
        parts = [rebuilt(part, leaf) for part in value]
        if kind is tuple:
            return tuple(parts)
        return kind(*parts) if hasattr(kind, "_fields") else leaf(value)
    return leaf(value)
