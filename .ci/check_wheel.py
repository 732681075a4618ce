"""Check, from outside the checkout, that an installed wheel is whole."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from importlib.metadata import distribution
from importlib.resources import files

import handoff_dask

#: Modules that are imported only once another package is there: ``{module: package}``.
ONLY_BESIDE = {"handoff_dask.client.frame_costs": "pandas"}


def main() -> None:
    """Import every module, look for the data files, load the entry points."""
    assert "site-packages" in (handoff_dask.__file__ or ""), f"not the wheel: {handoff_dask.__file__}"
    modules = [m.name for m in pkgutil.walk_packages(handoff_dask.__path__, "handoff_dask.")]
    for name in modules:
        if name not in ONLY_BESIDE or importlib.util.find_spec(ONLY_BESIDE[name]):
            importlib.import_module(name)
    for data in ("py.typed", "handoff.yaml"):
        assert (files(handoff_dask) / data).is_file(), f"the wheel lacks {data}"
    dist = distribution("handoff-dask")
    for entry in dist.entry_points:
        entry.load()
    licences = [str(f) for f in dist.files or () if f.name == "LICENSE"]
    assert licences, "the wheel lacks the licence"
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"  {dist.name} {dist.version}: {len(modules)} modules imported on Python {version}")


if __name__ == "__main__":
    main()
