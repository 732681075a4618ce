"""How the code of a stage is called: for one item or a batch, with a state or without."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from handoff_dask.errors import blame_inline
from handoff_dask.graph.expansion import call_function
from handoff_dask.graph.functions import Function, FunctionId, resolve_code

__all__ = ["CallError", "StageCall"]


class CallError(Exception):
    """A stage's code gave something else than it should."""


class StageCall:
    """How a stage's code is called; made where the DAG is, used on the stage's node.

    Parameters
    ----------
    function
        The function; its arguments are named by their places among the values.
    inlined
        Inline functions before it, named likewise.
    names
        The ids of its arguments, where it gets its results by them.
    """

    def __init__(
        self,
        function: Function,
        inlined: tuple[Function, ...],
        names: tuple[FunctionId, ...] | None = None,
    ) -> None:
        self.function = function
        self.inlined = inlined
        self.names = names

    def __reduce__(self) -> tuple[Any, ...]:
        return StageCall, (self.function, self.inlined, self.names)

    @property
    def has_state(self) -> bool:
        """Whether it carries a state from call to call."""
        return self.function.init is not None

    def start(self) -> Any:
        """Find the code, and make the first state; ``None`` without ``init``."""
        self.function = _with_code(self.function)
        self.inlined = tuple(map(_with_code, self.inlined))
        init: Any = self.function.init
        return None if init is None else _awaited(init[0](*init[1]))

    def results(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """What the code is given of an item's values: inline functions are evaluated here."""
        known: dict[Any, Any] = dict(enumerate(values))
        for function in self.inlined:
            try:
                known[function.id] = _awaited(
                    call_function(function, [known[i] for i in function.argument_ids])
                )
            except Exception as error:
                blame_inline(error, repr(function.id[1]))  # type: ignore[index]
                raise
        return tuple([known[i] for i in self.function.argument_ids])

    def one(self, state: Any, values: Sequence[Any]) -> tuple[Any, Any]:
        """Call it for one item: ``(result, new state)``."""
        before = (state,) if self.has_state else ()
        answer = _awaited(call_function(self.function, self.results(values), before, self.names))
        return _pair(answer) if self.has_state else (answer, None)

    def batch(self, state: Any, batch: Sequence[tuple[Any, ...]]) -> tuple[Sequence[Any], Any]:
        """Call it for several items, each given as its results: ``(as many results, new state)``."""
        function: Any = self.function
        head = (state, list(batch)) if self.has_state else (list(batch),)
        answer = _awaited(function.code(*head, *function.extra_args, **(function.kwargs or {})))
        if self.has_state:
            answer, state = _pair(answer)
        if isinstance(answer, (str, bytes, Mapping)) or not isinstance(answer, Iterable):
            raise CallError(
                f"a batch of {len(batch)} items must give a list of results, not {type(answer).__name__}"
            )
        results = list(answer)
        if len(results) != len(batch):
            raise CallError(
                f"{len(results)} results came for a batch of {len(batch)} items; give one for each"
            )
        return results, state


def _with_code(function: Function) -> Function:
    """The function with its code found: a string is imported once."""
    return replace(function, code=resolve_code(function.code)) if isinstance(function.code, str) else function


def _awaited(value: Any) -> Any:
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def _pair(answer: Any) -> tuple[Any, Any]:
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise CallError(f"with init, the code must give (result, new state); it gave {type(answer).__name__}")
    return answer
