"""Recording what an engine is told, what it asks and what it decides; replaying it in a new one.

An engine is deterministic but for whom it asks: a user's strategy, a tracker that may refuse, the ranks
of what comes next.  So their answers are recorded, too.  A replay gives the same events and the same
answers to a new engine; its decisions must be the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from handoff_dask.placement.decisions import Decision
from handoff_dask.placement.encoding import decode, encode
from handoff_dask.placement.engine import PlacementEngine
from handoff_dask.placement.events import Event, RunOpened
from handoff_dask.placement.settings import EngineSettings
from handoff_dask.placement.strategies import AllocateStrategy, SelectStrategy
from handoff_dask.placement.user_strategies import StrategyFailed

#: An answer as it is recorded: who was asked, about what, and ``["is", answer]`` or ``["raised", text]``.
Answer = list[Any]


class Recorder:
    """Records the turns of an engine."""

    def __init__(self) -> None:
        self._answers: list[Answer] = []

    def watched(self, events: Sequence[Event]) -> list[Event]:
        """The events with whom the engine may ask watched."""
        return [self._watched(event) if isinstance(event, RunOpened) else event for event in events]

    def _watched(self, event: RunOpened) -> RunOpened:
        strategy = event.strategy
        if isinstance(strategy, SelectStrategy):
            strategy = replace(strategy, select=self._noting("select", strategy.select))
        elif isinstance(strategy, AllocateStrategy):
            strategy = replace(strategy, assign=self._noting("assign", strategy.assign))
        permit = None if event.permit is None else self._noting("permit", event.permit)
        next_rank = None if event.next_rank is None else self._noting("next_rank", event.next_rank)
        return replace(event, strategy=strategy, permit=permit, next_rank=next_rank)

    def _noting(self, who: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*about: Any) -> Any:
            try:
                answer = ask(*about)
            except Exception as error:
                self._answers.append([who, ["raised", f"{type(error).__name__}: {error}"]])
                raise
            self._answers.append([who, ["is", encode(answer)]])
            return answer

        return asked

    def turn(self, events: Sequence[Event], decisions: Sequence[Decision], now: float) -> dict[str, Any]:
        """One turn of the engine, as JSON."""
        answers, self._answers = self._answers, []
        turn: dict[str, Any] = {"now": now, "events": [_event(event) for event in events]}
        if answers:
            turn["answers"] = answers
        if decisions:
            turn["decisions"] = [encode(decision) for decision in decisions]
        return turn


def _event(event: Event) -> Any:
    if not isinstance(event, RunOpened):
        return encode(event)
    # Whom it asks is nothing that could be written down; that there is somebody is.
    asked = {name: True for name in ("permit", "next_rank") if getattr(event, name) is not None}
    bare = encode(replace(event, permit=None, next_rank=None))
    for kind, name in ((SelectStrategy, "select"), (AllocateStrategy, "assign")):
        if isinstance(event.strategy, kind):
            bare["RunOpened"]["strategy"] = {"other": name}
    return {"opened": [bare, asked]}


class Replay:
    """A new engine, to which a record is told.

    Parameters
    ----------
    settings
        Those of the engine that was recorded.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.engine = PlacementEngine(settings)
        self._answers: deque[Answer] = deque()

    def turn(self, turn: dict[str, Any]) -> str | None:
        """Tell one turn; how the decisions differ from those recorded, ``None`` if they do not."""
        self._answers = deque(turn.get("answers", ()))
        recorded = [_comparable(decision) for decision in turn.get("decisions", ())]
        try:
            decided = self.engine.handle_all(self.events_of(turn), now=turn["now"])
        except _Unasked as error:
            return str(error)
        made = [_comparable(encode(decision)) for decision in decided]
        if made != recorded:
            return next(_differences(recorded, made))
        return f"{len(self._answers)} answers were not asked for" if self._answers else None

    def events_of(self, turn: dict[str, Any]) -> list[Event]:
        """The events of a turn."""
        return [self._event(event) for event in turn["events"]]

    def _event(self, data: Any) -> Event:
        if "opened" not in data:
            event: Event = decode(data)
            return event
        bare, asked = data["opened"]
        opened: RunOpened = decode(bare)
        strategy: Any = opened.strategy
        if strategy == "select":
            strategy = SelectStrategy(select=lambda *about: self._answer("select"))
        elif strategy == "assign":
            strategy = AllocateStrategy(assign=lambda *about: self._answer("assign"))
        return replace(
            opened,
            strategy=strategy,
            permit=(lambda *about: bool(self._answer("permit"))) if "permit" in asked else None,
            next_rank=(lambda *about: self._answer("next_rank")) if "next_rank" in asked else None,
        )

    def _answer(self, who: str) -> Any:
        if not self._answers or self._answers[0][0] != who:
            raise _Unasked(f"{who} is asked, which it was not when this was recorded")
        how, answer = self._answers.popleft()[1]
        if how == "raised":
            raise StrategyFailed(answer)
        return decode(answer)


class _Unasked(BaseException):
    """Somebody is asked for an answer of which there is no record; nobody may catch it on the way."""


def _comparable(decision: Any) -> Any:
    """A decision without the words of its problem, in which reprs of users' answers stand."""
    ((kind, content),) = decision.items()
    return {kind: {name: value for name, value in content.items() if name != "problem"}}


def _differences(recorded: Sequence[Any], made: Sequence[Any]) -> Iterator[str]:
    for before, now in zip(recorded, made, strict=False):
        if before != now:
            yield f"{now} instead of {before}"
    yield f"{len(made)} decisions instead of {len(recorded)}"
