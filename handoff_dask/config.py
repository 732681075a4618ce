"""Defaults, in Dask's config under ``handoff:``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.config
import yaml
from dask.utils import parse_timedelta

__all__ = ["get", "seconds"]

_DEFAULTS: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("handoff.yaml").read_text())
dask.config.update_defaults(_DEFAULTS)


def get(name: str) -> Any:
    """A setting of ``handoff:``, by its name there."""
    # Whoever replaces Dask's whole configuration (its test helpers do) has not meant ours.
    return dask.config.get(f"handoff.{name}", default=_DEFAULTS["handoff"][name])


def seconds(name: str) -> float:
    """A setting that is a time, in seconds; ``"5s"`` and ``"2 minutes"`` are read too."""
    return float(parse_timedelta(get(name), default="s"))
