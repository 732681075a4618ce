"""The moment of the present decision, shared by the parts that need it."""

from __future__ import annotations

import math


class Clock:
    """Holds the time that arrived with the latest event; nothing here reads a real clock."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        #: Seconds; minus infinity before the first event.
        self.now = -math.inf
