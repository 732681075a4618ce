"""What a function raises, in a form that can be read wherever it arrives."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import cloudpickle
from distributed import Reschedule, get_worker

from handoff_dask.errors import RemoteError, remote_error
from handoff_dask.protocol.packing import is_plain

logger = logging.getLogger(__name__)

#: How many causes of an error travel with it.
CAUSES = 8


@contextmanager
def loading() -> Iterator[None]:
    """What is loaded inside lacks no module without the node being named."""
    try:
        yield
    except ImportError as error:
        problem = f"{error} on node {_node()!r}: install it there, or let it travel (handoff.ship)"
        raise type(error)(problem, name=error.name, path=error.path).with_traceback(
            error.__traceback__
        ) from None


def _node() -> str:
    try:
        return str(get_worker().name)
    except ValueError:
        return "local"


def travelling(error: BaseException) -> BaseException:
    """An error as it leaves a worker; itself where it can be read anywhere, or does not leave.

    What ends a process (``SystemExit``, ``KeyboardInterrupt``) becomes an ordinary error: the worker has
    other functions.  An error of a class that its reader may not know carries its name and message.
    """
    if isinstance(error, (Reschedule, RemoteError)) or _is_known_anywhere(error):
        return error
    try:
        get_worker()
    except ValueError:  # Dask runs the DAG in this process
        return error
    return _remote(error, CAUSES)


def _is_known_anywhere(error: BaseException) -> bool:
    causes = error.__cause__ is None and (error.__context__ is None or error.__suppress_context__)
    is_python = type(error).__module__ == "builtins" and isinstance(error, Exception)
    return is_python and causes and is_plain(error.args) and not getattr(error, "__dict__", None)


def _remote(error: BaseException, causes: int) -> BaseException:
    if _is_known_anywhere(error):
        return error
    trace = error.__traceback__
    told = _told(error)
    told.__traceback__ = trace
    if causes:
        cause = error.__cause__ if error.__suppress_context__ or error.__cause__ else error.__context__
        if cause is not None:
            told.__cause__ = _remote(cause, causes - 1)
    return told


def _told(error: BaseException) -> RemoteError:
    try:
        message = str(error)
    except Exception as problem:  # whatever the user's __str__ raises
        message = f"(its message cannot be read: {problem!r})"
    data: bytes | None
    try:
        data = cloudpickle.dumps(error.with_traceback(None))
    except Exception:  # whatever its own pickling raises
        data = None
    return remote_error(type(error).__module__, type(error).__qualname__, message, data)
