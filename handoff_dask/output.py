"""What is printed and logged in this process, told to whoever listens, by thread."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO, TypeAlias

__all__ = ["Listener", "ensure", "listen", "unlisten"]

#: Called with the thread, the source (``"stdout"``, ``"stderr"`` or a level of logging) and the text.
Listener: TypeAlias = Callable[[int, str, str], object]

_listeners: list[Listener] = []
_lock = threading.Lock()


def listen(listener: Listener) -> None:
    """Let somebody hear what is printed and logged, until :func:`unlisten`."""
    with _lock:
        _listeners.append(listener)
    ensure()


def unlisten(listener: Listener) -> None:
    """Let them hear no more; the last one to leave puts things back."""
    with _lock:
        if listener in _listeners:
            _listeners.remove(listener)
        if _listeners:
            return
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, _Tee):
                setattr(sys, name, stream.stream)
        logging.getLogger().removeHandler(_handler)


def ensure() -> None:
    """Take hold of the streams again, if somebody has put others in their place."""
    if not _listeners or (type(sys.stdout) is _Tee and type(sys.stderr) is _Tee):
        return
    with _lock:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and not isinstance(stream, _Tee):
                setattr(sys, name, _Tee(name, stream))
        root = logging.getLogger()
        if _handler not in root.handlers:
            root.addHandler(_handler)


def _tell(thread: int, source: str, text: str) -> None:
    for listener in list(_listeners):
        listener(thread, source, text)


class _Tee(io.TextIOBase):
    """A stream that is heard; all else is as without it."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name = name
        self.stream = stream

    def write(self, text: str) -> int:
        written = self.stream.write(text)
        _tell(threading.get_ident(), self._name, text)
        return written

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        """What is heard is not ours to close."""

    def __getattribute__(self, name: str) -> Any:
        # TextIOBase has all of these, and knows none of them.
        if name in (
            "buffer",
            "encoding",
            "errors",
            "fileno",
            "isatty",
            "newlines",
            "writable",
            "mode",
            "name",
        ):
            return getattr(object.__getattribute__(self, "stream"), name)
        return object.__getattribute__(self, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Handler(logging.Handler):
    """Hears what reaches the root logger."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # wrong arguments of the user's call
            text = record.getMessage() if not record.args else str(record.msg)
        _tell(record.thread or 0, record.levelname, f"{text}\n")
        last = logging.lastResort
        # Without this handler there would be none, and Python would print what is important.
        if last is not None and record.levelno >= last.level and logging.getLogger().handlers == [self]:
            print(text, file=getattr(sys.stderr, "stream", sys.stderr))


_handler = _Handler()
