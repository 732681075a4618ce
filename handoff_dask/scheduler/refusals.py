"""What a user is told of a function that no node can hold: the same as ``DAG.check`` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from handoff_dask.graph.check import nearest_node, pin_hint, unknown_names_hint
from handoff_dask.placement.events import Demand
from handoff_dask.placement.explanation import Obstacle
from handoff_dask.resources import Capabilities

#: ``({node: why not}, what else there is to say)``.
Refusal = tuple[dict[str, str], str | None]


def refusal_of(
    demand: Demand,
    group: Demand | None,
    obstacles: Mapping[str, Obstacle],
    offers: Mapping[str, Capabilities],
    problem: str | None = None,
    confined: Iterable[str] | None = None,
) -> Refusal:
    """Why no node can hold a function, the nearest node first, and what may be meant instead.

    Parameters
    ----------
    demand
        Of the function.
    group
        What those that share its node ask together, if it has to share one.
    obstacles
        By node.
    offers
        ``{node: capabilities}``.
    problem
        What a strategy did wrong, if that is why.
    confined
        The nodes that the execution may use, if it names any.
    """
    reasons = {node: str(obstacle) for node, obstacle in obstacles.items()}
    if problem is not None:
        return reasons, problem
    asked = demand if group is None else group
    hints = []
    if group is not None and group.cost != demand.cost:
        hints.append(f"with those that share its node it needs {group.cost.to_dict()}")
    # A pin may be an address, which offers do not know; on the node that it means something else is wrong.
    if asked.pin is not None and all(o.cause == "pin" for o in obstacles.values()):
        hints.append(pin_hint(asked.pin, offers))
    absent = [repr(name) for name in confined or () if name not in offers]
    if absent:
        hints.append(f"the execution's resources name {', '.join(absent)}, which is not there")
    hint = unknown_names_hint(asked.cost, offers)
    if hint:
        hints.append(hint)
    near = nearest_node(asked.cost, {name: offers[name] for name in reasons if name in offers}, asked.pin)
    if near is not None and len(reasons) > 1:
        hints.append(f"nearest is node {near!r}")
        reasons = {near: reasons[near], **reasons}
    return reasons, "; ".join(hints) or None
