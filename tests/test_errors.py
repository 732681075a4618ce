"""Errors: facts as attributes, words that say what to do, and that they survive the network."""

from __future__ import annotations

import pickle

import cloudpickle
import pytest

from handoff_dask.errors import (
    AllocationError,
    CyclicDependencyError,
    DuplicateFunctionError,
    FunctionFailedError,
    FunctionTimeoutError,
    HandoffError,
    InvalidFunctionError,
    MemoryExceededError,
    MissingFunctionError,
    NotFoundError,
    ProcessEndedError,
    ValidationError,
)

ERRORS = [
    MissingFunctionError("a", ("b", 1)),
    CyclicDependencyError(["a", "b"]),
    DuplicateFunctionError("a"),
    InvalidFunctionError("a", "it has no code; give a callable"),
    AllocationError("a", {"cpu": 8}, {"n1": "needs cpu 8, has 4"}),
    AllocationError("a", None, {}, "the strategy raised"),
    AllocationError("a", None, {}),
    FunctionFailedError("a", "n1", 4),
    FunctionTimeoutError(0.5),
    MemoryExceededError(200.0, 312.5),
    ProcessEndedError(-11, "SIGSEGV"),
    NotFoundError("node", "n9", "start a worker of that name"),
    NotFoundError("node", "n9"),
    ValidationError("max_retries: -1 is not an int of at least 0"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("pickler", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
def test_errors_survive_pickling(error, pickler):
    copy = pickler.loads(pickler.dumps(error))

    assert type(copy) is type(error)
    assert (str(copy), vars(copy), copy.args) == (str(error), vars(error), error.args)


def test_the_cause_survives_too():
    error = FunctionFailedError("a", "n1", 2, ZeroDivisionError("division by zero"))
    copy = pickle.loads(pickle.dumps(error))

    assert isinstance(copy.__cause__, ZeroDivisionError)
    assert str(copy) == (
        "function 'a' failed on node 'n1' after 2 attempts: ZeroDivisionError: division by zero"
    )


def test_errors_are_what_python_programs_expect():
    assert issubclass(ValidationError, HandoffError)
    assert issubclass(ValidationError, ValueError)
    for error in (MissingFunctionError, CyclicDependencyError, DuplicateFunctionError, InvalidFunctionError):
        assert issubclass(error, ValidationError)
    for error in (AllocationError, FunctionFailedError):
        assert issubclass(error, HandoffError)
        assert not issubclass(error, ValueError)
    assert issubclass(NotFoundError, HandoffError)
    assert issubclass(NotFoundError, KeyError)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MissingFunctionError("a", "b"), "function 'a' refers to 'b', which is not in the DAG"),
        (CyclicDependencyError(["a", "b"]), "in a circle: 'a' -> 'b' -> 'a'"),
        (DuplicateFunctionError("a"), "already has a function 'a'"),
        (InvalidFunctionError("a", "why"), "function 'a': why"),
        (AllocationError("a", {}, {"n": "why"}), "n: why. Lower the cost"),
        (AllocationError("a", {}, {}), "the cluster has no nodes; start a worker"),
        (AllocationError("a", {}, {}, "why"), "cannot be placed: why"),
        (AllocationError("a", {}, {f"n{i}": "why" for i in range(10)}), "n7: why; and 2 more nodes"),
        (FunctionFailedError("a", "n", 1), "failed on node 'n' after 1 attempt"),
        (NotFoundError("node", "n", "look"), "no node 'n'; look"),
    ],
)
def test_messages_name_the_thing_and_what_to_do(error, words):
    assert words in str(error)
