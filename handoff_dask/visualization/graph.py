"""A DAG or an execution of one as nodes and edges, to look at or to hand on as JSON."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from os import PathLike
from typing import Any

from handoff_dask.errors import HandoffError, ValidationError
from handoff_dask.graph.dag import as_dag
from handoff_dask.graph.expansion import expand
from handoff_dask.graph.functions import Function, name_of
from handoff_dask.record.execution import ExecutionRecord, FunctionRecord
from handoff_dask.visualization import dot, rendering
from handoff_dask.visualization.grouping import grouped
from handoff_dask.visualization.texts import id_texts, plain, shortened, visible

__all__ = ["ExecutionGraph", "dag_graph", "execution_graph", "record_of"]

#: Above this many functions or edges a picture shows groups.
LARGE = 300
LARGE_EDGES = 1000


class ExecutionGraph:
    """Functions and the results that pass between them.

    Made by :func:`dag_graph` and :func:`execution_graph`.  In Jupyter it shows itself.

    Parameters
    ----------
    dag_id
        The DAG's id.
    functions
        Its functions, producers before consumers.
    collapse
        Whether pictures show groups of functions with the same code instead of single functions;
        ``None``: when there are more than 300 functions or 1,000 edges.  ``nodes``, ``edges`` and
        ``to_dict`` always have all functions.

    Examples
    --------
    >>> graph = ExecutionGraph("d", [FunctionRecord(id="a", name="load"),
    ...     FunctionRecord(id=("b", 1), name="fit", args=("a",), cost={"cpu": 2})])
    >>> graph.nodes[1]["id"], graph.nodes[1]["cost"], graph.edges
    ("('b', 1)", {'cpu': 2}, [{'source': 'a', 'target': "('b', 1)"}])
    """

    #: One dict per function: ``id`` and ``label`` (text), ``name`` (of the code), ``type``, ``node``,
    #: ``status``, ``cost``, ``start`` and ``stop`` (seconds since the epoch, or ``None``).
    nodes: list[dict[str, Any]]
    #: One dict per pair of functions between which a result passes: ``source`` and ``target`` ids.
    edges: list[dict[str, str]]

    def __init__(
        self, dag_id: Hashable, functions: Iterable[FunctionRecord], *, collapse: bool | None = None
    ) -> None:
        functions = list(functions)
        texts = id_texts(f.id for f in functions)
        self.dag_id = dag_id
        self.collapse = collapse
        self.nodes = [_node(f, texts[f.id]) for f in functions]
        self.edges = [
            {"source": texts[arg], "target": texts[f.id]}
            for f in functions
            for arg in dict.fromkeys(f.args)
            if arg in texts
        ]

    def __repr__(self) -> str:
        return f"<ExecutionGraph: {len(self.nodes)} functions, {len(self.edges)} edges>"

    @property
    def collapsed(self) -> bool:
        """Whether pictures show groups of functions."""
        if self.collapse is None:
            return len(self.nodes) > LARGE or len(self.edges) > LARGE_EDGES
        return self.collapse

    def to_dict(self) -> dict[str, Any]:
        """``{"dag_id": text, "nodes": [...], "edges": [...]}``, ready for JSON."""
        return {
            "dag_id": id_texts([self.dag_id])[self.dag_id],
            "nodes": [dict(node) for node in self.nodes],
            "edges": [dict(edge) for edge in self.edges],
        }

    def to_dot(self) -> str:
        """The picture in graphviz's language; the ``dot`` program is not needed for that."""
        if self.collapsed:
            return dot.of_groups(grouped(self.nodes, self.edges))
        return dot.of_functions(self.nodes, self.edges)

    def render(self, path: str | PathLike[str], format: str = "svg") -> str:  # noqa: A002
        """Draw the picture into a file, by graphviz's ``dot``.

        Parameters
        ----------
        path
            Where to; the format's ending is added if there is none.  An ending that graphviz
            knows (``.png``, ``.pdf``) is the format, if none is given.
        format
            A format of graphviz's: ``"svg"``, ``"png"``, ``"pdf"``, …

        Returns
        -------
        str
            The path of the file.

        Raises
        ------
        HandoffError
            If the ``dot`` program is not there; it names the package to install.
        ValidationError
            If the path's ending and the format contradict each other, or graphviz does not know
            the format.
        """
        return rendering.render(self.to_dot(), path, format)

    def to_svg(self) -> str:
        """The picture as an ``<svg>`` element; needs the ``dot`` program.

        Raises
        ------
        HandoffError
            If graphviz's ``dot`` is not there.
        """
        return rendering.svg(self.to_dot())

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What Jupyter shows: the picture, or where there is no ``dot`` what to do about it."""
        try:
            return {"image/svg+xml": self.to_svg(), "text/plain": repr(self)}
        except HandoffError as error:
            return {"text/plain": f"{self!r}\n{error}"}


def dag_graph(dag: Any, *, collapse: bool | None = None) -> ExecutionGraph:
    """The graph of a DAG, before it runs.

    A function's ``node`` is the one it is pinned to, or the functions it shares a node with are.  What
    serialises and deserialises an argument is there as a function.  A DAG that is not valid is
    drawn as far as it goes.

    Parameters
    ----------
    dag
        A DAG, or a list of functions.
    collapse
        See :class:`ExecutionGraph`.

    Raises
    ------
    ValidationError
        If it is neither a DAG nor a list of functions.
    """
    dag = as_dag(dag)
    try:
        expansion = expand(dag)
    except ValidationError:
        # What is wrong may be easiest to see in a picture: the functions as they were added.
        return ExecutionGraph(dag.id, map(_planned, dag.functions.values()), collapse=collapse)
    records = (_planned(f, expansion.pin_of(f.id)) for f in expansion.functions.values())
    return ExecutionGraph(dag.id, records, collapse=collapse)


def execution_graph(execution: Any, *, collapse: bool | None = None) -> ExecutionGraph:
    """The graph of an execution, with what became of each function.

    Parameters
    ----------
    execution
        An ``ExecutionResult``, an ``Execution`` (also while it runs), or an ``ExecutionRecord``.
    collapse
        See :class:`ExecutionGraph`.
    """
    record = record_of(execution)
    return ExecutionGraph(record.dag_id, record.functions, collapse=collapse)


def record_of(execution: Any) -> ExecutionRecord:
    """The record behind an execution or its result.

    Raises
    ------
    ValidationError
        If there is none.
    """
    record = execution
    if not isinstance(execution, ExecutionRecord):
        record = getattr(execution, "final_record", None) or getattr(execution, "record", None)
        if callable(record):
            record = record()
    if isinstance(record, ExecutionRecord):
        return record
    awaitable = hasattr(record, "__await__")
    if awaitable and hasattr(record, "close"):
        record.close()  # a coroutine that nobody will await
    hint = "await its record() and give that" if awaitable else "give what execute or submit returned"
    raise ValidationError(f"{execution!r} has no record of an execution; {hint}")


def _node(function: FunctionRecord, text: str) -> dict[str, Any]:
    return {
        "id": text,
        "label": shortened(visible(text), 48),
        "name": function.name,
        "type": function.type,
        "node": function.node,
        "status": function.status,
        "cost": plain(dict(function.cost)),
        "start": function.start,
        "stop": function.stop,
    }


def _planned(function: Function, pin: str | None = None) -> FunctionRecord:
    return FunctionRecord(
        id=function.id,
        name=name_of(function.code),
        args=function.dependencies,
        type=function.type,
        cost=dict(function.known_cost),
        status="pending" if function.type == "regular" else "none",
        node=pin,
    )
