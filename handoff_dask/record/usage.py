"""What an attempt of a function has used."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MemoryShortage", "Usage"]


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


@dataclass(frozen=True, slots=True)
class MemoryShortage:
    """How much memory an attempt had and claimed that ended for want of it; in megabytes."""

    #: What it claimed; ``None`` if nothing.
    claimed: float | None
    #: How much its process grew; ``None`` if that was not measured.
    peak: float | None
    #: Why it could not claim more.
    hint: str = ""

    def __str__(self) -> str:
        parts = ["it claimed no memory" if self.claimed is None else f"it claimed {self.claimed:g} MB"]
        if self.peak is not None:
            parts.append(f"{self.peak:.0f} MB were measured")
        parts.append(self.hint or "claim more, or let the claim grow with handoff.growing")
        return "; ".join(parts)
