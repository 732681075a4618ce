"""How a pipeline stands, and which of its stages is the bottleneck."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PipelineFigures", "StageFigures", "bottleneck"]

#: A stage whose code runs for less than this share of the time does not limit the others.
BUSY = 0.5


@dataclass(frozen=True, slots=True)
class StageFigures:
    """How a stage stands: all its workers together."""

    #: Position of its first worker among the functions of its run.
    first: int
    workers: int
    #: Nodes of the workers that have one.
    nodes: tuple[str, ...] = ()
    #: Items that it has settled since its workers were placed, and that wait in it.
    items: int = 0
    waiting: int = 0
    #: Share of the last second in which the code ran, on the average of its workers.
    busy: float = 0.0


@dataclass(frozen=True, slots=True)
class PipelineFigures:
    """How a pipeline stands."""

    stages: tuple[StageFigures, ...]
    #: Items inside, how many there may be, and how many have come out.
    inside: int = 0
    max_in_flight: int = 0
    out: int = 0


def bottleneck(figures: PipelineFigures) -> tuple[int | None, str]:
    """The stage that limits a pipeline, as its place among the stages, and why it is that one.

    Examples
    --------
    >>> slow = StageFigures(first=1, workers=1, waiting=7, busy=0.98)
    >>> bottleneck(PipelineFigures((StageFigures(first=0, workers=1, busy=0.1), slow), 9, 20))
    (1, 'its code runs 98 % of the time and 7 items wait for it; other stages run 10 % of the time at most')
    >>> bottleneck(PipelineFigures((StageFigures(first=0, workers=1, busy=0.1),), 0, 20))
    (None, 'no stage is busy: items come in too slowly; 0 are inside, 20 may be')
    """
    stages = figures.stages
    most = max(range(len(stages)), key=lambda n: (stages[n].busy, stages[n].waiting))
    stage = stages[most]
    if stage.busy < BUSY:
        if figures.inside >= figures.max_in_flight > 0:
            waiting = sum(s.waiting for s in stages)
            why = (
                f"items wait in stages for others to fill their batches, and {figures.inside} are inside"
                if waiting
                else f"results are taken too slowly; all {figures.inside} that may be inside are"
            )
        else:
            why = f"items come in too slowly; {figures.inside} are inside, {figures.max_in_flight} may be"
        return None, f"no stage is busy: {why}"
    others = max((s.busy for n, s in enumerate(stages) if n != most), default=None)
    whose = "its code runs" if stage.workers == 1 else f"the code of its {stage.workers} workers runs"
    beside = "" if others is None else f"; other stages run {100 * others:.0f} % of the time at most"
    return most, f"{whose} {100 * stage.busy:.0f} % of the time and {stage.waiting} items wait for it{beside}"
