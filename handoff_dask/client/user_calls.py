"""Calls of what a user has given to a session, in another thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from handoff_dask.errors import HandoffError

T = TypeVar("T")


async def call_user(function: Callable[..., T], *args: Any) -> T:
    """Call a function of the user's without stopping the event loop, whatever it raises.

    Raises
    ------
    HandoffError
        In the place of what would end the loop, and with it all that the client does.
    Exception
        What else it raises.
    """

    def shielded() -> T:
        try:
            return function(*args)
        except (SystemExit, KeyboardInterrupt) as error:
            name = getattr(function, "__qualname__", repr(function))
            raise HandoffError(f"{name} raised {error!r}, which would end the process") from error

    return await asyncio.to_thread(shielded)
