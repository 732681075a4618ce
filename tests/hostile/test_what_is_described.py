"""Functions, DAGs and all that is written in them: anything is refused by name, or is fine."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

import handoff_dask as handoff
from handoff_dask import Argument, Collocated, Function, Retry, growing
from handoff_dask.graph.check import explain_unplaceable
from handoff_dask.graph.dag import as_dag
from handoff_dask.graph.functions import FIELDS
from tests.hostile.anything import anything, flat, hashable, hostile, refused_or_fine


#: So that what is accepted can be run.
def code(*args: Any, **kwargs: Any) -> None:
    """Take anything."""


OTHERS = sorted(FIELDS - {"id", "args", "code"})
VALID: dict[str, Any] = {"id": "f", "args": (), "code": code}


@hostile
@given(fields=st.dictionaries(st.sampled_from(sorted(FIELDS)), anything, min_size=1, max_size=3))
def test_any_field_of_a_function(fields):
    with refused_or_fine():
        function = Function(**{**VALID, **fields})
        hash(function)
        assert isinstance(function.argument_ids, tuple)
        assert isinstance(function.name, str)
        handoff.DAG("d").add_function(function)


@hostile
@given(
    kind=st.sampled_from(["inline", "input", "regular"]), name=st.sampled_from(sorted(FIELDS)), value=anything
)
def test_any_field_of_any_type_of_function(kind, name, value):
    with refused_or_fine():
        Function(**{**VALID, "type": kind, **({"code": None} if kind == "input" else {}), name: value})


@hostile
@given(
    given=st.lists(anything, max_size=4),
    named=st.dictionaries(st.sampled_from([*OTHERS, "prio"]), anything),
)
def test_any_fields_given_to_a_dag(given, named):
    with refused_or_fine():
        handoff.DAG("d").add_function(*given, **named)
    with refused_or_fine():
        handoff.function("a", code, **{**named, "args": given})


@hostile
@given(value=anything)
def test_anything_as_a_dag(value):
    with refused_or_fine():
        as_dag(value).validate()
    with refused_or_fine():
        handoff.DAG(value).validate()
    with refused_or_fine():
        handoff.compile(value)
    with refused_or_fine():
        handoff.fingerprint(value)
    with refused_or_fine():
        handoff.visualization.dag_graph(value).to_dict()


@hostile
@given(a=anything, b=anything, c=anything)
@example(a=None, b=2, c=None)
def test_any_small_part(a, b, c):
    for make in (Argument, growing):
        with refused_or_fine():
            make(a, b, c)
    with refused_or_fine():
        Collocated(a)
    with refused_or_fine():
        growing("1 GB", a, b)


@hostile
@given(
    fields=st.dictionaries(
        st.sampled_from(["times", "delay", "factor", "max_delay", "jitter", "on", "not_on", "elsewhere"]),
        anything,
    )
)
def test_any_field_of_a_retry(fields):
    with refused_or_fine():
        retry = Retry(**fields)
        assert retry.wait(1) >= 0
        assert retry.wait(5) <= retry.max_delay
        retry.retries(ValueError())


@hostile
@given(cost=anything, offer=anything, node=st.one_of(hashable, st.just("n")))
@example(cost={"memory": "1e999 GB"}, offer={"gpu": 10**9}, node="n")
@example(cost=np.arange(3), offer={}, node="n")
@example(cost={"cpu": Decimal("1E+999999999")}, offer={}, node="n")
def test_any_cost_and_any_capabilities(cost, offer, node):
    with refused_or_fine():
        job = handoff.DAG("d").add_function(Function("f", [], code, cost=cost, duration=1))
        str(job.check({"n": {"cpu": 2}}))
    with refused_or_fine():
        str(handoff.DAG("d").add_function(Function("f", [], code, duration=1)).check({node: offer}))
    with refused_or_fine():
        str(explain_unplaceable("f", cost, {node: offer}))
    tracker = handoff.SimpleResourceTracker()
    with refused_or_fine():
        tracker.register(node, offer)
        tracker.available(node, cost)
        tracker.request(node, cost)
        tracker.release(node, cost)
    with refused_or_fine():
        handoff.SimpleAllocator().allocate([Function("f", [], code)], {node: offer})
    with refused_or_fine():
        handoff.SimpleAllocator(cost).allocate(offer, node)
    with refused_or_fine(), handoff.cost(cost, node=offer, duration=node):
        pass


ids = st.integers(0, 4)


@st.composite
def functions(draw: st.DrawFn) -> list[Function]:
    """Functions, each right by itself, that together may be wrong in any way."""
    found = []
    for _ in range(draw(st.integers(1, 5))):
        fields: dict[str, Any] = {"id": draw(ids), "code": code}
        fields["args"] = draw(st.lists(st.one_of(ids, st.builds(Argument, ids), hashable), max_size=3))
        more = {
            "type": st.sampled_from(["regular", "inline", "input"]),
            "node": st.one_of(st.sampled_from(["n", "tcp://n:1"]), st.builds(Collocated, ids)),
            "after": st.lists(ids, max_size=2),
            "cost": st.sampled_from([{"cpu": 1}, {"cpu": 99}, {"zone": "a"}, {"memory": "1 GB"}]),
            "extra_args": st.lists(st.one_of(flat, st.builds(Argument, ids)), max_size=2),
            "kwargs": st.dictionaries(
                st.text(max_size=2), st.one_of(flat, st.builds(Argument, ids)), max_size=2
            ),
            "argument_inclusion": st.sampled_from(["variadic", "as_list", "as_dict"]),
            "accept_failed": st.booleans(),
            "max_retries": st.integers(0, 1),
            "duration": st.floats(0, 10),
            "priority": st.integers(-2, 2),
            "parallelism": st.integers(1, 3),
            "batch_size": st.integers(1, 3),
        }
        for name in draw(st.sets(st.sampled_from(sorted(more)), max_size=4)):
            fields[name] = draw(more[name])
        try:
            found.append(Function(**fields))
        except handoff.ValidationError:
            continue
    return found


@hostile
@given(
    job=functions(),
    inputs=st.dictionaries(ids, flat, max_size=3),
    outputs=st.none() | st.lists(ids, max_size=2),
)
def test_any_functions_together(job, inputs, outputs):
    with refused_or_fine():
        as_dag(job).validate()
    with refused_or_fine():
        str(as_dag(job).check({"n": {"cpu": 4}, "m": {}}, outputs=outputs))
    with refused_or_fine():
        handoff.compile(job)
    with refused_or_fine():
        handoff.fingerprint(as_dag(job))
    with refused_or_fine():
        handoff.visualization.dag_graph(as_dag(job)).to_dot()
    with refused_or_fine():
        str(handoff.execute_local(job, inputs=inputs, outputs=outputs))


@hostile
@given(
    fields=st.dictionaries(st.sampled_from([*OTHERS, "id", "costs"]), anything, max_size=2),
    given=anything,
    more=anything,
)
@example(fields={}, given=None, more=None)
def test_any_task(fields, given, more):
    with refused_or_fine():
        task = handoff.task(code, **fields)
        task.options(**fields)
        with handoff.DAG("d") as dag:
            task(given, more)
            task.options(id="named")(x=given)
        dag.validate()
    with refused_or_fine(), handoff.DAG("d") as dag:
        handoff.task(code).map(given, more)
        dag.validate()
    with refused_or_fine(), handoff.DAG("d"):
        handoff.task(code).expand(given, more)
    with refused_or_fine():
        handoff.task(given)
