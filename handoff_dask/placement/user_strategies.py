"""Asking users' own strategies.  What they answer is vetted; what they raise fails their run alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from handoff_dask.placement.demand import FunctionKey
from handoff_dask.placement.ledger import THREAD, Ledger, Node
from handoff_dask.placement.strategies import AllocateStrategy, NodeSnapshot, SelectStrategy
from handoff_dask.resources import amount_of


class StrategyFailed(Exception):
    """A user's strategy raised, or answered with what cannot be."""


def snapshot(node: Node) -> NodeSnapshot:
    """A node as users see it."""
    available = {n: amount_of(max(u, 0)) for n, u in node.free.items() if n != THREAD}
    prefetched = sum(queue.outstanding - queue.booked for queue in node.prefetch_queues.values())
    running = len(node.placed) - node.waiting_here - prefetched
    return NodeSnapshot(node.name, node.capabilities.to_dict(), available, node.price, running)


def ask_select(
    strategy: SelectStrategy, key: Hashable, nodes: list[Node], able: Mapping[str, Node]
) -> Node | None:
    """The one of these nodes that the strategy wants for a function, or None for later.

    ``able`` are the nodes that could hold it when idle: naming one of them that has no room now
    means to wait for it.

    Raises
    ------
    StrategyFailed
        If it raises, or names no node that could ever hold the function.
    """
    by_name = {node.name: node for node in sorted(nodes, key=lambda n: n.name)}
    try:
        name = strategy.select(strategy.describe(key), [snapshot(node) for node in by_name.values()])
    except StrategyFailed:
        raise
    except Exception as error:
        raise StrategyFailed(f"the strategy raised {type(error).__name__}: {error}") from error
    if name is None:
        return None
    if not isinstance(name, str):
        raise StrategyFailed(f"the strategy answered {name!r}; give the name of a node, or None")
    node = by_name.get(name) or next((n for n in nodes if n.address == name), None)
    if node is None and not any(name in (n.name, n.address) for n in able.values()):
        shown = ", ".join(map(repr, by_name))
        raise StrategyFailed(
            f"the strategy chose {name!r}, which could never hold it; it was offered {shown}"
        )
    return node


def ask_allocate(strategy: AllocateStrategy, ledger: Ledger) -> Mapping[FunctionKey, str]:
    """Which functions the strategy gives to which nodes.

    Raises
    ------
    StrategyFailed
        If it raises, answers with no mapping, or names a node that does not exist.
    """
    capabilities = {
        n.name: n.capabilities.to_dict() for n in sorted(ledger.nodes.values(), key=lambda n: n.name)
    }
    try:
        answer: Any = strategy.assign(capabilities)
    except StrategyFailed:
        raise
    except Exception as error:
        raise StrategyFailed(f"the strategy raised {type(error).__name__}: {error}") from error
    if not isinstance(answer, Mapping):
        raise StrategyFailed(
            f"the strategy answered {answer!r}; give a mapping from function id to node name"
        )
    for function, name in answer.items():
        if not isinstance(name, str) or ledger.find(name) is None:
            shown = strategy.id_of(function)
            raise StrategyFailed(f"the strategy puts {shown!r} on {name!r}, which is not a node")
    return dict(answer)
