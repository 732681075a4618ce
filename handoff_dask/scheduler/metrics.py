"""What happens on the scheduler, in numbers, on its own ``/metrics`` page for Prometheus.

Dask's scheduler (and worker) writes on that page whatever is in ``prometheus_client.REGISTRY``;
so a collector registered there needs neither a route nor anything private of Dask's.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import dask

try:
    import prometheus_client
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

__all__ = ["AVAILABLE", "Durations", "MetricsPage", "MetricsSource", "publish"]

logger = logging.getLogger(__name__)

#: Upper bounds in seconds: from a decision that costs nothing to one that holds up the scheduler.
BOUNDS_S = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)

#: Statuses of runs that are not over.
_OPEN = ("pending", "running")


class Durations:
    """How often something lasted how long: a histogram that costs one bisection per entry.

    Examples
    --------
    >>> durations = Durations(bounds_s=(0.1, 1.0))
    >>> for seconds in (0.05, 0.1, 0.5, 7.0):
    ...     durations.observe(seconds)
    >>> durations.cumulative(), durations.sum_s
    ([('0.1', 2), ('1.0', 3), ('+Inf', 4)], 7.65)
    """

    __slots__ = ("bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: tuple[float, ...] = BOUNDS_S) -> None:
        #: Upper bounds, inclusive, in ascending order.
        self.bounds_s = bounds_s
        #: How many fell under each bound but not under the one before; at last, those beyond.
        self.counts = [0] * (len(bounds_s) + 1)
        #: Seconds in total.
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one more."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds

    def cumulative(self) -> list[tuple[str, int]]:
        """``(bound, how many lasted no longer)``, as Prometheus wants it."""
        names = [*map(str, self.bounds_s), "+Inf"]
        total, buckets = 0, []
        for name, count in zip(names, self.counts, strict=True):
            total += count
            buckets.append((name, total))
        return buckets


class Used:
    """What the functions of one code have used and claimed."""

    __slots__ = ("claimed", "cpu_s", "peak_mb")

    def __init__(self) -> None:
        self.cpu_s = 0.0
        #: ``{whether exact: megabytes}``, the most of one attempt.
        self.peak_mb: dict[bool, float] = {}
        #: ``{resource: amount}``, the most of one attempt.
        self.claimed: dict[str, float] = {}

    def count(self, cpu_s: float, peak_mb: float, exact: bool, claimed: Mapping[str, float]) -> None:
        """One more attempt has ended."""
        self.cpu_s += cpu_s
        self.peak_mb[exact] = max(peak_mb, self.peak_mb.get(exact, 0.0))
        for name, amount in claimed.items():
            self.claimed[name] = max(amount, self.claimed.get(name, 0.0))


class MetricsSource(Protocol):
    """Who knows the numbers: the scheduler plugin.

    Asked once per scrape, in the scheduler's event loop.  What is returned is only read.
    """

    def functions_by_state(self) -> Mapping[str, int]:
        """Functions of open runs: ``{state: how many}``."""

    def waiting_by_cause(self) -> Mapping[str, int]:
        """Ready functions without a node: ``{what they wait for: how many}``."""

    def capabilities(self) -> Mapping[str, Mapping[str, Any]]:
        """``{node: {resource: amount}}``; labels may be among them and are left out."""

    def claims(self) -> Mapping[str, Mapping[str, float]]:
        """``{node: {resource: amount that is claimed}}``."""

    def shared(self) -> Mapping[str, tuple[float, float]]:
        """Resources that the whole cluster shares: ``{name: (amount, amount that is claimed)}``."""

    def sick(self) -> Mapping[str, bool]:
        """``{node: whether it is set aside since it only fails}``."""

    def shares(self) -> Mapping[str, float]:
        """What clients with open runs hold: ``{client: largest fraction of anything the cluster has}``."""

    def decisions(self) -> Mapping[str, int]:
        """Decisions since the scheduler started: ``{"place", "wait" or "reject": how many}``."""

    def decision_times(self) -> Durations:
        """How long the engine took, each time that it was asked."""

    def used(self) -> Mapping[str, Used]:
        """What attempts that ended well have used and claimed: ``{name of the code: …}``."""

    def runs_by_status(self) -> Mapping[str, int]:
        """Runs that are open now and runs that have ended since the start: ``{status: how many}``."""

    def pipelines(self) -> list[dict[str, Any]]:
        """Pipelines that are open, as the page shows them."""


class MetricsPage:
    """Puts a source's numbers into one Prometheus registry.

    It is the collector too.  A process may have several schedulers, one after the other or (in
    tests) at once, but has one page: the numbers are those of the source that came last.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry
        self._sources: list[MetricsSource] = []

    def publish(self, source: MetricsSource) -> Callable[[], None]:
        """Show a source's numbers; return what takes them away again (twice is harmless).

        Without the package ``prometheus_client`` this does nothing.
        """
        if not AVAILABLE:
            return lambda: None
        registry = prometheus_client.REGISTRY if self._registry is None else self._registry
        if not self._sources:
            registry.register(self)
        self._sources.append(source)

        def withdraw() -> None:
            if not any(s is source for s in self._sources):
                return
            self._sources[:] = [s for s in self._sources if s is not source]
            if not self._sources:
                registry.unregister(self)

        return withdraw

    def describe(self) -> list[Metric]:
        """Nothing: the registry would else collect once in order to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics of the last source.  One that fails is logged: Dask's metrics still appear."""
        if not self._sources:
            return
        try:
            metrics = list(_metrics(self._sources[-1]))
        except Exception:
            logger.exception("handoff has no metrics for this scrape")
        else:
            yield from metrics


def publish(source: MetricsSource) -> Callable[[], None]:
    """Show a source's numbers on the ``/metrics`` page of this process's scheduler.

    To be called on the scheduler; returns what takes them away again, to be called when the
    plugin closes.
    """
    return _page.publish(source)


_page = MetricsPage()


def _metrics(source: MetricsSource) -> Iterator[Metric]:
    runs = source.runs_by_status()
    ended = {status: count for status, count in runs.items() if status not in _OPEN}
    open_ = {status: runs.get(status, 0) for status in _OPEN}
    yield _by_label("functions", "Functions of open runs", "state", source.functions_by_state())
    yield _by_label(
        "functions_waiting", "Ready functions that have no node yet", "cause", source.waiting_by_cause()
    )
    yield _by_node("capability", "What a node offers", source.capabilities())
    yield _by_node("claimed", "What is claimed of a node", source.claims())
    yield _by_label("node_sick", "1 for a node that is set aside since it only fails", "node", source.sick())
    shared = source.shared()
    if shared:
        amounts = {name: amount for name, (amount, _) in shared.items()}
        claimed = {name: used for name, (_, used) in shared.items()}
        yield _by_label("shared_capability", "What the whole cluster shares", "resource", amounts)
        yield _by_label("shared_claimed", "What is claimed of it", "resource", claimed)
    yield _by_label(
        "share", "Largest fraction that a client holds of anything the cluster has", "client", source.shares()
    )
    yield _by_label("runs", "Executions of DAGs that are not over", "status", open_)
    yield _counted("runs_ended", "Executions of DAGs that are over", "status", ended)
    yield _counted("decisions", "Decisions of the placement engine", "decision", source.decisions())
    yield from _used(source.used())
    yield from _pipelines(source.pipelines())
    times = source.decision_times()
    yield HistogramMetricFamily(
        _name("decision_duration_seconds"),
        "Time that the placement engine took, each time that it was asked",
        buckets=times.cumulative(),
        sum_value=times.sum_s,
    )


def _used(used: Mapping[str, Used]) -> Iterator[Metric]:
    """What functions have used beside what they claimed, by code."""
    cpu = CounterMetricFamily(
        _name("function_cpu_seconds"), "Processor time that functions have used", labels=["function"]
    )
    for name, one in used.items():
        cpu.add_metric([name], one.cpu_s)
    yield cpu
    for name, text, peaks in (
        ("function_peak_memory_megabytes", "Most memory of one attempt, of a process of its own", True),
        ("function_grown_megabytes", "Most that a shared process grew during one attempt", False),
    ):
        values = {n: peak for n, one in used.items() if (peak := one.peak_mb.get(peaks)) is not None}
        yield _by_label(name, text, "function", values)
    claimed = GaugeMetricFamily(
        _name("function_claimed"), "Most that one attempt has claimed", labels=["function", "resource"]
    )
    for name, one in used.items():
        for resource, amount in one.claimed.items():
            claimed.add_metric([name, resource], amount)
    yield claimed


def _pipelines(pipelines: list[dict[str, Any]]) -> Iterator[Metric]:
    """Pipelines of one DAG id are added up; busy shares are those of the busiest."""
    inside: Counter[tuple[str, ...]] = Counter()
    items: Counter[tuple[str, ...]] = Counter()
    waiting: Counter[tuple[str, ...]] = Counter()
    busy: dict[tuple[str, ...], float] = {}
    for pipeline in pipelines:
        dag = pipeline["dag_id"]
        inside[dag,] += pipeline["inside"]
        for stage in pipeline["stages"]:
            labels: tuple[str, ...] = (dag, stage["function_id"])
            items[labels] += stage["items"]
            waiting[labels] += stage["waiting"]
            busy[labels] = max(busy.get(labels, 0.0), stage["busy"])
    by_stage = ["dag", "stage"]
    for name, text, names, values in (
        ("stream_in_flight", "Items inside pipelines", ["dag"], inside),
        ("stream_stage_items", "Items that stages of open pipelines have settled", by_stage, items),
        ("stream_stage_waiting", "Items that wait in stages", by_stage, waiting),
        ("stream_stage_busy", "Share of the time in which the code of stages runs", by_stage, busy),
    ):
        gauge = GaugeMetricFamily(_name(name), text, labels=names)
        for key, value in values.items():
            gauge.add_metric(list(key), value)
        yield gauge


def _by_label(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    gauge = GaugeMetricFamily(_name(name), text, labels=[label])
    for key, value in values.items():
        gauge.add_metric([key], value)
    return gauge


def _counted(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    counter = CounterMetricFamily(_name(name), text, labels=[label])
    for key, value in values.items():
        counter.add_metric([key], value)
    return counter


def _by_node(name: str, text: str, nodes: Mapping[str, Mapping[str, Any]]) -> Metric:
    gauge = GaugeMetricFamily(_name(name), text, labels=["node", "resource"])
    for node, resources in nodes.items():
        for resource, value in resources.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                gauge.add_metric([node, resource], value)
    return gauge


def _name(name: str) -> str:
    """The metric's full name: Dask's namespace, then ours."""
    namespace = dask.config.get("distributed.dashboard.prometheus.namespace", "dask")
    return "_".join(part for part in (namespace, "handoff", name) if part)
