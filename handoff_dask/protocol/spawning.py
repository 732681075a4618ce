"""The items of a map whose lists are known only on a node: what makes them there, and what each runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import cloudpickle
from distributed import Worker, get_worker
from distributed.protocol import pickle
from distributed.utils import sync

from handoff_dask.graph.functions import Failed
from handoff_dask.graph.items import Rows, rows_of
from handoff_dask.protocol.calls import Runs
from handoff_dask.protocol.failed_values import FailedValue, Guarded
from handoff_dask.protocol.failures import loading
from handoff_dask.protocol.manifest import run_of
from handoff_dask.protocol.names import NAME
from handoff_dask.protocol.packing import opened

#: An element of at most this many bytes travels within its item; a larger one from where its list is.
SMALL_ELEMENT = 10_000


@dataclass(frozen=True, slots=True)
class Element:
    """A large element of a list, which goes to its item without the rest of the list."""

    #: The key of the list.
    key: str
    index: int


@dataclass(frozen=True, slots=True)
class Guard:
    """What heeds failures of items; see :class:`~handoff_dask.protocol.failed_values.Guarded`."""

    #: Which exceptions are worth another attempt, packed; ``None``: all.
    retry: Any
    #: The id of what takes the results of the items, packed, where failures travel as values; else ``None``.
    of: Any
    #: Whether items run although a constant of theirs has failed.
    accepts: bool


@dataclass(frozen=True, slots=True)
class Spawned:
    """What is sent to the scheduler for the items of a map."""

    #: What each item runs, packed; see :class:`Item`.
    call: bytes
    name: str
    #: For each item its packed values, and the large elements that it takes beside.
    rows: Sequence[tuple[bytes, Sequence[Element]]]
    #: Keys of what every item takes.
    shared: Sequence[Any]
    guard: Guard | None = None
    #: The ids of the items, pickled, where failures travel as values; else empty.
    ids: Sequence[bytes] = ()

    def calls(self) -> Iterator[Callable[..., Any]]:
        """What each item runs."""
        item = Item(self.call, self.name)
        if self.guard is None:
            return repeat(item, len(self.rows))
        retry, accepts = self.guard.retry, self.guard.accepts
        if not self.ids:
            return repeat(Guarded(item, retry), len(self.rows))
        return (Guarded(item, retry, packed_id, accepts) for packed_id in self.ids)


class Item(Runs):
    """What one item runs: the call is packed, since the scheduler need not be able to load it."""

    __slots__ = ("call", "name")

    def __init__(self, call: bytes, name: str) -> None:
        self.call = call
        self.name = name

    @property
    def __name__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return Item, (self.call, self.name)

    def run(self, *results: Any) -> Any:
        """Call it with its values, the large ones among what it takes first."""
        row, rest = results[0], iter(results[1:])
        with loading():
            values: list[Any] = cloudpickle.loads(row)
            call = cloudpickle.loads(self.call)
        values = [next(rest) if isinstance(value, Element) else value for value in values]
        return call(*values, *rest)


def element(items: Any, index: int) -> Any:
    """One element of a list."""
    return items[index] if isinstance(items, (list, tuple)) else next(islice(iter(items), index, None))


class Spawner:
    """The code of the function that makes the items of a map, on a node.

    Parameters
    ----------
    call
        What an item runs: called with the item's values, then with what every item takes.
    name
        What Dask shows of an item.
    lists
        For each list its key; ``None`` where it has none of its own.
    shared
        What every item takes: keys, or values that stand for themselves.
    guard
        What heeds failures of items, where that is needed.
    """

    def __init__(
        self,
        call: Callable[..., Any],
        name: str,
        lists: Sequence[str | None],
        shared: Sequence[Any],
        guard: Guard | None = None,
    ) -> None:
        self.call = call
        self.name = name
        self.lists = lists
        self.shared = shared
        self.guard = guard

    @property
    def __name__(self) -> str:
        return f"expand_{self.name}"

    def __call__(self, *given: Any) -> int | Rows | FailedValue:
        """Make the items functions of the run; their number.  Where nobody can, the rows themselves."""
        count = len(self.lists)
        for one in given[:count]:
            if isinstance(one, Failed):  # constants may have failed, lists may not
                return FailedValue.of(one)
        rows = rows_of(given[:count], self.name)
        try:
            worker = get_worker()
            key = worker.get_current_task()
        except (ValueError, KeyError):  # Dask runs the DAG in this process
            return Rows(rows, given[count:])
        token, position = run_of(key)
        if token is None or not _ask(worker, "may_spawn", token=token):
            return Rows(rows, given[count:])
        packed = [*self._packed(rows)]
        spawned = Spawned(
            cloudpickle.dumps(self.call), self.name, packed, self.shared, self.guard, self._ids(len(rows))
        )
        _ask(worker, "spawn", token=token, position=position, spawned=spawned)
        return len(rows)

    def _ids(self, count: int) -> Sequence[bytes]:
        of = None if self.guard is None else opened(self.guard.of)
        return () if of is None else [cloudpickle.dumps((of, n)) for n in range(count)]

    def _packed(self, rows: list[tuple[Any, ...]]) -> Iterable[tuple[bytes, list[Element]]]:
        for index, row in enumerate(rows):
            packed, large = cloudpickle.dumps([*row]), []
            if len(packed) > SMALL_ELEMENT:
                values = []
                for key, value in zip(self.lists, row, strict=True):
                    is_large = key is not None and len(cloudpickle.dumps(value)) > SMALL_ELEMENT
                    values.append(Element(key or "", index) if is_large else value)
                large = [value for value in values if isinstance(value, Element)]
                packed = cloudpickle.dumps(values)
            yield packed, large


def _ask(worker: Worker, method: str, **arguments: Any) -> Any:
    """Ask the scheduler's plugin; ``None`` where there is none.

    Raises
    ------
    HandoffError
        What the plugin refuses the request with.
    """
    handler = getattr(worker.scheduler, NAME)
    try:
        answer: Any = sync(
            worker.loop, handler, method=method, client=worker.address, arguments=pickle.dumps(arguments)
        )
    except AttributeError:  # the scheduler has no such handler
        return None
    if "error" in answer:
        raise pickle.loads(answer["error"])
    return pickle.loads(answer["value"])
