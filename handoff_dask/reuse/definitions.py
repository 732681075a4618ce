"""What functions, classes and modules consist of: the user's own by what they do, others by their version."""

from __future__ import annotations

import abc
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

from handoff_dask.reuse.bytecode import Import, Reads, instructions_of, uses_of
from handoff_dask.reuse.file import digest_of_file
from handoff_dask.reuse.nodes import Node, digest_of
from handoff_dask.reuse.owners import owner_of
from handoff_dask.reuse.values import Pieces, UnknownValueError, hints_of

__all__ = ["DESCRIBE", "describe_class", "name_of_definition"]

#: Names of every module that say where it is, not what it does.
_PLACES = frozenset(
    {
        "__name__",
        "__file__",
        "__doc__",
        "__spec__",
        "__package__",
        "__loader__",
        "__path__",
        "__cached__",
        "__builtins__",
    }
)
#: What a class has that is text, place or made by Python from the rest.
_OF_CLASSES = frozenset(
    {
        "__module__",
        "__qualname__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__firstlineno__",
        "__static_attributes__",
        "__annotations_cache__",
        "__abstractmethods__",
        "_abc_impl",
        "__orig_bases__",
        "__parameters__",
        "__protocol_attrs__",
    }
)
#: Private: what ``ABCMeta._dump_registry`` prints.  A test fails when that has changed.
_abc_dump: Callable[[type], tuple[Any, ...]] = abc._get_dump  # type: ignore[attr-defined]
_OF_DISPATCHERS = ("dispatch", "register", "_clear_cache")
#: Functions of Python by which code reaches globals that it does not name.
_SEEING_ALL = frozenset({"globals", "eval", "exec"})
NOTHING_MORE = Reads()
_MISSING = object()


def name_of_definition(value: Any) -> str:
    """What a function, class or module is called to the user."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    module = getattr(value, "__module__", None)
    name = str(getattr(value, "__qualname__", None) or getattr(value, "__name__", type(value).__name__))
    name = name.replace("<locals>.", "")
    return name if module in (None, "builtins", "__main__", "__mp_main__") else f"{module}.{name}"


def describe_function(node: Node, pieces: Pieces) -> None:
    """Say what a function written in Python consists of.

    Raises
    ------
    UnknownValueError
        If that cannot be told.
    """
    function: types.FunctionType = node.value
    module = function.__globals__.get("__name__")
    owner = owner_of(module)
    if owner is None:
        _describe_own(node, function, pieces)
        return
    node.add(f"package {owner.split(' ', 1)[0]}", owner.encode())
    node.add(
        "name", f"{module}:{getattr(function.__code__, 'co_qualname', function.__code__.co_name)}".encode()
    )
    if _is_importable(function):
        return
    # Made by a package of what somebody gave it, as decorators do.
    _describe_arguments(node, function, pieces)
    _describe_attributes(node, function, pieces)
    if not _is_dispatcher(function):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            # It may go by the type hints of what it was given.
            _add_cell(node, name, (), cell, pieces, Reads(hints=True))


def _is_importable(value: Any) -> bool:
    """Whether it is what its module has by its name, and the module is no user's."""
    module = getattr(value, "__module__", None)
    if owner_of(module) is None:
        return False
    found: Any = sys.modules.get(module or "")
    for part in str(getattr(value, "__qualname__", "")).split("."):
        found = getattr(found, part, None)
    return found is value


def _describe_own(node: Node, function: types.FunctionType, pieces: Pieces) -> None:
    code = function.__code__
    node.add("code", digest_of(instructions_of(code)))
    node.add("name", function.__name__.encode())
    _describe_arguments(node, function, pieces)
    uses = uses_of(code)
    for path in uses.names:
        for label, value in _read(path, function.__globals__):
            _add_used(node, f"global {label}", value, pieces, uses.reads)
    if _sees_all_globals(uses.names, function.__globals__):
        _describe_globals(node, function.__globals__, pieces)
    if uses.reads.docstrings:
        node.add("docstring", pieces.piece(function.__doc__))
    if uses.reads.hints:
        node.add("type hints", pieces.piece(hints_of(function)))
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    for path in uses.outer:
        if path[0] in cells:
            _add_cell(node, path[0], path[1:], cells[path[0]], pieces, uses.reads)
    for wanted in uses.imports:
        _describe_import(node, wanted, function.__globals__, pieces)
    _describe_attributes(node, function, pieces)


def _describe_arguments(node: Node, function: types.FunctionType, pieces: Pieces) -> None:
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    for name, value in [*zip(names, defaults, strict=True), *sorted((function.__kwdefaults__ or {}).items())]:
        node.add(f"default {name}", pieces.piece(value))


def _describe_attributes(node: Node, function: types.FunctionType, pieces: Pieces) -> None:
    """Those that somebody has given it, ``__wrapped__`` among them."""
    made = _OF_DISPATCHERS if _is_dispatcher(function) else ()
    for name, value in sorted(vars(function).items()):
        if name not in made:
            node.add(f"attribute {name}", pieces.piece(value))


def _is_dispatcher(function: types.FunctionType) -> bool:
    """Whether ``functools.singledispatch`` has made it: then all is in its registry."""
    return hasattr(function, "registry") and function.__globals__.get("__name__") == "functools"


def _add_cell(
    node: Node,
    name: str,
    path: tuple[str, ...],
    cell: types.CellType,
    pieces: Pieces,
    reads: Reads = NOTHING_MORE,
) -> None:
    try:
        value = cell.cell_contents
    except ValueError:
        node.add(f"variable {name}", b"empty")
        return
    for label, found in _read((name, *path), {name: value}):
        _add_used(node, f"variable {label}", found, pieces, reads)


def _add_used(node: Node, label: str, value: Any, pieces: Pieces, reads: Reads) -> None:
    node.add(label, pieces.piece(value))
    if reads.docstrings and isinstance(value, (types.FunctionType, types.ModuleType, type)):
        node.add(f"docstring of {label}", pieces.piece(value.__doc__))
    if reads.hints and isinstance(value, (types.FunctionType, types.MethodType)):
        node.add(f"type hints of {label}", pieces.piece(hints_of(value)))


def _sees_all_globals(names: Iterable[tuple[str, ...]], scope: Mapping[str, Any]) -> bool:
    """Whether code can reach any global of its module by a name that it puts together."""
    for first, *more in names:
        if first in _SEEING_ALL and first not in scope:
            return True
        if more and more[0] == "modules" and scope.get(first) is sys:
            return True
    return False


def _describe_globals(node: Node, scope: Mapping[str, Any], pieces: Pieces) -> None:
    for name, value in sorted(scope.items()):
        if name not in _PLACES and not (name.startswith("__") and name.endswith("__")):
            node.add(f"global {name}", pieces.piece(value))


def _read(path: tuple[str, ...], scope: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a name stands for; of the user's own modules only what is read of them."""
    name = path[0]
    if name in _PLACES:
        return
    value = scope.get(name, _MISSING)
    if value is _MISSING:
        return  # a builtin, or an error when it runs
    yield from _read_attributes(name, value, path[1:])


def _read_attributes(label: str, value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for attribute in path:
        if not isinstance(value, types.ModuleType) or owner_of(value.__name__) is not None:
            break
        if attribute in _PLACES:
            return
        inner = getattr(value, attribute, _MISSING)
        if inner is _MISSING:
            return
        label, value = f"{label}.{attribute}", inner
    yield label, value


def _describe_import(node: Node, wanted: Import, scope: Mapping[str, Any], pieces: Pieces) -> None:
    name = wanted.module
    if wanted.level:
        package = str(scope.get("__package__") or "")
        try:
            name = importlib.util.resolve_name("." * wanted.level + name, package)
        except ImportError as error:
            raise UnknownValueError(f"it imports {name!r}: {error}") from error
    owner = owner_of(name)
    if owner is not None:
        node.add(f"package {owner.split(' ', 1)[0]}", owner.encode())
        return
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise UnknownValueError(f"it imports {name}, which is not there ({error})") from error
    if wanted.names is None:
        root = module if wanted.level else sys.modules.get(wanted.root, module)
        for path in wanted.paths:
            for label, value in _read_attributes(wanted.root, root, path):
                node.add(f"global {label}", pieces.piece(value))
        return
    for attribute in wanted.names:
        if attribute == "*":
            node.add(f"global {name}", pieces.piece(module))
            continue
        value = getattr(module, attribute, _MISSING)
        if value is _MISSING and importlib.util.find_spec(f"{name}.{attribute}") is not None:
            value = importlib.import_module(f"{name}.{attribute}")
        if value is not _MISSING:
            node.add(f"global {attribute}", pieces.piece(value))


def describe_class(node: Node, pieces: Pieces) -> None:
    """Say what a class consists of."""
    cls: type = node.value
    owner = owner_of(cls.__module__)
    if owner is not None:
        node.add(f"package {owner.split(' ', 1)[0]}", owner.encode())
        node.add("name", f"{cls.__module__}:{cls.__qualname__}".encode())
        return
    node.add("name", cls.__name__.encode())
    if type(cls) is not type:
        node.add("metaclass", pieces.piece(type(cls)))
    for base in cls.__bases__:
        if base is not object:
            node.add("base", pieces.piece(base))
    registered = _registered(cls)
    if registered:
        node.add("registered", pieces.piece(registered))
    members = {} if not issubclass(cls, Enum) else cls.__members__
    for name, member in members.items():
        node.add(f"member {name}", pieces.piece(member._value_))
    for name, value in sorted(vars(cls).items()):
        if name in _OF_CLASSES or name in members:
            continue
        if issubclass(cls, Enum) and _is_made_by_enum(name):
            continue
        node.add(name, pieces.piece(value))


def _registered(cls: type) -> set[type]:
    """The classes that count as subclasses of an abstract one although they do not say so."""
    if not isinstance(cls, abc.ABCMeta):
        return set()
    references = _abc_dump(cls)[0]
    return {found for reference in references if (found := reference()) is not None}


def _is_made_by_enum(name: str) -> bool:
    own = ("_missing_", "_generate_next_value_", "_ignore_")
    return name.startswith("_") and name.endswith("_") and not name.startswith("__") and name not in own


def describe_module(node: Node, pieces: Pieces) -> None:
    """Say what a module that is used as a whole consists of."""
    module: types.ModuleType = node.value
    owner = owner_of(module.__name__)
    if owner is not None:
        node.add(f"package {owner.split(' ', 1)[0]}", owner.encode())
        node.add("name", module.__name__.encode())
        return
    _describe_globals(node, vars(module), pieces)


def describe_builtin(node: Node, pieces: Pieces) -> None:
    """Say what a function of a compiled module is."""
    value = node.value
    held = getattr(value, "__self__", None)
    if held is not None and not isinstance(held, types.ModuleType):
        node.add("method", value.__name__.encode())
        node.add("object", pieces.piece(held))
        return
    module = getattr(value, "__module__", None) or getattr(held, "__name__", None)
    owner = owner_of(module)
    node.add("name", f"{module}:{getattr(value, '__qualname__', value.__name__)}".encode())
    if owner is not None:
        node.add(f"package {owner.split(' ', 1)[0]}", owner.encode())
        return
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if file is None:
        raise UnknownValueError(
            f"{name_of_definition(value)} is compiled, and nothing is known of its module"
        )
    node.add(f"compiled {module}", digest_of_file(file).encode())


#: What describes a definition, by its type; classes by :func:`describe_class`, all else is a value.
DESCRIBE: Mapping[type, Callable[[Node, Pieces], None]] = {
    types.FunctionType: describe_function,
    types.ModuleType: describe_module,
    types.BuiltinFunctionType: describe_builtin,
}
