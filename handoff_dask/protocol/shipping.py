"""Which modules travel with the code, and the pickling that sends them along.

A module that is beside the user's script, and not installed, is not on the nodes.  What is defined
in it is pickled by value, as what is defined in the script itself.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import sys
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle

from handoff_dask import config
from handoff_dask.errors import ValidationError

logger = logging.getLogger(__name__)

#: Buffers of at least so many bytes travel beside the bytes of their value, and are not copied.
LARGE_BUFFER = 65_536
#: Names this process: what was packed here is loaded here by the names of its modules.
_PROCESS = (os.getpid(), uuid.uuid4().hex)
#: Folders beside what the user has started: the command line adds that of a file it loads.
_folders: list[Path] = []
_LOCK = threading.RLock()
#: Parts of the path of a module that somebody has installed.
_SITES = frozenset({"site-packages", "dist-packages"})
#: Modules that a node has in any case.
_NEVER = frozenset({"__main__", "__mp_main__", "handoff_dask", "dask", "distributed", "cloudpickle"})


def this_process() -> str:
    """A name of this process, another one after a fork."""
    global _PROCESS  # noqa: PLW0603
    if _PROCESS[0] != os.getpid():
        _PROCESS = (os.getpid(), uuid.uuid4().hex)
    return _PROCESS[1]


def add_folder(folder: Path) -> None:
    """Let the modules of a folder travel: a file there is what the user has started."""
    if folder not in _folders:
        _folders.append(folder)


def shipped_modules() -> list[ModuleType]:
    """The modules that travel, as ``handoff.ship`` says.

    Raises
    ------
    ValidationError
        If ``handoff.ship`` is neither ``"auto"``, ``"off"`` nor names of modules that can be imported.
    """
    ship = config.get("ship")
    if ship is False or (isinstance(ship, str) and ship == "off"):
        return []
    if isinstance(ship, str) and ship == "auto":
        folders = [*_beside_the_script(), *_folders]
        # Thousands of modules are looked at for each execution: most are told by their path as text.
        within = tuple(f"{str(folder).rstrip(os.sep)}{os.sep}" for folder in folders)
        return [module for module in list(sys.modules.values()) if _is_in(module, within)]
    names = ship if isinstance(ship, (list, tuple, set, frozenset)) else [ship]
    return [_named(name) for name in names]


def _named(name: object) -> ModuleType:
    module = sys.modules.get(name) if isinstance(name, str) else None
    if module is None:
        raise ValidationError(
            f"handoff.ship in Dask's config names {name!r}, which is no module that has been imported here; "
            "give 'auto', 'off', or names of imported modules"
        )
    return module


def _beside_the_script() -> list[Path]:
    """The folder of the script; in a notebook or at the prompt, the present one."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file is None:
        return [Path.cwd()] if hasattr(sys, "ps1") or "ipykernel" in sys.modules else []
    folder = Path(file).resolve().parent
    if _is_installed(folder) or folder == Path(sys.executable).parent:
        return []  # a program such as pytest, not the user's script
    package = getattr(main, "__package__", None)
    for _ in range(package.count(".") + 1 if package else 0):  # python -m package.module
        folder = folder.parent
    return [folder]


def _is_installed(place: Path) -> bool:
    return not _SITES.isdisjoint(place.parts) or place.is_relative_to(Path(os.__file__).parent)


def _is_in(module: ModuleType | None, within: tuple[str, ...]) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.startswith(within) or module is None:
        return False
    if module.__name__.partition(".")[0] in _NEVER:
        return False
    return not _is_installed_file(file)


@lru_cache(maxsize=16_384)
def _is_installed_file(file: str) -> bool:
    return _is_installed(Path(file))


@dataclass(slots=True)
class Pickled:
    """A value as bytes.

    Parameters
    ----------
    data
        The pickled value.
    buffers
        Its large buffers.
    shared
        What it needs that is packed once for all values: classes and functions that travel.
    by_name
        The value pickled by the names of its modules, where ``data`` carries what they define.
    """

    data: bytes
    buffers: list[pickle.PickleBuffer] = field(default_factory=list)
    shared: list[Any] = field(default_factory=list)
    by_name: bytes | None = None


class Shipping:
    """Pickles what is sent; what is defined in modules that travel goes by value.

    Parameters
    ----------
    modules
        Those that travel.
    share
        Packs a class or a function that many values may need.
    """

    def __init__(self, modules: Iterable[ModuleType], share: Callable[[Any], Any]) -> None:
        self._modules = list(modules)
        self._names = {"__main__", *(module.__name__ for module in self._modules)}
        self._marks = [name.encode() for name in self._names]
        self._share = share

    def dumps(self, value: Any, *, shares: bool) -> Pickled:
        """A value as bytes.

        Parameters
        ----------
        shares
            Whether classes and functions in it are packed apart, once for all values.

        Raises
        ------
        Exception
            Whatever the value's own pickling raises.
        """
        try:
            buffers: list[pickle.PickleBuffer] = []
            data = pickle.dumps(value, protocol=5, buffer_callback=lambda b: _is_small(b, buffers))
        except Exception:  # cloudpickle takes much that pickle does not
            logger.debug("%s is pickled by cloudpickle", type(value), exc_info=True)
            return self._by_value(value, shares)
        if not any(mark in data for mark in self._marks):
            return Pickled(data, buffers)
        try:
            by_value = self._by_value(value, shares)
        except Exception:  # a module may hold what cannot be pickled: then the nodes must have it
            logger.info("%s goes by the name of its module", type(value), exc_info=True)
            return Pickled(data, buffers)
        if b"__main__" not in data:
            by_value.by_name = pickle.dumps(value, protocol=5)
        return by_value

    def _by_value(self, value: Any, shares: bool) -> Pickled:
        if shares:
            try:
                found = self._pickle(_Leaving, value)
            except Exception:  # cloudpickle takes much that pickle does not
                logger.debug("%s is pickled by cloudpickle", type(value), exc_info=True)
            else:
                if not any(mark in found.data for mark in self._marks):
                    return found
        with _modules_by_value(self._modules):
            return self._pickle(_LeavingMore if shares else cloudpickle.Pickler, value)

    def _pickle(self, kind: Callable[..., Any], value: Any) -> Pickled:
        file, found = io.BytesIO(), Pickled(b"")
        pickler = kind(file, protocol=5, buffer_callback=lambda b: _is_small(b, found.buffers))
        if isinstance(pickler, _Leaves):
            pickler.apart = _Apart(self._names, self._share, found.shared)
        pickler.dump(value)
        found.data = file.getvalue()
        return found


def _is_small(buffer: pickle.PickleBuffer, large: list[pickle.PickleBuffer]) -> bool:
    if buffer.raw().nbytes < LARGE_BUFFER:
        return True
    large.append(buffer)
    return False


class _Apart:
    """The classes and functions of a value that are packed once for all values."""

    def __init__(self, names: Collection[str], share: Callable[[Any], Any], shared: list[Any]) -> None:
        self._names = names
        self._share = share
        self._shared = shared
        self._places: dict[int, int] = {}

    def place_of(self, obj: Any) -> int | None:
        """The place of what is left out."""
        if not isinstance(obj, (type, FunctionType)) or getattr(obj, "__module__", None) not in self._names:
            return None
        if "<locals>" in obj.__qualname__ or getattr(obj, "__closure__", None):
            return None  # it may keep a value of its own
        place = self._places.get(id(obj))
        if place is None:
            place = self._places[id(obj)] = len(self._shared)
            self._shared.append(self._share(obj))
        return place


class _Leaves:
    """A pickler that leaves such classes and functions out."""

    apart: _Apart

    def persistent_id(self, obj: Any) -> int | None:
        """The place of what is left out."""
        return self.apart.place_of(obj)


class _Leaving(_Leaves, pickle.Pickler):
    """The fast one."""


class _LeavingMore(_Leaves, cloudpickle.Pickler):  # type: ignore[misc]
    """The one that takes more."""


def loads(data: bytes, buffers: Iterable[Any], shared: Callable[[int], Any] | None) -> Any:
    """Load a value; ``shared`` gives what was packed apart."""
    if shared is None:
        return pickle.loads(data, buffers=buffers)
    unpickler = _Unpickler(io.BytesIO(data), buffers=buffers)
    unpickler.shared = shared
    return unpickler.load()


class _Unpickler(pickle.Unpickler):
    """Takes what was packed apart from its place."""

    shared: Callable[[int], Any]

    def persistent_load(self, pid: Any) -> Any:
        """What is at a place."""
        return self.shared(pid)


@contextmanager
def _modules_by_value(modules: Iterable[ModuleType]) -> Iterator[None]:
    """Have cloudpickle pickle what these modules define by value."""
    with _LOCK:
        before = cloudpickle.list_registry_pickle_by_value()
        mine = [module for module in modules if module.__name__ not in before]
        for module in mine:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in mine:
                cloudpickle.unregister_pickle_by_value(module)
