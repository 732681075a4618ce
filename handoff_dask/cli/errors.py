"""How commands fail: one line on standard error, and an exit code that says of what kind it was."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from handoff_dask.errors import (
    AllocationError,
    HandoffError,
    NotFoundError,
    SchedulerLostError,
    ValidationError,
)
from handoff_dask.visualization.texts import shortened, visible

#: The DAG failed, was cancelled, or took longer than it may; or its report could not be written.
FAILED = 1
#: What was typed, or the DAG, is wrong; nothing has run.
WRONG = 2
#: A function can be placed on no node.
UNPLACEABLE = 3
#: The cluster does not answer.
UNREACHABLE = 4
#: Ended from the keyboard.
INTERRUPTED = 130

#: Characters of a message.
SHOWN = 2000


class Stop(click.ClickException):
    """End the command with a message and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(line_of(message))
        self.code = exit_code

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """What click ends the process with."""
        return self.code


def line_of(message: str) -> str:
    """A message in one line."""
    return shortened(visible(" ".join(message.split())), SHOWN)


def stop_for(error: Exception) -> Stop | None:
    """How the command ends because of an error; ``None`` for what is a defect of ours."""
    if isinstance(error, AllocationError):
        return Stop(str(error), UNPLACEABLE)
    if isinstance(error, (ValidationError, NotFoundError)):
        return Stop(str(error), WRONG)
    if isinstance(error, SchedulerLostError):
        return Stop(str(error), UNREACHABLE)
    # On older Pythons, connecting too late is not among the OSErrors.
    if isinstance(error, (HandoffError, TimeoutError)):
        return Stop(str(error), FAILED)
    if isinstance(error, OSError):
        # What is said of a file: it was named by the user.
        about_a_file = error.filename is not None
        return Stop(str(error) or repr(error), WRONG if about_a_file else UNREACHABLE)
    return None


def nobody_reads() -> None:
    """Write no more, not even when Python ends and writes what is left: the reader is gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Commands(click.Group):
    """A group whose commands end with :class:`Stop` for every error that a user can make."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            raise Stop("interrupted", INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever reads the output has seen enough.
            nobody_reads()
            raise click.exceptions.Exit(0) from None
        except Exception as error:
            stop = None if ctx.params.get("traceback") else stop_for(error)
            if stop is None:
                raise
            raise stop from error
