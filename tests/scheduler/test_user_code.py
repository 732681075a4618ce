"""What users ship to the scheduler: whatever it does there, it is answered for."""

from __future__ import annotations

import sys
import threading

import dask
import pytest

from handoff_dask.placement.user_strategies import StrategyFailed
from handoff_dask.scheduler.user_code import UserCode


def test_what_it_answers_and_what_it_raises():
    code = UserCode("strategy 'mine'")
    assert code.ask(divmod, 7, 2) == (3, 1)
    with pytest.raises(StrategyFailed, match="strategy 'mine' raised ZeroDivisionError"):
        code.ask(divmod, 7, 0)
    with pytest.raises(StrategyFailed, match="raised SystemExit: enough"):
        code.ask(sys.exit, "enough")
    assert code.ask(abs, -1) == 1
    with pytest.raises(StrategyFailed, match=r"cannot be used on the scheduler: .*must be importable there"):
        code.load(b"nothing that was pickled", abs)


def test_who_waits_is_not_asked_again():
    with dask.config.set({"handoff.answer-timeout": 0.05}):
        code = UserCode("strategy 'mine'")
    go_on = threading.Event()
    for _ in range(2):
        with pytest.raises(StrategyFailed, match=r"did not answer within 0.05 s.*handoff.answer-timeout"):
            code.ask(go_on.wait)
    # It is refused although it could answer.
    with pytest.raises(StrategyFailed, match="did not answer"):
        code.ask(abs, -1)
    go_on.set()


def test_its_thread_ends_when_it_is_not_asked_any_more(monkeypatch):
    monkeypatch.setattr("handoff_dask.scheduler.user_code.IDLE_S", 0.01)
    code = UserCode("strategy 'idle'")
    code.ask(abs, -1)
    for thread in [t for t in threading.enumerate() if "idle" in t.name]:
        thread.join(10)
        assert not thread.is_alive()
    assert code.ask(abs, -2) == 2
