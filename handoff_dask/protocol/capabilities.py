"""Which of a worker's Dask resources are capabilities."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from handoff_dask.errors import ValidationError
from handoff_dask.resources import Capabilities

logger = logging.getLogger(__name__)


def declared(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Of a worker's Dask resources, those that are capabilities."""
    found = {}
    for name, amount in resources.items():
        try:
            Capabilities.parse({name: amount})
        except ValidationError as error:  # Dask takes amounts that we would not, infinity among them
            logger.warning("A resource of this worker is left out: %s", error)
        else:
            found[name] = amount
    return found
