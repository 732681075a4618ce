"""Functions use the cores that they claim; where Dask's defaults stand in the way, that is told."""

from __future__ import annotations

import multiprocessing
import os
from typing import Any

import pytest
from clusters import live

import handoff_dask as handoff
from handoff_dask import Function
from handoff_dask.resources import Capabilities
from handoff_dask.scheduler.node_notes import node_notes


def squares(count: int) -> Any:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(abs, range(count)), os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]


def test_an_embedded_cluster_lets_functions_use_their_cores():
    """They may start processes, and native libraries know how many cores there are."""
    with handoff.Handoff(nodes={"four": {"cpu": 4}}) as session:
        dag = [Function("squares", [], squares, extra_args=[3], cost={"cpu": 4})]
        assert session.execute(dag)["squares"] == ([0, 1, 2], "4", "4")
        assert session.node_notes() == {"four": []}


@live(2)
async def test_more_cpu_than_threads_and_bytes_for_megabytes_are_told(c, s, *workers):
    """By the session, and by a check of a DAG that claims several cores."""
    async with handoff.AsyncHandoff(c) as session:
        with pytest.warns(UserWarning, match="did you mean 16000"):
            await session.register_node("0", {"cpu": 8, "memory": 16e9})
        notes = (await session.node_notes())["0"]
    assert "declares cpu 8 but has 2 threads" in notes[0]
    assert "memory is in megabytes (did you mean 16000?)" in notes[-1]


def test_what_stands_in_the_way_is_named_with_what_mends_it():
    """A daemon, and one thread for native libraries; only where there are several cores."""
    facts = {"is_daemon": True, "native_threads": 1}
    several = node_notes("a", Capabilities.parse({"cpu": 4}), 4, facts)
    assert [("DAEMON=False" in note, "OMP_NUM_THREADS=4" in note) for note in several] == [
        (True, False),
        (False, True),
    ]
    assert node_notes("a", Capabilities.parse({"cpu": 1}), 1, facts) == []


class Described:
    def discover_nodes(self) -> Any:
        return {"a": {"cpu": 4}}

    def node_notes(self) -> Any:
        return {"a": ["functions on node 'a' cannot start processes"]}


def test_a_check_says_so_where_it_matters():
    """To who claims several cores, nobody else."""
    one, two = (handoff.DAG().add_function("f", [], int, cost={"cpu": n}) for n in (1, 2))
    assert "cannot start processes" in str(two.check(Described()))
    assert "cannot start processes" not in str(one.check(Described()))


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_text_for_a_number_is_refused(name):
    """In costs; a node may describe what it has by a text."""
    with pytest.raises(handoff.InvalidFunctionError, match="give a number"):
        Function("f", [], int, cost={name: "2"})
    assert Capabilities.parse({name: "fast"}).to_dict() == {name: "fast"}
