"""What threads do with a pipeline: push items, and take results."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from distributed.metrics import monotonic, time

from handoff_dask.client.stream_telemetry import StreamTelemetry
from handoff_dask.client.stream_window import Window
from handoff_dask.errors import PipelineEndedError, ValidationError
from handoff_dask.graph.stages import CONSTANT, StageGraph
from handoff_dask.protocol.stages import Parcel, entries_of
from handoff_dask.streaming import PipelineStatus

logger = logging.getLogger(__name__)

#: Seconds that a push waits while all results are there, before somebody is told.
HINT_S = 5.0


class StreamFlow:
    """Items on their way in, and results on their way out; used by any thread.

    Parameters
    ----------
    graph
        The stages.
    loop
        The client's event loop.
    max_in_flight, ordered
        As for :func:`~handoff_dask.stream`.
    telemetry
        Tells handlers of this process.
    """

    def __init__(
        self,
        graph: StageGraph,
        loop: asyncio.AbstractEventLoop,
        *,
        max_in_flight: int,
        ordered: bool,
        telemetry: StreamTelemetry,
    ) -> None:
        self.graph = graph
        self.ordered = ordered
        self._loop = loop
        self._telemetry = telemetry
        #: Guards all that several threads look at; told when something has changed.
        self._changed = threading.Condition()
        self._awaiting: list[asyncio.Future[None]] = []
        self.status: PipelineStatus = "running"
        self.error: BaseException | None = None
        sinks = [graph.stages[sink].is_constant for sink in graph.sinks]
        self._window = Window(sinks, max_in_flight, ordered)
        #: When items were pushed, while a handler wants to know.
        self._begun: dict[int, float] = {}
        self._has_hinted = False
        #: How many calls of ``map`` have pushed all they had, and wait for results.
        self._draining = 0

    # ------------------------------------------------------------------ for who brings items to the stages

    def _pushed(self, number: int, parcels: list[Parcel]) -> None:
        """An item has come in; called with the lock held."""

    def _waits(self) -> None:
        """Perhaps nothing comes in before something goes out; called with the lock held."""

    def _arrived(self, message: dict[str, Any]) -> list[int]:
        """Values have left the last stages; the items that are complete by that."""
        complete: list[int] = []
        failures: dict[int, Parcel] = {}
        with self._changed:
            window = self._window
            for number, parcel, targets in entries_of(message):
                for _, sink in targets:
                    if number == CONSTANT:
                        complete += window.constant(sink, parcel)
                    elif window.arrive(number, sink, parcel):
                        complete.append(number)
            if complete:
                if self._begun:
                    failures = {n: p for n in complete for p in window.values(n) if p.failed}
                self._wake()
        for number in complete if self._begun else ():
            began = self._begun.pop(number, None)
            if began is not None:
                self._telemetry.item_ended(number, began, failures.get(number))
        return complete

    # ------------------------------------------------------------------ from any thread: pushing

    @property
    def dag_id(self) -> Hashable:
        """The DAG's id."""
        return self.graph.dag_id

    def parcels(self, value: Any) -> list[Parcel]:
        """The values of an item's inputs, pickled as they are now.

        Raises
        ------
        ValidationError
            If inputs are missing or unknown.
        Exception
            Whatever pickling a value raises.
        """
        inputs = self.graph.inputs
        if len(inputs) == 1:
            values = [value]
        else:
            if not isinstance(value, Mapping):
                raise ValidationError(
                    f"the item is {value!r}; give {{input id: value}} with {', '.join(map(repr, inputs))}"
                )
            unknown = [key for key in value if key not in inputs]
            missing = [key for key in inputs if key not in value]
            if unknown or missing:
                what = [f"{', '.join(map(repr, unknown))} is no input"] if unknown else []
                what += [f"there is no value for {', '.join(map(repr, missing))}"] if missing else []
                raise ValidationError(
                    f"the item: {'; '.join(what)}; its inputs are {', '.join(map(repr, inputs))}"
                )
            values = [value[key] for key in inputs]
        parcels = [Parcel(value) for value in values]
        for parcel in parcels:
            parcel.pack()
            parcel.detach()
        return parcels

    def try_push(self, parcels: list[Parcel]) -> int | None:
        """Take an item in, if there is room; its number.

        Raises
        ------
        PipelineEndedError
            If it takes no more.
        BaseException
            What it has failed with.
        """
        with self._changed:
            return self._try_push(parcels)

    def _try_push(self, parcels: list[Parcel]) -> int | None:
        if self.status != "running":
            self._raise_error()
            raise PipelineEndedError(self.dag_id, self.status)
        if not self._window.has_room:
            return None
        number = self._window.push(parcels)
        if self._telemetry.wants_items:
            self._begun[number] = time()
            self._telemetry.item_began(number, self._begun[number])
        self._pushed(number, parcels)
        if not self._window.has_room:
            self._waits()
        if number not in self._window.unfinished:
            self._changed.notify_all()  # nothing of it leaves but what serves every item
        return number

    def push(self, parcels: list[Parcel], timeout: float | None) -> int:
        """Take an item in, and wait for room until then.

        Raises
        ------
        TimeoutError
            If there is none within so many seconds.
        """
        give_up = None if timeout is None else monotonic() + timeout
        with self._changed:
            while (number := self._try_push(parcels)) is None:
                left = None if give_up is None else give_up - monotonic()
                if left is not None and left <= 0:
                    raise self.no_room(timeout)
                self._changed.wait(HINT_S if left is None else min(left, HINT_S))
                self._hint()
            return number

    def _hint(self) -> None:
        """Whoever pushes and iterates in one thread waits for itself; called with the lock held."""
        window = self._window
        if self._has_hinted or window.unfinished or window.has_room or self.status != "running":
            return
        self._has_hinted = True
        logger.warning(
            "a push into the pipeline of DAG %r waits, since nobody takes the results of the %d items inside "
            "(max_in_flight): iterate in another thread, or use map",
            self.dag_id,
            window.inside,
        )

    def no_room(self, timeout: float | None) -> TimeoutError:
        """What is raised when there was no room for so long."""
        with self._changed:
            inside, ready = self._window.inside, self._window.inside - len(self._window.unfinished)
        return TimeoutError(
            f"the pipeline of DAG {self.dag_id!r} has had no room for {timeout} s: {inside} items are inside "
            f"(max_in_flight), {ready} of them wait to be taken by iterating"
        )

    # ------------------------------------------------------------------ from any thread: taking

    def try_take(self) -> tuple[int, Any] | None:
        """The next result and its number, if it is there.

        Raises
        ------
        StopIteration
            If no more come.
        BaseException
            What the pipeline has failed with.
        """
        with self._changed:
            taken = self._try_take()
        return None if taken is None else (taken[0], self._value(taken[1]))

    def take(self) -> tuple[int, Any]:
        """The next result and its number; waits for it."""
        with self._changed:
            while (taken := self._try_take()) is None:
                self._changed.wait()
        return taken[0], self._value(taken[1])

    def _try_take(self) -> tuple[int, list[Parcel]] | None:
        taken = None if self.status in ("stopped", "failed") else self._window.take()
        if taken is None:
            self._raise_error()
            if self.status == "stopped" or (self.status == "closed" and not self._window.inside):
                raise StopIteration
            return None
        self._wake()
        return taken

    def _value(self, parcels: list[Parcel]) -> Any:
        """What the user gets of the values of all sinks."""
        values = []
        for parcel in parcels:
            try:
                value = parcel.load()
            except BaseException as error:  # whatever the user's class raises here
                return error
            if parcel.failed:
                return value
            values.append(value)
        if len(values) == 1:
            return values[0]
        return {self.graph.stages[sink].id: v for sink, v in zip(self.graph.sinks, values, strict=True)}

    def _raise_error(self) -> None:
        if self.error is not None:
            raise self.error.with_traceback(None)

    def _wake(self) -> None:
        """Somebody who waits may go on; called with the lock held."""
        self._changed.notify_all()
        if self._awaiting:
            self._in_loop(self._wake_awaiting)

    def _in_loop(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the client is closed
            logger.debug("the loop of the client of the pipeline of DAG %r is gone", self.dag_id)

    def drain(self, more: int) -> None:
        """Somebody waits for all that is inside, and pushes no more for now; or has it."""
        with self._changed:
            self._draining += more
            self._waits()

    # ------------------------------------------------------------------ in the loop: waiting

    def _next_change(self) -> asyncio.Future[None]:
        """Done when something changes."""
        future: asyncio.Future[None] = self._loop.create_future()
        with self._changed:
            self._awaiting.append(future)
        return future

    def _wake_awaiting(self) -> None:
        with self._changed:
            awaiting, self._awaiting = self._awaiting, []
        for future in awaiting:
            if not future.done():
                future.set_result(None)

    async def push_soon(self, parcels: list[Parcel], timeout: float | None) -> int:
        """As :meth:`push`, in the client's loop."""
        give_up = None if timeout is None else monotonic() + timeout
        while (number := self.try_push(parcels)) is None:
            changed = self._next_change()
            if (number := self.try_push(parcels)) is not None:
                return number
            left = None if give_up is None else give_up - monotonic()
            if left is not None and left <= 0:
                raise self.no_room(timeout)
            await asyncio.wait({changed}, timeout=left)
        return number

    async def take_soon(self) -> tuple[int, Any] | None:
        """As :meth:`take`, in the client's loop; ``None`` at the end."""
        try:
            while (taken := self.try_take()) is None:
                changed = self._next_change()
                if (taken := self.try_take()) is not None:
                    return taken
                await changed
        except StopIteration:
            return None
        return taken
