"""What a worker executes for a function: its code, with everything that is no result inside."""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any

from distributed import Future, get_client, get_worker

from handoff_dask.bridges.opentelemetry import run_in_context
from handoff_dask.errors import blame_inline
from handoff_dask.graph.arguments import Structure, fill, id_of, without_ids
from handoff_dask.graph.functions import Failed, Function, name_of, resolve_code
from handoff_dask.protocol.failed_values import FailedValue
from handoff_dask.protocol.failures import loading, travelling
from handoff_dask.protocol.futures import adopt
from handoff_dask.protocol.measured import measured
from handoff_dask.protocol.packing import Packed, Packer, Sent, opened, opened_code
from handoff_dask.record.status import LOCAL_NODE
from handoff_dask.time_limit import cancellable

#: The annotation that tells a transfer its source and its target.
TRANSFER = "handoff-transfer"
#: Where a value comes from: its position among the results and the steps before.
Sources = tuple[int, ...]
#: Containers longer than this are not searched for futures: to look at each item would take too long.
LONG = 10_000


class Runs(ABC):
    """Something that a task runs: an attempt of a function, whose code and values are opened in here."""

    __slots__ = ()

    def __call__(self, *results: Any) -> Any:
        """Run it; what it raises can be read wherever it arrives."""
        try:
            return measured(lambda: self.run(*[opened(result) for result in results]))
        except BaseException as error:
            told = travelling(error)
            if told is error:
                raise
        # Outside the except: the error that was raised is in there, and must not travel beside it.
        raise told

    @abstractmethod
    def run(self, *results: Any) -> Any:
        """Run it with these arguments."""


class Call(Runs):
    """A function's code with its plain arguments; called with the results it takes.

    Dask looks into the arguments of a task for keys and tasks.  What stands in here it does not
    see, so that plain values stay what they are.

    Parameters
    ----------
    code
        The code: text that names it, or packed.
    keeps
        Whether a process loads the code once: it is a plain function, and keeps nothing.
    values
        The extra arguments and the keyword arguments; packed unless they are plain.
    name
        What Dask shows of a task.
    as_list
        Whether the results are given as one list.
    ids
        The ids of the results, where they are given as a dict; packed unless they are plain.
    inside
        How many of the results, the last ones, have their places in the plain arguments.
    shared
        How many of the plain arguments are shared: they come as arguments, after the results.
    futures
        Whether there are futures among them: they stay futures, but must know a client again.
    """

    __slots__ = ("as_list", "code", "futures", "ids", "inside", "keeps", "name", "shared", "values")

    def __init__(
        self,
        code: str | Packed | Sent,
        keeps: bool,
        values: Any,
        name: str,
        as_list: bool = False,
        ids: Any = None,
        inside: int = 0,
        shared: int = 0,
        futures: bool = False,
    ) -> None:
        self.code = code
        self.keeps = keeps
        self.values = values
        self.name = name
        self.as_list = as_list
        self.ids = ids
        self.inside = inside
        self.shared = shared
        self.futures = futures

    @property
    def __name__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.code, self.keeps, self.values, self.name)
        more = (self.as_list, self.ids, self.inside, self.shared, self.futures)
        return Call, parts if more == (False, None, 0, 0, False) else (*parts, *more)

    def run(self, *arguments: Any) -> Any:
        """Load what is packed, and call the code with the results and the values."""
        with loading():
            code, ids = self._code(), opened(self.ids)
            extra_args, kwargs = opened(self.values) or NO_VALUES
        results: Sequence[Any] = arguments
        if self.shared:
            results, shared = arguments[: -self.shared], arguments[-self.shared :]
            code = _put(code, shared)
            extra_args = [_put(value, shared) for value in extra_args]
            kwargs = {name: _put(value, shared) for name, value in kwargs.items()}
        if self.futures:
            lost = [f for f in _futures_in((extra_args, kwargs)) if f.client is None]
            if lost:
                adopt(lost, get_client())
        if self.inside:
            rest = iter(results[-self.inside :])
            results = results[: -self.inside]
            extra_args = [fill(value, rest) for value in extra_args]
            kwargs = {name: fill(value, rest) for name, value in kwargs.items()}
        if ids is not None:
            results = [dict(zip(ids, results, strict=True))]
        elif self.as_list:
            results = [list(results)]
        value = code(*results, *extra_args, **kwargs)
        # Like any function, a coroutine takes one thread of its node while it runs.
        return asyncio.run(cancellable(value)) if inspect.iscoroutine(value) else value

    def _code(self) -> Any:
        if isinstance(self.code, str):
            return resolve_code(self.code)
        return opened_code(self.code) if self.keeps else self.code.open()


#: The values of a call that has none.
NO_VALUES: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})


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


def _put(value: Any, shared: tuple[Any, ...]) -> Any:
    if isinstance(value, SharedPlace):
        return shared[value.number]
    if isinstance(value, Recipe):
        args = [_put(arg, shared) for arg in value.args]
        return value.make(*args, **{name: _put(v, shared) for name, v in value.keywords.items()})
    return value


class Inlined(Runs):
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

    def run(self, *results: Any) -> Any:
        """Run the steps; the value of the last."""
        values = list(results)
        for call, sources, inline in self.steps:
            failed = next((values[i] for i in sources if isinstance(values[i], Failed)), None)
            if failed is not None and inline is not None:
                values.append(failed)  # for the function that accepts it
                continue
            try:
                values.append(call.run(*[values[i] for i in sources]))
            except Exception as error:
                if inline is not None:
                    blame_inline(error, inline)
                raise
        return values[-1]


class Moved(Runs):
    """A change of an argument on its way; told by the scheduler between which nodes."""

    __slots__ = ("transfer",)

    def __init__(self, transfer: Packed | Sent) -> None:
        #: Called with the value and the names of both nodes.
        self.transfer = transfer

    def __reduce__(self) -> tuple[Any, ...]:
        return Moved, (self.transfer,)

    def run(self, *results: Any) -> Any:
        """Change the value, between the nodes that the scheduler has written down."""
        (value,), (source, target) = results, _between()
        with loading():
            transfer = self.transfer.open()
        return transfer(value, source, target)


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
        for ended in results[-self.count :]:
            if isinstance(ended, FailedValue):
                return ended
        return self.call(*results[: -self.count])


def nothing(result: Any) -> FailedValue | None:
    """The code of a barrier: a result is there, and what it is does not matter, unless it is a failure."""
    return result if isinstance(result, FailedValue) else None


class Constant(Runs):
    """An input, embedded where it is used; packed unless it is plain."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return Constant, (self.value,)

    def run(self, *results: Any) -> Any:
        """The value."""
        with loading():
            return opened(self.value)


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


def _futures_in(value: Any) -> Iterator[Future[Any]]:
    if isinstance(value, Future):
        yield value
    elif isinstance(value, Structure):
        yield from _futures_in(value.value)
    elif type(value) in (list, tuple, set, frozenset, dict) and len(value) <= LONG:
        for item in value.values() if type(value) is dict else value:
            yield from _futures_in(item)


class Calls:
    """Makes the calls of one DAG; functions that have nothing but their code share one.

    Parameters
    ----------
    packer
        Packs what they carry.
    """

    def __init__(self, packer: Packer) -> None:
        self._packer = packer
        self._bare: dict[tuple[int, bool], Call] = {}

    def of(self, function: Function) -> Call:
        """The call of one function, whatever it takes."""
        as_list = function.argument_inclusion == "as_list"
        if not function.extra_args and not function.kwargs and function.argument_inclusion != "as_dict":
            bare = self._bare.get((id(function.code), as_list))
            if bare is None:
                bare = self.new(function, function.code, (), {})
                self._bare[id(function.code), as_list] = bare
            return bare
        extra_args = tuple(map(without_ids, function.extra_args))
        kwargs = {name: without_ids(value) for name, value in (function.kwargs or {}).items()}
        return self.new(function, function.code, extra_args, kwargs)

    def new(
        self,
        function: Function,
        code: Any,
        extra_args: tuple[Any, ...],
        kwargs: dict[str, Any],
        shared: int = 0,
    ) -> Call:
        """The call of a function with these in the places of its code and its plain arguments."""
        values, inclusion = (extra_args, kwargs), function.argument_inclusion
        has_values = bool(extra_args or kwargs)
        return Call(
            code if isinstance(code, str) else self._packer.code(code),
            keeps_nothing(code),
            self._packer.value(values) if has_values else None,
            function.name,
            inclusion == "as_list",
            self._packer.value(tuple(map(id_of, function.args))) if inclusion == "as_dict" else None,
            len(function.inside),
            shared,
            has_values and any(_futures_in(values)),
        )


def keeps_nothing(code: Any) -> bool:
    """Whether a code is a plain function, that holds no value of its own."""
    return isinstance(code, (FunctionType, BuiltinFunctionType, type)) and not getattr(
        code, "__closure__", None
    )
