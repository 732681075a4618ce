"""What a value consists of: by its content, never by pickled bytes, which differ between equal things.

What is not known here enters by what its class's own ``__reduce_ex__`` says it is made of.  What
that does not tell is unknown: then nothing that depends on it is reused.
"""

from __future__ import annotations

import copyreg
import functools
import logging
import pickle
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from pathlib import PurePath
from typing import Any, ForwardRef, ParamSpec, Protocol, TypeVar

from dask.base import is_dask_collection

from handoff_dask.reuse.bytecode import leaf
from handoff_dask.reuse.file import File
from handoff_dask.reuse.nodes import Node, Piece, digest_of
from handoff_dask.reuse.owners import owner_of

__all__ = ["Pieces", "UnknownValueError", "describe_value", "hints_of"]

#: The method by which a class says what its objects are for a fingerprint.
HOOK = "__handoff_value__"
#: Things on which no result depends: which lock is held, where a line is logged.
_INERT = (type(threading.Lock()), type(threading.RLock()), logging.Logger)


class UnknownValueError(Exception):
    """It cannot be told what a value consists of."""


class Pieces(Protocol):
    """Makes pieces of things."""

    def piece(self, value: Any) -> Piece:
        """What stands for a value."""
        ...


def describe_value(node: Node, pieces: Pieces) -> None:
    """Say what a value consists of.

    Raises
    ------
    UnknownValueError
        If that cannot be told.
    """
    value = node.value
    kind = type(value)
    known = _KNOWN.get(kind)
    if known is not None:
        known(node, value, pieces)
    elif hasattr(kind, HOOK):
        node.add("class", pieces.piece(kind))
        node.add("value", pieces.piece(getattr(value, HOOK)()))
    elif isinstance(value, Enum):
        node.add("class", pieces.piece(kind))
        node.add("member", pieces.piece((value.name, value._value_)))
    elif isinstance(value, PurePath):
        node.add("path", digest_of(kind.__name__.encode(), str(value).encode("utf-8", "surrogateescape")))
    elif isinstance(value, (TypeVar, ParamSpec)):
        bounds = (getattr(value, "__bound__", None), getattr(value, "__constraints__", ()))
        node.add("type variable", pieces.piece((value.__name__, *bounds)))
    elif isinstance(value, ForwardRef):
        node.add("type by name", pieces.piece(value.__forward_arg__))
    elif isinstance(value, _INERT):
        node.add("inert", b"")
    elif is_dask_collection(value) or _is_future(value):
        raise UnknownValueError(f"a {kind.__name__} of Dask is not there yet")
    elif (frame := _FRAMES.get(kind.__module__.partition(".")[0])) and frame(node, value, pieces):
        pass
    else:
        _describe_object(node, value, pieces)


def _is_future(value: Any) -> bool:
    return any(c.__module__.partition(".")[0] in ("distributed", "dask") for c in type(value).__mro__) and (
        hasattr(value, "key")
    )


# --------------------------------------------------------------------------- containers


def _sequence(node: Node, value: Iterable[Any], pieces: Pieces) -> None:
    node.add("kind", type(value).__name__.encode())
    plain = []
    for item in value:
        found = leaf(item)
        if found is None:
            break
        plain.append(found)
    else:
        node.add("items", digest_of(*plain))
        return
    for item in value:
        node.add("item", pieces.piece(item))


def _mapping(node: Node, value: Any, pieces: Pieces) -> None:
    """In its order, which code that takes it can see."""
    node.add("kind", type(value).__name__.encode())
    for key, item in value.items():
        node.add("key", pieces.piece(key))
        node.add("value", pieces.piece(item))


def _set(node: Node, value: Iterable[Any], pieces: Pieces) -> None:
    """In no order: that differs between processes."""
    node.unordered = True
    node.add("kind", type(value).__name__.encode())
    for item in value:
        node.add("item", pieces.piece(item))


def _slice(node: Node, value: slice, pieces: Pieces) -> None:
    node.add("slice", pieces.piece((value.start, value.stop, value.step)))


def _range(node: Node, value: range, pieces: Pieces) -> None:
    node.add("range", pieces.piece((value.start, value.stop, value.step)))


def _bytearray(node: Node, value: bytearray, pieces: Pieces) -> None:
    node.add("bytearray", digest_of(value))


def _memoryview(node: Node, value: memoryview, pieces: Pieces) -> None:
    node.add("view", digest_of(value.format.encode(), repr(value.shape).encode(), value.tobytes()))


def _file(node: Node, value: File, pieces: Pieces) -> None:
    try:
        node.add("file", value.digest().encode())
    except OSError as error:
        raise UnknownValueError(f"the file {value} cannot be read: {error.strerror or error}") from error


# --------------------------------------------------------------------------- callables that are values


def _partial(node: Node, value: Any, pieces: Pieces) -> None:
    node.add("partial", pieces.piece(value.func))
    node.add("args", pieces.piece(value.args))
    node.add("keywords", pieces.piece(value.keywords))
    if vars(value):
        node.add("state", pieces.piece(dict(sorted(vars(value).items()))))


def _method(node: Node, value: types.MethodType, pieces: Pieces) -> None:
    node.add("method", pieces.piece(value.__func__))
    node.add("object", pieces.piece(value.__self__))


def _wrapping(*attributes: str) -> Callable[[Node, Any, Pieces], None]:
    def describe(node: Node, value: Any, pieces: Pieces) -> None:
        node.add("kind", type(value).__name__.encode())
        for attribute in attributes:
            node.add(attribute, pieces.piece(getattr(value, attribute)))

    return describe


def _named(node: Node, value: Any, pieces: Pieces) -> None:
    """A part of a class that its name says all of."""
    node.add("kind", type(value).__name__.encode())
    node.add("name", value.__name__.encode())


def _cell(node: Node, value: types.CellType, pieces: Pieces) -> None:
    try:
        node.add("cell", pieces.piece(value.cell_contents))
    except ValueError:
        node.add("cell", b"empty")


_KNOWN: dict[type, Callable[[Node, Any, Pieces], None]] = {
    tuple: _sequence,
    list: _sequence,
    dict: _mapping,
    types.MappingProxyType: _mapping,
    set: _set,
    frozenset: _set,
    slice: _slice,
    range: _range,
    bytearray: _bytearray,
    memoryview: _memoryview,
    File: _file,
    functools.partial: _partial,
    types.MethodType: _method,
    types.CellType: _cell,
    staticmethod: _wrapping("__func__"),
    classmethod: _wrapping("__func__"),
    property: _wrapping("fget", "fset", "fdel"),
    functools.cached_property: _wrapping("func", "attrname"),
    functools.partialmethod: _wrapping("func", "args", "keywords"),
    functools.singledispatchmethod: _wrapping("func", "dispatcher"),
    type(functools.lru_cache(lambda: None)): _wrapping("__wrapped__"),
    types.MemberDescriptorType: _named,
    types.GetSetDescriptorType: _named,
    types.WrapperDescriptorType: _named,
    types.MethodDescriptorType: _named,
}


# --------------------------------------------------------------------------- arrays and frames
# Whoever has one has imported its package: it is not imported here.


def _numpy(node: Node, value: Any, pieces: Pieces) -> bool:
    np = sys.modules["numpy"]

    if isinstance(value, np.dtype):
        told = (value.descr, value.isalignedstruct) if value.names else value.str
        node.add("dtype", pieces.piece(str(told)))
        if value.hasobject or value.metadata:
            node.add("more", pieces.piece(repr(value)))
    elif isinstance(value, np.generic):
        node.add("scalar", pieces.piece(value.dtype))
        item = value.item() if value.dtype.hasobject else bytes(value.tobytes())
        node.add("value", pieces.piece(item))
    elif type(value) is np.ndarray:
        node.add("array", pieces.piece((value.dtype, value.shape)))
        if value.dtype.hasobject:
            node.add("items", pieces.piece(value.ravel().tolist()))
        else:
            # Of one order in memory; what is in that order already is not copied.
            data = np.ascontiguousarray(value)
            node.add("items", digest_of(data.reshape(-1).view(np.uint8).data if data.size else b""))
    elif type(value) is np.ma.MaskedArray:
        mask = np.ma.getmaskarray(value)
        node.add("masked", pieces.piece((value.filled(), mask, value.fill_value)))
    else:
        return False
    return True


def _pandas(node: Node, value: Any, pieces: Pieces) -> bool:
    pd = sys.modules["pandas"]

    kind = type(value)
    node.add("kind", kind.__name__.encode())
    if kind is pd.DataFrame:
        node.add("columns", pieces.piece(value.columns))
        node.add("index", pieces.piece(value.index))
        for n in range(value.shape[1]):
            node.add("column", pieces.piece(value.iloc[:, n].array))
    elif kind is pd.Series:
        node.add("name", pieces.piece(value.name))
        node.add("index", pieces.piece(value.index))
        node.add("values", pieces.piece(value.array))
    elif kind is pd.RangeIndex:
        node.add("range", pieces.piece((value.start, value.stop, value.step, value.name)))
    elif kind is pd.MultiIndex:
        node.add("levels", pieces.piece([list(value.names), list(value.levels), list(value.codes)]))
    elif isinstance(value, pd.Index):
        node.add("names", pieces.piece((list(value.names), str(getattr(value, "freq", None)))))
        node.add("values", pieces.piece(value.array))
    elif kind is pd.Categorical:
        node.add("categories", pieces.piece((value.categories, bool(value.ordered), value.codes)))
    elif isinstance(value, pd.api.extensions.ExtensionArray):
        node.add("dtype", pieces.piece(str(value.dtype)))
        node.add("items", pieces.piece(value.to_numpy()))
    else:
        # What has been written so far stays: it is the same for equal values.
        return False
    return True


def _pyarrow(node: Node, value: Any, pieces: Pieces) -> bool:
    pa = sys.modules["pyarrow"]

    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        value = pa.table({"": value})
    elif isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    elif not isinstance(value, pa.Table):
        return False
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, value.schema) as writer:
        writer.write_table(value.combine_chunks())
    node.add("arrow", digest_of(type(node.value).__name__.encode(), sink.getvalue()))
    return True


_FRAMES: dict[str, Callable[[Node, Any, Pieces], bool]] = {
    "numpy": _numpy,
    "pandas": _pandas,
    "pyarrow": _pyarrow,
}


# --------------------------------------------------------------------------- any other object


def _describe_object(node: Node, value: Any, pieces: Pieces) -> None:
    """By the parts that its class says it is made of."""
    kind = type(value)
    reducer = copyreg.dispatch_table.get(kind)
    try:
        reduced = value.__reduce_ex__(4) if reducer is None else reducer(value)
    except Exception as error:
        raise UnknownValueError(f"a {kind.__qualname__} cannot be told by its content ({error})") from error
    if isinstance(reduced, str):
        _describe_global(node, value, reduced)
        return
    made, args, state, items, pairs = (*reduced, None, None, None)[:5]
    if owner_of(kind.__module__) is not None:
        _describe_hints(node, (*args, *(state.values() if isinstance(state, dict) else ())), pieces)
    node.add("made by", pieces.piece(made))
    node.add("of", pieces.piece(args))
    if state is not None:
        node.add("state", pieces.piece(_tidy(kind, state)))
    for label, parts in (("items", items), ("pairs", pairs)):
        if parts is not None:
            node.add(label, pieces.piece([*parts]))


def _describe_hints(node: Node, parts: Iterable[Any], pieces: Pieces) -> None:
    """What a package has made of functions may go by their type hints."""
    for part in parts:
        if isinstance(part, types.FunctionType):
            node.add("type hints", pieces.piece(hints_of(part)))


def hints_of(function: types.FunctionType | types.MethodType) -> dict[str, Any]:
    """The type hints of a function as they are written, and those of the functions that it wraps."""
    return {
        f"{depth} {name}": hint
        for depth, one in enumerate(_unwrapped(function))
        for name, hint in getattr(one, "__annotations__", {}).items()
    }


def _unwrapped(function: Any) -> Iterator[Any]:
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        yield function
        function = getattr(function, "__wrapped__", None)


def _describe_global(node: Node, value: Any, name: str) -> None:
    """An object that is all that its module has by a name."""
    module = pickle.whichmodule(value, name)  # type: ignore[attr-defined]
    owner = owner_of(module)
    if owner is None or not _is_at(value, module, name):
        raise UnknownValueError(f"{module}.{name} is known by its name alone")
    node.add("global", digest_of(owner.encode(), name.encode()))


def _is_at(value: Any, module: str, name: str) -> bool:
    """Whether it is what a module has by a name; what is made anew under an old name is not."""
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _tidy(kind: type, state: Any) -> Any:
    """The state of an object; attributes by name, without what is only remembered."""
    if type(state) is tuple and len(state) == 2 and all(s is None or type(s) is dict for s in state):
        return tuple(_tidy(kind, s) for s in state)
    if type(state) is not dict or not all(type(key) is str for key in state):
        return state
    remembered = {
        name
        for cls in kind.__mro__
        for name, attribute in vars(cls).items()
        if isinstance(attribute, functools.cached_property)
    }
    return {sys.intern(key): state[key] for key in sorted(state) if key not in remembered}
