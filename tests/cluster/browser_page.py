"""The scheduler's page in a real browser: ``make browser``."""

from __future__ import annotations

import pytest
from distributed import Event

import handoff_dask as handoff
from handoff_dask.client.page_link import page_link
from tests.chromium import Browser, browser, eventually

__all__ = ["browser"]

HOSTILE = "<script>document.title = 'mine'</script><img src=x onerror=\"document.title = 'mine'\">"


def wait_for(name):
    Event(name).wait()


@pytest.fixture(scope="module")
def session():
    with handoff.Handoff(nodes={"big": {"cpu": 4, "zone": HOSTILE}, "small": {"cpu": 1}}) as session:
        yield session


def text(browser: Browser, selector: str) -> str:
    return browser.value(f"document.querySelector({selector!r}).innerText")


def facts(browser: Browser) -> list[str]:
    return text(browser, "#facts").split("\n")[1::2]


def test_page_keeps_itself_up_to_date(browser, session):
    """A DAG appears, waits and ends while the page is open; nothing complains, nobody else is asked."""
    link = page_link(session.client)
    browser.go(link)
    before = [part for part in facts(browser) if part.strip()]
    dag = handoff.DAG(HOSTILE)
    for i in range(3):
        dag.add_function(handoff.Function((HOSTILE, i), [], wait_for, extra_args=["go"], cost={"cpu": 3}))
    execution = session.submit(dag)
    eventually(lambda: [part for part in facts(browser) if part.strip()], ["2", "1", "2", "1"])
    shown = text(browser, "#waiting")
    session.sync(Event("go", client=session.client).set)
    execution.result()
    eventually(lambda: [part for part in facts(browser) if part.strip()], ["2", "0", "0", "0"])

    assert before == ["2", "0", "0", "0"]
    assert "big: needs cpu 3, 1 of 4 free" in shown
    assert HOSTILE[:20] in shown
    assert browser.value("document.title") == "handoff"
    assert browser.complaints(link) == []


def test_report_is_one_click_away(browser, session):
    session.execute(handoff.DAG("clicked").add_function(handoff.Function("a", [], int)))
    browser.go(page_link(session.client))
    link = "[...document.querySelectorAll('#runs a')].find((a) => a.innerText === 'clicked')"
    eventually(lambda: browser.value(f"Boolean({link})"), True)
    browser.value(f"{link}.click()")

    eventually(lambda: browser.value("document.title"), "clicked – handoff")
    eventually(lambda: browser.value("document.querySelectorAll('svg[aria-label]').length > 0"), True)


def test_lost_scheduler_is_said(browser):
    with handoff.Handoff(nodes={"lone": {"cpu": 1}}) as session:
        browser.go(page_link(session.client))
        assert "brought up to date" in text(browser, "#alive")

    eventually(lambda: "No answer from the scheduler since" in text(browser, "#alive"), True)


@pytest.mark.parametrize("width", [360, 1400])
def test_page_fits_its_window(browser, session, width):
    browser.send(
        "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False
    )
    browser.go(page_link(session.client))

    assert browser.value("document.documentElement.scrollWidth") <= width
