"""Large plain values that several functions of a DAG share: each travels and is kept once.

A value is plain if it is no result: an extra argument, a keyword, or what the code itself carries (the
object of a bound method, the arguments of a partial, the closure of a function).  Within each
function's task it would be copied for each function.  A shared value becomes a node of the graph of
its own, which Dask sends to the scheduler once and keeps once on each worker that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from dask._task_spec import DataNode, TaskRef
from dask.sizeof import sizeof
from distributed import Future

from handoff_dask.graph.arguments import Argument, Structure, without_ids
from handoff_dask.graph.functions import Function
from handoff_dask.protocol.calls import Call, Calls, Recipe, SharedPlace
from handoff_dask.protocol.packing import Packer

#: Values of at least so many bytes are shared; to copy smaller ones costs less than a node of the graph.
LARGE = 1_000_000
#: Types of values that are never looked at: they are small, or made anew for each function.
_SMALL = (int, float, complex, bool, type(None), type, Argument, Structure)


class SharedValues:
    """The large values that several functions share.

    Parameters
    ----------
    functions
        Those that an execution runs, inline functions among them.
    token
        Names the run in the keys of the nodes.
    packer
        Packs the values.
    """

    def __init__(self, functions: Iterable[Function], token: str, packer: Packer) -> None:
        self._calls = Calls(packer)
        #: ``{id of a code: how a worker makes it}``, so that each is packed once.
        self._recipes: dict[int, Any] = {}
        uses: dict[int, int] = {}
        seen: dict[int, Any] = {}
        for function in functions:
            for value in {id(v): v for v in _values(function)}.values():
                uses[id(value)] = uses.get(id(value), 0) + 1
                seen[id(value)] = value
        large = (seen[i] for i, count in uses.items() if count > 1 and _is_large(seen[i]))
        #: ``{id of a value: its node}``.
        self._nodes = {id(v): DataNode(f"value-{token}-{n}", packer.kept(v)) for n, v in enumerate(large)}

    def nodes(self) -> list[DataNode]:
        """The nodes of the graph that hold the values."""
        return list(self._nodes.values())

    def call_of(self, function: Function) -> tuple[Call, list[TaskRef]]:
        """The call of a function, and the shared values that it takes after its results."""
        if not self._nodes or not any(id(v) in self._nodes for v in _values(function)):
            return self._calls.of(function), []
        places: dict[str, int] = {}

        def placed(value: Any) -> Any:
            node = self._nodes.get(id(value))
            if node is None:
                return value
            return SharedPlace(places.setdefault(str(node.key), len(places)))

        # The places are numbered as they are met: those in the code first, so whoever has it has the same.
        recipe = self._recipes.setdefault(id(function.code), _recipe(function.code, placed))
        extra_args = tuple(placed(without_ids(v)) for v in function.extra_args)
        kwargs = {name: placed(without_ids(v)) for name, v in (function.kwargs or {}).items()}
        call = self._calls.new(function, recipe, extra_args, kwargs, len(places))
        return call, [TaskRef(key) for key in places]


def _recipe(code: Any, placed: Callable[[Any], Any]) -> Any:
    """How a worker makes the code from what it carries; the code itself if it carries nothing shared."""
    shared = placed(code)
    if shared is not code:
        return shared
    if isinstance(code, partial):
        func, args = _recipe(code.func, placed), [placed(v) for v in code.args]
        keywords = {name: placed(v) for name, v in code.keywords.items()}
        return Recipe(partial, (func, *args), keywords)
    if isinstance(code, MethodType):
        return Recipe(getattr, (placed(code.__self__), code.__name__), {})
    return code


def _values(function: Function) -> Iterator[Any]:
    """The plain values of a function that may be large."""
    for value in (*function.extra_args, *(function.kwargs or {}).values()):
        if not isinstance(value, _SMALL):
            yield value
    yield from _carried(function.code)


def _carried(code: Any) -> Iterator[Any]:
    """What a code carries that may be large."""
    if isinstance(code, FunctionType):
        if code.__closure__:
            yield code
    elif isinstance(code, MethodType):
        yield code.__self__
    elif isinstance(code, partial):
        yield from (v for v in (*code.args, *code.keywords.values()) if not isinstance(v, _SMALL))
        yield from _carried(code.func)


def _is_large(value: Any) -> bool:
    if isinstance(value, Future):
        return False
    if isinstance(value, FunctionType):
        return any(_is_large(_content(cell)) for cell in value.__closure__ or ())
    if sizeof(value) >= LARGE:
        return True
    # An object of the user's own is as large as what it holds.
    held: Mapping[str, Any] = getattr(value, "__dict__", {})
    return not isinstance(value, type) and sum(map(sizeof, held.values())) >= LARGE


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None
