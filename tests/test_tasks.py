"""Tasks: functions that add themselves to a DAG when they are called inside ``with DAG(…)``."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from typing import Any, NamedTuple

import pytest

import handoff_dask as handoff
from handoff_dask import DAG, Argument, Collocated, Function
from handoff_dask.graph.fields import TaskFields
from handoff_dask.graph.functions import FIELDS
from handoff_dask.graph.tasks import OF_CALLS


@handoff.task(cost={"cpu": 1})
def clean(path: str, encoding: str = "utf-8") -> str:
    """Read a file."""
    return f"{path}:{encoding}"


@handoff.task
def merge(parts: list[str], how: str = "inner") -> str:
    return f"{how}({' '.join(parts)})"


@handoff.task
def gather(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


@handoff.task
def through(value: Any) -> Any:
    return clean(value)


def test_a_job():
    """The example of the contract."""
    with DAG("nightly") as dag:
        parts = clean.map(["a", "b"], encoding="latin-1")
        total = merge(parts, how="outer")

    result = handoff.execute_local(dag)

    assert [part.id for part in parts] == [("clean", 0), ("clean", 1)]
    assert result[total] == "outer(a:latin-1 b:latin-1)"
    assert result[parts] == ["a:latin-1", "b:latin-1"]
    assert dag.functions[("clean", 1)].cost == {"cpu": 1}


def test_outside_of_a_dag_a_task_is_its_function():
    """Called, mapped, and looked at by an editor."""
    assert clean("x") == "x:utf-8"
    assert clean.map(["x", "y"]) == ["x:utf-8", "y:utf-8"]
    assert (clean.__name__, clean.__doc__) == ("clean", "Read a file.")
    assert pickle.loads(pickle.dumps(handoff.task("operator:add")))(1, 2) == 3


def test_ids():
    """The code's name, numbered; what other functions are called is left to them."""
    with DAG() as dag:
        dag.add_function("clean-3", [], int)
        ids = [clean("a").id, clean("b").id, clean("c").id, clean.options(id=("my", "own"))("d").id]
        mapped = clean.map("ab")
    assert ids == ["clean", "clean-2", "clean-4", ("my", "own")]
    assert [one.id for one in mapped] == [("clean-5", 0), ("clean-5", 1)]
    with dag:  # again, and inside a function
        assert clean("e").id == "clean-6"
    assert len(dag) == 8


def test_an_own_id_is_used_once():
    """Two functions of one id are refused, mapped ones too."""
    with DAG():
        own = clean.options(id="own")
        own("a")
        own.map(["a"])
        with pytest.raises(handoff.DuplicateFunctionError):
            own("b")
        with pytest.raises(handoff.DuplicateFunctionError):
            own.map(["b"])


class Pair(NamedTuple):
    left: Any
    right: Any


def test_references_stand_for_results_at_any_depth():
    """By position, by name, in lists, tuples, named tuples and dicts; plain values stay what they are."""
    plain = {"a": [1, (2,)]}
    with DAG() as dag:
        a, b = clean("a"), clean("b")
        seen = gather(a, 1, b, [a, {"k": (b, 2)}], Pair(a, 0), plain, named=a, deep={"x": [b]})

    args, kwargs = handoff.execute_local(dag)[seen]

    assert args == ("a:utf-8", 1, "b:utf-8", ["a:utf-8", {"k": ("b:utf-8", 2)}], ("a:utf-8", 0), plain)
    assert type(args[4]) is Pair
    assert args[5] is plain
    assert kwargs == {"named": "a:utf-8", "deep": {"x": ["b:utf-8"]}}
    assert dag.functions["gather"].argument_ids == (
        "clean",
        "clean-2",
        *["clean", "clean-2"],
        "clean",
        "clean",
        "clean-2",
    )


def test_maps_of_references():
    """A map may take references, one for each item, or as a constant."""
    with DAG() as dag:
        paths = clean.map(["a", "b"])
        both = gather.map(paths, [1, 2], more=paths[0])
    results = handoff.execute_local(dag)[both]
    assert results == [
        (("a:utf-8", 1), {"more": "a:utf-8"}),
        (("b:utf-8", 2), {"more": "a:utf-8"}),
    ]


def test_tasks_called_by_a_running_function_just_run():
    """Also where the DAG is executed inside of its block."""
    with DAG() as dag:
        one = through("x")
        assert handoff.execute_local(dag)[one] == "x:utf-8"
    assert list(dag) == ["through"]


def test_dags_in_threads_and_coroutines_do_not_meet():
    """The block is that of the thread, or of the coroutine."""
    found = {}

    def work(name: str) -> None:
        with DAG(name) as dag:
            time.sleep(0.01)
            clean(name)
        found[name] = list(dag)

    threads = [threading.Thread(target=work, args=[str(n)]) for n in range(4)]
    with DAG() as outer:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def one(name: str) -> int:
        with DAG(name) as dag:
            await asyncio.sleep(0.001)
            clean(name)
        return len(dag)

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*[one(str(n)) for n in range(4)])

    assert set(map(tuple, found.values())) == {("clean",)}
    assert len(outer) == 0
    assert asyncio.run(all_of_them()) == [1] * 4


def test_references_of_another_dag_are_refused():
    """In a call, in a map, in a plain function, and as outputs."""
    with DAG("one"):
        a = clean("a")
    with DAG("two") as two:
        for call in (lambda: merge([a]), lambda: gather(x={"k": a}), lambda: clean.map([a])):
            with pytest.raises(handoff.InvalidFunctionError, match="'clean' of DAG 'one'"):
                call()
    for fields in ({"args": [a]}, {"kwargs": {"x": a}}, {"after": [a]}):
        with pytest.raises(handoff.InvalidFunctionError, match="another DAG"):
            two.add_function(**{"id": "f", "args": [], "code": clean, **fields})
    two.add_function("clean", [], clean, extra_args=["x"])
    with pytest.raises(handoff.ValidationError, match="is not in the DAG"):
        handoff.execute_local(two, outputs=[a])


def test_a_reference_is_no_value():
    """What would use it as one is told so."""
    with DAG():
        a = clean("a")
        for use in (bool, list, len, lambda r: r[0], clean.map, pickle.dumps):
            with pytest.raises(TypeError, match="reference"):
                use(a)
        with pytest.raises(handoff.ValidationError, match="set"):
            merge({a})
        assert repr(a).startswith("<Reference 'clean' of DAG")
        assert {a: 1}[a] == 1


def test_plain_functions_name_references():
    """Wherever a function is named."""
    with DAG() as dag:
        a = clean("a")
        dag.add_function("b", [a], str.upper, node=Collocated(a))
        dag.add_function("c", [], gather.code, kwargs={"x": a}, extra_args=[a], after=[a])
    result = handoff.execute_local(dag, outputs=[a, "c", Argument("b")])
    assert list(result.results) == ["clean", "c", "b"]
    assert result["c"] == (("a:utf-8",), {"x": "a:utf-8"})
    assert dag.functions["b"].node == Collocated("clean")
    assert dag.functions["c"].after == ("clean",)
    with pytest.raises(handoff.NotFoundError, match="did you mean 'clean'"):
        result["cleam"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"prio": 1}, "did you mean 'priority'"),
        ({"cost": {"cpu": -1}}, "cost"),
        ({"args": ["a"]}, "what it is called with"),
        ({"type": "input"}, "input"),
    ],
)
def test_wrong_fields_are_refused_at_once(fields, problem):
    """By the decorator and by options."""
    with pytest.raises(handoff.InvalidFunctionError, match=problem):
        handoff.task(clean.code, **fields)
    with pytest.raises(handoff.InvalidFunctionError, match=problem):
        clean.options(**fields)


def test_maps_need_lists_of_equal_lengths():
    """And at least one; an empty one gives nothing."""
    with DAG() as dag:
        assert clean.map([]) == []
        with pytest.raises(handoff.ValidationError, match="lengths 2, 1"):
            gather.map([1, 2], [1])
        with pytest.raises(handoff.ValidationError, match="something to map over"):
            gather.map(a=1)
    assert len(dag) == 0


def test_an_inline_task_and_a_method():
    """A task may be inline; one that is a method gets its object first."""

    class Model:
        factor = 3

        @handoff.task
        def times(self, x: int) -> int:
            return self.factor * x

    half = handoff.task(lambda x: x // 2, type="inline", id="half")
    with DAG() as dag:
        value = Model().times(half(4))
    assert handoff.execute_local(dag)[value] == 6
    assert Model().times(2) == 6


def test_every_field_of_a_function_is_one_of_tasks():
    """What editors know is what there is."""
    assert set(TaskFields.__annotations__) == set(FIELDS) - set(OF_CALLS)


def test_a_large_map_costs_little():
    """Functions of one map are checked once: less than half of what as many functions take."""
    items = [str(n) for n in range(20_000)]
    began = time.process_time()
    plain = [Function(("f", n), [], clean.code, extra_args=[i], cost={"cpu": 1}) for n, i in enumerate(items)]
    one_by_one = time.process_time() - began
    began = time.process_time()
    with DAG() as dag:
        parts = clean.map(items)
    mapped = time.process_time() - began
    assert len(plain) == len(parts) == len(dag)
    assert mapped < one_by_one
    last = dag.functions[parts[-1].id]
    assert (last.extra_args, last.cost, last.needs) == (("19999",), {"cpu": 1}, plain[-1].needs)


def test_an_order_without_a_value():
    """A function that runs after others starts when they have ended, and gets nothing of them."""
    order = []
    dag = DAG().add_function("late", [], lambda: order.append("late"), after=["early"], priority=9)
    dag.add_function("early", [], lambda: order.append("early"))
    handoff.execute_local(dag, outputs=["late"])
    assert order == ["early", "late"]
    assert dag.order() == ("early", "late")
    for after, problem in [("early", "tuple"), ([["x"]], "no id"), (["nobody"], "nobody")]:
        with pytest.raises(handoff.ValidationError, match=problem):
            DAG().add_function("f", [], int, after=after).validate()
    inline = DAG().add_function("i", [], int, type="inline").add_function("f", [], int, after=["i"])
    with pytest.raises(handoff.InvalidFunctionError, match="inline"):
        inline.validate()
    circle = DAG().add_function("a", [], int, after=["b"]).add_function("b", ["a"], int)
    with pytest.raises(handoff.CyclicDependencyError):
        circle.validate()


def test_results_as_a_dict():
    """By the ids of the functions, before what else there is."""
    dag = DAG().add_function("a", [], int).add_function(("b", 1), [], str)
    dag.add_function(
        "all", ["a", Argument(("b", 1))], lambda d, x: (d, x), argument_inclusion="as_dict", extra_args=[5]
    )
    assert handoff.execute_local(dag)["all"] == ({"a": 0, ("b", 1): ""}, 5)


def test_arguments_among_plain_values_may_be_changed_on_their_way():
    """Like those in args."""
    dag = DAG().add_function("a", [], int)
    dag.add_function("b", [], gather.code, kwargs={"x": Argument("a", (lambda v, s, t: (v, s, t),))})
    result = handoff.execute_local(dag)
    assert result["b"] == ((), {"x": (0, "local", "local")})
    assert ("serialize", 0, "a", "b") in result.results


def test_sinks():
    """What nothing else takes, through inline functions too; order alone takes nothing."""
    with DAG() as dag:
        a = clean("a")
        half = handoff.task(str.upper, type="inline", id="up")(a)
        merge([half])
        clean.options(after=[a])("late")
    assert dag.sinks() == ("merge", "clean-2")
    assert list(handoff.execute_local(dag, outputs="sinks").results) == ["merge", "clean-2"]


def test_a_function_knows_its_attempt():
    """Also in this process; outside of a function there is none."""

    def once_more() -> Any:
        found = handoff.current()
        if found.attempt == 1:
            raise ValueError
        return found

    dag = DAG("d").add_function("f", [], once_more, cost={"cpu": 2})
    found = handoff.execute_local(dag)["f"]
    assert found == handoff.Current(dag_id="d", function_id="f", attempt=2, node="local", cost={"cpu": 2})
    assert handoff.current() is None
