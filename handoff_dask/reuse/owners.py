"""Whose a module is: Python's, an installed package's, or the user's own."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import sysconfig
from functools import cache
from pathlib import Path

__all__ = ["PYTHON", "owner_of"]

#: What stands for Python and its standard library: they are the same for every patch release.
PYTHON = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
_SITES = frozenset({"site-packages", "dist-packages"})
_OWN = "handoff_dask"


def owner_of(module: str | None) -> str | None:
    """Name and version of the package that a module belongs to; ``None`` if it is the user's own.

    A package that is installed so that it can be edited is the user's own.

    Parameters
    ----------
    module
        Its full name.

    Examples
    --------
    >>> owner_of("json.decoder") == PYTHON, owner_of("dask.base").split()[0], owner_of("__main__")
    (True, 'dask', None)
    """
    if not module or module in ("__main__", "__mp_main__"):
        return None
    return _owner(module.partition(".")[0])


@cache
def _owner(top: str) -> str | None:
    if top == _OWN:
        return f"{_OWN} {_version('handoff-dask')}"
    place = _place(top)
    if top in sys.builtin_module_names or (top in sys.stdlib_module_names and _is_pythons(place)):
        return PYTHON
    if place is None or _SITES.isdisjoint(place.parts):
        return None
    found = sorted({f"{name} {_version(name)}" for name in _distributions().get(top, ())})
    # What somebody has copied there is nobody's package.
    return ", ".join(found) or None


def _place(top: str) -> Path | None:
    """The file of a module, or the folder of a package without one."""
    module = sys.modules.get(top)
    file = getattr(module, "__file__", None)
    if file is not None:
        return Path(file)
    try:
        spec = getattr(module, "__spec__", None) or importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.has_location and spec.origin:
        return Path(spec.origin)
    folders = list(spec.submodule_search_locations or ())
    return Path(folders[0]) if folders else None


def _is_pythons(place: Path | None) -> bool:
    """Whether it is where the standard library is: a user may have a file of the same name."""
    if place is None:  # frozen
        return True
    paths = sysconfig.get_paths()
    return _SITES.isdisjoint(place.parts) and any(
        place.is_relative_to(paths[name]) for name in ("stdlib", "platstdlib")
    )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
