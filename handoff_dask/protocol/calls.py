"""What a worker executes for a function: its code, with everything that is no result inside."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType
from typing import Any

import cloudpickle
from distributed import Future, get_client, get_worker

from handoff_dask.bridges.opentelemetry import run_in_context
from handoff_dask.errors import blame_inline
from handoff_dask.graph.arguments import Structure, fill, without_ids
from handoff_dask.graph.functions import Code, Function, FunctionId, id_of, name_of, resolve_code
from handoff_dask.protocol.futures import adopt
from handoff_dask.record.status import LOCAL_NODE
from handoff_dask.time_limit import cancellable

#: The annotation that tells a transfer its source and its target.
TRANSFER = "handoff-transfer"
#: Where a value comes from: its position among the results and the steps before.
Sources = tuple[int, ...]
#: Containers longer than this are not searched for futures: to look at each item would take too long.
LONG = 10_000


class Call:
    """A function's code with its plain arguments; called with the results it takes.

    Dask looks into the arguments of a task for keys and tasks.  What stands in here it does not
    see, so that plain values stay what they are.
    """

    __slots__ = ("as_list", "code", "extra_args", "inside", "kwargs")

    def __init__(
        self,
        code: Code,
        extra_args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        as_list: bool,
        inside: int = 0,
    ) -> None:
        self.code = code
        self.extra_args = extra_args
        self.kwargs = kwargs
        self.as_list = as_list
        #: How many of the results, the last ones, have their places in the plain arguments.
        self.inside = inside

    @property
    def __name__(self) -> str:  # what Dask shows of a task
        return name_of(self.code)

    def __reduce__(self) -> tuple[Any, ...]:
        return Call, (self.code, self.extra_args, self.kwargs, self.as_list, self.inside)

    def __call__(self, *results: Any) -> Any:
        """Call the code with the results and what stands in here."""
        code = self.code if not isinstance(self.code, str) else resolve_code(self.code)
        extra_args, kwargs = self.extra_args, self.kwargs or {}
        if self.inside:
            rest = iter(results[-self.inside :])
            results = results[: -self.inside]
            extra_args = tuple([fill(value, rest) for value in extra_args])
            kwargs = {name: fill(value, rest) for name, value in kwargs.items()}
        if self.as_list:
            value = code(list(results), *extra_args, **kwargs)
        else:
            value = code(*results, *extra_args, **kwargs)
        # Like any function, a coroutine takes one thread of its node while it runs.
        return asyncio.run(cancellable(value)) if inspect.iscoroutine(value) else value


class ByName:
    """A code that is called with the results as a dict by id."""

    __slots__ = ("code", "ids")

    def __init__(self, code: Code, ids: tuple[FunctionId, ...]) -> None:
        self.code = code
        self.ids = ids

    @property
    def __name__(self) -> str:
        return name_of(self.code)

    def __reduce__(self) -> tuple[Any, ...]:
        return ByName, (self.code, self.ids)

    def __call__(self, results: list[Any], *extra_args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return resolve_code(self.code)(dict(zip(self.ids, results, strict=True)), *extra_args, **kwargs)


#: Codes that this process has loaded lately, by what they were pickled to.
_LOADED = lru_cache(maxsize=1024)(cloudpickle.loads)


class PackedCode:
    """A function's code as bytes: packed once for a DAG, and loaded once by each worker that runs it.

    Dask would pickle a function of the user's script by value for each task, and load it in the
    scheduler too.
    """

    __slots__ = ("data", "name")

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name

    @property
    def __name__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedCode, (self.data, self.name)

    def __call__(self, *results: Any) -> Any:
        """Load the code where that has not been done, and call it."""
        return _LOADED(self.data)(*results)


class SharedPlace:
    """Stands in a call for a large value that several functions share."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        #: Which of the shared values of its call it is.
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedPlace, (self.number,)


class Recipe:
    """How to make a code that carries shared values: a partial, or a method of an object."""

    __slots__ = ("args", "keywords", "make")

    def __init__(self, make: Callable[..., Any], args: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        self.make = make
        self.args = args
        self.keywords = keywords

    def __reduce__(self) -> tuple[Any, ...]:
        return Recipe, (self.make, self.args, self.keywords)


class SharedCall:
    """A call some of whose plain values are shared: they come as arguments, after the results."""

    __slots__ = ("as_list", "code", "count", "extra_args", "inside", "kwargs", "name")

    def __init__(
        self,
        code: Any,
        extra_args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        as_list: bool,
        inside: int,
        count: int,
        name: str,
    ) -> None:
        self.code = code
        self.extra_args = extra_args
        self.kwargs = kwargs
        self.as_list = as_list
        self.inside = inside
        #: How many shared values there are.
        self.count = count
        self.name = name

    @property
    def __name__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        call = (self.code, self.extra_args, self.kwargs, self.as_list, self.inside)
        return SharedCall, (*call, self.count, self.name)

    def __call__(self, *arguments: Any) -> Any:
        """Put the shared values in their places, and call."""
        results, shared = arguments[: -self.count], arguments[-self.count :]
        call = Call(
            _put(self.code, shared),
            tuple(_put(value, shared) for value in self.extra_args),
            {name: _put(value, shared) for name, value in self.kwargs.items()},
            self.as_list,
            self.inside,
        )
        return call(*results)


def _put(value: Any, shared: tuple[Any, ...]) -> Any:
    if isinstance(value, SharedPlace):
        return shared[value.number]
    if isinstance(value, Recipe):
        args = [_put(arg, shared) for arg in value.args]
        return value.make(*args, **{name: _put(v, shared) for name, v in value.keywords.items()})
    return value


class Inlined:
    """A function with the inline functions before it, recomputed each time it is called."""

    __slots__ = ("steps",)

    def __init__(self, steps: tuple[tuple[Any, Sources, str | None], ...]) -> None:
        #: Each call with the positions of its arguments, among the results and earlier steps; and what
        #: names it to the user if it is an inline function.
        self.steps = steps

    @property
    def __name__(self) -> str:
        return str(self.steps[-1][0].__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        return Inlined, (self.steps,)

    def __call__(self, *results: Any) -> Any:
        """Run the steps; the value of the last."""
        values = list(results)
        for call, sources, inline in self.steps:
            try:
                values.append(call(*[values[i] for i in sources]))
            except Exception as error:
                if inline is not None:
                    blame_inline(error, inline)
                raise
        return values[-1]


class Moved:
    """A change of an argument on its way; told by the scheduler between which nodes."""

    __slots__ = ("transfer",)

    def __init__(self, transfer: Callable[[Any, str, str], Any]) -> None:
        self.transfer = transfer

    def __reduce__(self) -> tuple[Any, ...]:
        return Moved, (self.transfer,)

    def __call__(self, value: Any) -> Any:
        """Change the value, between the nodes that the scheduler has written down."""
        source, target = _between()
        return self.transfer(value, source, target)


def _between() -> tuple[str, str]:
    """Names of the nodes that the running transfer is between, as far as anybody has said."""
    try:
        worker = get_worker()
    except ValueError:  # Dask runs the DAG in this process
        return LOCAL_NODE, LOCAL_NODE
    task = worker.state.tasks[worker.get_current_task()]
    here = str(worker.name)
    source, target = (task.annotations or {}).get(TRANSFER, (here, here))
    return source, target


class After:
    """A call of a function that runs after others: what only says that these have ended is left out."""

    __slots__ = ("call", "count")

    def __init__(self, call: Callable[..., Any], count: int) -> None:
        self.call = call
        #: How many others there are.
        self.count = count

    @property
    def __name__(self) -> str:
        return name_of(self.call)

    def __reduce__(self) -> tuple[Any, ...]:
        return After, (self.call, self.count)

    def __call__(self, *results: Any) -> Any:
        """Call it with its own results."""
        return self.call(*results[: -self.count])


def nothing(result: Any) -> None:
    """The code of a barrier: a result is there, and what it is does not matter."""


class Constant:
    """An input, embedded where it is used."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return Constant, (self.value,)

    def __call__(self) -> Any:
        """The value."""
        return self.value


class Carried:
    """A call within the trace that its DAG carries."""

    __slots__ = ("call", "carrier")

    def __init__(self, call: Callable[..., Any], carrier: Mapping[str, str]) -> None:
        self.call = call
        #: Filled when the DAG is sent, and shared by all calls of it.
        self.carrier = carrier

    @property
    def __name__(self) -> str:
        return name_of(self.call)

    def __reduce__(self) -> tuple[Any, ...]:
        return Carried, (self.call, self.carrier)

    def __call__(self, *results: Any) -> Any:
        """Call it; spans that it makes join the trace."""
        return run_in_context(self.carrier, lambda: self.call(*results))


class WithFutures:
    """A call with futures among its plain values: they stay futures, but must know a client again."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call

    @property
    def __name__(self) -> str:
        return self.call.__name__

    def __reduce__(self) -> tuple[Any, ...]:
        return WithFutures, (self.call,)

    def __call__(self, *results: Any) -> Any:
        """Call it; to its futures the client is that of this worker."""
        lost = [f for f in _futures_in((self.call.extra_args, self.call.kwargs)) if f.client is None]
        if lost:
            adopt(lost, get_client())
        return self.call(*results)


def _futures_in(value: Any) -> Iterator[Future[Any]]:
    if isinstance(value, Future):
        yield value
    elif isinstance(value, Structure):
        yield from _futures_in(value.value)
    elif type(value) in (list, tuple, set, frozenset, dict) and len(value) <= LONG:
        for item in value.values() if type(value) is dict else value:
            yield from _futures_in(item)


def call_of(function: Function) -> Call | WithFutures:
    """The call of one function, whatever it takes."""
    call = Call(
        code_of(function),
        tuple(map(without_ids, function.extra_args)),
        {name: without_ids(value) for name, value in (function.kwargs or {}).items()},
        function.argument_inclusion != "variadic",
        len(function.inside),
    )
    plain = function.extra_args or function.kwargs
    return WithFutures(call) if plain and any(_futures_in((call.extra_args, call.kwargs))) else call


def code_of(function: Function) -> Code:
    """A function's code, called with its results as a list where they are not given one by one."""
    assert function.code is not None
    if function.argument_inclusion == "as_dict":
        return ByName(function.code, tuple(map(id_of, function.args)))
    return function.code


def plain_code(function: Function) -> Callable[..., Any] | None:
    """The code itself, where nothing need be put around it."""
    code = function.code
    if (
        function.extra_args
        or function.kwargs
        or function.argument_inclusion != "variadic"
        or isinstance(code, str)
        or (isinstance(code, FunctionType) and inspect.iscoroutinefunction(code))
        or not isinstance(code, (FunctionType, BuiltinFunctionType, type))
    ):
        return None
    return code
