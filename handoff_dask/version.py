"""The version of handoff_dask that is installed here."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["VERSION"]


def _installed() -> str:
    try:
        return version("handoff-dask")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


#: As text, such as ``"0.1.0"``.
VERSION = _installed()
