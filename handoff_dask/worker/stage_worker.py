"""A worker of a stage: a thread that gives items to the code, one after the other or in batches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from distributed.metrics import monotonic

from handoff_dask.errors import HandoffError
from handoff_dask.graph.stages import CONSTANT, Target
from handoff_dask.protocol.stage_call import CallError, StageCall
from handoff_dask.protocol.stages import Parcel, StageSetup
from handoff_dask.worker.isolated_stage import IsolatedStageCall
from handoff_dask.worker.isolated_start import CancelledInProcess
from handoff_dask.worker.stage_items import Ready, StageItems

#: A result of at least so many bytes, of a code without a state, is not kept for the case of a loss: it
#: is made again then.
LARGE = 1_000_000


class Outlet(Protocol):
    """Where a stage's worker sends values: the pipeline's part on its node."""

    def send(
        self, number: int, parcels: list[tuple[Target, Parcel]], sink: tuple[int, Parcel] | None
    ) -> None:
        """Send values of an item to who takes them; the one that leaves, to the client."""

    def node_of(self, stage: int, number: int) -> str:
        """Name of the node that has an item in a stage."""


class StageWorker:
    """One worker of a stage.

    Parameters
    ----------
    setup
        What it does.
    outlet
        Sends its results.
    key
        Of its task.
    isolated
        Calls the code, if that is done in a process of its own.
    """

    def __init__(
        self, setup: StageSetup, outlet: Outlet, key: str, isolated: IsolatedStageCall | None = None
    ) -> None:
        self.setup = setup
        self.key = key
        self._outlet = outlet
        self._isolated = isolated
        self._call: StageCall | IsolatedStageCall = setup.call if isolated is None else isolated
        self._state: Any = None
        self._changed = threading.Condition()
        self._is_stopped = False
        self._resent: list[tuple[int, Parcel]] = []
        self._changes = any(s.serialize or s.deserialize for s in setup.slots)
        #: Seconds in which the code has run.
        self.busy_s = 0.0
        self._since: float | None = None
        self._batched = setup.batch_size is not None or setup.batch_timeout is not None
        self._items = StageItems(
            [slot.is_constant for slot in setup.slots],
            worker=setup.worker,
            parallelism=setup.parallelism,
            batch_size=setup.batch_size,
            batch_timeout=setup.batch_timeout,
            in_order=setup.in_order and setup.call.has_state and not setup.is_constant,
            join_timeout=setup.join_timeout,
        )

    # ------------------------------------------------------------------ its thread

    def run(self, ready: Callable[[], None]) -> int:
        """Make the state, say that it is ready, and work until it is stopped.

        Returns
        -------
        int
            How many items it has settled.

        Raises
        ------
        Exception
            Whatever ``init`` raises, or a code that runs once at the start.
        """
        self._state = self._call.start()
        ready()
        if self.setup.is_constant and self.setup.worker == 0:
            with self._changed:
                self._items.begin_constant(monotonic())
        while (work := self._next_work()) is not None:
            resent, late, taken = work
            for number, parcel in resent:
                self._send(number, parcel)
            for number, slots in late:
                self._fail_late(number, slots)
            if taken:
                self._since = began = monotonic()
                self._work(taken)
                self.busy_s += monotonic() - began
                self._since = None
        return self._items.settled_count

    def _next_work(
        self,
    ) -> tuple[list[tuple[int, Parcel]], list[tuple[int, list[int]]], list[Ready]] | None:
        """Wait until there is something to do; ``None`` when it is to stop."""
        with self._changed:
            while not self._is_stopped:
                now = monotonic()
                resent, self._resent = self._resent, []
                late, taken = self._items.late(now), self._items.take(now)
                if resent or late or taken:
                    return resent, late, taken
                moment = self._items.next_moment()
                self._changed.wait(None if moment is None else max(0.0, moment - now))
        return None

    def _work(self, taken: list[Ready]) -> None:
        if self._batched:
            self._work_on_batch(taken)
            return
        for number, values in taken:
            if self._is_stopped:
                return
            try:
                result, self._state = self._call.one(self._state, self._loaded(number, values))
            except CancelledInProcess:
                return  # nobody wants it here any longer
            except BaseException as error:  # the user's code: not even sys.exit may end the stage
                self._failed([number], error)
            else:
                self._settle(number, Parcel(result))

    def _work_on_batch(self, taken: list[Ready]) -> None:
        numbers, batch = [], []
        for number, values in taken:
            try:
                batch.append(self._call.results(self._loaded(number, values)))
            except BaseException as error:
                self._failed([number], error)
            else:
                numbers.append(number)
        if not batch:
            return
        try:
            results, self._state = self._call.batch(self._state, batch)
        except CancelledInProcess:
            return
        except BaseException as error:
            self._failed(numbers, error)
        else:
            for number, result in zip(numbers, results, strict=True):
                self._settle(number, Parcel(result))

    def _loaded(self, number: int, parcels: tuple[Parcel, ...]) -> list[Any]:
        values = [parcel.load() for parcel in parcels]
        if self._changes:
            here = self._outlet.node_of(self.setup.stage, number)
            for n, slot in enumerate(self.setup.slots):
                source = here if slot.is_input else self._outlet.node_of(slot.source, number)
                # An input is on no node: it is changed where it is used.
                for change in (slot.serialize if slot.is_input else None, slot.deserialize):
                    if change is not None:
                        values[n] = change[0](values[n], source, here, *change[1])
        return values

    # ------------------------------------------------------------------ results

    def _failed(self, numbers: list[int], error: BaseException) -> None:
        if CONSTANT in numbers:
            raise error
        if isinstance(error, CallError):
            error = HandoffError(f"stage {self.setup.name!r}: {error}")
        for number in numbers:
            self._settle(number, Parcel(error, failed=True))

    def _fail_late(self, number: int, slots: list[int]) -> None:
        names = ", ".join(self.setup.slot_names[slot] for slot in slots)
        error = TimeoutError(
            f"stage {self.setup.name!r} has waited {self.setup.join_timeout} s for {names} of item {number}"
        )
        parcel = Parcel(error, failed=True)
        with self._changed:
            self._items.keep(number, parcel)
        self._send(number, parcel)

    def _settle(self, number: int, parcel: Parcel) -> None:
        with self._changed:
            is_wanted = self._items.settle(number, parcel, monotonic())
        if is_wanted:
            self._send(number, parcel)
            if parcel.nbytes >= LARGE and not self._call.has_state and number != CONSTANT:
                with self._changed:
                    self._items.keep(number, None)

    def _send(self, number: int, parcel: Parcel) -> None:
        setup = self.setup
        sink = None if setup.sink is None else (setup.sink, parcel)
        self._outlet.send(
            number, [(t, self._changed_for(number, t, c, parcel)) for t, c in setup.targets], sink
        )

    def _changed_for(self, number: int, target: Target, change: Any, parcel: Parcel) -> Parcel:
        if change is None or parcel.failed:
            return parcel
        nodes = (self._outlet.node_of(stage, number) for stage in (self.setup.stage, target.stage))
        try:
            return Parcel(change[0](parcel.load(), *nodes, *change[1]))
        except BaseException as error:  # the user's code
            return Parcel(error, failed=True)

    # ------------------------------------------------------------------ from other threads

    def arrive(self, number: int, slot: int, parcel: Parcel) -> None:
        """A value has come."""
        with self._changed:
            if not parcel.failed:
                self._items.arrive(number, slot, parcel, monotonic())
                self._changed.notify()
                return
            is_news = self._items.fail(number, monotonic())
            if is_news:
                self._items.keep(number, parcel)
                self._changed.notify()
        if is_news:
            self._send(number, parcel)

    def done(self, watermark: int, numbers: list[int]) -> None:
        """Items have left the pipeline."""
        with self._changed:
            self._items.done(watermark, numbers, monotonic())
            self._changed.notify()

    def send_again(self) -> None:
        """After a loss: send what was kept."""
        with self._changed:
            self._resent = self._items.again()
            self._changed.notify()

    def flush(self) -> None:
        """Let a batch go that is not full."""
        with self._changed:
            self._items.flush()
            self._changed.notify()

    def stop(self) -> None:
        """Take nothing more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        if self._isolated is not None:
            self._isolated.end()

    def stands(self) -> dict[str, Any]:
        """How it stands: items settled and waiting, busy seconds, whether it has nothing to do."""
        with self._changed:
            now, since = monotonic(), self._since
            return {
                "items": self._items.settled_count,
                "waiting": self._items.waiting,
                "running": self._items.running,
                "busy_s": self.busy_s + (0.0 if since is None else now - since),
                "is_idle": self._items.is_idle(now),
                "has_batch": self._items.is_batch_waiting,
            }
