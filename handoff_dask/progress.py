"""Progress of executions, shown while they run: in a terminal, in a notebook, as lines in a file.

It knows no cluster: the code that runs functions passes in their numbers by status.
"""

from __future__ import annotations

import atexit
import html
import math
import shutil
import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from handoff_dask.visualization.dot import seconds_text
from handoff_dask.visualization.texts import shortened, visible

__all__ = ["REFRESH_S", "Counts", "Row", "show"]

#: Seconds between two updates of the display.
REFRESH_S = 0.2
#: Seconds before which it is not said how long the rest takes.
LEAST_S = 1.0
#: Where there is no terminal, a line is written at least so often, in seconds.
LINE_S = 60.0
#: Characters of a DAG's id.
LABEL = 24


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of functions of an execution by status."""

    #: All of them.
    total: int
    #: ``{status: how many}``; statuses as in :class:`handoff_dask.record.execution.FunctionRecord`.
    states: Mapping[str, int] = field(default_factory=dict)
    #: ``{cause: how many wait because of it}``.
    causes: Mapping[str, int] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """Functions that have ended well."""
        return self.states.get("finished", 0)

    def __str__(self) -> str:
        """What there is beside the finished ones, in words.

        Examples
        --------
        >>> str(Counts(9, {"finished": 2, "running": 3, "waiting": 4}, {"room": 3, "thread": 1}))
        '3 running, 4 waiting (room)'
        """
        parts = []
        for state in ("running", "waiting", "failed", "skipped", "cancelled"):
            count = self.states.get(state, 0)
            if count:
                causes = self.causes if state == "waiting" else {}
                # The cause that most of them have; the page and `explain` have them all.
                cause = max(causes, key=lambda name: causes[name], default="")
                parts.append(f"{count} {state}" + (f" ({cause})" if cause else ""))
        return ", ".join(parts)


class Display(Protocol):
    """Where rows are drawn."""

    def draw(self, rows: list[Row]) -> None:
        """Show these rows as they are now; those that are over are shown for the last time."""

    def close(self) -> None:
        """Leave what is there, and the place below it clean."""


class Row:
    """One execution's progress.

    Parameters
    ----------
    label
        The DAG's id.
    board
        Where it is shown.
    """

    def __init__(self, label: Hashable, board: _Board) -> None:
        #: The DAG's id as text.
        self.label = shortened(visible(_text(label)), LABEL)
        #: The numbers of its functions by status.
        self.counts = Counts(0)
        #: How the execution ended; empty while it runs.
        self.status = ""
        self._board = board
        self._began = time.monotonic()
        self._drawn = 0.0
        self._took: float | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was first shown, until it ended."""
        return time.monotonic() - self._began if self._took is None else self._took

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes if it goes on so; ``None`` as long as nothing can be said."""
        counts = self.counts
        if self.status or not counts.finished or self.elapsed_s < LEAST_S:
            return None
        return self.elapsed_s / counts.finished * (counts.total - counts.finished)

    def update(self, counts: Counts) -> None:
        """Set the numbers of its functions by status; drawn at most every :data:`REFRESH_S` seconds."""
        self.counts = counts
        now = time.monotonic()
        if not self.status and now - self._drawn >= REFRESH_S / 2:
            self._drawn = now
            self._board.draw()

    def end(self, status: str, counts: Counts | None = None) -> None:
        """It is over: ``"finished"``, ``"failed"``, ``"cancelled"``, …; twice is harmless."""
        if self.status:
            return
        if counts is not None:
            self.counts = counts
        self.status = status
        self._took = time.monotonic() - self._began
        self._board.remove(self)

    def __str__(self) -> str:
        counts = self.counts
        head = f"{self.label}: {counts.finished}/{counts.total}" if counts.total else self.label
        tail = seconds_text(self.elapsed_s)
        if self.status:
            return ", ".join(filter(None, [f"{head} {self.status} in {tail}", str(counts)]))
        left = "" if self.left_s is None else f"about {seconds_text(self.left_s)} left"
        return ", ".join(filter(None, [head, str(counts), tail, left]))


class _Board:
    """The rows that are shown at once, in one display."""

    def __init__(self, make: Callable[[], Display]) -> None:
        self._make = make
        self._lock = threading.RLock()
        self._rows: list[Row] = []
        self._over: list[Row] = []
        self._display: Display | None = None

    def add(self, label: Hashable) -> Row:
        row = Row(label, self)
        with self._lock:
            if self._display is None:
                self._display = self._make()
                atexit.register(self.close)
            self._rows.append(row)
            self.draw()
        return row

    def draw(self) -> None:
        with self._lock:
            if self._display is not None:
                self._display.draw([*self._over, *self._rows])

    def remove(self, row: Row) -> None:
        with self._lock:
            if row in self._rows:
                self._rows.remove(row)
                self._over.append(row)
                self.draw()
            if not self._rows:
                self.close()

    def close(self) -> None:
        """Also when the process ends while something is still shown."""
        with self._lock:
            display, self._display = self._display, None
            self._rows.clear()
            self._over.clear()
        if display is not None:
            atexit.unregister(self.close)
            display.close()


class PlainDisplay:
    """One line of text that is written over itself."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._width = 0
        self._ended: set[Row] = set()

    def draw(self, rows: list[Row]) -> None:
        """Show what is over on a line of its own, the rest together on the last line."""
        for row in rows:
            if row.status and row not in self._ended:
                self._ended.add(row)
                self._write(str(row), end="\n")
        going = [str(row) for row in rows if not row.status]
        if going:
            self._write(" | ".join(going))

    def _write(self, text: str, end: str = "") -> None:
        # One column short: some terminals begin a new line as soon as one is full.
        text = shortened(text, max(20, shutil.get_terminal_size().columns - 1))
        self._stream.write("\r" + text.ljust(self._width) + end)
        self._stream.flush()
        self._width = 0 if end else len(text)

    def close(self) -> None:
        """End the line, if there is one."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()


class LogDisplay:
    """Lines in a file: at the start, at every tenth, at least once a minute, and at the end."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        #: ``{row: (the tenth that was written last, when)}``.
        self._written: dict[Row, tuple[float, float]] = {}

    def draw(self, rows: list[Row]) -> None:
        """Write a line for each row of which there is something to say."""
        now = time.monotonic()
        for row in rows:
            total = row.counts.total
            if not total and not row.status:
                continue
            tenth = math.inf if row.status else 10 * row.counts.finished // total
            before, at = self._written.get(row, (-1.0, now))
            if tenth > before or now - at >= LINE_S:
                self._written[row] = (tenth, now)
                self._stream.write(f"{row}\n")
                self._stream.flush()

    def close(self) -> None:
        """What is written stays."""


class RichDisplay:
    """Bars drawn by rich."""

    def __init__(self, stream: Any) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        console = Console(file=stream)
        narrow = [Column(no_wrap=True, overflow="ellipsis") for _ in range(2)]
        self._progress = Progress(
            # Ids are not markup.
            TextColumn("{task.description}", markup=False, table_column=narrow[0]),
            BarColumn(bar_width=24 if console.width >= 80 else 12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[took]}", markup=False, style="cyan", justify="right"),
            TextColumn("{task.fields[words]}", markup=False, table_column=narrow[1]),
            console=console,
            auto_refresh=False,
            # Rich would send to this stream what the user prints: only where both are the terminal.
            redirect_stdout=_is_terminal(sys.stdout),
        )
        self._tasks: dict[Row, Any] = {}
        self._progress.start()
        # A process that is killed would else leave the terminal without a cursor.
        console.show_cursor(True)

    def draw(self, rows: list[Row]) -> None:
        """Show a bar for each row."""
        for row in rows:
            if row not in self._tasks:
                self._tasks[row] = self._progress.add_task(row.label, total=None, took="", words="")
            left = "" if row.left_s is None else f"about {seconds_text(row.left_s)} left"
            words = ", ".join(filter(None, [row.status, str(row.counts), left]))
            self._progress.update(
                self._tasks[row],
                total=row.counts.total or None,
                completed=row.counts.finished,
                took=_clock(row.elapsed_s),
                words=words,
            )
        self._progress.refresh()

    def close(self) -> None:
        """Leave the bars as they are."""
        self._progress.stop()


class NotebookDisplay:
    """A bar in a notebook's output, redrawn in place.

    A front end takes an update whenever it comes.  What saves a notebook while it runs (nbclient, and so
    ``jupyter nbconvert --execute``) takes those alone that belong to the cell that it is at.  So the last
    state is drawn once more at the end of a cell, whichever that is.
    """

    def __init__(self) -> None:
        from IPython import get_ipython

        self._handles: dict[Row, Any] = {}
        #: Rows that have changed since a cell has ended.
        self._changed: dict[Row, None] = {}
        self._is_closed = False
        self._lock = threading.Lock()
        self._events: Any = get_ipython().events
        self._events.register("post_run_cell", self._cell_has_ended)

    def draw(self, rows: list[Row]) -> None:
        """Show a bar for each row, each in the cell that began it."""
        with self._lock:
            for row in rows:
                self._changed[row] = None
                self._draw(row)

    def _draw(self, row: Row) -> None:
        from IPython import display as ipython

        display: Any = ipython.display
        handle = self._handles.get(row)
        bundle = {"text/html": _bar(row), "text/plain": str(row)}
        if handle is None:
            self._handles[row] = display(bundle, raw=True, display_id=True)
        else:
            handle.update(bundle, raw=True)

    def _cell_has_ended(self, *result: Any) -> None:
        with self._lock:
            for row in self._changed:
                self._draw(row)
            # A row that goes on is drawn at the end of each cell until it is over.
            going_on = [] if self._is_closed else [row for row in self._changed if not row.status]
            self._changed = dict.fromkeys(going_on)
            if self._is_closed:
                self._events.unregister("post_run_cell", self._cell_has_ended)

    def close(self) -> None:
        """What is shown stays; it is drawn once more at the end of a cell."""
        self._is_closed = True


def _bar(row: Row) -> str:
    share = 100 * row.counts.finished / (row.counts.total or 1)
    colour = {"failed": "#d55e00", "cancelled": "#999999"}.get(row.status, "#0072b2")
    return (
        '<div style="display: flex; gap: .8em; align-items: center; flex-wrap: wrap">'
        f'<div role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}" '
        f'aria-label="{html.escape(row.label)}" '
        'style="width: 14em; height: .8em; border: 1px solid #888; border-radius: .4em; overflow: hidden">'
        f'<div style="width: {share:.1f}%; height: 100%; background: {colour}"></div></div>'
        f"<span>{html.escape(str(row))}</span></div>"
    )


def _clock(seconds: float) -> str:
    """Minutes and seconds, of a width that does not change all the time."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


def _text(label: Hashable) -> str:
    return label if isinstance(label, str) else repr(label)


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # replaced by something else, or closed
        return False


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def _for_terminal() -> Display:
    try:
        return RichDisplay(sys.stderr)
    except ImportError:
        return PlainDisplay(sys.stderr)


_terminal = _Board(_for_terminal)
_notebook = _Board(NotebookDisplay)
_log = _Board(lambda: LogDisplay(sys.stderr))


def show(label: Hashable) -> Row | None:
    """Begin to show an execution's progress on standard error, or in the notebook.

    Parameters
    ----------
    label
        The DAG's id.

    Returns
    -------
    Row or None
        To be updated and, at last, ended; ``None`` if there is no standard error.
    """
    if _in_notebook():
        return _notebook.add(label)
    if _is_terminal(sys.stderr):
        return _terminal.add(label)
    return None if sys.stderr is None else _log.add(label)
