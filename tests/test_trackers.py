"""Trackers: claims, releases, and that neither makes something from nothing."""

from __future__ import annotations

import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handoff_dask.errors import NotFoundError, ValidationError
from handoff_dask.trackers import ResourceTracker, SimpleResourceTracker


@pytest.fixture
def tracker():
    tracker = SimpleResourceTracker()
    tracker.register("a", {"cpu": 4, "memory": "8 GB", "zone": ["eu", "us"]})
    return tracker


def test_it_is_a_tracker(tracker):
    assert isinstance(tracker, ResourceTracker)
    assert not isinstance(object(), ResourceTracker)


def test_what_is_claimed_is_not_available(tracker):
    assert tracker.available("a", {"cpu": 4})
    assert tracker.request("a", {"cpu": 3, "memory": 8000})
    assert not tracker.available("a", {"cpu": 2})
    assert tracker.available("a", {"cpu": 1})
    assert tracker.in_use("a") == {"cpu": 3, "memory": 8000}


def test_a_refused_request_claims_nothing(tracker):
    assert not tracker.request("a", {"cpu": 1, "memory": 9000})
    assert not tracker.request("a", {"cpu": 1, "zone": "asia"})
    assert not tracker.request("a", {"gpu": 1})
    assert tracker.in_use("a") == {}


def test_labels_and_hints_are_read_as_in_a_cost(tracker):
    assert tracker.available("a", {"zone": "eu", "cpu": True, "has_cuda": False})
    assert tracker.available("a", None)
    assert tracker.request("a", {"cpu_intensive": True})
    assert tracker.in_use("a") == {"cpu": 1}


def test_fractions_are_exact(tracker):
    assert [tracker.request("a", {"cpu": 0.1}) for _ in range(41)] == [True] * 40 + [False]


def test_a_release_creates_no_capacity(tracker):
    tracker.request("a", {"cpu": 1})
    tracker.release("a", {"cpu": 3, "gpu": 1})
    tracker.release("a", {"cpu": 3})

    assert tracker.get_capabilities("a") == {"cpu": 4, "memory": 8000, "zone": ["eu", "us"]}
    assert tracker.in_use("a") == {}
    assert not tracker.available("a", {"cpu": 5})
    assert not tracker.available("a", {"gpu": 1})


def test_registering_again_replaces_what_it_has_and_keeps_what_is_claimed(tracker):
    tracker.request("a", {"cpu": 3})
    tracker.register("a", {"cpu": 2})
    assert not tracker.available("a", {"cpu": 1})
    tracker.release("a", {"cpu": 3})

    assert tracker.available("a", {"cpu": 2})
    assert tracker.get_capabilities() == {"a": {"cpu": 2}}


def test_a_node_is_known_by_its_name_as_a_string(tracker):
    tracker.register(0, {"cpu": 1})

    assert tracker.request("0", {"cpu": 1})
    assert tracker.in_use(0) == {"cpu": 1}


def test_an_unknown_node_is_not_available_and_not_found(tracker):
    assert not tracker.available("b", {})
    for ask in (
        lambda: tracker.request("b", {"cpu": 1}),
        lambda: tracker.release("b", {"cpu": 1}),
        lambda: tracker.get_capabilities("b"),
        lambda: tracker.in_use("b"),
    ):
        with pytest.raises(NotFoundError, match="no node 'b'; register it first; known: 'a'"):
            ask()


@pytest.mark.parametrize("wrong", [{"cpu": -1}, {"cpu": float("nan")}, [("cpu", 1)], {1: 1}])
def test_wrong_requirements_are_refused(tracker, wrong):
    for ask in (tracker.register, tracker.available, tracker.request, tracker.release):
        with pytest.raises(ValidationError):
            ask("a", wrong)
    assert tracker.in_use("a") == {}


def test_it_travels(tracker):
    tracker.request("a", {"cpu": 3})
    copy = pickle.loads(pickle.dumps(tracker))
    copy.release("a", {"cpu": 3})

    assert (copy.in_use("a"), tracker.in_use("a")) == ({}, {"cpu": 3})


def test_threads_never_claim_more_than_there_is(tracker):
    granted, start = [], threading.Barrier(4)

    def claim():
        start.wait(10)
        granted.extend(tracker.request("a", {"cpu": 0.01}) for _ in range(200))

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert (granted.count(True), len(granted)) == (400, 800)
    assert tracker.in_use("a") == {"cpu": 4}


steps = st.lists(
    st.tuples(
        st.sampled_from(["request", "release"]),
        st.fixed_dictionaries({}, optional={"cpu": st.integers(0, 5), "gpu": st.integers(0, 3)}),
    )
)


@given(steps)
def test_use_stays_between_nothing_and_all(sequence):
    tracker = SimpleResourceTracker()
    tracker.register("a", {"cpu": 4, "gpu": 2})
    for step, req in sequence:
        before = tracker.in_use("a")
        room = tracker.available("a", req)
        got = getattr(tracker, step)("a", req)
        after = tracker.in_use("a")

        assert all(0 < after[name] <= most for name, most in {"cpu": 4, "gpu": 2}.items() if name in after)
        if step == "request":
            assert got == room
            grown = {n: before.get(n, 0) + req.get(n, 0) for n in ("cpu", "gpu")} if got else before
            assert after == {n: v for n, v in grown.items() if v}
        else:
            assert all(after.get(n, 0) == max(0, before.get(n, 0) - req.get(n, 0)) for n in ("cpu", "gpu"))


class Picky(SimpleResourceTracker):
    def __init__(self):
        super().__init__()
        self.refused = ["night"]


def test_what_a_subclass_adds_travels_with_it():
    """A tracker of the user's own is pickled to the scheduler with all that it has."""
    tracker = Picky()
    tracker.register("a", {"cpu": 2})

    copy = pickle.loads(pickle.dumps(tracker))

    assert copy.refused == ["night"]
    assert copy.get_capabilities("a") == {"cpu": 2}
    assert copy.request("a", {"cpu": 2})
