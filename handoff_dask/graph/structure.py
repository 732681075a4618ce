"""Graphs of functions: validation, topological order, collocation groups."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar, overload
from uuid import uuid4

from handoff_dask.errors import (
    CyclicDependencyError,
    DuplicateFunctionError,
    InvalidFunctionError,
    MissingFunctionError,
    ValidationError,
)
from handoff_dask.graph.arguments import nearest
from handoff_dask.graph.fields import made, settled
from handoff_dask.graph.functions import Argument, Code, Collocated, Function, FunctionId

__all__ = ["FunctionGraph", "as_graph", "filled"]

G = TypeVar("G", bound="FunctionGraph")
#: Circles that are looked for, where all problems are listed.
MOST_CYCLES = 20


class FunctionGraph:
    """Functions by id, and what follows from their arguments.

    A :class:`~handoff_dask.graph.dag.DAG` adds a name, and what users and Dask ask of it.
    """

    def __init__(self, id: Hashable = None) -> None:  # noqa: A002
        try:
            hash(id)
        except TypeError as error:
            raise ValidationError(f"the DAG's id {id!r} cannot be hashed; use a string or a tuple") from error
        self._id = uuid4().hex if id is None else id
        self._functions: dict[FunctionId, Function] = {}
        self._order: tuple[FunctionId, ...] | None = None
        self._dependents: dict[FunctionId, tuple[FunctionId, ...]] | None = None
        self._valid = False

    @property
    def id(self) -> Hashable:
        """What names the DAG."""
        return self._id

    @property
    def functions(self) -> Mapping[FunctionId, Function]:
        """``{function id: function}`` in the order of adding; read only."""
        return MappingProxyType(self._functions)

    @overload
    def add_function(self: G, function: Function, /) -> G: ...
    @overload
    def add_function(
        self: G,
        id: FunctionId,
        args: Sequence[FunctionId | Argument] = (),
        code: Code | None = None,
        **fields: Any,
    ) -> G: ...
    def add_function(self: G, *given: Any, **fields: Any) -> G:
        """Add a function, and return the graph.

        Parameters
        ----------
        *given, **fields
            A :class:`Function`; or the fields of one, as :class:`Function` takes them.

        Raises
        ------
        DuplicateFunctionError
            If the DAG has a function of this id.
        InvalidFunctionError
            If it is no :class:`Function`, a field is wrong, or it names a reference of another DAG.

        Examples
        --------
        >>> graph = FunctionGraph().add_function("one", [], int, extra_args=["1"])
        >>> graph.add_function(id="two", args=["one"], code=abs).order()
        ('one', 'two')
        """
        function = given[0] if len(given) == 1 and not fields else made(given, fields)
        if not isinstance(function, Function):
            raise InvalidFunctionError(
                repr(function), "it is no Function; make it one: Function(id, args, code)"
            )
        return self._add(settled(function, self))

    def _add(self: G, function: Function) -> G:
        if function.id in self._functions:
            raise DuplicateFunctionError(function.id)
        self._functions[function.id] = function
        self._order = self._dependents = None
        self._valid = False
        return self

    def validate(self) -> None:
        """Check what the functions say of each other.

        Raises
        ------
        MissingFunctionError
            If a function refers to one that is not there.
        CyclicDependencyError
            If functions wait for each other in a circle.
        InvalidFunctionError
            If an argument with functions has an inline end, or a collocation leads to no node.
        """
        if self._valid:
            return
        self.order()
        for problem in self._wrong_references():
            raise problem
        self.collocation_roots()
        self._valid = True

    def problems(self) -> list[ValidationError]:
        """All for which :meth:`validate` refuses it, where that raises the first.

        Examples
        --------
        >>> graph = FunctionGraph().add_function("a", ["laod"], abs).add_function("b", ["c"], abs)
        >>> for problem in graph.add_function("load", [], int).problems():
        ...     print(problem)
        function 'a' refers to 'laod', which is not in the DAG; did you mean 'load'?
        function 'b' refers to 'c', which is not in the DAG; add it, or mend args or node
        """
        found = [*self._missing(), *_cycles(self._functions), *self._wrong_references()]
        if not any(isinstance(problem, MissingFunctionError) for problem in found):
            try:
                self.collocation_roots()
            except ValidationError as error:
                found.append(error)
        return found

    def _missing(self) -> Iterator[ValidationError]:
        for function in self._functions.values():
            for key in dict.fromkeys(function.dependencies):
                if key not in self._functions:
                    yield missing(function.id, key, self._functions)

    def _wrong_references(self) -> Iterator[ValidationError]:
        """What is wrong with functions that are named, other than that they are not there."""
        for function in self._functions.values():
            if function.node is not None and isinstance(function.node, Collocated):
                yield from self._wrong_target(function, function.node.id)
            for arg in (*function.args, *function.inside):
                if isinstance(arg, Argument) and not arg.travels_as_is:
                    yield from self._wrong_ends(function, arg)
            for key in function.after:
                yield from self._wrong_after(function, key)

    def order(self) -> tuple[FunctionId, ...]:
        """The ids, each after those it takes; as they were added, as far as that allows.

        Raises
        ------
        MissingFunctionError, CyclicDependencyError
            If there is no such order.

        Examples
        --------
        >>> graph = FunctionGraph().add_function(Function("b", ["a"], abs))
        >>> graph.add_function(Function("a", [], int)).order()
        ('a', 'b')
        """
        if self._order is None:
            self._order = _topological(self._functions)
        return self._order

    def dependents(self) -> Mapping[FunctionId, tuple[FunctionId, ...]]:
        """``{id: ids of the functions that take its result, or run after it}``, each once.

        Raises
        ------
        MissingFunctionError
            If a function refers to one that is not there.
        """
        if self._dependents is None:
            taken: dict[FunctionId, list[FunctionId]] = {key: [] for key in self._functions}
            for function in self._functions.values():
                for arg in dict.fromkeys(function.dependencies):
                    if arg not in taken:
                        raise missing(function.id, arg, self._functions)
                    taken[arg].append(function.id)
            self._dependents = {key: tuple(users) for key, users in taken.items()}
        return MappingProxyType(self._dependents)

    def needed_by(self, outputs: Iterable[FunctionId]) -> tuple[FunctionId, ...]:
        """These and all that they take, directly or not, in order.

        Raises
        ------
        ValidationError
            If an id is not in the DAG.

        Examples
        --------
        >>> graph = FunctionGraph().add_function(Function("a", [], int))
        >>> graph.add_function(Function("b", ["a"], abs)).needed_by(["a"])
        ('a',)
        """
        found: set[FunctionId] = set()
        stack = list(outputs)
        for key in stack:
            if key not in self:
                raise ValidationError(f"{key!r} is not in the DAG; name a function of it")
        while stack:
            key = stack.pop()
            if key not in found:
                found.add(key)
                stack.extend(self._functions[key].dependencies)
        return tuple([key for key in self.order() if key in found])

    def sinks(self) -> tuple[FunctionId, ...]:
        """The ids of the functions whose results nothing else takes: what it comes to.

        Examples
        --------
        >>> graph = FunctionGraph().add_function("a", [], int).add_function("b", ["a"], abs)
        >>> graph.add_function("c", [], int, after=["b"]).sinks()
        ('b', 'c')
        """
        taken: set[FunctionId] = set()
        for function in self._functions.values():
            if function.type != "regular":
                continue
            ahead = list(function.argument_ids)
            while ahead:
                key = ahead.pop()
                if key not in taken:
                    taken.add(key)
                    if key in self._functions and self._functions[key].type == "inline":
                        ahead.extend(self._functions[key].argument_ids)
        return tuple([i for i, f in self._functions.items() if f.type == "regular" and i not in taken])

    def collocation_roots(self) -> Mapping[FunctionId, FunctionId]:
        """``{id: the function whose ``node`` decides}`` for each function that shares a node.

        A function that others are collocated with is its own root.

        Raises
        ------
        InvalidFunctionError
            If functions are collocated with each other in a circle.
        """
        roots: dict[FunctionId, FunctionId] = {}
        for function in self._functions.values():
            key, path = function.id, dict[FunctionId, None]()
            while key not in roots and isinstance(node := self._functions[key].node, Collocated):
                if key in path:
                    _refuse_circle([*path], key)
                path[key] = None
                if node.id not in self._functions:
                    raise missing(key, node.id, self._functions)
                key = node.id
            if path:
                root = roots.setdefault(key, key)
                roots.update(dict.fromkeys(path, root))
        return roots

    def _wrong_target(self, function: Function, target: FunctionId) -> Iterator[ValidationError]:
        other = self._functions.get(target)
        if other is None:
            yield missing(function.id, target, self._functions)
        elif other.type != "regular":
            yield InvalidFunctionError(
                function.id,
                f"it is collocated with {target!r}, which is {other.type} and has no node; "
                "name a regular function",
            )

    def _wrong_after(self, function: Function, key: FunctionId) -> Iterator[ValidationError]:
        other = self._functions.get(key)
        if other is not None and other.type == "inline":
            yield InvalidFunctionError(
                function.id,
                f"it runs after {key!r}, which is inline and never runs on its own; name a regular function",
            )

    def _wrong_ends(self, consumer: Function, arg: Argument) -> Iterator[ValidationError]:
        for end in (self._functions.get(arg.id), consumer):
            if end is not None and end.type == "inline":
                yield InvalidFunctionError(
                    consumer.id,
                    f"its argument {arg.id!r} has functions, but {end.id!r} is inline and has no node; "
                    "make it regular, or name the argument by its id alone",
                )

    def __len__(self) -> int:
        return len(self._functions)

    def __bool__(self) -> bool:
        # An empty DAG is still a DAG: `dag or default` must not drop it.
        return True

    def __contains__(self, key: object) -> bool:
        try:
            return key in self._functions
        except TypeError:
            return False

    def __iter__(self) -> Iterator[FunctionId]:
        return iter(self._functions)

    def __repr__(self) -> str:
        count = len(self)
        return f"<{type(self).__name__} {self._id!r}: {count} function{'' if count == 1 else 's'}>"


def filled(graph: G, functions: Iterable[Function]) -> G:
    """A graph to which functions have been added.

    Raises
    ------
    ValidationError
        If ``functions`` is no list of functions, or two have one id.
    """
    if isinstance(functions, (str, bytes, Mapping, Function)) or not isinstance(functions, Iterable):
        raise ValidationError(f"{functions!r} is no DAG; give a DAG or a list of Functions")
    for function in functions:
        graph.add_function(function)
    return graph


def as_graph(functions: FunctionGraph | Iterable[Function]) -> FunctionGraph:
    """A graph as it is; functions in a list, made into one.

    Raises
    ------
    ValidationError
        If it is neither, or two functions have one id.
    """
    return functions if isinstance(functions, FunctionGraph) else filled(FunctionGraph(), functions)


def missing(function_id: FunctionId, key: FunctionId, known: Iterable[FunctionId]) -> MissingFunctionError:
    """The error for a function that names one which is not there."""
    return MissingFunctionError(function_id, key, nearest(key, known))


def _cycles(functions: Mapping[FunctionId, Function]) -> Iterator[ValidationError]:
    """Circles of functions that wait for each other, until there is none without an edge of these."""
    takes = {key: [*dict.fromkeys(function.dependencies)] for key, function in functions.items()}
    for _ in range(MOST_CYCLES):
        # From what waits for nothing on: what remains waits in a circle, or for what does.
        left = {key: [arg for arg in args if arg in takes] for key, args in takes.items()}
        ended = [key for key, args in left.items() if not args]
        users: dict[FunctionId, list[FunctionId]] = {key: [] for key in left}
        for key, args in left.items():
            for arg in args:
                users[arg].append(key)
        while ended:
            key = ended.pop()
            del left[key]
            for user in users[key]:
                left[user].remove(key)
                if not left[user]:
                    ended.append(user)
        if not left:
            return
        path: dict[FunctionId, None] = {}
        key = next(iter(left))
        while key not in path:
            path[key] = None
            key = left[key][0]
        try:
            _refuse_cycle(functions, [*path], key)
        except CyclicDependencyError as error:
            takes[error.cycle[0]].remove(error.cycle[-1])
            yield error


def _topological(functions: Mapping[FunctionId, Function]) -> tuple[FunctionId, ...]:
    """Depth first, with a stack of its own: chains are longer than Python's."""
    order: dict[FunctionId, None] = {}
    for start, function in functions.items():
        if start in order:
            continue
        args = function.dependencies
        if all(arg in order for arg in args):
            order[start] = None
            continue
        stack, path = [(start, iter(args))], {start}
        while stack:
            key, rest = stack[-1]
            for arg in rest:
                if arg in order:
                    continue
                if arg in path:
                    _refuse_cycle(functions, [step for step, _ in stack], arg)
                if arg not in functions:
                    raise missing(key, arg, functions)
                stack.append((arg, iter(functions[arg].dependencies)))
                path.add(arg)
                break
            else:
                stack.pop()
                path.discard(key)
                order[key] = None
    return tuple(order)


def _refuse_cycle(functions: Collection[FunctionId], path: list[FunctionId], closing: FunctionId) -> NoReturn:
    """The path goes from consumer to producer; the cycle is given along the edges, first added first."""
    cycle = path[path.index(closing) :][::-1]
    members = set(cycle)
    first = cycle.index(next(key for key in functions if key in members))
    raise CyclicDependencyError(cycle[first:] + cycle[:first])


def _refuse_circle(path: list[FunctionId], closing: FunctionId) -> NoReturn:
    circle = path[path.index(closing) :]
    shown = " -> ".join(repr(key) for key in [*circle, closing])
    raise InvalidFunctionError(
        closing, f"functions are collocated with each other in a circle: {shown}; give one of them no node"
    )
