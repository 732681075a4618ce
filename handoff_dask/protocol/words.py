"""Words of Dask's around an execution, ``workers=`` and its like: what handoff makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handoff_dask.resources import Capabilities

#: Words that are heard here; ``retries`` and ``priority`` are heard where the run's options are made.
_WORKERS, _ALLOW, _RESOURCES = "workers", "allow_other_workers", "resources"


def refusal_of(said: Mapping[str, Any], where: str) -> str | None:
    """Why words around an execution are refused; None if they are not.

    Examples
    --------
    >>> refusal_of({"priority": 3, "resources": {"gpu": 1}}, "dask.annotate")
    'resources= of dask.annotate is not heard by a DAG; say what functions need with cost='
    """
    if said.get(_RESOURCES):
        return f"{_RESOURCES}= of {where} is not heard by a DAG; say what functions need with cost="
    for name in (_WORKERS, "retries", "priority"):
        if callable(said.get(name)):
            return f"{name}= of {where} is a callable, which a DAG does not hear; give a value"
    return None


def confinement_of(said: Mapping[str, Any]) -> dict[str, Capabilities] | None:
    """The nodes that ``workers=`` confines a run to, by name or address; None if it does not.

    Examples
    --------
    >>> list(confinement_of({"workers": ["tcp://127.0.0.1:1234", 1]}))
    ['tcp://127.0.0.1:1234', '1']
    >>> confinement_of({"workers": "a", "allow_other_workers": True})
    """
    workers = said.get(_WORKERS)
    if not workers or said.get(_ALLOW):
        return None
    names = workers if isinstance(workers, (list, tuple, set, frozenset)) else [workers]
    return {str(name): Capabilities() for name in names}
