"""Handlers, spans, the table of events, and what DAGs carry."""

from __future__ import annotations

import ast
import asyncio
import logging
import re
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from heard import OTHER, WORK, Heard

from handoff_dask.errors import NotFoundError, ValidationError
from handoff_dask.telemetry import EVENTS, HANDLER_FAILURE, Handler


def test_handler_gets_the_event_with_its_config(registry):
    heard = Heard()
    registry.attach("h", WORK, heard, {"level": 3})

    registry.execute(WORK, {"items": 2}, {"by": "me"})
    registry.execute(OTHER, {"items": 9}, {})
    registry.execute((*WORK, "start"), {}, {})

    assert heard == [(WORK, {"items": 2}, {"by": "me"}, {"level": 3})]


def test_metadata_may_be_left_out(registry):
    heard = Heard()
    registry.attach("h", WORK, heard)

    registry.execute(WORK, {"items": 2})

    assert heard == [(WORK, {"items": 2}, {}, None)]


def test_handlers_are_called_in_the_order_of_attachment(registry):
    order: list[str] = []
    for name in ("c", "a", "b"):
        registry.attach(name, WORK, lambda *call: order.append(call[-1]), name)

    registry.execute(WORK, {})

    assert order == ["c", "a", "b"]


def test_one_handler_may_listen_to_several_events(registry):
    heard = Heard()
    registry.attach_many("h", [WORK, OTHER, WORK], heard)

    registry.execute(OTHER, {})
    registry.execute(WORK, {})

    assert [call[0] for call in heard] == [OTHER, WORK]


def test_detached_handler_hears_nothing(registry):
    heard = Heard()
    registry.attach_many("h", [WORK, OTHER], heard)

    registry.detach("h")
    registry.execute(WORK, {})
    registry.attach("h", OTHER, heard)

    assert heard == []
    assert registry.wanted() == {OTHER}


def test_handlers_do_not_see_what_others_do_to_their_copies(registry):
    def greedy(event, measurements, metadata, config):
        measurements.clear()
        metadata["mine"] = True

    heard = Heard()
    registry.attach("greedy", WORK, greedy)
    registry.attach("h", WORK, heard)
    measurements, metadata = {"items": 1}, {"by": "me"}

    registry.execute(WORK, measurements, metadata)

    assert heard == [(WORK, {"items": 1}, {"by": "me"}, None)]
    assert (measurements, metadata) == ({"items": 1}, {"by": "me"})


def test_handlers_are_listed_by_prefix(registry):
    heard = Heard()
    registry.attach_many("both", [WORK, ("lib", "x")], heard, 1)
    registry.attach("other", OTHER, heard)

    assert registry.list_handlers() == [
        Handler("both", WORK, heard, 1),
        Handler("both", ("lib", "x"), heard, 1),
        Handler("other", OTHER, heard, None),
    ]
    assert [h.event for h in registry.list_handlers(("app",))] == [WORK, OTHER]
    assert [h.handler_id for h in registry.list_handlers(OTHER)] == ["other"]
    assert registry.list_handlers(("ap",)) == []


class TestWrongUse:
    def test_second_handler_of_one_id(self, registry):
        heard = Heard()
        registry.attach("h", WORK, heard)

        with pytest.raises(ValueError, match="'h' is attached already"):
            registry.attach("h", OTHER, heard)
        with pytest.raises(ValidationError, match="detach it, or take another id"):
            registry.attach_many("h", [OTHER], heard)
        assert [h.event for h in registry.list_handlers()] == [WORK]

    def test_unknown_id(self, registry):
        with pytest.raises(NotFoundError, match="no telemetry handler 'h'; it was not attached"):
            registry.detach("h")

    @pytest.mark.parametrize(
        ("event", "message"),
        [
            ("app.work", "'app.work' is not a tuple of strings"),
            (None, "None is not a tuple"),
            (("app", 1), "has the part 1, which is not a non-empty string"),
            (("app", ""), "has the part ''"),
            ((), "the event is empty"),
        ],
    )
    def test_bad_event(self, registry, event, message):
        for use in (
            lambda: registry.attach("h", event, Heard()),
            lambda: registry.attach_many("h", [WORK, event], Heard()),
            lambda: registry.execute(event, {}, {}),
        ):
            with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
                use()
        assert registry.list_handlers() == []

    @pytest.mark.parametrize(
        ("events", "message"),
        [
            (WORK, "is one event, not a list of them"),
            ("app", "is not a list of events"),
            (None, "is not a list of events"),
            ([], "there is no event to attach to"),
        ],
    )
    def test_bad_events(self, registry, events, message):
        with pytest.raises(ValidationError, match=message):
            registry.attach_many("h", events, Heard())

    async def _coroutine(self, event, measurements, metadata, config): ...

    @pytest.mark.parametrize(
        ("fn", "message"),
        [
            (None, "is None, which cannot be called"),
            ("print", "cannot be called"),
            (lambda event, measurements, metadata: None, "it is called with four arguments"),
            (_coroutine, "is a coroutine function"),
        ],
    )
    def test_bad_handler(self, registry, fn, message):
        with pytest.raises(ValidationError, match=message):
            registry.attach("h", WORK, fn)
        assert not registry.has_handlers()

    def test_any_callable_that_takes_four_arguments_will_do(self, registry):
        registry.attach("mock", WORK, mock.Mock())
        registry.attach("builtin", WORK, print)
        registry.attach("more", WORK, lambda a, b, c, d, e=None: None)

        assert len(registry.list_handlers()) == 3

    def test_handler_id_must_be_hashable(self, registry):
        with pytest.raises(ValidationError, match="not hashable"):
            registry.attach([1], WORK, Heard())

    def test_mappings(self, registry):
        with pytest.raises(ValidationError, match=r"measurements of .* are 3, not a mapping"):
            registry.execute(WORK, 3, {})
        with pytest.raises(ValidationError, match=r"metadata of .* are \[\], not a mapping"):
            registry.execute(WORK, {}, [])

    def test_attaching_to_an_event_of_ours_that_does_not_exist_is_logged(self, registry, caplog):
        registry.attach("typo", ("handoff", "execution", "dags", "start"), Heard())
        registry.attach("right", ("handoff", "execution", "dag", "start"), Heard())

        assert [r.getMessage() for r in caplog.records] == [
            "handoff never emits ('handoff', 'execution', 'dags', 'start'); see handoff_dask.telemetry.EVENTS"
        ]


class TestHandlerThatRaises:
    @pytest.mark.parametrize("error", [RuntimeError("broken"), asyncio.CancelledError("broken")])
    def test_is_detached_logged_and_announced(self, registry, caplog, error):
        def broken(event, measurements, metadata, config):
            raise error

        heard, failures = Heard(), Heard()
        registry.attach_many("bad", [WORK, OTHER], broken, "its config")
        registry.attach("good", WORK, heard)
        registry.attach("failures", HANDLER_FAILURE, failures)

        registry.execute(WORK, {"items": 1}, {})
        registry.execute(WORK, {"items": 2}, {})
        registry.execute(OTHER, {}, {})

        assert [call[1] for call in heard] == [{"items": 1}, {"items": 2}]
        assert {h.handler_id for h in registry.list_handlers()} == {"good", "failures"}
        [(event, measurements, metadata, _)] = failures
        assert event == HANDLER_FAILURE
        assert list(measurements) == ["system_time"]
        assert metadata == {
            "handler_id": "bad",
            "event": WORK,
            "config": "its config",
            "exception": error,
        }
        [record] = caplog.records
        assert (record.name, record.levelno) == ("handoff_dask.telemetry", logging.ERROR)
        assert record.getMessage() == f"telemetry handler 'bad' raised at {WORK} and has been detached"
        assert record.exc_info[1] is error

    def test_even_one_that_hears_of_failures(self, registry):
        def broken(event, measurements, metadata, config):
            raise RuntimeError(metadata.get("handler_id"))

        failures = Heard()
        registry.attach("first", WORK, broken)
        registry.attach("second", HANDLER_FAILURE, broken)
        registry.attach("third", HANDLER_FAILURE, failures)

        registry.execute(WORK, {})

        assert [h.handler_id for h in registry.list_handlers()] == ["third"]
        assert sorted(call[2]["handler_id"] for call in failures) == ["first", "second"]

    def test_leaves_a_new_handler_of_its_id_alone(self, registry):
        heard = Heard()

        def replaces_itself(event, measurements, metadata, config):
            registry.detach("h")
            registry.attach("h", WORK, heard)
            raise RuntimeError

        registry.attach("h", WORK, replaces_itself)
        registry.execute(WORK, {"n": 1})
        registry.execute(WORK, {"n": 2})

        assert [call[1] for call in heard] == [{"n": 2}]

    def test_interrupts_go_on_their_way(self, registry):
        def interrupted(event, measurements, metadata, config):
            raise KeyboardInterrupt

        registry.attach("h", WORK, interrupted)
        with pytest.raises(KeyboardInterrupt):
            registry.execute(WORK, {})


class TestWanted:
    def test_has_handlers(self, registry):
        assert not registry.has_handlers()
        registry.attach("h", WORK, Heard())

        assert registry.has_handlers()
        assert registry.has_handlers(("app",))
        assert registry.has_handlers(WORK)
        assert not registry.has_handlers((*WORK, "start"))
        assert not registry.has_handlers(("handoff",))

    def test_changes_are_told_as_they_come(self, registry):
        seen: list[frozenset[Any]] = []
        unsubscribe = registry.subscribe_changes(lambda: seen.append(registry.wanted()))

        registry.attach("a", WORK, Heard())
        registry.attach("b", WORK, Heard())  # nothing new is wanted
        registry.attach_many("c", [WORK, OTHER], Heard())
        registry.detach("a")
        registry.detach("b")
        registry.detach("c")
        unsubscribe()
        registry.attach("d", WORK, Heard())

        assert seen == [{WORK}, {WORK, OTHER}, frozenset()]

    def test_a_failing_handler_is_not_wanted_any_more(self, registry):
        seen: list[frozenset[Any]] = []
        registry.attach("bad", WORK, lambda *_: 1 / 0)
        registry.subscribe_changes(lambda: seen.append(registry.wanted()))

        registry.execute(WORK, {})

        assert seen == [frozenset()]

    def test_callback_that_raises_is_logged(self, registry, caplog):
        told: list[bool] = []
        registry.subscribe_changes(lambda: 1 / 0)
        registry.subscribe_changes(lambda: told.append(True))

        registry.attach("h", WORK, Heard())

        assert told == [True]
        assert [r.getMessage() for r in caplog.records] == [
            "a callback for changed telemetry handlers raised"
        ]

    def test_batches_are_told_in_order_past_failures(self, registry):
        heard = Heard()
        registry.attach("bad", WORK, lambda *_: 1 / 0)
        registry.attach_many("h", [WORK, OTHER], heard)

        registry.deliver([(OTHER, {"n": 1}, {}), (WORK, {"n": 2}, {"x": 1}), (("no", "one"), {}, {})])

        assert heard == [(OTHER, {"n": 1}, {}, None), (WORK, {"n": 2}, {"x": 1}, None)]


def test_threads_may_attach_execute_and_detach_at_once(registry):
    """Each thread hears its own events, all of them, whatever the others do meanwhile."""
    counts: dict[int, int] = dict.fromkeys(range(8), 0)
    start = threading.Barrier(len(counts))

    def count(event, measurements, metadata, config):
        counts[config] += metadata["by"] == config

    def use(n: int) -> None:
        start.wait()
        for _ in range(50):
            registry.attach(("h", n), WORK, count, n)
            registry.execute(WORK, {}, {"by": n})
            registry.detach(("h", n))

    threads = [threading.Thread(target=use, args=(n,)) for n in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counts == dict.fromkeys(counts, 50)
    assert registry.list_handlers() == []
    assert not registry.has_handlers()


def test_table_of_events():
    """The names, measurements and metadata that users rely on."""
    dag = {"dag_id", "function_count", "allocation_strategy", "status"}
    function = {"dag_id", "function_id", "node", "attempt", "cost"}
    began = {"system_time", "queue_time"}
    claim = ({"amounts", "available"}, {"node", "dag_id", "function_id"})
    node = ({"capabilities"}, {"node", "address"})
    pipeline = {"dag_id", "stage_count", "status"}

    assert {name: (set(row.measurements), set(row.metadata)) for name, row in EVENTS.items()} == {
        ("handoff", "execution", "dag", "start"): ({"system_time"}, dag),
        ("handoff", "execution", "dag", "stop"): ({"system_time", "duration"}, dag),
        ("handoff", "execution", "dag", "exception"): ({"system_time", "duration"}, dag | {"exception"}),
        ("handoff", "execution", "function", "start"): (began, function),
        ("handoff", "execution", "function", "stop"): (
            {*began, "duration", "nbytes", "cpu_s", "peak_memory_mb", "exact"},
            function,
        ),
        ("handoff", "execution", "function", "exception"): ({*began, "duration"}, function | {"exception"}),
        ("handoff", "execution", "function", "retry"): ({*began, "duration"}, function | {"exception"}),
        ("handoff", "execution", "function", "reused"): ({"system_time"}, {"dag_id", "function_id"}),
        ("handoff", "allocation", "function"): (
            {"wait_time", "candidates"},
            {"dag_id", "function_id", "node", "strategy", "reason"},
        ),
        ("handoff", "resources", "claim"): claim,
        ("handoff", "resources", "release"): claim,
        ("handoff", "node", "up"): node,
        ("handoff", "node", "down"): node,
        ("handoff", "node", "update"): node,
        ("handoff", "node", "sick"): ({"failures"}, {"node", "reason"}),
        ("handoff", "node", "well"): ({"failures"}, {"node", "reason"}),
        ("handoff", "stream", "pipeline", "start"): ({"system_time"}, pipeline),
        ("handoff", "stream", "pipeline", "stop"): ({"system_time", "duration"}, pipeline),
        ("handoff", "stream", "pipeline", "exception"): (
            {"system_time", "duration"},
            pipeline | {"exception"},
        ),
        ("handoff", "stream", "item", "start"): ({"system_time"}, {"dag_id", "item"}),
        ("handoff", "stream", "item", "stop"): ({"system_time", "duration"}, {"dag_id", "item"}),
        ("handoff", "stream", "item", "exception"): (
            {"system_time", "duration"},
            {"dag_id", "item", "exception"},
        ),
    }


def test_table_in_the_documentation_is_the_table():
    """Each event has its row, with each of its measurements and metadata."""
    text = (Path(__file__).resolve().parent.parent / "docs" / "telemetry.md").read_text()
    same: set[str] = set()
    rows: dict[tuple[str, ...], tuple[set[str], set[str]]] = {}
    for line in text.splitlines():
        if line.startswith('| `("handoff"'):
            event, _, measurements, metadata = (cell.strip() for cell in line.strip("|").split(" | "))
            named = set(re.findall(r"`(\w+)`", metadata))
            same = named | same if metadata.startswith("the same") else named
            rows[ast.literal_eval(event.strip("`"))] = (set(re.findall(r"`(\w+)`", measurements)), same)
            same = same - {"exception"}

    assert rows == {name: (set(row.measurements), set(row.metadata)) for name, row in EVENTS.items()}
