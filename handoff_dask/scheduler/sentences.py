"""Where a function stands, in words, for people who ask the scheduler."""

from __future__ import annotations

from collections.abc import Mapping

from distributed.metrics import time

from handoff_dask.placement.explanation import Explanation
from handoff_dask.record.status import CANCELLED, FAILED, FINISHED, PENDING, RUNNING, SKIPPED, WAITING
from handoff_dask.scheduler.runs import FunctionState

#: Arguments that are named.
NAMED = 10


def status_now(f: FunctionState) -> str:
    """Where a function stands, also when Dask has not been told yet that its run is over."""
    over = f.run.status in (FAILED, CANCELLED) and f.status in (PENDING, WAITING)
    return CANCELLED if over else f.status


def obstacles(why: Explanation) -> Mapping[str, str | None]:
    """What stands in the way on each node; None where there is room."""
    return {node: None if obstacle is None else str(obstacle) for node, obstacle in why.nodes.items()}


def sentence(f: FunctionState, why: Explanation, name: str, missing: list[str], why_not: str | None) -> str:
    """Where a function stands and why.

    Parameters
    ----------
    f
        The function.
    why
        What the engine says of it.
    name
        Its id as text.
    missing
        Ids of the arguments that are not there.
    why_not
        Why it has not ended well, if that is so.
    """
    status = status_now(f)
    if status == WAITING:
        return _waiting(f, why, name)
    if status == RUNNING:
        return f"{name} is on node {f.fact('node')}"
    if status == PENDING:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        return f"{name} waits for its arguments: {', '.join(missing[:NAMED])}{more}"
    return _ended(f, status, name, why_not)


def _waiting(f: FunctionState, why: Explanation, name: str) -> str:
    if f.not_before:
        again_s = max(0.0, f.not_before - time())
        return f"{name} is tried again in {again_s:.3g} s, after {f.attempts} attempts"
    lines = [f"{name} has waited {why.waited_s:.3g} s ({why.cause or 'about to be placed'})"]
    if why.ahead == 1:
        lines.append("  1 function with the same demand goes before it")
    elif why.ahead:
        lines.append(f"  {why.ahead} with the same demand go before it")
    lines += [f"  {node}: {obstacle or 'has room'}" for node, obstacle in obstacles(why).items()]
    return "\n".join(lines)


def _ended(f: FunctionState, status: str, name: str, why_not: str | None) -> str:
    """Where it ran and why there, or why it did not, once that is over."""
    verb = {FINISHED: "ran", FAILED: "failed", CANCELLED: "was cancelled", SKIPPED: "was skipped"}[status]
    attempt = None if status == SKIPPED else f.attempt
    if attempt is None:
        return f"{name} {verb}" + (f": {why_not}" if why_not else "")
    times = f", attempt {f.attempts}" if f.attempts > 1 else ""
    head = f"{name} {verb} on node {attempt.node}{times}" + (f": {why_not}" if why_not else "")
    if attempt.prefetched:
        chosen = "it was sent there before there was room, behind another one"
    elif attempt.candidates == 1:
        chosen = f"{f.run.strategy_name} chose the only node that had room"
    elif attempt.candidates:
        chosen = f"{f.run.strategy_name} chose the best of {attempt.candidates} nodes that had room"
    else:
        chosen = f"{f.run.strategy_name} chose it"
    waited_s = max(0.0, attempt.placed - attempt.ready)
    waited = f", after {waited_s:.3g} s ({attempt.cause})" if attempt.cause else ""
    return f"{head}\n  {chosen}{waited}"
