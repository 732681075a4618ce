"""Tasks: functions that add themselves to a DAG when they are called inside ``with DAG(…)``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import update_wrapper
from itertools import count
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from handoff_dask.collector import collector_held
from handoff_dask.errors import InvalidFunctionError, ValidationError
from handoff_dask.graph.arguments import Argument, Reference, Structure, has_any, replaced
from handoff_dask.graph.dag import DAG, current_dag
from handoff_dask.graph.fields import TaskFields
from handoff_dask.graph.functions import (
    Code,
    Function,
    FunctionId,
    Inclusion,
    name_of,
    refuse_unknown_fields,
    resolve_code,
)
from handoff_dask.graph.items import expanded

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Task", "task"]

P = ParamSpec("P")
R = TypeVar("R")

#: What a call says of a function, so that the fields of a task do not.
OF_CALLS = ("args", "argument_inclusion", "code", "extra_args", "kwargs")
#: Types of values in which no reference stands.
_PLAIN = frozenset({str, int, float, complex, bool, bytes, type(None)})


class Task(Generic[P, R]):
    """A function that adds itself to a DAG when it is called inside ``with DAG(…)``.

    Anywhere else a call of it is a call of its code.  :func:`task` makes one.
    """

    def __init__(self, code: Callable[P, R] | str, fields: Mapping[str, Any]) -> None:
        self.code: Code = code
        self.fields = dict(fields)
        if callable(code):
            update_wrapper(self, code, updated=())
        _check_fields(code, self.fields)

    def __repr__(self) -> str:
        fields = "".join(f", {name}={value!r}" for name, value in self.fields.items())
        return f"<Task {name_of(self.code)}{fields}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Task, (self.code, self.fields)

    def __get__(self, owner: Any, kind: type | None = None) -> Task[..., R]:
        """As a method of an object, it is called with the object first."""
        if owner is None or isinstance(self.code, str):
            return self
        return Task(MethodType(self.code, owner), self.fields)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Add a function to the DAG of the ``with`` block, and give its :class:`Reference`; else call it.

        References stand for results wherever they are in the call: by position, by name, inside
        lists, tuples and dicts.

        Raises
        ------
        InvalidFunctionError
            If a reference of another DAG is among the arguments.
        """
        dag = current_dag()
        if dag is None:
            return resolve_code(self.code)(*args, **kwargs)  # type: ignore[no-any-return]
        key = self._free_id(dag)
        dag.add_function(_Lowered(dag, key, args, kwargs).function(self.code, self.fields))
        return Reference(key, dag)  # type: ignore[return-value]

    def options(self, **fields: Unpack[TaskFields]) -> Task[P, R]:
        """A copy of it with other fields.

        Parameters
        ----------
        **fields
            As in :class:`Function`, ``id`` among them: the id of the next call's function.

        Raises
        ------
        InvalidFunctionError
            If a field does not exist or is wrong.

        Examples
        --------
        >>> task(len).options(cost={"cpu": 2})
        <Task len, cost={'cpu': 2}>
        """
        return Task(self.code, {**self.fields, **fields})

    def map(self, *iterables: Iterable[Any], **constants: Any) -> list[R]:
        """One function for each item, called as ``code(item, **constants)``.

        Parameters
        ----------
        *iterables
            Of equal lengths; the n-th function gets the n-th item of each.
        **constants
            What every one of them gets by name.

        Returns
        -------
        list
            Their references, with ids ``(name, 0)``, ``(name, 1)``, …; outside of ``with DAG(…)`` the
            results.

        Raises
        ------
        ValidationError
            If the lengths differ, or a reference of another DAG is among the arguments.

        Examples
        --------
        >>> with DAG("squares") as dag:
        ...     squares = task(pow).map([1, 2, 3], [2, 2, 2])
        >>> list(dag)
        [('pow', 0), ('pow', 1), ('pow', 2)]
        """
        columns = [_listed(f"{self!r}.map", items) for items in iterables]
        if not columns:
            raise ValidationError(f"{self!r}.map needs something to map over; give one list or more")
        if len({len(column) for column in columns}) > 1:
            lengths = ", ".join(str(len(column)) for column in columns)
            raise ValidationError(f"{self!r}.map got lists of lengths {lengths}; give lists of equal lengths")
        dag = current_dag()
        if dag is None:
            code = resolve_code(self.code)
            return [code(*row, **constants) for row in zip(*columns, strict=True)]
        base = self._free_id(dag)
        with collector_held(len(columns[0])):
            functions = list(_mapped(dag, base, self.code, self.fields, columns, constants))
            dag.add_mapped(functions)
            return [Reference(function.id, dag) for function in functions]  # type: ignore[misc]

    def expand(self, *references: Any, **constants: Any) -> list[R]:
        """A map over lists that are known only when their functions have ended.

        Parameters
        ----------
        *references
            Of functions that return lists, of equal lengths; the n-th item gets the n-th element of each.
            A list that is known already will do too.
        **constants
            What every item gets by name; references stand for results in them.

        Returns
        -------
        list
            The reference of the list of results, in order.  Each item is a function of the execution like
            any other, with the id ``(id, n)``; outside of ``with DAG(…)`` the results.

        Raises
        ------
        ValidationError
            If there is nothing to map over, or a reference of another DAG is among the arguments.

        Examples
        --------
        >>> with DAG("sizes") as dag:
        ...     sizes = task(len).expand(task(str.split)("some words here"))
        >>> sizes
        <Reference 'len' of DAG 'sizes'>
        """
        if not references:
            raise ValidationError(f"{self!r}.expand needs something to map over; give one reference or more")
        dag = current_dag()
        if dag is None:
            return self.map(*references, **constants)
        key = self._free_id(dag)
        lists = [one if type(one) is Reference else self._known(dag, one) for one in references]
        template = _Lowered(dag, key, (), constants).function(self.code, self.fields)
        arguments = _Lowered(dag, key, lists, {}).args
        dag.add_function(expanded(key, self.code, [*arguments], template))
        return Reference(key, dag)  # type: ignore[return-value]

    def _known(self, dag: DAG, items: Any) -> Reference:
        """A list that is known already, as the result of a function."""
        value = _listed(f"{self!r}.expand", items)
        name = f"items of {name_of(self.code)}"
        number = next(n for n in count(1) if f"{name} {n}" not in dag)
        dag.add_function(Task(list, {"id": f"{name} {number}", "type": "inline"})._call(dag, value))
        return Reference(f"{name} {number}", dag)

    def _call(self, dag: DAG, *args: Any) -> Function:
        """The function that makes a call with an id of its own."""
        return _Lowered(dag, self.fields["id"], args, {}).function(self.code, self.fields)

    def _free_id(self, dag: DAG) -> FunctionId:
        """The id of the next call: what was given, or the code's name and a number that is not taken."""
        if "id" in self.fields:
            return self.fields["id"]  # type: ignore[no-any-return]
        name = name_of(self.code)
        for number in count(dag.calls_of.get(name, 0) + 1):
            key = name if number == 1 else f"{name}-{number}"
            if key not in dag and (key, 0) not in dag:
                dag.calls_of[name] = number
                return key
        raise AssertionError("numbers do not end")


@overload
def task(code: Callable[P, R], **fields: Unpack[TaskFields]) -> Task[P, R]: ...
@overload
def task(code: str, **fields: Unpack[TaskFields]) -> Task[..., Any]: ...
@overload
def task(code: None = None, **fields: Unpack[TaskFields]) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(code: Any = None, **fields: Any) -> Any:
    """Make a task of a function; used as a decorator, with or without fields, or called.

    Parameters
    ----------
    code
        A callable, or ``"package.module:qualname"``.
    **fields
        As in :class:`Function`: ``cost``, ``node``, ``max_retries``, ….

    Returns
    -------
    Task
        Called inside ``with DAG(…)`` it adds a function to the DAG, and gives the reference of its
        result; called anywhere else it is the plain function.

    Raises
    ------
    InvalidFunctionError
        If a field does not exist or is wrong.

    Examples
    --------
    >>> @task(cost={"cpu": 1})
    ... def double(x):
    ...     return 2 * x
    >>> double(4)
    8
    >>> with DAG("doubles") as dag:
    ...     total = task(sum)([double(1), double(2)])
    >>> total
    <Reference 'sum' of DAG 'doubles'>
    >>> dag.order()
    ('double', 'double-2', 'sum')
    """
    if code is None:
        return lambda function: Task(function, fields)
    return Task(code, fields)


def _check_fields(code: Any, fields: Mapping[str, Any]) -> None:
    name = name_of(code) if callable(code) or isinstance(code, str) else repr(code)
    refuse_unknown_fields(name, fields)
    for field in OF_CALLS:
        if field in fields:
            raise InvalidFunctionError(name, f"a task is given no {field}; what it is called with says it")
    if fields.get("type") == "input":
        raise InvalidFunctionError(
            name, 'a task cannot have type="input"; add an input with dag.add_function'
        )
    whole = {"id": name, **fields}
    Function(whole.pop("id"), (), code, **whole)


class _Lowered:
    """The arguments of a call as a function has them."""

    def __init__(self, dag: DAG, key: FunctionId, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._dag = dag
        self._key = key
        self.inclusion: Inclusion = "variadic"
        self.args: list[FunctionId] = []
        rest = list(args)
        if rest and type(rest[0]) is list and rest[0] and all(type(x) is Reference for x in rest[0]):
            self.inclusion = "as_list"
            self.args = [self._argument(reference).id for reference in rest.pop(0)]
        else:
            while rest and type(rest[0]) is Reference:
                self.args.append(self._argument(rest.pop(0)).id)
        self.extra_args = [self.value(value) for value in rest]
        self.kwargs = {name: self.value(value) for name, value in kwargs.items()}

    def function(self, code: Code, fields: Mapping[str, Any]) -> Function:
        """The function that makes this call."""
        return Function(
            **{**fields, "id": self._key},
            args=self.args,
            code=code,
            extra_args=self.extra_args,
            kwargs=self.kwargs or None,
            argument_inclusion=self.inclusion,
        )

    def value(self, value: Any) -> Any:
        """A value of the call, with what stands in it for results."""
        if type(value) in _PLAIN or not has_any(value, Reference):
            return value
        return replaced(Structure.of(value, Reference), self._argument)

    def _argument(self, reference: Any) -> Argument:
        if reference.dag is not self._dag:
            raise InvalidFunctionError(
                self._key,
                f"it takes {reference.id!r} of DAG {reference.dag.id!r}, but is added to DAG "
                f"{self._dag.id!r}; call both inside one DAG",
            )
        return Argument(reference.id)


def _mapped(
    dag: DAG,
    base: FunctionId,
    code: Code,
    fields: Mapping[str, Any],
    columns: list[list[Any]],
    constants: Mapping[str, Any],
) -> Iterable[Function]:
    """The functions of a map; what is equal in all of them is checked once."""
    rows = zip(*columns, strict=True)
    if any(_may_refer(column) for column in columns):
        for n, row in enumerate(rows):
            yield _Lowered(dag, (base, n), row, constants).function(code, fields)
        return
    for row in rows:
        first = _Lowered(dag, (base, 0), row, constants).function(code, fields)
        yield first
        yield from first.copies(((base, n) for n in range(1, len(columns[0]))), rows)


def _listed(call: str, items: Any) -> list[Any]:
    """What is mapped over."""
    try:
        return list(items)
    except TypeError as error:
        if isinstance(items, Reference):  # its own message says what to do
            raise
        raise ValidationError(f"{call} got {items!r} to map over ({error}); give a list") from error


def _may_refer(column: list[Any]) -> bool:
    return not _PLAIN.issuperset(map(type, column)) and any(has_any(item, Reference) for item in column)
