"""The page of a report in a real browser.

Not collected with the other tests, for not every machine has Chromium; run it by name::

    python -m pytest tests/visualization/browser_report.py
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sample_records import hostile, sample

from handoff_dask.visualization import report
from tests.chromium import Browser, browser, eventually

__all__ = ["browser"]

CELLS = """(() => {
  const titles = [...document.querySelectorAll("#functions-table thead tr:first-child th")];
  const index = titles.findIndex((cell) => cell.textContent.trim() === TITLE);
  const rows = [...document.querySelectorAll("#functions-table tbody tr")];
  return rows.map((row) => row.cells[index].textContent);
})()"""
BARS = (
    "[...document.querySelectorAll('.timeline-node svg[aria-label^=Timeline] g[aria-label=bar] rect')].length"
)


def column(browser: Browser, title: str) -> list[str]:
    """The cells of a column that are shown."""
    return browser.value(CELLS.replace("TITLE", json.dumps(title)))


def fill(browser: Browser, label: str, text: str) -> None:
    browser.value(
        f"""(() => {{
          const field = document.querySelector(`[aria-label="{label}"]`);
          field.value = {json.dumps(text)};
          field.dispatchEvent(new Event(field.tagName === "SELECT" ? "change" : "input"));
        }})()"""
    )


def test_everything_is_drawn(browser, tmp_path):
    """All charts and the table are there; nothing complains, nothing is asked of the network."""
    known = sample(500)
    report(known, tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    assert browser.complaints() == []
    charts = browser.value("[...document.querySelectorAll('svg[aria-label]')].map((s) => s.ariaLabel)")
    assert charts[:2] == [
        "Makespan by cause, with the lower bound",
        "How many functions ran and waited, over time",
    ]
    assert [c.split()[3].rstrip(":") for c in charts if c.startswith("Timeline")] == list(known.nodes)
    bars = browser.value(BARS)
    assert bars >= sum(f.type == "regular" for f in known.functions)
    assert browser.value("document.querySelector('.graph > svg') !== null")
    assert len(column(browser, "Function")) == 25


def test_the_table_sorts_and_filters(browser, tmp_path):
    """By button, by key, by text, by choice and by comparison; exact rows each time."""
    known = sample(500)
    regular = [f for f in known.functions if f.type == "regular"]
    report(known, tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    browser.value("document.querySelectorAll('#functions-table .dt-column-order')[8].focus()")
    ran = sorted(f.stop - f.start for f in regular)
    for seconds in (ran, ran[::-1]):
        browser.press("Enter", 13, "\r")
        eventually(lambda: column(browser, "Ran"), [f"{s:.3f}" for s in seconds[:25]])
    ran.reverse()
    fill(browser, "Filter Function", "clean-")
    fill(browser, "Filter Node", "=s0")
    cleaned = sorted(f.id for f in regular if f.name == "clean" and f.node == "s0")
    assert 0 < len(cleaned) <= 25
    eventually(lambda: sorted(column(browser, "Function")), cleaned)
    fill(browser, "Filter Function", "")
    fill(browser, "Filter Node", "*")
    fill(browser, "Filter Ran", f"> {ran[3]:.4f}")
    longest = [f"{s:.3f}" for s in ran if s > float(f"{ran[3]:.4f}")]
    eventually(lambda: column(browser, "Ran"), longest)


def test_the_timeline_zooms(browser, tmp_path):
    """A span of time can be typed in; the whole run comes back."""
    report(sample(500), tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    whole = browser.value(BARS)
    browser.value(
        "document.getElementById('zoom-from').value = 1; document.getElementById('zoom-to').value = 2;"
        "document.querySelector('#zoom [type=submit]').click()"
    )
    part = browser.value(BARS)
    browser.value("document.querySelector('#zoom [type=reset]').click()")
    assert 0 < part < whole / 4
    assert browser.value(BARS) == whole


def test_hostile_texts_are_shown_and_not_run(browser, tmp_path):
    """No script of an id runs, no dialog opens, and the table says what the ids are."""
    report(hostile(), tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    assert browser.complaints() == []
    fill(browser, "Filter Function", "<script>")
    eventually(
        lambda: sorted(column(browser, "Function")),
        ["<!-- <script>", "</script><script>alert(2)</script>", "<script>alert(1)</script>"],
    )
    assert (
        browser.value("document.querySelectorAll('#functions-table script, #functions-table b').length") == 0
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1280])
def test_readable_light_and_dark_wide_and_narrow(browser, tmp_path, scheme, width):
    """The page follows the reader's scheme with enough contrast, and never scrolls sideways."""
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.send(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
    )
    report(sample(50), tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    colours = browser.value(
        "(() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]; })()"
    )
    ink, paper = (luminance(colour) for colour in colours)
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7
    assert (paper < ink) == (scheme == "dark")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    browser.send("Emulation.clearDeviceMetricsOverride")


def test_errors_are_linked_and_paper_gets_all(browser, tmp_path):
    """The table leads to the traceback; in print every row is there and nothing is folded away."""
    known = sample(200)
    functions = list(known.functions)
    for k in range(10, 20):
        functions[k] = replace(functions[k], status="failed", error=f"Traceback\nValueError: {k}")
    report(replace(known, functions=tuple(functions), status="failed"), tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    browser.value("location.hash = 'error-7'")
    eventually(lambda: browser.value("document.getElementById('error-7').open"), True)
    pdf = browser.send("Page.printToPDF")["data"]
    assert len(pdf) > 10_000
    browser.value("dispatchEvent(new Event('beforeprint'))")
    assert len(column(browser, "Function")) == sum(f.type == "regular" for f in functions)
    assert browser.value("document.querySelectorAll('details:not([open])').length") == 0
    browser.value("dispatchEvent(new Event('afterprint'))")
    assert len(column(browser, "Function")) == 25


def test_five_thousand_functions_are_usable(browser, tmp_path):
    """The page of a large execution is drawn within seconds (measured: about one)."""
    report(sample(5000), tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    timing = browser.value("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert timing < 10_000
    assert browser.complaints() == []


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG defines it."""
    channels = [int(c) / 255 for c in colour.removeprefix("rgb(").removesuffix(")").split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
