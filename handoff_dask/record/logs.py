"""What the functions of an execution printed and logged."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from handoff_dask.graph.arguments import id_of

__all__ = ["LINES_OF_ATTEMPT", "LINES_OF_RUN", "LINE_LENGTH", "LogBuffer", "LogLine", "Logs"]

#: Of one attempt, and of a whole execution, so many lines are kept, the last ones.
LINES_OF_ATTEMPT, LINES_OF_RUN = 1_000, 10_000
#: Longer lines are cut.
LINE_LENGTH = 2_000


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a function printed or logged."""

    function_id: Hashable
    #: From 1.
    attempt: int
    #: Name of the node.
    node: str
    #: Seconds since the epoch.
    time: float
    #: ``"stdout"``, ``"stderr"``, or the level of what was logged: ``"WARNING"``, ….
    source: str
    text: str


class Logs(tuple[LogLine, ...]):
    """Lines in the order in which they came; ``str()`` shows them, and ``in`` looks for a text in them.

    Examples
    --------
    >>> logs = Logs([LogLine("fit", 2, "a", 0.0, "stdout", "epoch 1")])
    >>> print(logs), "epoch" in logs
    fit#2 on a: epoch 1
    (None, True)
    """

    __slots__ = ()

    def of(self, function: Any = None) -> Logs:
        """Those of one function; all if ``None``."""
        if function is None:
            return self
        key = id_of(function)
        return Logs([line for line in self if line.function_id == key])

    def __contains__(self, item: object) -> bool:
        if isinstance(item, str):
            return any(item in line.text for line in self)
        return tuple.__contains__(self, item)

    def __str__(self) -> str:
        return "\n".join(_shown(line) for line in self)


def _shown(line: LogLine) -> str:
    name = line.function_id if isinstance(line.function_id, str) else repr(line.function_id)
    level = "" if line.source == "stdout" else f" {line.source}"
    return f"{name}#{line.attempt} on {line.node}{level}: {line.text}"


class LogBuffer:
    r"""The lines of one attempt, put together from what is written; at most :data:`LINES_OF_ATTEMPT` wait.

    Examples
    --------
    >>> buffer = LogBuffer()
    >>> buffer.write(1.0, "stdout", "one and "), buffer.write(2.0, "stdout", "two\nthree")
    (None, None)
    >>> buffer.take(), buffer.take(rest=True)
    ([(1.0, 'stdout', 'one and two')], [(2.0, 'stdout', 'three')])
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[float, str, str]] = deque(maxlen=LINES_OF_ATTEMPT)
        #: ``{source: (time, text)}`` of lines without an end.
        self._open: dict[str, tuple[float, str]] = {}
        self._count = 0

    def write(self, time: float, source: str, text: str) -> None:
        """Take what was written."""
        began, before = self._open.pop(source, (time, ""))
        *whole, rest = (before + text).split("\n")
        for line in whole:
            self._lines.append((began, source, line[:LINE_LENGTH]))
            self._count += 1
            began = time
        if rest:
            self._open[source] = (began, rest[:LINE_LENGTH])

    def take(self, *, rest: bool = False) -> list[tuple[float, str, str]]:
        """Take out the lines that are whole; with ``rest`` also those without an end."""
        lines = list(self._lines)
        if self._count > len(lines):
            missing = (lines[0][0], "handoff", f"… {self._count - len(lines)} lines more before these")
            lines.insert(0, missing)
        self._lines.clear()
        self._count = 0
        if rest:
            lines += [(began, source, text) for source, (began, text) in self._open.items()]
            self._open.clear()
        return lines


def kept(lines: Iterable[Any]) -> deque[Any]:
    """The lines of an execution, the last :data:`LINES_OF_RUN` of them."""
    return deque(lines, maxlen=LINES_OF_RUN)
