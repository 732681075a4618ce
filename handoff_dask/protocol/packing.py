"""Values and codes as bytes, opened by whoever uses them.

What is sent to the cluster passes the scheduler and reaches the nodes in messages of Dask's, which
are loaded as a whole.  Whatever a message cannot load breaks the connection, with all that others
have in it.  So what is the user's travels as bytes: only the attempt that needs it loads it.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from functools import lru_cache
from types import NoneType
from typing import Any

from dask.sizeof import sizeof

from handoff_dask.graph.arguments import RESULT, Structure
from handoff_dask.protocol.shipping import Shipping, loads, shipped_modules, this_process

#: Types whose values are Python's own and small: to load them runs nothing of the user's.
_PLAIN = frozenset({int, float, complex, bool, str, bytes, NoneType, type(RESULT)})
#: Containers with more items are packed without being looked through.
_FEW = 32


class Packed:
    """A value as bytes.

    Parameters
    ----------
    data
        The pickled value.
    buffers
        Its large buffers, and for each whether it may be written to.
    shared
        What it needs that was packed apart.
    by_name
        The value pickled by the names of its modules, where ``data`` carries what they define; and
        the process in which these names are right.
    """

    __slots__ = ("buffers", "by_name", "data", "process", "shared")

    def __init__(
        self,
        data: bytes,
        buffers: Sequence[tuple[Any, bool]] = (),
        shared: Sequence[Packed | Sent] = (),
        by_name: bytes | None = None,
        process: str | None = None,
    ) -> None:
        self.data = data
        self.buffers = buffers
        self.shared = shared
        self.by_name = by_name
        self.process = process

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        buffers = [(pickle.PickleBuffer(b) if protocol >= 5 else bytes(b), w) for b, w in self.buffers]
        if self.by_name is not None:
            return Packed, (self.data, buffers, self.shared, self.by_name, self.process)
        if buffers or self.shared:
            return Packed, (self.data, buffers, self.shared)
        return Packed, (self.data,)

    def __sizeof__(self) -> int:
        return 200 + len(self.data) + sum(memoryview(b).nbytes for b, _ in self.buffers)

    @property
    def bytes_here(self) -> bytes:
        """The bytes that are right in this process."""
        here = self.by_name is not None and self.process == this_process()
        return self.by_name if here and self.by_name is not None else self.data

    def open(self, *, copies: bool = True) -> Any:
        """Load the value anew.

        Parameters
        ----------
        copies
            Whether a buffer that could be written to where it came from can be here, too.

        Raises
        ------
        BaseException
            Whatever loading it raises.
        """
        buffers = [
            bytearray(b) if copies and written and memoryview(b).readonly else b
            for b, written in self.buffers
        ]
        shared = (lambda place: opened_code(self.shared[place])) if self.shared else None
        return loads(self.bytes_here, buffers, shared)


class Sent:
    """A value of this process, which becomes :class:`Packed` when it is sent to another."""

    __slots__ = ("_packed", "_packer", "shares", "value")

    def __init__(self, value: Any, packer: Packer, *, shares: bool) -> None:
        self.value = value
        self.shares = shares
        self._packer = packer
        self._packed: Packed | None = None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.pack().__reduce_ex__(protocol)

    def __sizeof__(self) -> int:
        return int(sizeof(self.value))

    def pack(self) -> Packed:
        """The value as bytes.

        Raises
        ------
        Exception
            Whatever pickling it raises.
        """
        if self._packed is None:
            made = self._packer.shipping.dumps(self.value, shares=self.shares)
            flagged = [(buffer, not memoryview(buffer).readonly) for buffer in made.buffers]
            process = None if made.by_name is None else this_process()
            self._packed = Packed(made.data, flagged, made.shared, made.by_name, process)
        return self._packed

    def open(self, *, copies: bool = True) -> Any:
        """The value itself: nobody has sent it."""
        return self.value


#: Codes that this process has loaded lately, by what they were pickled to.
_load_code = lru_cache(maxsize=1024)(pickle.loads)


def opened_code(code: Packed | Sent) -> Any:
    """A plain function, loaded once by each process that runs it."""
    if isinstance(code, Sent):
        return code.value
    return code.open() if code.buffers else _load_code(code.bytes_here)


def opened(value: Any) -> Any:
    """A value that may be packed."""
    return value.open() if type(value) in (Packed, Sent, Kept) else value


def is_plain(value: Any) -> bool:
    """Whether a value is made of Python's own, so that loading it runs nothing of the user's."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is tuple or kind is list:
        return len(value) <= _FEW and all(map(is_plain, value))
    if kind is Structure:
        return is_plain(value.value)
    if kind is dict:
        return len(value) <= _FEW and all(map(is_plain, value)) and all(map(is_plain, value.values()))
    return False


class Kept:
    """A packed value that several functions take: a process loads it once."""

    __slots__ = ("_lock", "_value", "packed")

    def __init__(self, packed: Packed | Sent) -> None:
        self.packed = packed
        self._value: tuple[Any] | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, (self.packed,)

    def __sizeof__(self) -> int:
        return int(sizeof(self.packed))

    def open(self) -> Any:
        """The value, the same for all who ask."""
        with self._lock:
            if self._value is None:
                self._value = (self.packed.open(copies=False),)
            return self._value[0]


class Packer:
    """Packs what one DAG sends; a code that many functions have is packed once."""

    def __init__(self) -> None:
        self.shipping = Shipping(shipped_modules(), self.code)
        self._codes: dict[int, Sent] = {}

    def code(self, code: Any) -> Sent:
        """A code, packed once whoever has it."""
        sent = self._codes.get(id(code))
        if sent is None:
            sent = self._codes[id(code)] = Sent(code, self, shares=False)
        return sent

    def value(self, value: Any) -> Any:
        """A value; as it is where it is plain."""
        return value if is_plain(value) else Sent(value, self, shares=True)

    def kept(self, value: Any) -> Kept:
        """A value that a node keeps once, for all functions that take it."""
        return Kept(Sent(value, self, shares=True))
