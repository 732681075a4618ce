"""What is left of a run that goes on, as a problem of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from handoff_dask.simulation.problem import SimulatedFunction


def rest_of(
    functions: Sequence[SimulatedFunction],
    expected_s: Sequence[float | None],
    done: Sequence[bool],
    running: Mapping[int, tuple[str, float]],
    known: float = 0.0,
) -> list[SimulatedFunction] | None:
    """The functions of a run that have not ended.

    Parameters
    ----------
    functions
        All functions of the run in topological order; their ids are their positions, from 0 on.
    expected_s
        How long each is expected to take; None where nobody knows: then the mean of the others.
    done
        Whether each has ended.
    running
        ``{position: (node, seconds since it was placed)}``.
    known
        The share of those left whose durations must be known.

    Returns
    -------
    list of SimulatedFunction or None
        None while less is known.

    Examples
    --------
    >>> run = [SimulatedFunction(n, 0.0, args=args) for n, args in enumerate([(), (0,), (1,)])]
    >>> rest = rest_of(run, [4.0, 5.0, None], [True, False, False], {1: ("n", 3.0)})
    >>> [(f.id, f.duration_s, f.args, f.pin) for f in rest]
    [(1, 2.0, (), 'n'), (2, 5.0, (1,), None)]
    """
    left = [n for n, is_done in enumerate(done) if not is_done]
    expected = [d for n in left if (d := expected_s[n]) is not None]
    if not expected or len(expected) < known * len(left):
        return None
    present = set(left)
    usual_s = sum(expected) / len(expected)
    rest = []
    for n in left:
        duration_s = usual_s if (d := expected_s[n]) is None else d
        function = functions[n]
        if n in running:
            node, elapsed_s = running[n]
            rest.append(function.running(node, max(0.0, duration_s - elapsed_s)))
        else:
            args = tuple(arg for arg in function.args if arg in present)
            rest.append(replace(function, duration_s=duration_s, args=args))
    return rest
