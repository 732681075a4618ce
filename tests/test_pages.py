"""The programs in the documents run as they are printed, and print what the documents say."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\nprints\n\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["writing.md", "running.md"])
def test_the_programs_of_a_page(page, tmp_path, monkeypatch):
    """One after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    found = BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    assert found
    for program, expected in found:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(program, page, "exec"), names)
        if expected:
            assert said.getvalue() == expected
