"""The executions of a session."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any

from handoff_dask import config
from handoff_dask.client.execution_core import ExecutionCore
from handoff_dask.protocol.outcome import Outcome


class Executions:
    """Keeps the executions of a session: those that run, and the last ones that have ended."""

    def __init__(self) -> None:
        #: Executions that have not ended, by token.
        self.running: dict[str, ExecutionCore] = {}
        #: The latest execution of each DAG id that anybody still holds.
        self._by_dag: weakref.WeakValueDictionary[Hashable, ExecutionCore] = weakref.WeakValueDictionary()
        self._retained: deque[ExecutionCore] = deque()

    def known(self) -> list[ExecutionCore]:
        """Those that have ended and are still readable, then those that run."""
        return [*self._retained, *self.running.values()]

    def add(self, execution: ExecutionCore, *, is_hidden: bool = False) -> None:
        """An execution has been submitted; a hidden one is not the latest of its DAG to anybody."""
        self.running[execution.token] = execution
        if not is_hidden:
            self._by_dag[execution.dag_id] = execution

    def add_unnamed(self, execution: ExecutionCore) -> None:
        """An execution has been submitted whose DAG's id stands for another one."""
        self.running[execution.token] = execution

    def latest(self, dag_id: Hashable) -> ExecutionCore | None:
        """The latest execution of a DAG id that anybody still holds."""
        return self._by_dag.get(dag_id)

    def ids_of(self, token: str) -> tuple[Hashable, list[Hashable]] | None:
        """The ids of a running DAG and of its functions, as the user wrote them."""
        execution = self.running.get(token)
        return None if execution is None else (execution.dag_id, list(execution.compiled.keys))

    def has_begun(self, token: str) -> None:
        """The first function of a run has been placed."""
        if token in self.running:
            self.running[token].has_begun()

    def has_grown(self, token: str, spawned: Sequence[tuple[int, int, int]]) -> None:
        """A run has got items of a map."""
        if token in self.running:
            self.running[token].has_grown(spawned)

    def has_ended(self, outcome: Outcome, exceptions: Sequence[Sequence[Any]]) -> None:
        """A run is over; the last ones stay readable."""
        execution = self.running.pop(outcome.token, None)
        if execution is None:
            return
        execution.has_ended(outcome, exceptions)
        self._retain(execution)

    def keep(self, execution: ExecutionCore) -> None:
        """An execution of which nothing had to run stays readable, too."""
        self._by_dag[execution.dag_id] = execution
        self._retain(execution)

    def _retain(self, execution: ExecutionCore) -> None:
        self._retained.append(execution)
        while len(self._retained) > config.get("retained-dags"):
            self._retained.popleft()

    def lose(self, error: BaseException) -> None:
        """No report of any run will come any more."""
        running = list(self.running.values())
        self.running.clear()
        for execution in running:
            execution.is_lost(error)

    def forget(self, dag_id: Hashable) -> None:
        """Drop the executions of a DAG that have ended."""
        execution = self._by_dag.get(dag_id)
        if execution is not None and execution.token not in self.running:
            del self._by_dag[dag_id]
        named = {dag_id}  # a number of numpy's is equal to a tuple in as many ways as that has items
        for past in [past for past in self._retained if past.dag_id in named]:
            self._retained.remove(past)
            past.release()

    def clear_retained(self) -> None:
        """Let the executions go that have ended."""
        self._retained.clear()
