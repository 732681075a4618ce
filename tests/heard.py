"""Two events, and a handler that remembers."""

from __future__ import annotations

from typing import Any

WORK = ("app", "work")
OTHER = ("app", "other")


class Heard(list[tuple[Any, ...]]):
    """A handler that remembers its calls."""

    def __call__(self, *call: Any) -> None:
        self.append(call)
