"""Every code block of the documents runs as it is printed, and prints what the documents say.

Programs and examples of one page run one after the other in one namespace, as a reader would type them.
What connects to a scheduler that is not there gets a small cluster in this process; commands are read by
the command line's own parser, and configuration is loaded.
"""

from __future__ import annotations

import contextlib
import copy
import doctest
import functools
import io
import logging
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dask
import distributed
import pytest
import yaml
from distributed.system import MEMORY_LIMIT

import handoff_dask as handoff
from handoff_dask.cli import handoff as command
from handoff_dask.client import embedded
from handoff_dask.client.default import _defaults

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
#: A fenced block; a paragraph that begins with a prompt; a block that is set in by four columns.
BLOCK = re.compile(
    r"^(?P<fence>```+)(?P<language>\S*)\n(?P<fenced>.*?)^(?P=fence)\n"
    r"|^(?P<examples>>>> .*?)(?:\n\n|\Z)"
    r"|(?<=\n\n)(?P<indented>(?:    \S[^\n]*\n)+)",
    re.DOTALL | re.MULTILINE,
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
#: Pages whose programs compute for many seconds.
SLOW = ("docs/costs.md",)
QUIET = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}


class Block(NamedTuple):
    language: str
    text: str
    line: int
    #: Whether the text before it says that this is what the block before prints.
    is_output: bool


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    for found in BLOCK.finditer(page):
        line = page.count("\n", 0, found.start())
        language = found["language"] or ("sh" if found["indented"] else "")
        text = found["fenced"] or found["examples"] or found["indented"] or ""
        if text.startswith(">>> "):
            language = "pycon"
        is_output = page[: found.start()].endswith("\nprints\n\n")
        yield Block(language, text, line, is_output)


def in_threads(name: str, threads: int) -> dict[str, Any]:
    """How a worker of this process is made, in a cluster of Dask's."""
    options = {"name": name, "nthreads": threads, "memory_limit": MEMORY_LIMIT, "host": "127.0.0.1", **QUIET}
    return {"cls": distributed.Worker, "options": options}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Somewhere to write, clusters in threads of this process, and afterwards all as it was."""
    settings = copy.deepcopy(dask.config.config)
    monkeypatch.chdir(tmp_path)
    opened: list[Any] = []

    @functools.cache
    def cluster() -> Any:
        return distributed.SpecCluster(
            scheduler={"cls": distributed.Scheduler, "options": {"port": 0, "host": "127.0.0.1", **QUIET}},
            workers={name: in_threads(name, 4) for name in ("accelerated", "plain")},
            silence_logs=logging.WARNING,
        )

    class Client(distributed.Client):
        """Where a page names a scheduler that is not there, or none, this one."""

        def __init__(self, address: Any = None, **options: Any) -> None:
            here = address is None or isinstance(address, str)
            super().__init__(cluster().scheduler_address if here else address, **options)
            if not options.get("asynchronous"):
                opened.append(self)

    class LocalCluster(distributed.LocalCluster):
        """In threads."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "processes": False, "dashboard_address": None})
            opened.append(self)

    def node(scheduler: str, name: str, options: dict[str, Any]) -> Any:
        worker = in_threads(name, options["nthreads"])
        return worker["cls"](scheduler, **worker["options"])

    monkeypatch.setattr(distributed, "Client", Client)
    monkeypatch.setattr(distributed, "LocalCluster", LocalCluster)
    monkeypatch.setattr(embedded, "NodeProcess", node)
    try:
        yield
    finally:
        # A page may start several sessions, one after the other; the last is not the only one.
        for session in list(_defaults.sessions.values()):
            if session.is_usable:
                session.stop()
        handoff.stop()
        for one in [*opened, *([cluster()] if cluster.cache_info().currsize else [])]:
            one.close()
        dask.config.config.clear()
        dask.config.config.update(settings)


class MainThread(io.StringIO):
    """What the program itself prints; what functions print goes elsewhere, as from other processes."""

    def write(self, text: str) -> int:
        return super().write(text) if threading.current_thread() is threading.main_thread() else len(text)


def named(path: Path) -> Any:
    name = str(path.relative_to(ROOT))
    return pytest.param(path, id=name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.mark.parametrize("path", [*map(named, PAGES)])
def test_the_blocks_of_a_page(path: Path, elsewhere: None) -> None:
    """One after the other."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(path.read_text(encoding="utf-8")):
        where = f"{path.name}, line {block.line + 1}"
        if block.language == "python":
            said = MainThread()
            with contextlib.redirect_stdout(said):
                exec(compile("\n" * (block.line + 1) + block.text, str(path), "exec"), names)
            printed = said.getvalue()
        elif block.language == "pycon":
            run_examples(block, path, names)
        elif block.language == "text":
            if block.is_output:
                assert as_pattern(block.text).fullmatch(printed), (where, printed)
        elif block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict), where
        elif block.language == "sh":
            read_commands(block.text)
        else:
            # What Sphinx itself reads; anything else needs to say what it is.
            assert block.language.startswith("{"), f"{where}: a block without a language"


def as_pattern(text: str) -> re.Pattern[str]:
    """A text in which `...` stands for anything on its line."""
    return re.compile(re.escape(text).replace(r"\.\.\.", ".*"))


def run_examples(block: Block, path: Path, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text, names, path.name, str(path), block.line)
    test.globs = names  # not a copy: functions of different blocks share their globals
    said = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    failed = runner.run(test, out=said.write, clear_globs=False)
    assert not failed.failed, said.getvalue()


def read_commands(text: str) -> None:
    """Read what calls our own program as it would; of others, see that the words are there."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:2] == ["dask", "handoff"]:
            with command.make_context("handoff", words[2:]) as context:
                name, sub, rest = command.resolve_command(context, words[2:])
                assert sub is not None
                sub.make_context(name, rest, parent=context)
        else:
            assert not words or words[0] in ("dask", "pip", "make", "python"), line


def test_pages_have_blocks_of_every_kind() -> None:
    """The pattern finds what it is for."""
    found = [block for path in PAGES for block in blocks(path.read_text(encoding="utf-8"))]
    assert {block.language for block in found} >= {"python", "pycon", "text", "yaml", "sh"}
    page = "A\n\n    dask worker x\n\n```python\n1\n```\n\nprints\n\n```text\n1\n```\n\n>>> 1\n1\n"
    assert [(b.language, b.is_output) for b in blocks(page)] == [
        ("sh", False),
        ("python", False),
        ("text", True),
        ("pycon", False),
    ]
