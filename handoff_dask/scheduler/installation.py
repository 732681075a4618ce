"""What the plugin has changed on a scheduler, so that it can be taken off again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Scheduler

#: Dask's handlers of messages, by name.
_Table = dict[str, Callable[..., Any]]


class Installation:
    """Dask's handlers as they were before.

    Parameters
    ----------
    scheduler
        Dask's, before anything is changed.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        tables: list[_Table] = [scheduler.handlers, scheduler.stream_handlers]
        self._tables = [(table, dict(table)) for table in tables]
        self._changed: list[_Table] = []

    def done(self) -> None:
        """Note what has been changed."""
        self._changed = [
            {name: handler for name, handler in table.items() if before.get(name) is not handler}
            for table, before in self._tables
        ]

    def undo(self) -> None:
        """Put the handlers back, but those that somebody else has changed since."""
        for (table, before), changed in zip(self._tables, self._changed, strict=True):
            for name, handler in changed.items():
                if table.get(name) is not handler:
                    continue
                if name in before:
                    table[name] = before[name]
                else:
                    del table[name]
