"""What crosses the wire of a stream: the task of a stage's worker, and values on their way."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from functools import partial
from pickle import HIGHEST_PROTOCOL, dumps
from typing import Any, NamedTuple

import cloudpickle
from distributed import get_worker, secede
from distributed.protocol import pickle
from distributed.protocol.serialize import Serialize

from handoff_dask.errors import HandoffError
from handoff_dask.graph.stages import Slot, Target
from handoff_dask.protocol.names import NAME
from handoff_dask.protocol.stage_call import StageCall

__all__ = ["STREAM", "Parcel", "StageSetup", "StageTask", "entries_of", "message_of"]

#: RPC of workers: a stream's connection begins.
STREAM = "handoff-stream"

#: Buffers of at least so many bytes travel beside a value, and are not copied.
LARGE_BUFFER = 16_384


class Parcel:
    """A value on its way, or the exception that is in its place.

    It is pickled at most once, and loaded only by whoever uses it: a value that cannot be loaded
    harms its own item alone.
    """

    __slots__ = ("_value", "buffers", "data", "failed", "has_value", "nbytes")

    def __init__(self, value: Any = None, *, failed: bool = False) -> None:
        self._value = value
        self.has_value = True
        self.failed = failed
        self.data: bytes | None = None
        self.buffers: Sequence[Any] = ()
        #: Bytes, once it is pickled.
        self.nbytes = 0

    @staticmethod
    def packed(data: bytes, buffers: Sequence[Any], failed: bool) -> Parcel:
        """One that has arrived."""
        parcel = Parcel(failed=failed)
        parcel.has_value = False
        parcel.data, parcel.buffers = data, buffers
        parcel.nbytes = len(data) + sum(len(b) for b in buffers)
        return parcel

    def load(self) -> Any:
        """The value; a result may be changed by who gets it, so each load of a pickled one is a new one."""
        if self.has_value:
            return self._value
        assert self.data is not None
        value = pickle.loads(self.data, buffers=self.buffers)
        return _revived(value) if self.failed else value

    def detach(self) -> None:
        """Keep what it was pickled to, and nothing of the value: that may be changed now."""
        self._value, self.has_value = None, False
        self.buffers = [bytearray(buffer) for buffer in self.buffers]

    def pack(self) -> None:
        """Pickle it, if that has not been done.

        Raises
        ------
        Exception
            Whatever pickling the user's value raises.
        """
        if self.data is not None:
            return
        value = _mummy(self._value) if self.failed else self._value
        buffers: list[memoryview] = []
        data = _dumped(value, buffers)
        self.buffers = buffers
        self.nbytes = len(data) + sum(b.nbytes for b in buffers)
        self.data = data


def _dumped(value: Any, buffers: list[memoryview]) -> bytes:
    """As Dask does it, but for each value a microsecond where it can be."""
    keep = partial(_keep_large, buffers)
    try:
        data = dumps(value, protocol=HIGHEST_PROTOCOL, buffer_callback=keep)
        if b"__main__" not in data:
            return bytes(data)
    except Exception:  # cloudpickle takes more
        pass
    buffers.clear()
    return bytes(cloudpickle.dumps(value, protocol=HIGHEST_PROTOCOL, buffer_callback=keep))


def _keep_large(buffers: list[memoryview], buffer: Any) -> bool:
    raw = buffer.raw()
    if raw.nbytes < LARGE_BUFFER:
        return True
    buffers.append(raw)
    return False


def _mummy(error: BaseException) -> tuple[bytes | None, bytes | None, str]:
    """An exception as it travels: pickled with its traceback if that can be done; its text in any case."""
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        data: bytes | None = pickle.dumps(error)
    except Exception:  # whatever its __reduce__ raises
        data = None
    try:
        trace: bytes | None = pickle.dumps(error.__traceback__)
    except Exception:
        trace = None
    return data, trace, text


def _revived(mummy: tuple[bytes | None, bytes | None, str]) -> BaseException:
    data, trace, text = mummy
    error: BaseException
    try:
        if data is None:
            raise ValueError("it cannot be pickled")
        error = pickle.loads(data)
    except Exception as why:
        return HandoffError(f"an item failed, with an exception that cannot be read here ({why!r}):\n{text}")
    try:
        return error.with_traceback(pickle.loads(trace)) if trace is not None else error
    except Exception:
        return error


#: A value for some targets: number of the item, parcel, who takes it.
Entry = tuple[int, Parcel, Sequence[Target]]


def message_of(entries: Sequence[Entry]) -> dict[str, Any]:
    """One message for several values; all of them are packed."""
    items: list[list[Any]] = []
    buffers: list[Any] = []
    for number, parcel, targets in entries:
        items.append(
            [number, parcel.failed, parcel.data, len(parcel.buffers), [part for t in targets for part in t]]
        )
        buffers.extend(Serialize(memoryview(b)) for b in parcel.buffers)
    return {"op": "items", "items": items, "buffers": buffers}


def entries_of(message: dict[str, Any]) -> list[Entry]:
    """The values in a message."""
    entries: list[Entry] = []
    buffers, at = message["buffers"], 0
    for number, failed, data, count, targets in message["items"]:
        parcel = Parcel.packed(data, buffers[at : at + count], failed)
        at += count
        entries.append((number, parcel, [Target(*targets[i : i + 2]) for i in range(0, len(targets), 2)]))
    return entries


class StageSetup(NamedTuple):
    """What a worker of a stage must know."""

    #: For messages: the function's id, and what each value that it takes is called, as text.
    name: str
    slot_names: tuple[str, ...]
    stage: int
    worker: int
    parallelism: int
    call: StageCall
    slots: tuple[Slot, ...]
    #: For each target: what is done to the value on this node before it goes.
    targets: tuple[tuple[Target, Any], ...]
    #: Its place among the sinks; ``None`` if its value does not leave.
    sink: int | None
    is_constant: bool
    batch_size: int | None
    batch_timeout: float | None
    in_order: bool
    join_timeout: float | None


class StageTask:
    """The task of one worker of a stage: it runs as long as the pipeline does.

    It gives its thread back at once, and keeps its cost.
    """

    __slots__ = ("name", "setup", "token")

    def __init__(self, token: str, name: str, setup: bytes) -> None:
        #: Names the pipeline.
        self.token = token
        self.name = name
        #: The :class:`StageSetup`, pickled: only the node reads it.
        self.setup = setup

    @staticmethod
    def of(token: str, name: str, setup: StageSetup) -> StageTask:
        """The task of a worker that is set up so."""
        return StageTask(token, f"stage_{name}", cloudpickle.dumps(setup))

    @property
    def __name__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return StageTask, (self.token, self.name, self.setup)

    def __call__(self) -> int:
        """Work until the pipeline ends; how many items there were."""
        worker = get_worker()
        key = worker.get_current_task()
        plugin: Any = worker.plugins[NAME]
        secede()
        count: int = plugin.streams.run(self.token, key, pickle.loads(self.setup))
        return count
