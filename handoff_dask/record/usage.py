"""What an attempt of a function has used."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What the last attempt of a function has used."""

    #: Seconds of processor time, its threads and processes together.
    cpu_s: float
    #: The most memory that it held at once, in megabytes (10^6 bytes).
    peak_memory_mb: float
    #: Whether both were measured of a process of its own.  In a process that functions share, only the
    #: time of its own thread counts, and memory is how much the process grew, whoever made it grow.
    exact: bool
