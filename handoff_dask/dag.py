"""A DAG: functions by id, checked as a whole, walked in order."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from dask import config
from dask.base import DaskMethodsMixin
from dask.delayed import optimize as delayed_optimize

from handoff_dask.errors import (
    CyclicDependencyError,
    DuplicateFunctionError,
    InvalidFunctionError,
    MissingFunctionError,
    ValidationError,
)
from handoff_dask.functions import Argument, Collocated, Function, FunctionId

if TYPE_CHECKING:
    from handoff_dask.check import CheckReport

__all__ = ["DAG", "as_dag", "new"]


class _AsDelayed:
    """How Dask optimises a DAG: like Delayed values in a group of them, else not at all.

    Collections that are computed together come back grouped by what optimises them; so that a DAG
    keeps its place among Delayed values it must not differ from these.
    """

    def __eq__(self, other: object) -> bool:
        return other is delayed_optimize or isinstance(other, _AsDelayed)

    def __hash__(self) -> int:
        return hash(delayed_optimize)

    def __call__(self, graph: Any, keys: Any, **kwargs: Any) -> Any:
        # To fuse functions would lose their costs.
        with config.set({"optimization.fuse.delayed": False}):
            return delayed_optimize(graph, keys, **kwargs)


class DAG(DaskMethodsMixin):
    """Functions that take each other's results.

    It is a Dask collection too: ``dask.compute(dag)`` gives the dict of results.  Dask's current client
    computes it; with none, the cluster of the session that was started; with none either, threads of
    this process, which ignore what functions cost.

    Parameters
    ----------
    id
        Any hashable; a fresh uuid4 hex string if ``None``.

    Raises
    ------
    ValidationError
        If the id cannot be hashed.

    Examples
    --------
    >>> dag = DAG("sums").add_function(Function("one", [], int, extra_args=[1]))
    >>> dag.add_function(Function("two", ["one", "one"], "operator:add")).order()
    ('one', 'two')
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

    def add_function(self, function: Function) -> DAG:
        """Add a function, and return the DAG.

        Raises
        ------
        DuplicateFunctionError
            If the DAG has a function of this id.
        InvalidFunctionError
            If it is no :class:`Function`.
        """
        if not isinstance(function, Function):
            raise InvalidFunctionError(
                repr(function), "it is no Function; make it one: Function(id, args, code)"
            )
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
        for function in self._functions.values():
            if function.node is not None and isinstance(function.node, Collocated):
                self._check_target(function, function.node.id)
            for arg in function.args:
                if isinstance(arg, Argument) and not arg.travels_as_is:
                    self._check_ends(function, arg)
        self.collocation_roots()
        self._valid = True

    def order(self) -> tuple[FunctionId, ...]:
        """The ids, each after those it takes; as they were added, as far as that allows.

        Raises
        ------
        MissingFunctionError, CyclicDependencyError
            If there is no such order.

        Examples
        --------
        >>> DAG().add_function(Function("b", ["a"], abs)).add_function(Function("a", [], int)).order()
        ('a', 'b')
        """
        if self._order is None:
            self._order = _topological(self._functions)
        return self._order

    def dependents(self) -> Mapping[FunctionId, tuple[FunctionId, ...]]:
        """``{id: ids of the functions that take its result}``, each once.

        Raises
        ------
        MissingFunctionError
            If a function refers to one that is not there.
        """
        if self._dependents is None:
            taken: dict[FunctionId, list[FunctionId]] = {key: [] for key in self._functions}
            for function in self._functions.values():
                for arg in dict.fromkeys(function.argument_ids):
                    if arg not in taken:
                        raise MissingFunctionError(function.id, arg)
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
        >>> dag = DAG().add_function(Function("a", [], int)).add_function(Function("b", ["a"], abs))
        >>> dag.needed_by(["a"])
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
                stack.extend(self._functions[key].argument_ids)
        return tuple([key for key in self.order() if key in found])

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
                    raise MissingFunctionError(key, node.id)
                key = node.id
            if path:
                root = roots.setdefault(key, key)
                roots.update(dict.fromkeys(path, root))
        return roots

    def check(self, nodes: Any, *, outputs: Iterable[FunctionId] | None = None) -> CheckReport:
        """What of it fits nowhere, is misspelt or unused, and how fast it could run at best.

        Parameters
        ----------
        nodes
            ``{node name: capabilities}``, or anything with a ``discover_nodes()`` that gives it.
        outputs
            As for an execution: only what these need is looked at.

        Raises
        ------
        ValidationError
            If the DAG, the nodes or the outputs are wrong.
        """
        from handoff_dask.check import check

        return check(self, nodes, outputs=outputs)

    def _check_target(self, function: Function, target: FunctionId) -> None:
        other = self._functions.get(target)
        if other is None:
            raise MissingFunctionError(function.id, target)
        if other.type != "regular":
            raise InvalidFunctionError(
                function.id,
                f"it is collocated with {target!r}, which is {other.type} and has no node; "
                "name a regular function",
            )

    def _check_ends(self, consumer: Function, arg: Argument) -> None:
        for end in (self._functions[arg.id], consumer):
            if end.type == "inline":
                raise InvalidFunctionError(
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
        return f"<DAG {self._id!r}: {len(self)} function{'' if len(self) == 1 else 's'}>"

    # What makes it a Dask collection.  Only the live layer knows how, and it imports this module:
    # so it is looked up at the moment of asking.

    __dask_optimize__ = _AsDelayed()

    @property
    def __dask_scheduler__(self) -> Any:
        return _as_collection().scheduler_of(self)

    def __dask_graph__(self) -> Any:
        return _as_collection().graph_of(self)

    def __dask_layers__(self) -> Any:
        return _as_collection().layers_of(self)

    def __dask_keys__(self) -> Any:
        return _as_collection().keys_of(self)

    def __dask_postcompute__(self) -> Any:
        return _as_collection().postcompute_of(self)

    def __dask_postpersist__(self) -> Any:
        return _as_collection().postpersist_of(self)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("handoff-dag", self._id, tuple(self._functions.values()))


def new(id: Hashable = None) -> DAG:  # noqa: A002
    """An empty DAG; the same as ``DAG(id)``."""
    return DAG(id)


def as_dag(functions: DAG | Iterable[Function]) -> DAG:
    """A DAG as it is; functions in a list, made into one.

    Raises
    ------
    ValidationError
        If it is neither, or two functions have one id.

    Examples
    --------
    >>> len(as_dag([Function("a", [], int), Function("b", ["a"], abs)]))
    2
    """
    if isinstance(functions, DAG):
        return functions
    if isinstance(functions, (str, bytes, Mapping, Function)) or not isinstance(functions, Iterable):
        raise ValidationError(f"{functions!r} is no DAG; give a DAG or a list of Functions")
    dag = DAG()
    for function in functions:
        dag.add_function(function)
    return dag


def _as_collection() -> Any:
    return import_module("handoff_dask.live.collection")


def _topological(functions: Mapping[FunctionId, Function]) -> tuple[FunctionId, ...]:
    """Depth first, with a stack of its own: chains are longer than Python's."""
    order: dict[FunctionId, None] = {}
    for start, function in functions.items():
        if start in order:
            continue
        args = function.argument_ids
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
                    raise MissingFunctionError(key, arg)
                stack.append((arg, iter(functions[arg].argument_ids)))
                path.add(arg)
                break
            else:
                stack.pop()
                path.discard(key)
                order[key] = None
    return tuple(order)


def _refuse_cycle(functions: Collection[FunctionId], path: list[FunctionId], closing: FunctionId) -> NoReturn:
    """The path goes from consumer to producer; the cycle is told along the edges, first added first."""
    cycle = path[path.index(closing) :][::-1]
    members = set(cycle)
    first = cycle.index(next(key for key in functions if key in members))
    raise CyclicDependencyError(cycle[first:] + cycle[:first])


def _refuse_circle(path: list[FunctionId], closing: FunctionId) -> NoReturn:
    circle = path[path.index(closing) :]
    told = " -> ".join(repr(key) for key in [*circle, closing])
    raise InvalidFunctionError(
        closing, f"functions are collocated with each other in a circle: {told}; give one of them no node"
    )
