"""Notebooks that are executed and saved without a front end, as by ``jupyter nbconvert --execute``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

CELLS = [
    """
import time
import handoff_dask as handoff

def wait(n):
    time.sleep(0.1)
    return n

def fails(n):
    raise ValueError("on purpose")

session = handoff.start(nodes={"a": {"cpu": 2}})
""",
    """
with handoff.DAG("first") as first:
    handoff.task(wait, cost={"cpu": 1}).map(range(6))
execution = handoff.submit(first, progress=True)
""",
    "'another cell'",
    "execution.result()",
    """
bad = handoff.submit([handoff.Function("bad", [], fails, extra_args=[1])], progress=True, max_retries=0)
""",
    """
while bad.status != "failed":
    time.sleep(0.01)
""",
    "handoff.execute_local(first, progress=True)",
    "first",
    "handoff.stop()",
]


def cell(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}


@pytest.mark.slow
def test_a_saved_notebook_has_the_last_state_of_each_bar(tmp_path):
    """In the cell that began it, whichever cell waited for the end."""
    book = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [*map(cell, CELLS)]}
    (tmp_path / "in.ipynb").write_text(json.dumps(book))
    environment = {**os.environ, "JUPYTER_PLATFORM_DIRS": "1", "HOME": str(tmp_path)}
    convert = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "in.ipynb"]
    subprocess.run(
        [*convert, "--output", "out.ipynb"], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    saved = json.loads((tmp_path / "out.ipynb").read_text())
    texts = [
        "".join("".join(output.get("data", {}).get("text/plain", "")) for output in cell["outputs"])
        for cell in saved["cells"]
    ]
    assert re.fullmatch(r"first: 6/6 finished in .*", texts[1])
    assert texts[2] == "'another cell'"
    assert re.fullmatch(r"bad \([0-9a-f]{8}\): 0/1 failed in .*, 1 failed", texts[4])
    assert re.search(r"first: 6/6 finished in", texts[6])
    for place in (3, 6, 7):
        assert any("text/html" in output.get("data", {}) for output in saved["cells"][place]["outputs"])
