"""Executions that another client has submitted, as this one has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dask.highlevelgraph import HighLevelGraph
from distributed.protocol import pickle

from handoff_dask.client.compile import Compiled
from handoff_dask.graph.dag import DAG
from handoff_dask.graph.expansion import Body, Expansion
from handoff_dask.graph.functions import Function
from handoff_dask.protocol.manifest import Manifest, Options, token_of


class Elsewhere:
    """Stands for the code of a function, which this client does not have."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *args: Any) -> Any:
        """It cannot be called here."""
        raise TypeError(f"the code of {self.__name__} is not here: another client has submitted it")


def attached(facts: Mapping[str, Any]) -> tuple[DAG, Compiled]:
    """What an execution knows of its DAG, from what the scheduler knows of the run.

    Parameters
    ----------
    facts
        As the scheduler tells them.
    """
    ids, dag_id = pickle.loads(facts["ids"]), pickle.loads(facts["dag_id"])
    functions = {
        i: Function(i, [ids[n] for n in args], Elsewhere(name), cost=cost)
        for i, name, cost, args in zip(ids, facts["names"], facts["costs"], facts["args"], strict=True)
    }
    dag = DAG(dag_id)
    for function in functions.values():
        dag.add_function(function)
    expansion = Expansion(
        dag_id=dag_id,
        bodies={i: Body(function, function.argument_ids) for i, function in functions.items()},
        functions=functions,
        inputs=(),
        outputs=tuple([ids[n] for n in facts["wanted"]]),
        roots={},
        pins={},
        all_wanted=False,
    )
    manifest = Manifest(
        token=facts["token"],
        dag_id=facts["dag_id"],
        dag_token=token_of(dag_id),
        ids=facts["ids"],
        names=facts["names"],
        demands=[],
        demand_of=[],
        retries=[],
        options=Options(strategy_name=facts["strategy_name"], on_failure=facts["on_failure"]),
    )
    keys = dict(zip(ids, facts["keys"], strict=True))
    return dag, Compiled(HighLevelGraph({}, {}), keys, {}, manifest, expansion)
