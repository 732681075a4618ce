"""What of an execution need not run, since its results are known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from handoff_dask.graph.dag import DAG
from handoff_dask.graph.expansion import Expansion
from handoff_dask.graph.functions import FunctionId
from handoff_dask.reuse.fingerprint import Details
from handoff_dask.reuse.reasons import opting_out

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """What of an execution runs, and what does not."""

    #: What the results depend on.
    details: Mapping[FunctionId, Details] = field(default_factory=dict)
    #: Functions that run, what changes their arguments on the way included.
    run: frozenset[FunctionId] = frozenset()
    #: Functions that do not run and whose values functions that run take.
    read: frozenset[FunctionId] = frozenset()
    #: All functions that do not run.
    reused: frozenset[FunctionId] = frozenset()
    #: Functions that are never reused.
    off: frozenset[FunctionId] = frozenset()

    def fingerprint(self, function_id: FunctionId) -> str | None:
        """Under what a function's result is kept and found; ``None``: not at all."""
        found = self.details.get(function_id)
        return None if found is None or function_id in self.off else found.fingerprint


def plan(
    dag: DAG,
    expansion: Expansion,
    details: Mapping[FunctionId, Details],
    present: Callable[[Collection[str]], Collection[str]],
    missed: Collection[str] = (),
) -> Plan:
    """Walk back from the outputs, as far as results are not known.

    Parameters
    ----------
    dag, expansion
        What is executed.
    details
        Of :func:`~handoff_dask.reuse.fingerprint.details`.
    present
        Gives those of some fingerprints whose results are known.
    missed
        Fingerprints that are not to be found, whatever ``present`` says.

    Examples
    --------
    >>> from handoff_dask.graph.expansion import expand
    >>> from handoff_dask.graph.functions import Function
    >>> from handoff_dask.reuse.fingerprint import details
    >>> dag = DAG().add_function(Function("a", [], int)).add_function(Function("b", ["a"], str))
    >>> found = details(dag)
    >>> made = plan(dag, expand(dag), found, lambda prints: {found["a"].fingerprint})
    >>> sorted(made.run), sorted(made.read), sorted(made.reused)
    (['b'], ['a'], ['a'])
    """
    made = Plan(details, off=opting_out(dag))
    bodies = expansion.bodies
    prints = {key: f for key in bodies if (f := made.fingerprint(key)) is not None and f not in missed}
    known = set(present(set(prints.values())))
    found = {key for key, f in prints.items() if f in known}
    run: set[FunctionId] = set()
    read: set[FunctionId] = set()
    # What changes arguments on their way runs only for functions that run.
    ahead = [key for key in expansion.outputs if key not in found and not bodies[key].is_transfer]
    while ahead:
        key = ahead.pop()
        if key in run:
            continue
        run.add(key)
        body = bodies[key]
        read.update(need for need in body.needs if need in found)
        ahead.extend(need for need in body.waits_for if need in bodies and need not in found)
    reused = {key for key, body in bodies.items() if key not in run and not body.is_transfer}
    return Plan(details, frozenset(run), frozenset(read), frozenset(reused), made.off)
