"""What is said of a function whose workers died under it, where it was for the memory that they held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dask.typing import Key
from distributed import KilledWorker

__all__ = ["KilledForMemory", "MemoryDeath"]


@dataclass(frozen=True, slots=True)
class MemoryDeath:
    """The end of a worker that held more memory than it may."""

    #: Name of its node.
    node: str
    #: Megabytes that it held when it was last looked at.
    held_mb: float
    #: Megabytes that it may hold.
    limit_mb: float
    #: Whether its nanny has said that it ended it for that; else it is concluded from what it held.
    is_certain: bool = True

    def __str__(self) -> str:
        return f"node {self.node!r} held {self.held_mb:.0f} MB, and its limit is {self.limit_mb:.0f} MB"


class KilledForMemory(KilledWorker):
    """The workers of a function died under it, and memory was why, or is likely to be.

    Parameters
    ----------
    task, last_worker, allowed_failures
        As of ``distributed.KilledWorker``.
    deaths
        Those of its workers that were ended for their memory, the last one last.
    attempts
        How many workers died.
    claimed_mb
        Megabytes that the function claims of its node; ``None``: it claims no memory.
    hint
        Why it cannot claim more, where its claim grows.
    """

    def __init__(
        self,
        task: Key,
        last_worker: Any,
        allowed_failures: int,
        deaths: tuple[MemoryDeath, ...],
        attempts: int,
        claimed_mb: float | None,
        hint: str = "",
    ) -> None:
        super().__init__(task, last_worker, allowed_failures)
        self.deaths = deaths
        self.attempts = attempts
        self.claimed_mb = claimed_mb
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.deaths, self.attempts, self.claimed_mb, self.hint)

    def __str__(self) -> str:
        certain = [death for death in self.deaths if death.is_certain]
        last = (certain or self.deaths)[-1]
        how = "ended for its memory" if certain else "gone, and it was nearly full"
        often = f", in {len(certain or self.deaths)} of {self.attempts} attempts" if self.attempts > 1 else ""
        claims = "no memory" if self.claimed_mb is None else f"{self.claimed_mb:g} MB of memory"
        advice = self.hint or (
            "Claim what it needs (memory= in its cost), so that it shares its node with less, or give "
            "workers a higher limit"
        )
        return f"its worker was {how}{often}: {last}. The function claims {claims}. {advice}"
