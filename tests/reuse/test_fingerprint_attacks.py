"""Pairs of codes that mean different things: none may have the fingerprint of the other.

``different_codes.json`` has the pairs, each with a name; ``f`` is the function.
"""

from __future__ import annotations

import json
import types
from pathlib import Path

import numpy as np
import pytest

from handoff_dask.reuse.building import Building

#: ``{name: (code, another code)}``.
PAIRS = {
    name: (one, other)
    for name, one, other in json.loads((Path(__file__).parent / "different_codes.json").read_text())
}


def looked_at(text):
    scope = {"__name__": "__main__"}
    exec(compile(text, "job.py", "exec", dont_inherit=True), scope)
    node = Building().look_at(scope["f"])
    return node.digest, node.why


@pytest.mark.parametrize("name", PAIRS)
def test_what_means_something_else_is_something_else(name):
    one, other = map(looked_at, PAIRS[name])

    assert one != other
    assert not (one[1])
    assert not (other[1])
    assert looked_at(PAIRS[name][0]) == one


@pytest.mark.parametrize(
    "text",
    [
        "import contextvars\nv = contextvars.ContextVar('v', default=1)\ndef f(): return v.get()",
        "import threading\nv = threading.local()\nv.x = 1\ndef f(): return v.x",
        "import weakref\nclass C: pass\nc = C()\nw = weakref.ref(c)\ndef f(): return w()",
        "import numpy as np\nf = np.frompyfunc(lambda x: x + 1, 1, 1)",
        "g = (n for n in range(3))\ndef f(): return eval('g')",
    ],
)
def test_what_does_not_tell_what_it_is_has_no_digest(text):
    assert looked_at(text)[1]


def test_hints_that_are_not_looked_up_are_texts():
    """Named tuples under ``from __future__ import annotations`` have such hints."""
    text = "from typing import NamedTuple\nclass T(NamedTuple):\n    a: {}\ndef f(): return T(1)"
    later = "from __future__ import annotations\n"
    found = [looked_at(later + text.format(hint)) for hint in ("int", "str", "Missing")]

    assert not any(why for _, why in found)
    assert len({digest for digest, _ in found}) == 3


def test_functions_that_packages_make_go_by_type_hints():
    """A package may convert by them, when the function is made or when it is called."""
    toolz = pytest.importorskip("toolz")
    for maker in ("toolz.curry({})", "np.vectorize({})"):
        found = set()
        for hint in ("int", "str"):
            scope = {"__name__": "__main__", "toolz": toolz, "np": np}
            exec(f"def g(x: {hint}): return x\nf = {maker.format('g')}", scope)
            node = Building().look_at(scope["f"])
            assert node.why is None
            found.add(node.digest)
        assert len(found) == 2


def test_abstract_classes_say_who_is_registered():
    """Python keeps it privately; fails loudly when that has changed."""
    import abc

    from handoff_dask.reuse.definitions import _registered

    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self): ...

    Shape.register(types.SimpleNamespace)
    assert _registered(Shape) == {types.SimpleNamespace}
    assert _registered(int) == set()
