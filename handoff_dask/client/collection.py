"""A DAG as a Dask collection, and what remains of it once it is persisted."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from dask._task_spec import DataNode, GraphNode
from dask.highlevelgraph import HighLevelGraph
from dask.threaded import get as threaded_get
from distributed import Future

from handoff_dask.client import options
from handoff_dask.client.compile import Compiled
from handoff_dask.client.compile import compile as compile_dag
from handoff_dask.client.default import known_session
from handoff_dask.errors import ValidationError
from handoff_dask.graph.dag import DAG
from handoff_dask.graph.functions import FunctionId
from handoff_dask.protocol.manifest import Options

_collections: weakref.WeakKeyDictionary[DAG, tuple[tuple[int, Options], Compiled]] = (
    weakref.WeakKeyDictionary()
)


def _collection(dag: DAG) -> Compiled:
    """Compiled once, so that graph and keys agree; again when functions were added, or settings changed."""
    known, of = _collections.get(dag), (len(dag), options.configured())
    if known is None or known[0] != of:
        missing = [f.id for f in dag.functions.values() if f.type == "input"]
        if missing:
            raise ValidationError(
                f"input {missing[0]!r} has no value; use execute(dag, inputs={{{missing[0]!r}: …}}) instead"
            )
        # Where nobody reads the manifest, Dask would wait for ever for workers that have such resources.
        known = _collections[dag] = (of, compile_dag(dag, options=of[1], resources=False))
    return known[1]


def graph_of(dag: DAG) -> HighLevelGraph:
    """``__dask_graph__`` of a DAG."""
    return _collection(dag).graph


def layers_of(dag: DAG) -> tuple[str, ...]:
    """``__dask_layers__`` of a DAG: the layer that its functions make up."""
    return (next(iter(_collection(dag).graph.layers)),)


def keys_of(dag: DAG) -> list[str]:
    """``__dask_keys__`` of a DAG."""
    compiled = _collection(dag)
    return [compiled.keys[i] for i in compiled.expansion.outputs]


def postcompute_of(dag: DAG) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """``__dask_postcompute__`` of a DAG: the dict of results."""
    return _as_results, (_collection(dag).expansion.outputs,)


def postpersist_of(dag: DAG) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """``__dask_postpersist__`` of a DAG: a :class:`PersistedDAG`."""
    compiled = _collection(dag)
    return _persisted, (dag, {i: compiled.keys[i] for i in compiled.expansion.outputs})


def scheduler_of(dag: DAG) -> Callable[..., Any]:
    """``__dask_scheduler__`` of a DAG: what computes it where Dask has no client and no scheduler was named.

    The cluster of the session that the module's functions use, so that costs hold; else threads.
    """
    session = known_session()
    if session is None or session.asynchronous:
        return threaded_get
    if not session.has_plugin:
        session.start()
    get: Callable[..., Any] = session.client.get
    return get


def _as_results(values: list[Any], ids: tuple[FunctionId, ...]) -> dict[FunctionId, Any]:
    return dict(zip(ids, values, strict=True))


class PersistedDAG(DAG):
    """A DAG whose results are on a cluster, or are being made there: what ``client.persist(dag)`` gives.

    It is a Dask collection too; to compute it runs nothing again.  Its results stay as long as it does.
    """

    def __init__(self, dag: DAG, graph: Any, keys: Mapping[FunctionId, Any]) -> None:
        super().__init__(dag.id)
        for function in dag.functions.values():
            super().add_function(function)
        self._graph = graph
        self._keys = dict(keys)

    @property
    def futures(self) -> dict[FunctionId, Future[Any]]:
        """``{function id: distributed.Future}``; empty where it was persisted without a cluster."""
        found = {i: self._graph.get(key) for i, key in self._keys.items()}
        return {i: value for i, value in found.items() if isinstance(value, Future)}

    def add_function(self, *given: Any, **fields: Any) -> NoReturn:
        """Refuse: its functions have been sent."""
        raise ValidationError(f"DAG {self.id!r} has been persisted; add functions to a new DAG")

    def __dask_graph__(self) -> Any:
        return self._graph

    @property
    def __dask_layers__(self) -> NoReturn:
        raise AttributeError("a persisted DAG has no layers: its graph is plain")

    def __dask_keys__(self) -> list[Any]:
        return list(self._keys.values())

    def __dask_postcompute__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _as_results, (tuple(self._keys),)

    def __dask_postpersist__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _persisted, (self, self._keys)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("handoff-persisted", *self._keys.values())


def _persisted(
    graph: Any, dag: DAG, keys: Mapping[FunctionId, Any], *, rename: Mapping[Any, Any] | None = None
) -> PersistedDAG:
    if rename:  # the keys say which function is which, to the scheduler too
        raise ValidationError(
            f"DAG {dag.id!r} cannot be given other keys, as dask.graph_manipulation does; build another DAG"
        )
    if isinstance(graph, dict):
        graph = dict(_data(graph.items()))
    return PersistedDAG(dag, graph, keys)


def _data(items: Iterable[tuple[Any, Any]]) -> Iterable[tuple[Any, Any]]:
    """Results that Dask's schedulers in this process have made are not to be taken for tasks."""
    for key, value in items:
        yield key, value if isinstance(value, (Future, GraphNode)) else DataNode(key, value)


def make_collection() -> None:
    """Give DAGs the methods by which Dask knows a collection."""
    methods: dict[str, Any] = {
        "__dask_scheduler__": property(scheduler_of),
        "__dask_graph__": graph_of,
        "__dask_layers__": layers_of,
        "__dask_keys__": keys_of,
        "__dask_postcompute__": postcompute_of,
        "__dask_postpersist__": postpersist_of,
    }
    for name, method in methods.items():
        setattr(DAG, name, method)
