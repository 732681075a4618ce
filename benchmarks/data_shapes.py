"""Six DAGs whose functions pass large results to each other: each asks something else of a scheduler.

A shape is a sequence of :class:`Step`, in topological order.  Functions do nothing for some time and
return so many megabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple


class Step(NamedTuple):
    """One function of a shape."""

    id: str
    #: Ids of the functions whose results it takes.
    args: tuple[str, ...]
    seconds: float
    #: Size of its result.
    megabytes: float
    cpu: int = 1


def chains(width: int = 24, depth: int = 8, megabytes: float = 20, seconds: float = 0.1) -> Iterator[Step]:
    """Chains side by side: nothing has to move until they are joined."""
    for chain in range(width):
        before = f"make-{chain}"
        yield Step(before, (), seconds, megabytes)
        for level in range(depth):
            name = f"step-{chain}-{level}"
            yield Step(name, (before,), seconds, megabytes)
            before = name
    yield Step("join", tuple(f"step-{chain}-{depth - 1}" for chain in range(width)), seconds, 0)


def tree(leaves: int = 64, megabytes: float = 20, seconds: float = 0.1) -> Iterator[Step]:
    """Sums of two, and sums of sums: neighbours should be made where they are added."""
    level = [f"leaf-{n}" for n in range(leaves)]
    yield from (Step(leaf, (), seconds, megabytes) for leaf in level)
    number = 0
    while len(level) > 1:
        above = []
        for left, right in zip(level[::2], level[1::2], strict=False):
            above.append(f"merge-{number}")
            yield Step(above[-1], (left, right), seconds, megabytes)
            number += 1
        level = above + level[2 * len(above) :]


def broadcast(width: int = 64, megabytes: float = 100, seconds: float = 0.2) -> Iterator[Step]:
    """One large result that many take: it has to go to every node that helps, once."""
    yield Step("model", (), seconds, megabytes)
    names = tuple(f"apply-{n}" for n in range(width))
    yield from (Step(name, ("model",), seconds, 0.1) for name in names)
    yield Step("join", names, seconds, 0)


def stencil(width: int = 16, rounds: int = 6, megabytes: float = 10, seconds: float = 0.1) -> Iterator[Step]:
    """Cells that look at their neighbours, round by round: only the borders of blocks have to move."""
    yield from (Step(f"cell-0-{cell}", (), seconds, megabytes) for cell in range(width))
    for now in range(1, rounds):
        for cell in range(width):
            near = (n for n in (cell - 1, cell, cell + 1) if 0 <= n < width)
            yield Step(f"cell-{now}-{cell}", tuple(f"cell-{now - 1}-{n}" for n in near), seconds, megabytes)


def shuffle(width: int = 12, megabytes: float = 4, seconds: float = 0.1) -> Iterator[Step]:
    """All to all: parts are cut where the whole is, and must move once."""
    for source in range(width):
        yield Step(f"map-{source}", (), seconds, megabytes * width)
        for target in range(width):
            yield Step(f"part-{source}-{target}", (f"map-{source}",), 0.005, megabytes)
    for target in range(width):
        parts = tuple(f"part-{source}-{target}" for source in range(width))
        yield Step(f"reduce-{target}", parts, seconds, megabytes)


def wide_on_few(width: int = 32, megabytes: float = 20, seconds: float = 0.1) -> Iterator[Step]:
    """Every second step takes a whole node of two cores: to wait and to move compete."""
    for n in range(width):
        yield Step(f"read-{n}", (), seconds, megabytes)
        yield Step(f"train-{n}", (f"read-{n}",), 2 * seconds, megabytes, 2)
        yield Step(f"score-{n}", (f"train-{n}", f"read-{n}"), seconds, 0.1)
    yield Step("join", tuple(f"score-{n}" for n in range(width)), seconds, 0)


#: All of them, by name, as they are measured.
SHAPES: Mapping[str, Callable[[], Iterator[Step]]] = {
    "chains": chains,
    "tree": tree,
    "broadcast": broadcast,
    "stencil": stencil,
    "shuffle": shuffle,
    "wide_on_few": wide_on_few,
}
