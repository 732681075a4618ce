"""The examples of own stores and of asyncio run, and say what they should."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest

import handoff_dask as handoff

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load_example(name):
    spec = importlib.util.spec_from_file_location(f"handoff_example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


store = load_example("result_store")
pipeline = load_example("asyncio_pipeline")


def test_a_second_run_finds_the_results_on_disk(tmp_path, capsys, monkeypatch):
    url = str(tmp_path / "results")
    # What runs on the node must be importable there, or travel with the function.
    monkeypatch.setattr(store.count_words, "__module__", "__main__")
    assert [store.total(url), store.total(url)] == [6, 6]
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["computed,", "found"]

    kept = store.FileStore(url)
    assert isinstance(kept, handoff.ResultStore)
    assert {i: kept.get(store.DAG_ID, i) for i in kept.locations(store.DAG_ID)} == {
        ("words", "short"): 2,
        ("words", "longer"): 4,
        ("words", "none"): 0,
        "total": 6,
    }
    kept.clear(store.DAG_ID)
    assert not kept.has(store.DAG_ID, "total")
    assert kept.locations(store.DAG_ID) == {}
    with pytest.raises(handoff.NotFoundError, match="total"):
        kept.get(store.DAG_ID, "total")


def test_two_dags_of_one_asyncio_program(capsys):
    assert asyncio.run(pipeline.main()) == [6, 2]
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "paragraphs: [6, 2]"
    assert {line for line in said if line.startswith("count")} == {f"count {page}: 2" for page in "abcd"}
