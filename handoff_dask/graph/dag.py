"""A DAG: functions that take each other's results, with a name; a Dask collection too."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any

from dask import config
from dask.base import DaskMethodsMixin
from dask.delayed import optimize as delayed_optimize

from handoff_dask.errors import DuplicateFunctionError, ValidationError
from handoff_dask.graph.check import CheckReport, check
from handoff_dask.graph.functions import Function, FunctionId
from handoff_dask.graph.signatures import check_calls, wrong_calls
from handoff_dask.graph.structure import FunctionGraph, filled

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DAG", "as_dag", "current_dag", "new", "no_dag"]


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


#: The DAG of the innermost ``with`` block.
_current: ContextVar[DAG | None] = ContextVar("handoff-dag", default=None)


def current_dag() -> DAG | None:
    """The DAG of the innermost ``with DAG(…)`` block that this runs in."""
    return _current.get()


@contextmanager
def no_dag() -> Iterator[None]:
    """For what runs as a function, perhaps inside the ``with`` block: tasks that it calls just run."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


class DAG(FunctionGraph, DaskMethodsMixin):
    """Functions that take each other's results.

    Inside ``with DAG(…) as dag`` the calls of tasks add functions to it; see
    :func:`~handoff_dask.graph.tasks.task`.

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
        super().__init__(id)
        #: ``{code's name: how many calls and maps of tasks have taken it}``.
        self.calls_of: dict[str, int] = {}
        self._entered: list[Token[DAG | None]] = []

    def __enter__(self) -> Self:
        """Have the calls of tasks add functions to it."""
        self._entered.append(_current.set(self))
        return self

    def __exit__(self, *exception: object) -> None:
        """Have them do so no more."""
        _current.reset(self._entered.pop())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_entered": []}

    def add_mapped(self, functions: list[Function]) -> None:
        """Add the functions of one map, which are checked and name nothing but this DAG's.

        Raises
        ------
        DuplicateFunctionError
            If the DAG has a function of one of these ids.
        """
        for function in functions:
            if function.id in self._functions:
                raise DuplicateFunctionError(function.id)
        self._functions.update((function.id, function) for function in functions)
        self._order = self._dependents = None
        self._valid = False

    def validate(self) -> None:
        """Check what the functions say of each other, and that their codes can be called so.

        Raises
        ------
        MissingFunctionError
            If a function refers to one that is not there.
        CyclicDependencyError
            If functions wait for each other in a circle.
        InvalidFunctionError
            If an argument with functions has an inline end, a collocation leads to no node, or a call
            cannot fit the signature of its code.
        """
        if not self._valid:
            super().validate()
            self._valid = False
            check_calls(self._functions.values(), "either")
            self._valid = True

    def problems(self) -> list[ValidationError]:
        """All for which :meth:`validate` refuses it, where that raises the first.

        Examples
        --------
        >>> dag = DAG().add_function("a", ["b"], len).add_function("c", [], divmod, extra_args=[7])
        >>> [type(problem).__name__ for problem in dag.problems()]
        ['MissingFunctionError', 'InvalidFunctionError']
        """
        return [*super().problems(), *wrong_calls(self._functions.values(), "either")]

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
        return check(self, nodes, outputs=outputs)

    # The other methods by which Dask knows a collection come from the client's process:
    # see handoff_dask.client.collection.
    __dask_optimize__ = _AsDelayed()

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
    return functions if isinstance(functions, DAG) else filled(DAG(), functions)
