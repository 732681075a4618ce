"""Tracebacks of failed functions as their author wants them: own frames first, with their source lines."""

from __future__ import annotations

import linecache
import re
from functools import partial
from types import MethodType, TracebackType
from typing import Any

from tblib import Traceback  # type: ignore[import-untyped]

#: The frames before the user's code: those that call it on a node, or in this process.
_OURS = re.compile(r"[\\/]handoff_dask[\\/](protocol|graph|worker|time_limit|local)\b")
#: What cloudpickle makes of the file of code that travels by value.
_DYNAMIC = "<dynamic-code>"


def users_part(trace: TracebackType | None, code: Any) -> TracebackType | None:
    """A traceback from the first frame of the user's on; in files instead of in code without one.

    Parameters
    ----------
    trace
        From where the function was called.
    code
        The function's code, as it is here.
    """
    if trace is None:
        return None
    whole: Any = Traceback(trace)
    first = whole
    while first is not None and _OURS.search(first.tb_frame.f_code.co_filename):
        first = first.tb_next
    if first is None:
        return trace
    path = _file_of(code)
    step = first
    while step is not None:
        frame = step.tb_frame.f_code
        if path is not None and frame.co_filename == _DYNAMIC and _has(path, frame.co_name):
            frame.co_filename = path
        step = step.tb_next
    found: TracebackType = first.as_traceback()
    return found


def _file_of(code: Any) -> str | None:
    """The file that a code is defined in, or the cell of a notebook."""
    while isinstance(code, (partial, MethodType)):
        code = code.func if isinstance(code, partial) else code.__func__
    found = getattr(code, "__code__", None)
    return None if found is None else str(found.co_filename)


def _has(path: str, name: str) -> bool:
    """Whether a file defines a function of this name."""
    lines = linecache.getlines(path)
    return bool(lines) and (name.startswith("<") or any(f"def {name}(" in line for line in lines))
