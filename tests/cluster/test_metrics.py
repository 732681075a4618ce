"""Handoff's numbers on the scheduler's page for Prometheus."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import dask
import pytest
from distributed.utils_test import gen_cluster
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient

from handoff_dask.scheduler.metrics import Durations, MetricsPage, Used, publish


class Numbers:
    """A scheduler plugin, as far as metrics are concerned."""

    def __init__(self, **functions: int) -> None:
        self.functions = functions
        self.times = Durations(bounds_s=(0.001, 0.1))
        for seconds in (0.001, 0.05, 2.0):
            self.times.observe(seconds)

    def functions_by_state(self):
        return self.functions

    def waiting_by_cause(self):
        return {"room": 2, "pin": 1}

    def capabilities(self):
        return {
            "a": {"cpu": 4, "memory": 1000.5, "zone": "eu", "ssd": True},
            "b": {"cpu": 2},
        }

    def claims(self):
        return {"a": {"cpu": 0.5}, "b": {}}

    def sick(self):
        return {"a": False, "b": True}

    def shares(self):
        return {"client": 0.5}

    def shared(self):
        return {"licences": (8, 2.5)}

    def decisions(self):
        return {"place": 7, "wait": 3, "reject": 0}

    def decision_times(self):
        return self.times

    def used(self):
        fit, load = Used(), Used()
        fit.count(2.0, 300.0, True, {"cpu": 1, "memory": 400})
        fit.count(3.5, 200.0, True, {"cpu": 1, "memory": 800})
        load.count(0.5, 20.0, False, {})
        return {"fit": fit, "load": load}

    def runs_by_status(self):
        return {"running": 1, "finished": 5, "failed": 2}

    def pipelines(self):
        stages = [{"function_id": "a", "items": 9, "waiting": 2, "busy": 0.5}]
        return [{"dag_id": "texts", "inside": n, "stages": stages} for n in (3, 4)]


def read(text: str, prefix: str = "dask_handoff_") -> dict[tuple[str, tuple[str, ...]], float]:
    """``{(name, values of its labels): value}`` of our metrics on a page."""
    return {
        (sample.name.removeprefix(prefix), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(prefix)
    }


def page_of(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


def test_every_number_is_on_the_page():
    registry = CollectorRegistry(auto_describe=True)
    MetricsPage(registry).publish(Numbers(waiting=3, running=2))

    assert read(page_of(registry)) == {
        ("functions", ("waiting",)): 3,
        ("functions", ("running",)): 2,
        ("functions_waiting", ("room",)): 2,
        ("functions_waiting", ("pin",)): 1,
        ("node_sick", ("a",)): 0,
        ("node_sick", ("b",)): 1,
        ("share", ("client",)): 0.5,
        ("shared_capability", ("licences",)): 8,
        ("shared_claimed", ("licences",)): 2.5,
        ("capability", ("a", "cpu")): 4,
        ("capability", ("a", "memory")): 1000.5,
        ("capability", ("b", "cpu")): 2,
        ("claimed", ("a", "cpu")): 0.5,
        ("runs", ("pending",)): 0,
        ("runs", ("running",)): 1,
        ("runs_ended_total", ("finished",)): 5,
        ("runs_ended_total", ("failed",)): 2,
        ("decisions_total", ("place",)): 7,
        ("decisions_total", ("wait",)): 3,
        ("decisions_total", ("reject",)): 0,
        ("function_cpu_seconds_total", ("fit",)): 5.5,
        ("function_cpu_seconds_total", ("load",)): 0.5,
        ("function_peak_memory_megabytes", ("fit",)): 300,
        ("function_grown_megabytes", ("load",)): 20,
        ("function_claimed", ("fit", "cpu")): 1,
        ("function_claimed", ("fit", "memory")): 800,
        ("stream_in_flight", ("texts",)): 7,
        ("stream_stage_items", ("texts", "a")): 18,
        ("stream_stage_waiting", ("texts", "a")): 4,
        ("stream_stage_busy", ("texts", "a")): 0.5,
        ("decision_duration_seconds_bucket", ("0.001",)): 1,
        ("decision_duration_seconds_bucket", ("0.1",)): 2,
        ("decision_duration_seconds_bucket", ("+Inf",)): 3,
        ("decision_duration_seconds_count", ()): 3,
        ("decision_duration_seconds_sum", ()): pytest.approx(2.051),
    }


def test_names_begin_with_the_namespace_of_dask():
    registry = CollectorRegistry()
    MetricsPage(registry).publish(Numbers(waiting=3))

    with dask.config.set({"distributed.dashboard.prometheus.namespace": "ours"}):
        text = page_of(registry)

    assert read(text, "ours_handoff_")["functions", ("waiting",)] == 3
    assert read(text) == {}


def test_the_last_source_is_shown_and_leaves_the_page_to_the_one_before():
    registry = CollectorRegistry()
    page = MetricsPage(registry)
    withdraw_first = page.publish(Numbers(waiting=1))
    withdraw_second = page.publish(Numbers(waiting=2))
    shown = [read(page_of(registry))["functions", ("waiting",)]]

    withdraw_second()
    withdraw_second()
    shown.append(read(page_of(registry))["functions", ("waiting",)])
    withdraw_first()

    assert shown == [2, 1]
    assert page_of(registry) == ""
    page.publish(Numbers(waiting=3))
    assert read(page_of(registry))["functions", ("waiting",)] == 3


def test_a_source_that_fails_leaves_the_rest_of_the_page(caplog):
    class Broken(Numbers):
        def decision_times(self) -> Any:
            raise RuntimeError("no times")

    registry = CollectorRegistry()
    MetricsPage(registry).publish(Numbers(waiting=1))
    MetricsPage(registry).publish(Broken(waiting=2))

    assert read(page_of(registry))["functions", ("waiting",)] == 1
    assert "handoff has no metrics for this scrape" in caplog.text


@gen_cluster(nthreads=[], scheduler_kwargs={"dashboard_address": "127.0.0.1:0"})
async def test_numbers_appear_among_those_of_dasks_scheduler(scheduler):
    url = f"http://127.0.0.1:{scheduler.http_server.port}/metrics"

    async def fetch() -> str:
        return (await AsyncHTTPClient().fetch(url)).body.decode()

    before = await fetch()
    withdraw = publish(Numbers(waiting=3))
    try:
        during = await fetch()
    finally:
        withdraw()
    after = await fetch()

    assert all("dask_scheduler_workers" in page for page in (before, during, after))
    assert read(before) == {}
    assert read(during)["functions", ("waiting",)] == 3
    assert read(after) == {}


def test_without_prometheus_client_nothing_happens():
    script = (
        "import sys\n"
        "sys.modules['prometheus_client'] = None\n"
        "from handoff_dask.scheduler import metrics\n"
        "metrics.publish(object())()\n"
        "print(metrics.AVAILABLE)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert said.stdout == "False\n"
