"""Costs that are asked for each attempt: what the scheduler needs to ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cloudpickle
from dask.sizeof import sizeof
from distributed import Future

from handoff_dask.graph.expansion import Body, Expansion
from handoff_dask.graph.functions import Function, FunctionId
from handoff_dask.protocol.manifest import AskedCost, AskedCosts, Sizes
from handoff_dask.protocol.packing import Packer


def asked_costs(
    expansion: Expansion,
    keys: Mapping[FunctionId, str],
    inputs: Mapping[FunctionId, Any],
    packer: Packer,
) -> AskedCosts | None:
    """The costs of a DAG that are callables; ``None`` if there are none.

    Parameters
    ----------
    expansion
        What runs.
    keys
        ``{id: key}`` of what runs, in the order of positions.
    inputs
        The values of inputs, and of results that are known.
    packer
        Packs the callables.
    """
    asking = [
        (n, body)
        for n, body in enumerate(expansion.bodies.values())
        if body.placed.cost is not None and not isinstance(body.placed.cost, Mapping)
    ]
    return _Asking(expansion, keys, inputs, packer).costs(asking) if asking else None


class _Asking:
    def __init__(
        self,
        expansion: Expansion,
        keys: Mapping[FunctionId, str],
        inputs: Mapping[FunctionId, Any],
        packer: Packer,
    ) -> None:
        self._expansion = expansion
        self._keys = keys
        self._inputs = inputs
        self._packer = packer
        self._names: dict[FunctionId, int] = {}
        self._known: dict[FunctionId, Sizes] = {}

    def costs(self, asking: list[tuple[int, Body]]) -> AskedCosts:
        functions: dict[int, AskedCost] = {}
        items: dict[int, AskedCost] = {}
        for position, body in asking:
            function = body.placed
            cost = AskedCost(self._packer.code(function.cost), self._arguments(function))
            # What makes the items of a map costs nothing itself: it is asked for each item.
            (items if body.is_spawn else functions)[position] = cost
        names = cloudpickle.dumps(list(self._names))
        return AskedCosts(functions=functions, items=items, names=names)

    def _arguments(self, function: Function) -> dict[int, Sizes]:
        """``{number of the argument's name: where its size is found}``."""
        found = {}
        for i in dict.fromkeys(function.argument_ids):
            body = self._expansion.bodies.get(i)
            is_changed = body is not None and body.is_transfer
            # Whoever has written the DAG knows an argument that is changed on its way by its producer.
            name: Any = i[2] if is_changed else i  # type: ignore[index]
            found[self._names.setdefault(name, len(self._names))] = self._sizes(i)
        return found

    def _sizes(self, i: FunctionId) -> Sizes:
        """Of what an argument consists: of an inline function, what that takes."""
        known = self._known.get(i)
        if known is None:
            keys: dict[Any, None] = {}
            nbytes = 0
            if i in self._keys:
                keys[self._keys[i]] = None
            elif i in self._inputs:
                value = self._inputs[i]
                if isinstance(value, Future):
                    keys[value.key] = None
                else:
                    nbytes = int(sizeof(value))
            else:
                function = self._expansion.functions.get(i)
                for arg in dict.fromkeys(function.argument_ids if function is not None else ()):
                    more = self._sizes(arg)
                    keys.update(dict.fromkeys(more.keys))
                    nbytes += more.nbytes
            known = self._known[i] = Sizes(tuple(keys), nbytes)
        return known
