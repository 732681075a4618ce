"""Annotations of dask.dataframe, which Dask itself ignores.

A frame is an expression, and is optimised as such: what was written is not what is computed.  So what is
made under an annotation is kept apart from the rest, and is optimised by itself:

1. A frame that is made under an annotation is ``Costed(what was made)``.  Where that takes a frame from
   outside stands a ``Border``.  Projections of columns pass both where what is read or comes from outside
   takes them up, so that files are still read in part.
2. When the expression is lowered, both become a ``Wall``, over which nothing is fused.
3. A wall demands a ``Carrier`` at the root of the expression.  That knows at last which tasks stand between
   walls, and tells Dask of their annotations.
4. A carrier is sent to the scheduler as a graph with annotations, made of Dask's own classes.

This is all that we know of Dask's expressions.  Private in them: ``FrameBase.expr`` and its constructor, the
names that begin with an underscore in the classes below, and where ``fuse`` draws the line.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any
from weakref import WeakValueDictionary

from dask._expr import HLGExpr
from dask._task_spec import Alias, convert_legacy_graph
from dask.base import get_annotations, tokenize
from dask.dataframe.dask_expr import _collection
from dask.dataframe.dask_expr._expr import (
    Blockwise,
    Elemwise,
    Expr,
    MapPartitions,
    Projection,
    plain_column_projection,
)
from dask.dataframe.dask_expr.io.io import BlockwiseIO
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

#: The annotations that were in force when a frame was last used, and what was used under them that is from
#: outside: ``{name: expression}``.
_from_outside: ContextVar[tuple[Mapping[str, Any], WeakValueDictionary[str, Expr]]] = ContextVar(
    "_from_outside"
)


class _Marked(Blockwise):
    """What an expression is under some annotations; computes nothing."""

    # It is blockwise so that frames on both sides of it count as aligned.
    _parameters = ["frame", "annotations"]
    _preserves_partitioning_information = True

    @functools.cached_property
    def _meta(self) -> Any:
        return self.frame._meta

    def _divisions(self) -> Any:
        return self.frame.divisions

    def _task(self, name: Any, index: int) -> Alias:
        return Alias(name, (self.frame._name, index))

    def _simplify_up(self, parent: Any, dependents: Any) -> Expr | None:
        if isinstance(parent, Projection) and _takes_up_projections(self):
            projected: Expr | None = plain_column_projection(self, parent, dependents)
            return projected
        return None


def _takes_up_projections(expression: Expr) -> bool:
    """Whether a projection of an expression ends where nothing is left of it that would have the cost."""
    if isinstance(expression, (Border, BlockwiseIO)):
        return isinstance(expression, Border) or bool(expression._absorb_projections)
    if isinstance(expression, (Costed, Elemwise)) and not isinstance(expression, MapPartitions):
        return all(map(_takes_up_projections, expression.dependencies()))
    return False


class Costed(_Marked):
    """Made under annotations, down to the next borders."""

    def _lower(self) -> Expr:
        return Wall(self.frame, self.annotations, costs=True)


class Border(_Marked):
    """From outside; named with the annotations, so that nothing made of it is taken for something else."""

    def _lower(self) -> Expr:
        return Wall(self.frame, self.annotations, costs=False)


class _Whole(Expr):
    """Stands for its first operand."""

    @functools.cached_property
    def _meta(self) -> Any:
        return self.frame._meta

    def _divisions(self) -> Any:
        return self.frame.divisions


class Wall(_Whole):
    """What nothing is fused over; ``costs`` if what is below has the annotations."""

    _parameters = ["frame", "annotations", "costs", "carried"]
    _defaults = {"carried": False}

    def _task(self, name: Any, index: int) -> Alias:
        return Alias(name, (self.frame._name, index))

    def _simplify_down(self) -> Expr | None:
        if self.carried:
            return None
        return Carrier(Wall(self.frame, self.annotations, self.costs, carried=True))


class Carrier(_Whole):
    """The root of an expression that has walls: tells Dask of annotations."""

    _parameters = ["frame"]

    def _simplify_down(self) -> Expr | None:
        return self.frame if isinstance(self.frame, Carrier) else None

    def _simplify_up(self, parent: Any, dependents: Any) -> Expr | None:
        """Go to the root."""
        if isinstance(parent, Carrier) or not isinstance(parent, Expr):
            return None
        return Carrier(parent.substitute(self, self.frame))

    @functools.cached_property
    def _graphs(self) -> list[tuple[Mapping[str, Any], dict[Any, Any]]]:
        """``[(annotations, {key: task})]``, without the aliases of walls."""
        graph: dict[Any, Any] = {}
        annotated: dict[Any, Mapping[str, Any]] = {}
        aliases: dict[Any, Any] = {}
        for expression, own_annotations in _with_annotations(self.frame):
            layer = expression._layer()
            if isinstance(expression, Wall):
                aliases.update({key: task.target for key, task in layer.items()})
            else:
                graph.update(layer)
                annotated.update(dict.fromkeys(layer, own_annotations))
        # Its results are called by its own name, as Dask expects of every expression.
        own = {(self._top._name, i): (self._name, i) for i in range(self.npartitions)}
        aliases.update(own)
        whole = {key: _end(aliases, key) for key in aliases}
        groups: dict[str, tuple[Mapping[str, Any], dict[Any, Any]]] = {}
        for key, task in convert_legacy_graph(graph, graph.keys() | aliases.keys()).items():
            group = groups.setdefault(tokenize(annotated[key]), (annotated[key], {}))
            name = own.get(key, key)
            group[1][name] = _past(whole, task, name)
        return list(groups.values())

    @functools.cached_property
    def _name(self) -> str:
        # Dask's dashboard shows the part in front.
        return f"{self._top._name.rpartition('-')[0]}-{self.deterministic_token}"

    @functools.cached_property
    def _top(self) -> Expr:
        frame: Expr = self.frame
        while isinstance(frame, Wall):
            frame = frame.frame
        return frame

    def _layer(self) -> dict[Any, Any]:
        return {key: task for _, layer in self._graphs for key, task in layer.items()}

    def __dask_graph__(self) -> dict[Any, Any]:
        return self._layer()

    def __dask_annotations__(self) -> dict[str, dict[Any, Any]]:
        told: defaultdict[str, dict[Any, Any]] = defaultdict(dict)
        for own_annotations, layer in self._graphs:
            for name, value in own_annotations.items():
                told[name].update({key: value(key) if callable(value) else value for key in layer})
        return dict(told)

    def __reduce__(self) -> Any:
        """As a graph with annotations: a scheduler need not know this module."""
        layers = {
            f"{self._name}-{number}": MaterializedLayer(tasks, annotations=dict(annotations) or None)
            for number, (annotations, tasks) in enumerate(self._graphs)
        }
        graph = HighLevelGraph(layers, {name: set() for name in layers})
        return functools.partial(HLGExpr, output_keys=self.__dask_keys__()), (graph,)


def _with_annotations(root: Expr) -> Iterator[tuple[Expr, Mapping[str, Any]]]:
    """Every expression with what it is annotated with; of one that is there twice, first the annotated."""
    found: dict[str, tuple[Expr, Mapping[str, Any]]] = {}
    seen: set[tuple[str, str]] = set()
    stack: list[tuple[Expr, Mapping[str, Any]]] = [(root, {})]
    while stack:
        expression, annotations = stack.pop()
        if (known := (expression._name, tokenize(annotations))) in seen:
            continue
        seen.add(known)
        if annotations or expression._name not in found:
            found[expression._name] = (expression, annotations)
        if isinstance(expression, Wall):
            annotations = expression.annotations if expression.costs else {}
        stack.extend((operand, annotations) for operand in expression.dependencies())
    yield from found.values()


def _end(aliases: Mapping[Any, Any], key: Any) -> Any:
    while key in aliases:
        key = aliases[key]
    return key


def _past(aliases: Mapping[Any, Any], task: Any, name: Any) -> Any:
    """A task of this name that takes the results themselves in place of their aliases."""
    subs = {d: aliases[d] for d in task.dependencies if d in aliases}
    return task.substitute(subs, key=name) if subs or name != task.key else task


# ---------------------------------------------------------------------- where frames are made


def _made(expression: Expr) -> Expr:
    """The expression of a frame that is made now."""
    annotations = get_annotations()
    if not annotations:
        return expression
    token = tokenize(annotations)
    borders: dict[str, Expr] = {
        name: Border(used, annotations) for name, used in _outside(annotations).items()
    }
    inside = _bordered(expression, annotations, token, borders)
    return expression if isinstance(inside, Border) else Costed(inside, annotations)


def _bordered(expression: Expr, annotations: Mapping[str, Any], token: str, known: dict[str, Expr]) -> Expr:
    """An expression with borders in place of what is from outside of annotations."""
    name = expression._name
    if name not in known:
        if isinstance(expression, Costed) and tokenize(expression.annotations) == token:
            known[name] = expression.frame
        elif isinstance(expression, Costed):
            known[name] = Border(expression, annotations)
        elif isinstance(expression, Border):
            known[name] = expression
        else:
            operands = [
                _bordered(operand, annotations, token, known) if isinstance(operand, Expr) else operand
                for operand in expression.operands
            ]
            same = all(new is old for new, old in zip(operands, expression.operands, strict=True))
            known[name] = expression if same else type(expression)(*operands)
    return known[name]


def _used(expression: Expr) -> Expr:
    """The expression of a frame that something is made of now."""
    annotations = get_annotations()
    if annotations:
        token = tokenize(annotations)
        if not (isinstance(expression, Costed) and tokenize(expression.annotations) == token):
            _outside(annotations)[expression._name] = expression
    return expression


def _outside(annotations: Mapping[str, Any]) -> WeakValueDictionary[str, Expr]:
    """What has been used of expressions from outside of annotations; Dask makes new ones for each context."""
    known = _from_outside.get(None)
    if known is None or known[0] is not annotations:
        known = (annotations, WeakValueDictionary())
        _from_outside.set(known)
    return known[1]


def keep_annotations() -> None:
    """Have frames keep the annotations that they are made under, from now on."""
    frames = _collection.FrameBase
    if getattr(frames, "_handoff_keeps", False):
        return
    frames._handoff_keeps = True

    def init(self: Any, expr: Expr) -> None:
        self._expr = _made(expr)

    frames.__init__ = init
    frames.expr = property(lambda self: _used(self._expr))
