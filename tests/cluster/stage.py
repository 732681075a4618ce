"""Functions that say when they start and end only when told, for workers in this process."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from distributed import get_worker

import handoff_dask as handoff

#: Seconds after which a test that waits for something has failed.
PATIENCE_S = 20.0

_stages: dict[int, Stage] = {}
_numbers = itertools.count()


class Part:
    """The code of a function on a stage: notes its start, waits for its cue, notes its end."""

    def __init__(self, stage: int, name: str, value: Any = None) -> None:
        self.stage, self.name, self.value = stage, name, value
        self.__name__ = "part"

    def __call__(self, *args: Any) -> Any:
        stage = _stages[self.stage]
        node = str(get_worker().name)
        stage.note("start", self.name, node)
        cued = stage.cue_of(self.name).wait(PATIENCE_S)
        stage.note("stop", self.name, node)
        assert cued, f"{self.name} was not told to end"
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value if self.value is not None else self.name


class Stage:
    """What functions have done, in order, and what they wait for."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        _stages[self.number] = self
        self._cues: dict[str, threading.Event] = {}
        self._open = False
        #: ``(what, name, node)`` in the order in which it happened.
        self.story: list[tuple[str, str, str]] = []
        self._lock = threading.Lock()

    def note(self, what: str, name: str, node: str) -> None:
        with self._lock:
            self.story.append((what, name, node))

    def cue_of(self, name: str) -> threading.Event:
        with self._lock:
            if name not in self._cues:
                self._cues[name] = threading.Event()
                if self._open:
                    self._cues[name].set()
            return self._cues[name]

    # ------------------------------------------------------------------ writing

    def function(self, name: str, args: Any = (), *, value: Any = None, **fields: Any) -> handoff.Function:
        """A function that ends when it is cued."""
        # With a hint it is not thought to be short, however soon others like it have ended.
        return handoff.Function(name, args, Part(self.number, name, value), **{"duration": 1.0, **fields})

    def quick(self, name: str, args: Any = (), *, value: Any = None, **fields: Any) -> handoff.Function:
        """A function that ends at once."""
        self.cue(name)
        return self.function(name, args, value=value, **fields)

    # ------------------------------------------------------------------ directing

    def cue(self, *names: str) -> None:
        """Let functions end."""
        for name in names:
            self.cue_of(name).set()

    def close(self) -> None:
        """Let all end, those that start from now on too."""
        with self._lock:
            self._open = True
            for cue in self._cues.values():
                cue.set()

    # ------------------------------------------------------------------ watching

    def names(self, what: str) -> list[str]:
        """Names of what has happened, in order."""
        return [name for kind, name, _ in list(self.story) if kind == what]

    @property
    def started(self) -> list[str]:
        """What has started, in order, once for each attempt."""
        return self.names("start")

    def nodes(self) -> dict[str, str]:
        """Where each function started last."""
        return {name: node for kind, name, node in list(self.story) if kind == "start"}

    async def sees(self, *names: str) -> None:
        """Until these have started, each as often as it is named."""
        wanted = list(names)
        await until(lambda: all(self.started.count(n) >= wanted.count(n) for n in wanted), self._told)

    async def counts(self, number: int) -> None:
        """Until so many have started, and no more."""
        await until(lambda: len(self.started) >= number, self._told)
        assert len(self.started) == number, self._told()

    def sees_sync(self, *names: str) -> None:
        """The same, from a thread."""
        wanted = list(names)
        until_sync(lambda: all(self.started.count(n) >= wanted.count(n) for n in wanted), self._told)

    def _told(self) -> str:
        return f"the story so far: {self.story}"


async def until(condition: Callable[[], Any], told: Callable[[], Any] = str) -> None:
    """Wait for a condition; fail if it does not come."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, told()
        await asyncio.sleep(0.002)


def until_sync(
    condition: Callable[[], Any], told: Callable[[], Any] = str, *, patience_s: float = PATIENCE_S
) -> None:
    """The same, from a thread."""
    give_up = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up, told()
        time.sleep(0.002)


def staged() -> Iterator[Stage]:
    """The fixture."""
    stage = Stage()
    yield stage
    stage.close()
    del _stages[stage.number]
