"""Users' own strategies, packed for the scheduler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cloudpickle
from dask.utils import funcname

from handoff_dask.errors import ValidationError
from handoff_dask.graph.expansion import Expansion
from handoff_dask.graph.functions import Collocated, Function
from handoff_dask.protocol.strategies import Elsewhere


def pack(own: Any) -> tuple[bytes, str]:
    """A user's strategy, ready to be sent, and what users and telemetry call it.

    Raises
    ------
    ValidationError
        If it is no strategy, or cannot be pickled.
    """
    if isinstance(own, type):
        try:
            own = own()
        except Exception as error:  # whatever the user's __init__ raises
            raise ValidationError(
                f"strategy {own!r} cannot be made without arguments ({error!r}); give an instance"
            ) from error
    has_method = any(callable(getattr(own, name, None)) for name in ("select", "allocate"))
    if not (has_method or callable(own)):
        raise ValidationError(
            f"{own!r} is no allocation strategy; give a name, a callable, "
            "or an object with select(function, nodes) or allocate(functions, capabilities)"
        )
    try:
        data = bytes(cloudpickle.dumps(own))
    except Exception as error:  # whatever the object's own pickling raises
        raise ValidationError(f"strategy {own!r} cannot be sent to the scheduler: {error!r}") from error
    return data, type(own).__name__ if has_method else str(funcname(own))


def pack_functions(expansion: Expansion) -> bytes:
    """What strategies are shown of an execution: its functions, by position, without their code.

    The ids of what does not run come along: a strategy may speak of them too.
    """
    shown = [_shown(body.function, expansion) for body in expansion.bodies.values()]
    idle = [i for i in expansion.functions if i not in expansion.bodies]
    return bytes(cloudpickle.dumps((shown, idle)))


def _shown(function: Function, expansion: Expansion) -> Function:
    node = function.node
    if isinstance(node, Collocated) and node.id not in expansion.bodies:
        # The function beside which it should run does not run: the group meets elsewhere.
        root = expansion.roots[function.id]
        first = next(i for i in expansion.bodies if expansion.roots.get(i) == root)
        node = expansion.pins.get(root) or (None if first == function.id else Collocated(first))
    # A cost that is asked is known once the function is ready; strategies see it then.
    return replace(
        function,
        code=Elsewhere(function.name),
        extra_args=(),
        kwargs=None,
        node=node,
        cost=function.known_cost or None,
    )
