"""What a person should know of a node: what keeps functions from using what they claim of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handoff_dask.resources import Capabilities, amount_of


def node_notes(name: str, offered: Capabilities, threads: int, facts: Mapping[str, Any]) -> list[str]:
    """Sentences about one node, each with what mends it.

    Parameters
    ----------
    name, offered, threads
        Of the node.
    facts
        What its worker has reported: ``is_daemon``, ``native_threads``, ``machine_memory`` (megabytes).

    Examples
    --------
    >>> node_notes("a", Capabilities.parse({"cpu": 8}), 4, {})
    ["node 'a' declares cpu 8 but has 4 threads, so no more than 4 functions run there at once; start \
it with --nthreads 8"]
    """
    notes = []
    cpu = amount_of(offered.amounts.get("cpu", 0))
    if cpu > threads:
        notes.append(
            f"node {name!r} declares cpu {cpu:g} but has {threads} threads, so no more than {threads} "
            f"functions run there at once; start it with --nthreads {cpu:g}"
        )
    if cpu > 1 and facts.get("is_daemon"):
        notes.append(
            f"functions on node {name!r} cannot start processes, whatever cpu they claim; set "
            "DASK_DISTRIBUTED__WORKER__DAEMON=False where its worker starts, or start it with "
            "--preload handoff_dask.preload"
        )
    if cpu > 1 and facts.get("native_threads") == 1:
        notes.append(
            f"native libraries (BLAS, OpenMP) use one core on node {name!r}, whatever cpu a function claims; "
            f"set DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__OMP_NUM_THREADS={cpu:g} where its worker "
            "starts, or start it with --preload handoff_dask.preload"
        )
    memory, machine = amount_of(offered.amounts.get("memory", 0)), facts.get("machine_memory")
    if machine and memory > machine * 1.05:
        meant = f" (did you mean {memory / 1e6:g}?)" if memory / 1e6 <= machine * 1.05 else ""
        notes.append(
            f"node {name!r} declares {memory:g} MB of memory, but its machine has {machine:.0f} MB; "
            f"memory is in megabytes{meant}"
        )
    return notes
