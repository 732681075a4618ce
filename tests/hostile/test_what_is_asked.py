"""Options, settings, the command line and its files: anything is refused by name, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

import handoff_dask as handoff
from handoff_dask import Function, config
from handoff_dask.cli import handoff as command
from handoff_dask.client import embedded
from handoff_dask.client.stream_submission import prepare_stream
from handoff_dask.client.submission import prepare
from handoff_dask.reuse.cache import Cache
from tests.hostile.anything import anything, hashable, hostile, refused_or_fine, texts

DAG = [Function("in", [], None, type="input"), Function("f", ["in"], abs)]

#: What is asked where nobody says anything.
OPTIONS: dict[str, Any] = {
    "inputs": {"in": -1},
    "allocation_strategy": None,
    "allocator": None,
    "resources": None,
    "max_retries": None,
    "retry": None,
    "max_concurrency": None,
    "priority": 0,
    "share": 1.0,
    "outputs": None,
    "timeout": None,
    "progress": False,
    "on_failure": "stop",
    "cache": None,
    "resume": None,
    "detach": False,
}
#: Of these the values are looked for on disk or on a cluster.
ELSEWHERE = {"cache", "resume"}
STREAM: dict[str, Any] = {
    "allocation_strategy": None,
    "allocator": None,
    "resources": None,
    "max_in_flight": None,
    "join_timeout": None,
    "on_node_loss": "move",
    "ordered": True,
}

resources = st.lists(
    st.fixed_dictionaries({"node": anything, "capabilities": anything}) | anything, max_size=2
)


@hostile
@given(
    asked=st.dictionaries(st.sampled_from(sorted(OPTIONS.keys() - ELSEWHERE)), anything, max_size=2),
    where=st.none() | resources,
    unknown=st.dictionaries(st.text(max_size=3), anything, max_size=1),
)
def test_any_option_of_an_execution(asked, where, unknown):
    options = {**OPTIONS, **({} if where is None else {"resources": where}), **asked}
    with refused_or_fine():
        prepare(DAG, unknown, default_allocator=None, **options)
    local = {name: value for name, value in options.items() if name != "detach"}
    if local["progress"] is not True:
        with refused_or_fine():
            handoff.execute_local(DAG, **{**local, **unknown})


@hostile
@given(asked=st.dictionaries(st.sampled_from(sorted(STREAM)), anything, max_size=2))
def test_any_option_of_a_stream(asked):
    with refused_or_fine():
        prepare_stream(DAG, {}, default_allocator=None, **{**STREAM, **asked})


@hostile
@given(
    said=st.dictionaries(
        st.sampled_from(["retries", "priority", "workers", "resources", "allow_other_workers"]), anything
    )
)
def test_anything_said_by_dask_around_it(said):
    try:
        around = dask.annotate(**said)
        around.__enter__()
    except Exception:  # Dask refuses some of it itself
        return
    try:
        with refused_or_fine():
            prepare(DAG, {}, default_allocator=None, **OPTIONS)
    finally:
        around.__exit__(None, None, None)


@hostile
@given(name=st.sampled_from(sorted(config._DEFAULTS["handoff"])), value=anything)
@example(name="ship", value=np.arange(3))
@example(name="planning", value="")
def test_any_setting(name, value):
    with dask.config.set({f"handoff.{name}": value}), refused_or_fine():
        prepare(DAG, {}, default_allocator=None, **OPTIONS)
        kind = type(config._DEFAULTS["handoff"][name])
        assert kind in (str, int, bool, type(None))
    readers = (config.seconds, config.nbytes, config.count)
    for read in readers:
        with dask.config.set({"handoff.max-retries": value}), refused_or_fine():
            assert read("max-retries") >= 0
    with refused_or_fine():
        config.placing_of(value)


@hostile
@given(url=texts | anything, most=anything)
def test_any_cache(url, most):
    if isinstance(url, (str, Path)) and not str(url).startswith("memory"):
        url = f"memory://{url!r}"
    with refused_or_fine():
        Cache(url, most)


@pytest.fixture(scope="module")
def no_cluster() -> Any:
    """An embedded cluster that would start is an error."""

    def starts(*args: Any, **kwargs: Any) -> None:
        raise handoff.ValidationError("an embedded cluster would start")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "SpecCluster", starts)
        yield


@hostile
@given(
    asked=st.dictionaries(
        st.sampled_from(["client", "nodes", "resource_tracker", "result_store", "allocator", "dask_tasks"]),
        anything,
        max_size=2,
    ),
    nodes=st.none() | st.dictionaries(hashable, anything, max_size=2),
)
def test_anything_to_start_with(no_cluster, asked, nodes):
    if asked.get("dask_tasks") == "place":  # of the whole process
        del asked["dask_tasks"]
    asked = {"nodes": nodes, **asked}
    if asked["nodes"] is None:
        asked["nodes"] = {"n": {"cpu": 1}}
    with pytest.raises(handoff.HandoffError) as refused:
        handoff.Handoff(**asked)
    assert len(str(refused.value)) > 10


# ---------------------------------------------------------------------- the command line

FILE = """
from handoff_dask import DAG, Function
dag = DAG("d").add_function(Function("in", [], None, type="input")).add_function(Function("f", ["in"], abs))
"""

words = st.one_of(
    texts.map(str),
    st.text(alphabet=":;=,{}[]\"'cpu14GB \n", max_size=12),
    st.sampled_from(
        ["job.py", "job.py:dag", "job.py:nothing", "broken.py", "none.json", "lines.jsonl", "in=1", "f"]
    ),
)
#: Commands that need no cluster, or cannot reach theirs.
COMMANDS = ("check", "graph", "audit", "why-rerun", "cache")
FLAGS = ("--nodes", "--output", "--input", "--cache", "--json", "--format", "--out", "--keep", "--prune")


def invoke(arguments: list[str]) -> None:
    """No command ends with a traceback."""
    ended = CliRunner().invoke(command, arguments, standalone_mode=True)
    if ended.exception is not None and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    assert ended.exit_code in (0, 1, 2, 3)
    if ended.exit_code:
        assert ended.output.strip(), arguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    where = tmp_path_factory.mktemp("hostile")
    (where / "job.py").write_text(FILE)
    (where / "broken.py").write_text("dag = 1 +")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        yield where


@hostile
@given(
    name=st.sampled_from(COMMANDS),
    target=words,
    more=st.lists(st.one_of(st.tuples(st.sampled_from(FLAGS), words), st.tuples(words)), max_size=3),
)
@example(name="cache", target="0", more=[("--prune", "")])
def test_any_words_on_the_command_line(folder, name, target, more):
    said = [name, target, *(word for part in more for word in part)]
    # What it writes must stay here, and a directory of a cache is made where it is named.
    assert not any(word in ("/", "..") for word in said)
    invoke([word.replace("/", "_").replace("\x00", "_") for word in said])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=4), parts, max_size=3),
    max_leaves=5,
)


@hostile
@given(nodes=json_values, value=json_values)
def test_any_json_on_the_command_line(folder, nodes, value):
    invoke(["check", "job.py", "--nodes", json.dumps(nodes)])
    invoke(["check", "job.py", "--nodes", json.dumps({"n": {"cpu": value}})])


@hostile
@given(
    lines=st.lists(
        st.one_of(
            st.binary(max_size=20),
            json_values.map(lambda value: json.dumps(value).encode()),
            st.dictionaries(
                st.sampled_from(["at", "event", "kind", "version", "now", "events"]), json_values
            ).map(lambda value: json.dumps(value).encode()),
        ),
        max_size=4,
    )
)
@example(lines=[b"\x80"])
def test_any_file_as_an_event_log(folder, lines):
    Path("any.jsonl").write_bytes(b"\n".join(lines))
    invoke(["audit", "any.jsonl"])


@hostile
@given(
    source=st.one_of(
        st.binary(max_size=30), texts.map(lambda text: f"dag = {text!r}".encode("utf8", "replace"))
    )
)
def test_any_file_as_a_job(folder, source):
    Path("any.py").write_bytes(source)
    invoke(["check", "any.py"])
    Path("any.json").write_bytes(source)
    invoke(["check", "any.json"])
