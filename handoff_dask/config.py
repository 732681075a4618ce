"""Defaults, in Dask's config under ``handoff:``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

import dask.config
import yaml
from dask.utils import parse_bytes, parse_timedelta

from handoff_dask.errors import ValidationError

__all__ = ["Placing", "count", "get", "nbytes", "placing", "placing_of", "seconds", "switch"]

#: What becomes of Dask's own tasks that name resources.
Placing: TypeAlias = Literal["count", "place"]

_DEFAULTS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("handoff.yaml").read_text())
dask.config.update_defaults(_DEFAULTS)


def get(name: str) -> Any:
    """A setting of ``handoff:``, by its name there."""
    # Whoever replaces Dask's whole configuration (its test helpers do) has not meant ours.
    return dask.config.get(f"handoff.{name}", default=_DEFAULTS["handoff"][name])


def seconds(name: str) -> float:
    """A setting that is a time, in seconds; ``"5s"`` and ``"2 minutes"`` are read too.

    Raises
    ------
    ValidationError
        If it is none.
    """
    value = get(name)
    try:
        time_s = float(parse_timedelta(value, default="s"))
    except Exception:  # whatever Dask's reading of it raises
        time_s = -1.0
    if not time_s >= 0:
        raise ValidationError(f"handoff.{name} in Dask's config is {value!r}; give a time, such as '30s'")
    return time_s


def nbytes(name: str) -> int:
    """A setting that is a size, in bytes; ``"100 MB"`` is read too.

    Raises
    ------
    ValidationError
        If it is none.
    """
    value = get(name)
    try:
        size = int(parse_bytes(value))
    except Exception:  # whatever Dask's reading of it raises
        size = -1
    if size < 0:
        raise ValidationError(f"handoff.{name} in Dask's config is {value!r}; give a size, such as '100 MB'")
    return size


def count(name: str) -> int:
    """A setting that is a whole number of at least 0.

    Raises
    ------
    ValidationError
        If it is none.
    """
    value = get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValidationError(
            f"handoff.{name} in Dask's config is {value!r}; give a whole number of at least 0"
        )
    return value


def switch(name: str) -> bool:
    """A setting that is on or off.

    Raises
    ------
    ValidationError
        If it is neither ``true`` nor ``false``.
    """
    value = get(name)
    if not isinstance(value, bool):
        raise ValidationError(f"handoff.{name} in Dask's config is {value!r}; give true or false")
    return value


def placing() -> Placing:
    """What becomes of Dask's own tasks that name resources, where no session has said it.

    Raises
    ------
    ValidationError
        If the setting is neither ``"count"`` nor ``"place"``.
    """
    return placing_of(get("dask-tasks"), "handoff.dask-tasks in Dask's config")


def placing_of(value: Any, what: str = "dask_tasks") -> Placing:
    """Check what is to become of Dask's own tasks.

    Raises
    ------
    ValidationError
        If it is neither ``"count"`` nor ``"place"``.
    """
    if isinstance(value, str) and value in ("place", "count"):
        return "place" if value == "place" else "count"
    raise ValidationError(f"{what} is {value!r}; give 'place' or 'count'")
