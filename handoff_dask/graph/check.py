"""The check of a DAG before it runs: unplaceable functions, misspelt names, lower bounds."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from handoff_dask.errors import AllocationError, ValidationError
from handoff_dask.graph.bounds import Bound, longest_path, resource_bounds
from handoff_dask.graph.expansion import Expansion, expand
from handoff_dask.graph.functions import Function, FunctionId
from handoff_dask.graph.structure import FunctionGraph, as_graph
from handoff_dask.resources import Capabilities, Cost, quantity, units_of

__all__ = [
    "CheckReport",
    "Unplaceable",
    "check",
    "check_wrong",
    "explain_unplaceable",
    "nearest_node",
    "pin_hint",
    "shortfalls",
    "unknown_names_hint",
]

#: How many notes about nodes are shown, and how many problems of each kind.
NOTES = 5
SHOWN = 20
#: ``{node name: capabilities}``, as the user writes them or parsed.
Nodes: TypeAlias = Mapping[str, Mapping[str, Any] | Capabilities]


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """A function that no node could hold, even when idle."""

    #: The function; of several that share a node, the one that the others follow.
    function_id: FunctionId
    #: What its node must be able to hold.
    cost: Mapping[str, Any]
    #: ``{node name: why not}``.
    reasons: Mapping[str, str]
    #: The node that lacks least, if there is any node.
    nearest: str | None
    #: The functions that share its node, itself included.
    together: tuple[FunctionId, ...] = ()

    def __str__(self) -> str:
        shared = f", together with {', '.join(map(repr, self.together[1:]))}" if self.together else ""
        head = f"{self.function_id!r} (cost {dict(self.cost)}{shared})"
        if self.nearest is None:
            return f"{head}: there are no nodes"
        return f"{head}: nearest is node {self.nearest!r}: {self.reasons[self.nearest]}"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What is known of a DAG on some nodes before it runs; ``str()`` says it in words."""

    #: What names the DAG.
    dag_id: FunctionId
    #: How many functions would run.
    function_count: int
    #: How many nodes there are.
    node_count: int
    #: What no node could hold.
    unplaceable: tuple[Unplaceable, ...]
    #: ``{resource or label that no node offers: the offered name that is like it, or None}``.
    unknown_names: Mapping[str, str | None]
    #: Ids of inputs and inline functions that nothing takes, and of what the outputs do not need.
    unused: tuple[FunctionId, ...]
    #: Ids of the functions without a ``duration``: they count for nothing in the bounds.
    without_duration: tuple[FunctionId, ...]
    #: What limits the DAG, the tightest first; empty if no duration is known.
    bounds: tuple[Bound, ...]
    #: What keeps functions from using what they claim, node by node, and what mends it.
    notes: tuple[str, ...] = ()
    #: Why it cannot be executed, whatever the nodes: see :func:`check_wrong`.
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it can be executed: each function has a node that could hold it."""
        return not self.unplaceable and not self.problems

    @property
    def lower_bound_s(self) -> float | None:
        """Seconds below which the DAG cannot end; ``None`` if no duration is known."""
        return self.bounds[0].seconds if self.bounds else None

    def __str__(self) -> str:
        lines = [f"DAG {self.dag_id!r}: {_counted(self.function_count, 'function')}"]
        lines[0] += f" on {_counted(self.node_count, 'node')}"
        if self.problems:
            lines += ["cannot be executed:", *_first(self.problems)]
        if self.unplaceable:
            lines += ["fits nowhere:", *_first(self.unplaceable)]
        else:
            lines.append("each function fits somewhere")
        lines += [_hint(name, near) for name, near in self.unknown_names.items()]
        lines += self.notes[:NOTES]
        if len(self.notes) > NOTES:
            lines.append(f"and {len(self.notes) - NOTES} more of such notes")
        if self.unused:
            lines.append(f"unused: {_listed(self.unused)}")
        if self.bounds:
            lines.append(f"at best {self.bounds[0].seconds:.3g} s, set by {self.bounds[0]}")
            if self.without_duration:
                count = f"{len(self.without_duration)} of {self.function_count}"
                lines.append(f"no duration is known for {count}: {_listed(self.without_duration)}")
        return "\n".join(lines)


def check(
    dag: FunctionGraph | Iterable[Function], nodes: Any, *, outputs: Iterable[FunctionId] | None = None
) -> CheckReport:
    """What of a DAG fits nowhere, is misspelt or unused, and how fast it could run at best.

    Parameters
    ----------
    dag
        A DAG or a list of functions.
    nodes
        ``{node name: capabilities}``, or anything with a ``discover_nodes()`` that gives it.
    outputs
        As for an execution.

    Raises
    ------
    ValidationError
        If the DAG, the nodes or the outputs are wrong.

    Examples
    --------
    >>> train = Function("train", [], int, cost={"gpus": 2}, duration=60)
    >>> print(check(as_graph([train]), {"a": {"cpu": 8}, "b": {"cpu": 4, "gpu": 4}}))
    DAG ...: 1 function on 2 nodes
    fits nowhere:
      'train' (cost {'gpus': 2}): nearest is node 'a': has no 'gpus'
    'gpus' is offered by no node; did you mean 'gpu'?
    at best 60 s, set by the path 'train'
    """
    dag = as_graph(dag)
    offers = _parsed(nodes)
    expansion = expand(dag, outputs)
    hosts, unplaceable = _placed(expansion, offers)
    costs = {body.placed.needs for body in expansion.bodies.values()}
    regular = [
        body.function for body in expansion.bodies.values() if not body.is_transfer and not body.is_spawn
    ]
    known = [function for function in regular if function.duration is not None]
    bounds: list[Bound] = []
    if known:
        bounds = [longest_path(expansion), *resource_bounds(expansion, offers, hosts)]
    return CheckReport(
        dag_id=dag.id,
        function_count=len(regular),
        node_count=len(offers),
        unplaceable=tuple(unplaceable),
        unknown_names=_unknown_names(costs, offers),
        unused=_unused(dag, expansion),
        without_duration=tuple([function.id for function in regular if function.duration is None]),
        bounds=tuple(sorted(bounds, key=_tightest)),
        notes=_notes(nodes, costs),
    )


def check_wrong(dag: FunctionGraph, nodes: Any, problems: Iterable[ValidationError]) -> CheckReport:
    """What is known of a DAG that cannot be executed: its problems, and what of it fits nowhere.

    Parameters
    ----------
    dag, nodes
        As for :func:`check`.
    problems
        What is wrong with the DAG.  Each function is looked at alone.

    Examples
    --------
    >>> wrong = as_graph([Function("train", ["load"], abs, cost={"cpu": 9})])
    >>> print(check_wrong(wrong, {"a": {"cpu": 8}}, wrong.problems()))
    DAG ...: 1 function on 1 node
    cannot be executed:
      function 'train' refers to 'load', which is not in the DAG; add it, or mend args or node
    fits nowhere:
      'train' (cost {'cpu': 9}): nearest is node 'a': needs cpu 9, has 8
    """
    regular = [function for function in dag.functions.values() if function.type == "regular"]
    alone = [
        Function(f.id, (), int, cost=f.cost, node=f.node if isinstance(f.node, str) else None)
        for f in regular
    ]
    report = check(alone, nodes)
    return replace(
        report, dag_id=dag.id, without_duration=(), problems=tuple(dict.fromkeys(map(str, problems)))
    )


def _first(problems: Sequence[object]) -> list[str]:
    lines = [f"  {one}" for one in problems[:SHOWN]]
    return lines if len(problems) <= SHOWN else [*lines, f"  and {len(problems) - SHOWN} more"]


def _notes(nodes: Any, costs: set[Cost]) -> tuple[str, ...]:
    """What there is to know of the nodes, if functions claim more than one core of one."""
    several = any(dict(cost.amounts).get("cpu", 0) > units_of("cpu", 1) for cost in costs)
    if not several or not hasattr(nodes, "node_notes"):
        return ()
    return tuple(note for notes in nodes.node_notes().values() for note in notes)


def explain_unplaceable(
    function_id: FunctionId,
    cost: Mapping[str, Any] | Cost | None,
    nodes: Nodes,
    *,
    pin: str | None = None,
) -> AllocationError:
    """The error for a function that no node could hold, even when idle.

    Parameters
    ----------
    function_id, cost
        The function, and what its node must be able to hold.
    nodes
        ``{node name: capabilities}``.
    pin
        The only node it may run on.

    Examples
    --------
    >>> raise explain_unplaceable("train", {"gpus": 2}, {"a": {"cpu": 8, "gpu": 4}})
    Traceback (most recent call last):
    handoff_dask.errors.AllocationError: function 'train' (cost {'gpus': 2}) cannot be placed: 'gpus' is
    offered by no node; did you mean 'gpu'?; a: has no 'gpus'. Lower the cost, free the pin, or add a node
    that can hold it
    """
    needed = cost if isinstance(cost, Cost) else Cost.parse(cost)
    offers = _parsed(nodes)
    written = needed.to_dict() if isinstance(cost, Cost) else cost
    return AllocationError(
        function_id, written, _reasons(needed, offers, pin), unknown_names_hint(needed, offers)
    )


def unknown_names_hint(cost: Cost, offers: Mapping[str, Capabilities]) -> str | None:
    """What to say of names in a cost that no node offers, or offers otherwise; ``None`` if there are none.

    Examples
    --------
    >>> unknown_names_hint(Cost.parse({"disk": "5"}), {"a": Capabilities.parse({"disk": 10})})
    "'disk' is a number on every node; ask for a number of it, not for the text '5'"
    >>> unknown_names_hint(Cost.parse({"gpus": 2}), {"a": Capabilities.parse({"gpu": 4})})
    "'gpus' is offered by no node; did you mean 'gpu'?"
    """
    unknown = _unknown_names([cost], offers) if offers else {}
    texts = [
        f"{name!r} is a number on every node; ask for a number of it, not for the text {value!r}"
        for name, value in cost.labels
        if value is not True and all(name in offer.amounts for offer in offers.values())
    ]
    return "; ".join([*(_hint(name, near) for name, near in unknown.items()), *texts]) or None


def shortfalls(cost: Cost, offer: Capabilities) -> list[str]:
    """What a node lacks to hold a cost when idle, one text for each thing.

    Examples
    --------
    >>> shortfalls(Cost.parse({"cpu": 8, "zone": "eu"}), Capabilities.parse({"cpu": 4, "zone": "us"}))
    ['needs cpu 8, has 4', "needs zone 'eu', has 'us'"]
    """
    missing = []
    for name, units in cost.amounts:
        if name not in offer.amounts:
            labelled = ", which is a label there" if offer.labels.get(name) else ""
            missing.append(f"has no {name!r}{labelled}")
        elif offer.amounts[name] < units:
            missing.append(f"needs {name} {quantity(name, units)}, has {quantity(name, offer.amounts[name])}")
    for name, value in cost.labels:
        if not offer.lacks_label(name, value):
            continue
        mine = offer.labels.get(name)
        if value is True:
            missing.append(f"has no {name!r}")
        elif isinstance(mine, frozenset):
            missing.append(f"needs {name} {value!r}, has {', '.join(map(repr, sorted(mine))) or 'none'}")
        elif name in offer.amounts:
            missing.append(f"needs {name} {value!r}, a label, but has an amount")
        else:
            missing.append(f"needs {name} {value!r}, has no such label")
    return missing


def _parsed(nodes: Any) -> dict[str, Capabilities]:
    """Nodes by name, from a mapping or from what can discover them."""
    found = nodes.discover_nodes() if hasattr(nodes, "discover_nodes") else nodes
    # Wherever a function runs, it can have what the whole cluster shares.
    shared = nodes.shared_resources() if hasattr(nodes, "shared_resources") else {}
    everywhere = Capabilities.parse(shared)
    if not isinstance(found, Mapping):
        raise ValidationError(
            f"nodes: {found!r} is no mapping from node name to capabilities, nor has it a discover_nodes()"
        )
    return {
        str(name): (offer if isinstance(offer, Capabilities) else Capabilities.parse(offer)).updated(
            everywhere
        )
        for name, offer in found.items()
    }


def _placed(
    expansion: Expansion, offers: Mapping[str, Capabilities]
) -> tuple[dict[FunctionId, frozenset[str]], list[Unplaceable]]:
    """Which nodes could hold each function when idle, and the functions that none could."""
    groups = expansion.group_costs()
    hosts: dict[FunctionId, frozenset[str]] = {}
    able: dict[tuple[Cost, str | None], frozenset[str]] = {}
    refused: dict[FunctionId, Unplaceable] = {}
    for key, body in expansion.bodies.items():
        root = expansion.roots.get(key)
        placed = body.placed
        cost = placed.needs if root is None else groups[root]
        own = placed.node if isinstance(placed.node, str) else None
        pin = _known_pin(own if body.is_spawn else expansion.pin_of(key))
        if (cost, pin) not in able:
            able[cost, pin] = frozenset(
                name for name, offer in offers.items() if pin in (None, name) and offer.could_hold(cost)
            )
        hosts[key] = able[cost, pin]
        first = placed.id if root is None else root
        if not hosts[key] and first not in refused:
            refused[first] = _unplaceable(expansion, first, cost, offers, pin)
    return hosts, list(refused.values())


def _known_pin(pin: str | None) -> str | None:
    # Which name an address belongs to is not known here: any node may be it.
    return None if pin is None or "://" in pin else pin


def _unplaceable(
    expansion: Expansion, first: FunctionId, cost: Cost, offers: Mapping[str, Capabilities], pin: str | None
) -> Unplaceable:
    members = [key for key in expansion.bodies if expansion.roots.get(key) == first and key != first]
    return Unplaceable(
        function_id=first,
        cost=cost.to_dict(),
        reasons=_reasons(cost, offers, pin),
        nearest=nearest_node(cost, offers, pin),
        together=(first, *members) if members else (),
    )


def _reasons(cost: Cost, offers: Mapping[str, Capabilities], pin: str | None) -> dict[str, str]:
    """``{node name: why it cannot hold the cost}``; nodes that could are left out."""
    reasons = {}
    elsewhere = "" if pin is None else pin_hint(pin, offers)
    for name, offer in offers.items():
        missing = shortfalls(cost, offer)
        if pin not in (None, name):
            missing.insert(0, elsewhere)
        if missing:
            reasons[name] = "; ".join(missing)
    return reasons


def nearest_node(cost: Cost, offers: Mapping[str, Capabilities], pin: str | None = None) -> str | None:
    """The node that lacks fewest things; among equals, the smallest part of them.

    Examples
    --------
    >>> offers = {"a": Capabilities.parse({"cpu": 2}), "b": Capabilities.parse({"cpu": 4})}
    >>> nearest_node(Cost.parse({"cpu": 8}), offers)
    'b'
    """

    def lack(name: str) -> tuple[bool, int, float]:
        offer = offers[name]
        parts = [1 - offer.amounts.get(r, 0) / u for r, u in cost.amounts if offer.amounts.get(r, 0) < u]
        parts += [1.0 for label in cost.labels if offer.lacks_label(*label)]
        return (pin not in (None, name), len(parts), sum(parts))

    return min(offers, key=lack, default=None)


def _unknown_names(costs: Iterable[Cost], offers: Mapping[str, Capabilities]) -> dict[str, str | None]:
    """Names in costs that no node offers, each with the offered name that is most like it."""
    offered = {name for offer in offers.values() for name in (*offer.amounts, *offer.labels)}
    asked = {name for cost in costs for name, _ in (*cost.amounts, *cost.labels)}
    return {name: _similar(name, offered) for name in sorted(asked - offered)}


def _similar(name: str, known: Iterable[str]) -> str | None:
    by_lower = {other.lower(): other for other in sorted(known)}
    near = difflib.get_close_matches(name.lower(), by_lower, 1)
    return by_lower[near[0]] if near else None


def _hint(name: str, near: str | None) -> str:
    return f"{name!r} is offered by no node" + (f"; did you mean {near!r}?" if near else "")


def pin_hint(pin: str, offers: Mapping[str, Capabilities]) -> str:
    """What to say of a pin to a node that is not meant, or not there.

    Examples
    --------
    >>> pin_hint("gpu1", {"gpu-1": Capabilities.parse({"gpu": 1})})
    "it is pinned to node 'gpu1', which is not there (did you mean 'gpu-1'?)"
    """
    if pin in offers:
        return f"it is pinned to node {pin!r}"
    near = _similar(pin, offers)
    return f"it is pinned to node {pin!r}, which is not there" + (
        f" (did you mean {near!r}?)" if near else ""
    )


def _unused(dag: FunctionGraph, expansion: Expansion) -> tuple[FunctionId, ...]:
    """What is in the DAG and never runs: neither a body, nor taken, directly or not, by one."""
    regular = [key for key, function in expansion.functions.items() if function.type == "regular"]
    used = set(dag.needed_by(key for key in regular if key in dag))
    return tuple([key for key in dag.functions if key not in used])


def _tightest(bound: Bound) -> tuple[float, int]:
    # Of bounds that differ by rounding alone, the one about fewest nodes says most.
    return (-round(bound.seconds, 9), len(bound.nodes))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _listed(keys: tuple[FunctionId, ...]) -> str:
    shown = ", ".join(map(repr, keys[:10]))
    return shown if len(keys) <= 10 else f"{shown} and {len(keys) - 10} more"
