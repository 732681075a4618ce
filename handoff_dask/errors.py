"""Every error that handoff_dask raises on purpose.

Each carries its facts as attributes, hands all of them to ``super().__init__`` so that it
survives pickling between processes, and says in ``str`` what is wrong and what to do.
"""

from __future__ import annotations

import pickle
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

from handoff_dask.record.usage import MemoryShortage

__all__ = [
    "AllocationError",
    "CacheMissError",
    "CyclicDependencyError",
    "DuplicateFunctionError",
    "ExecutionCancelledError",
    "FunctionFailedError",
    "HandoffError",
    "InvalidFunctionError",
    "MissingFunctionError",
    "NotFoundError",
    "RemoteError",
    "SchedulerLostError",
    "SessionEndedError",
    "UnknownFieldError",
    "ValidationError",
]

#: What names a function in its DAG: any hashable.
FunctionId = Hashable


class HandoffError(Exception):
    """The base of every error of handoff_dask."""


class ValidationError(HandoffError, ValueError):
    """Something given by the user is wrong; nothing has run."""


class MissingFunctionError(ValidationError):
    """A function refers to another one that the DAG does not have."""

    def __init__(self, function_id: FunctionId, missing: FunctionId, hint: str = "") -> None:
        super().__init__(function_id, missing, hint)
        #: The function that refers.
        self.function_id = function_id
        #: The id that is not there.
        self.missing = missing
        #: Which id may be meant, in words.
        self.hint = hint

    def __str__(self) -> str:
        return (
            f"function {self.function_id!r} refers to {self.missing!r}, "
            f"which is not in the DAG; {self.hint or 'add it, or mend args or node'}"
        )


class CyclicDependencyError(ValidationError):
    """Functions wait for each other in a circle."""

    def __init__(self, cycle: Sequence[FunctionId]) -> None:
        super().__init__(list(cycle))
        #: The ids along the edges (producer before consumer); the first is not repeated.
        self.cycle = list(cycle)

    def __str__(self) -> str:
        path = " -> ".join(repr(i) for i in [*self.cycle, *self.cycle[:1]])
        return f"functions depend on each other in a circle: {path}; take one of these arguments away"


class DuplicateFunctionError(ValidationError):
    """Two functions of one DAG have the same id."""

    def __init__(self, function_id: FunctionId) -> None:
        super().__init__(function_id)
        #: The id that is there twice.
        self.function_id = function_id

    def __str__(self) -> str:
        return f"the DAG already has a function {self.function_id!r}; give the second one another id"


class InvalidFunctionError(ValidationError):
    """A function's fields contradict each other or have the wrong type."""

    def __init__(self, function_id: FunctionId, problem: str) -> None:
        super().__init__(function_id, problem)
        #: The function that is wrong.
        self.function_id = function_id
        #: What is wrong with it, and what to do.
        self.problem = problem

    def __str__(self) -> str:
        return f"function {self.function_id!r}: {self.problem}"


class UnknownFieldError(InvalidFunctionError, TypeError):
    """A function is given something by a name that no field has."""


class AllocationError(HandoffError):
    """A function can run on no node there is."""

    def __init__(
        self,
        function_id: FunctionId,
        cost: Mapping[str, Any] | None,
        reasons: Mapping[str, str],
        problem: str | None = None,
    ) -> None:
        super().__init__(function_id, dict(cost or {}), dict(reasons), problem)
        #: The function that cannot be placed.
        self.function_id = function_id
        #: What it asks for.
        self.cost = dict(cost or {})
        #: ``{node name: why it cannot hold the function}``.
        self.reasons = dict(reasons)
        #: What is wrong where it is not the nodes (a strategy that failed, say).
        self.problem = problem

    def __str__(self) -> str:
        head = f"function {self.function_id!r} (cost {self.cost}) cannot be placed"
        if self.problem:
            head += f": {self.problem}"
        if not self.reasons:
            return head if self.problem else f"{head}: the cluster has no nodes; start a worker"
        nodes = list(self.reasons.items())
        shown = "; ".join(f"{node}: {why}" for node, why in nodes[:8])
        more = f"; and {len(nodes) - 8} more nodes" if len(nodes) > 8 else ""
        return f"{head}; {shown}{more}. Lower the cost, free the pin, or add a node that can hold it"


def failures_text(failed: int, skipped: int) -> str:
    """How many functions failed, and how many were skipped for that.

    Examples
    --------
    >>> failures_text(3, 1), failures_text(1, 0)
    ('3 functions failed, 1 that needs them was skipped', '1 function failed')
    """
    text = "1 function failed" if failed == 1 else f"{failed} functions failed"
    if skipped:
        them = "it" if failed == 1 else "them"
        text += f", {skipped} that {'needs' if skipped == 1 else 'need'} {them} "
        text += "was skipped" if skipped == 1 else "were skipped"
    return text


class FunctionFailedError(HandoffError):
    """A function raised and has no retries left; its exception is ``__cause__``."""

    def __init__(
        self,
        function_id: FunctionId,
        node: str | None,
        attempts: int,
        cause: BaseException | None = None,
        *,
        failed: Mapping[FunctionId, BaseException] | None = None,
        skipped: Mapping[FunctionId, FunctionId] | None = None,
        execution: Any = None,
        memory: MemoryShortage | None = None,
    ) -> None:
        super().__init__(function_id, node, attempts)
        #: The function that failed.
        self.function_id = function_id
        #: The node of its last attempt.
        self.node = node
        #: How many times it was started.
        self.attempts = attempts
        #: ``{function id: what it raised}`` of all functions of the execution that have failed for good.
        self.failed: Mapping[FunctionId, BaseException] = dict(failed or {})
        #: ``{function id: id of the failed function that it needed}``.
        self.skipped: Mapping[FunctionId, FunctionId] = dict(skipped or {})
        #: The :class:`~handoff_dask.Execution`, which has what has ended well; ``None`` after pickling.
        self.execution = execution
        #: What its last attempt claimed and held of memory, if it ended for want of that.
        self.memory = memory
        if cause is not None:
            self.__cause__ = cause

    def __reduce__(self) -> tuple[Any, ...]:
        return _failed_error, (
            type(self),
            self.function_id,
            self.node,
            self.attempts,
            self.__cause__,
            self.failed,
            self.skipped,
            self.memory,
        )

    def of(self, execution: Any) -> FunctionFailedError:
        """The same error, of an execution: a copy, so that error and execution do not hold each other."""
        return type(self)(
            self.function_id,
            self.node,
            self.attempts,
            self.__cause__,
            failed=self.failed,
            skipped=self.skipped,
            execution=execution,
            memory=self.memory,
        )

    @property
    def inline(self) -> str | None:
        """The inline function that raised inside it, as text: the ``repr`` of its id; else ``None``."""
        return getattr(self.__cause__, _INLINE, None)

    def __str__(self) -> str:
        times = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        if self.inline is not None:
            times += f", in its inline function {self.inline}"
        why = f": {type(self.__cause__).__name__}: {self.__cause__}" if self.__cause__ else ""
        text = f"function {self.function_id!r} failed on node {self.node!r} after {times}{why}"
        if not self.attempts:
            text = f"function {self.function_id!r} could not run{why}"
        if self.memory is not None and not isinstance(self.__cause__, MemoryExceededError):
            text += f" ({self.memory})"
        if len(self.failed) > 1 or self.skipped:
            text += f" ({failures_text(len(self.failed), len(self.skipped))})"
        return text


def _failed_error(
    kind: type[FunctionFailedError],
    function_id: FunctionId,
    node: str | None,
    attempts: int,
    cause: BaseException | None,
    failed: Mapping[FunctionId, BaseException],
    skipped: Mapping[FunctionId, FunctionId],
    memory: MemoryShortage | None = None,
) -> FunctionFailedError:
    return kind(function_id, node, attempts, cause, failed=failed, skipped=skipped, memory=memory)


class FunctionTimeoutError(HandoffError, TimeoutError):
    """An attempt of a function took longer than its ``timeout``."""

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        #: Seconds that an attempt may take.
        self.timeout = timeout

    def __str__(self) -> str:
        return (
            f"an attempt took longer than its timeout of {self.timeout:g} s; give it more, or mend its code"
        )


def copy_of(error: BaseException) -> BaseException:
    """An equal error that has not been raised yet: it holds no frames."""
    kind = type(error)
    copy = kind.__new__(kind, *error.args)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    copy.__cause__, copy.__suppress_context__ = error.__cause__, error.__suppress_context__
    return copy


class MemoryExceededError(MemoryError, HandoffError):
    """An isolated function held more memory than it claims; its process has been ended."""

    def __init__(self, claimed: float, peak: float, limit: str = "") -> None:
        super().__init__(claimed, peak, limit)
        #: Megabytes that it claims.
        self.claimed = claimed
        #: The most megabytes that it was seen to hold.
        self.peak = peak
        #: Why it could not claim more than it did, where its claim grows.
        self.limit = limit

    def __str__(self) -> str:
        hint = self.limit or "claim more, or let the claim grow with handoff.growing"
        return f"it claims {self.claimed:g} MB of memory and held {self.peak:.0f} MB; {hint}"


class ProcessEndedError(HandoffError):
    """The process of an isolated function has ended before the function did."""

    def __init__(self, exit_code: int | str | None, signal: str | None = None) -> None:
        super().__init__(exit_code, signal)
        #: What it ended with; what ``sys.exit`` was called with, if that ended it.
        self.exit_code = exit_code
        #: Name of the signal that ended it, if one did.
        self.signal = signal

    def __str__(self) -> str:
        how = f"was ended by {self.signal}" if self.signal else f"ended with exit code {self.exit_code}"
        return f"its process {how} before it had a result"


#: The attribute by which an exception says in which inline function it was raised.
_INLINE = "_handoff_inline"


def blame_inline(error: BaseException, function: str) -> None:
    """Note in which inline function an exception was raised; it travels with the exception."""
    with suppress(Exception):  # a class of the user's may forbid attributes
        setattr(error, _INLINE, function)


class CacheMissError(HandoffError):
    """A result that a cache had when an execution began is not there any more, or cannot be used."""

    def __init__(self, name: str, kind: str, why: str) -> None:
        super().__init__(name, kind, why)
        #: The name of the code of which it is the result.
        self.name = name
        #: ``"gone"``, ``"damaged"``, ``"file"`` or ``"unknown"``.
        self.kind = kind
        #: Why, in words.
        self.why = why

    def __str__(self) -> str:
        return f"the result of {self.name} cannot be read from the cache: {self.why}; execute the DAG again"


class SessionEndedError(HandoffError):
    """A session is used that has been stopped, or whose client is closed."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        #: What has ended it, and what to do.
        self.why = why

    def __str__(self) -> str:
        return self.why


class PipelineEndedError(HandoffError):
    """An item is pushed into a pipeline that takes no more."""

    def __init__(self, dag_id: Hashable, status: str) -> None:
        super().__init__(dag_id, status)
        #: The DAG of the pipeline.
        self.dag_id = dag_id
        #: Of the pipeline.
        self.status = status

    def __str__(self) -> str:
        return f"the pipeline of DAG {self.dag_id!r} is {self.status} and takes no items; make another one"


class StageLostError(HandoffError):
    """The node of a stage is gone, and the pipeline was not to move it."""

    def __init__(self, function_id: FunctionId, node: str | None) -> None:
        super().__init__(function_id, node)
        #: The function whose stage was there.
        self.function_id = function_id
        #: Name of the node.
        self.node = node

    def __str__(self) -> str:
        return (
            f"node {self.node!r} is gone, with the stage of function {self.function_id!r}; "
            'make another pipeline, or have it move with on_node_loss="move"'
        )


class NotFoundError(HandoffError, KeyError):
    """A name, an id or a value that nobody knows."""

    def __init__(self, what: str, name: object, hint: str = "") -> None:
        super().__init__(what, name, hint)
        #: The kind of thing looked for: ``"node"``, ``"execution"``, ``"value"``, …
        self.what = what
        #: The name that was not found.
        self.name = name
        #: What to do.
        self.hint = hint

    def __str__(self) -> str:
        return f"no {self.what} {self.name!r}" + (f"; {self.hint}" if self.hint else "")


class RemoteError(HandoffError):
    """What a function raised on a node, where its class cannot be loaded, or would end the process.

    The class of each instance is made for it, and bears the name of what was raised; its ``str`` is
    the message.
    """

    #: What was raised, pickled; ``None`` where that could not be done.
    data: bytes | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        kind = type(self)
        return arrived, (kind.__module__, kind.__qualname__, str(self), self.data)


def remote_error(module: str, name: str, message: str, data: bytes | None) -> RemoteError:
    """The error that stands for one whose class is not known here."""
    kind = type(name.rpartition(".")[2], (RemoteError,), {"__module__": module, "__qualname__": name})
    error: RemoteError = kind(message)
    error.data = data
    return error


def arrived(module: str, name: str, message: str, data: bytes | None) -> BaseException:
    """The error itself where its class is known and it ends no process; else what stands for it."""
    error = None if data is None else _loaded(data)
    return error if isinstance(error, Exception) else remote_error(module, name, message, data)


def original(error: BaseException | None) -> BaseException | None:
    """What was raised, also where it would end a process; the error as it came if that cannot be loaded."""
    if isinstance(error, RemoteError) and error.data is not None:
        found = _loaded(error.data)
        if isinstance(found, BaseException):
            found.__cause__ = error.__cause__
            return found.with_traceback(error.__traceback__)
    return error


def _loaded(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except (Exception, SystemExit):  # whatever loading it raises, and whomever it would end
        return None


class SchedulerLostError(HandoffError):
    """The scheduler cannot be reached any more."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        #: How that shows itself.
        self.why = why

    def __str__(self) -> str:
        return f"the scheduler cannot be reached ({self.why}); connect a new client and submit again"


class ExecutionCancelledError(HandoffError, CancelledError):
    """The execution was cancelled; there is no result."""

    def __init__(self, dag_id: Hashable) -> None:
        super().__init__(dag_id)
        #: The DAG that was being executed.
        self.dag_id = dag_id

    def __str__(self) -> str:
        return f"the execution of DAG {self.dag_id!r} was cancelled; submit it again to have its results"
