"""Clients of the process that this one was forked from: they cannot be used here.

Their event loops run in threads, which a fork does not take along.  Whoever waits for one of them in the
child waits for ever, and what is written to their connections goes to the parent's scheduler.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

from distributed import Client

_of_parent: weakref.WeakSet[Client] = weakref.WeakSet()


def is_of_parent(client: Client) -> bool:
    """Whether a client belongs to the process that this one was forked from."""
    return client in _of_parent


def after_fork(call: Callable[[], object]) -> None:
    """Have something called in each child, where processes can be forked."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=call)


after_fork(lambda: _of_parent.update(Client._instances))
