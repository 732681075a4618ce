"""Code enters a fingerprint by what it does: what changes it, and what does not."""

from __future__ import annotations

import ast
import functools
import inspect
import json
import subprocess
import sys
import types
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from programs import here, of, run

from handoff_dask.graph.functions import Function
from handoff_dask.reuse import bytecode
from handoff_dask.reuse.bytecode import instructions_of
from handoff_dask.reuse.fingerprint import details, fingerprint

JOB = """
    import abc, dataclasses, enum, functools, logging, re, threading
    from collections import namedtuple
    import helpers
    from helpers import scale as scaled

    RATE = {"a": 1, "b": [1, 2]}
    NAMES = {"x", "y", "z"}
    LOG = logging.getLogger(__name__)
    LOCK = threading.Lock()
    PATTERN = re.compile("a+")
    MISSING = object()

    class Colour(enum.Enum):
        RED = 1
        BLUE = "b"

    @dataclasses.dataclass
    class Point:
        x: int
        y: list = dataclasses.field(default_factory=list)

    Pair = namedtuple("Pair", "a b")

    class Base(abc.ABC):
        factor = 3

        @abc.abstractmethod
        def go(self): ...

        def shared(self):
            return 10

    class Sub(Base):
        def go(self):
            return Sub, super().shared(), self.again()

        def again(self):
            return decorated(1)

        @property
        def tripled(self):
            return self.factor * 3

        @staticmethod
        def plain():
            return 4

    def twice(code):
        @functools.wraps(code)
        def inner(*args, **kwargs):
            return code(*args, **kwargs) * 2
        return inner

    @twice
    def decorated(x):
        return x + 1

    @functools.lru_cache
    def cached(x):
        return is_even(x)

    def is_even(n):
        return n == 0 or is_odd(n - 1)

    def is_odd(n):
        return n != 0 and is_even(n - 1)

    @functools.singledispatch
    def by_type(x):
        return 1

    @by_type.register
    def _(x: int):
        return 2

    def make(power):
        def raised(x):
            return x ** power
        return raised

    squared = make(2)
    part = functools.partial(is_even, 4)

    def clean(x, options={"k": (1, 2)}, *, strict=False):
        with LOCK:
            LOG.info("cleaning")
            values = [scaled(v) + helpers.OFFSET for v in x]
        later = lambda y: y + RATE["a"]
        found = Colour.RED, Point(1), Pair(1, 2), Sub().go(), PATTERN, NAMES, MISSING
        return values, found, cached(1), by_type(x), squared(3), part(), later(1)

    def dag():
        return [Function("f", [], clean, extra_args=[[1, 2, {"s", "t"}], frozenset({"q", "r"})])]
"""
HELPERS = {"helpers.py": "OFFSET = 3\n\ndef scale(x):\n    return x * 2\n\ndef unused(x):\n    return x\n"}


@pytest.fixture(scope="module")
def plain():
    return here(JOB, HELPERS)


def test_is_the_same_in_every_process(plain, tmp_path):
    """Under other hash seeds, from other folders, as a module, and with warnings and all."""
    assert of(tmp_path / "other place", JOB, modules=HELPERS, seed="1") == plain
    assert of(tmp_path / "b", JOB, modules=HELPERS, seed="4711", name="another.py") == plain
    imported = "import job, json\nfrom handoff_dask.reuse.fingerprint import fingerprint\n"
    imported += "print(json.dumps({k: [v, ''] for k, v in fingerprint(job.dag()).items()}))"
    assert of(tmp_path / "c", JOB, modules=HELPERS, runs=imported) == plain


def test_travels_with_the_code(tmp_path):
    """What cloudpickle has carried to another process has the fingerprint that it had here (pydra#455)."""
    more = """
import cloudpickle
from handoff_dask.reuse.fingerprint import fingerprint
carried = cloudpickle.dumps((fingerprint(dag()), dag()))
open("carried", "wb").write(carried)
print("{}")
"""
    job = JOB
    # Locks and some of what functools makes cannot be pickled.
    for unfit, fit in (("with LOCK:", "if x:"), ("by_type(x), ", ""), ("cached(1), ", "")):
        job = job.replace(unfit, fit)
    run(tmp_path, job, modules=HELPERS, more=more)
    program = (
        "import pickle; from handoff_dask.reuse.fingerprint import fingerprint\n"
        "there, dag = pickle.load(open('carried', 'rb')); print(fingerprint(dag) == there)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "True", done.stderr


CHANGES = [
    ("the code", "return values, found", "return found, values"),
    ("a default", '"k": (1, 2)', '"k": (1, 3)'),
    ("a default by name", "strict=False", "strict=True"),
    ("a global", '"b": [1, 2]', '"b": [1, 3]'),
    ("a set", '{"x", "y", "z"}', '{"x", "y"}'),
    ("a pattern", '"a+"', '"a*"'),
    ("a closure", "squared = make(2)", "squared = make(3)"),
    ("a nested function", "x ** power", "x + power"),
    ("a lambda", 'y + RATE["a"]', 'y - RATE["a"]'),
    ("a decorator", "kwargs) * 2", "kwargs) * 3"),
    ("what is decorated", "return x + 1", "return x + 2"),
    ("what is cached", "n == 0 or", "n == 1 or"),
    ("a circle", "n != 0 and", "n > 0 and"),
    ("a method", "return Sub, super", "return 1, super"),
    ("a base class", "return 10", "return 11"),
    ("an attribute of a base", "factor = 3", "factor = 4"),
    ("a property", "self.factor * 3", "self.factor * 4"),
    ("a static method", "return 4", "return 5"),
    ("an enum", "RED = 1", "RED = 2"),
    ("a field of a dataclass", "x: int\n", "x: int = 0\n"),
    ("a named tuple", '"a b"', '"a c"'),
    ("a variant by type", "        return 2\n", "        return 3\n"),
    ("a partial", "is_even, 4", "is_even, 6"),
    ("a loop", "for v in x]", "for v in x if v]"),
    ("a condition", "x + 1", "(x + 1 if x else 1)"),
]


@pytest.mark.parametrize(("before", "after"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_what_code_does_counts(plain, before, after):
    assert before in JOB
    assert here(JOB.replace(before, after, 1), HELPERS) != plain


@pytest.mark.parametrize(("before", "after"), [("x * 2", "x * 3"), ("OFFSET = 3", "OFFSET = 4")])
def test_modules_of_the_users_own_count(plain, before, after):
    """Helpers, and values that are read of a module (redun, prefect: they see the task's text alone)."""
    assert here(JOB, {"helpers.py": HELPERS["helpers.py"].replace(before, after)}) != plain


SAME = [
    ("a comment", "return x + 1", "return x + 1  # one more"),
    ("an empty line", "return x + 1", "\n        return x + 1"),
    ("brackets", "return x + 1", "return (\n            x\n            + 1\n        )"),
    ("a docstring", "return x + 1", "'''One more.'''\n        return x + 1"),
    ("quotes", '"k": (1, 2)', "'k': (1, 2,)"),
    ("a docstring of a class", "factor = 3", '"""A base."""\n        factor = 3'),
    ("another spelling of a number", "factor = 3", "factor = 0x3"),
    ("something unused", "squared = make(2)", "squared = make(2)\n    def unused(): return squared"),
    ("a type of an argument", "def is_odd(n)", "def is_odd(n: int) -> bool"),
]


@pytest.mark.parametrize(("before", "after"), [c[1:] for c in SAME], ids=[c[0] for c in SAME])
def test_how_code_looks_does_not_count(plain, before, after):
    """Whoever tidies up does not compute again (snakemake#1694)."""
    assert before in JOB
    assert here(JOB.replace(before, after, 1), HELPERS) == plain


def test_what_is_not_used_does_not_count(plain):
    changed = {"helpers.py": HELPERS["helpers.py"].replace("return x\n", "return -x\n") + "\nMORE = 1\n"}

    assert here("    # A line before all others.\n" + JOB, changed) == plain


def functions_of(code, path=()):
    for n, constant in enumerate(c for c in code.co_consts if isinstance(c, types.CodeType)):
        yield (*path, constant.co_name, n), constant
        yield from functions_of(constant, (*path, constant.co_name, n))


@pytest.mark.parametrize(
    "module", ["dataclasses", "inspect", "signal", "json.decoder", "contextlib", "argparse"]
)
def test_formatting_never_counts(module):
    """Each function of a module does the same after its text has been taken apart and written anew."""
    path = Path(inspect.getsourcefile(sys.modules[module] if module in sys.modules else __import__(module)))
    path = path if "." not in module else Path(inspect.getsourcefile(json.decoder))
    text = path.read_text(encoding="utf-8")
    before = dict(functions_of(compile(text, "before.py", "exec")))
    after = dict(functions_of(compile(ast.unparse(ast.parse(text)), "after.py", "exec")))

    assert before.keys() == after.keys()
    assert [k for k, code in before.items() if instructions_of(code) != instructions_of(after[k])] == []


def body(text):
    scope = {}
    exec(f"def f(a, b, c=None, *args, **kwargs):\n    {text}", scope)
    return instructions_of(scope["f"].__code__)


DIFFERENT = [
    "return a",
    "return b",
    "return a, b",
    "return b, a",
    "return a + b",
    "return a - b",
    "return a < b",
    "return a <= b",
    "return 1",
    "return 1.0",
    "return True",
    "return '1'",
    "return b'1'",
    "return 1j",
    "return (1, 2)",
    "return (2, 1)",
    "return a in {1, 2}",
    "return a in {1, 3}",
    "return a and b",
    "return a or b",
    "return a.b",
    "return a.c",
    "return a[b]",
    "return a[:1]",
    "return a(b)",
    "return a(b=b)",
    "return a(c=b)",
    "return a(*args)",
    "return a(**kwargs)",
    "return len(a)",
    "return abs(a)",
    "return lambda: 1",
    "return lambda: 2",
    "return lambda x=1: x",
    "return lambda *x: x",
    "return [x for x in a]",
    "return {x for x in a}",
    "yield a",
    "yield from a",
    "if a: return b\n    return c",
    "if b: return a\n    return c",
    "if not a: return b\n    return c",
    "while a: b()",
    "while b: a()",
    "for x in a: b(x)",
    "for x in a:\n        if x: break\n        b(x)",
    "for x in a:\n        if x: continue\n        b(x)",
    "try: a()\n    except ValueError: b()",
    "try: a()\n    except KeyError: b()",
    "try: a()\n    finally: b()",
    "a()\n    try: b()\n    except ValueError: c()",
    "try:\n        a()\n        b()\n    except ValueError: c()",
    "try: a()\n    except ValueError: b()\n    c()\n    try: d()\n    except KeyError: kwargs()",
    "try: a()\n    except ValueError: b()\n    try:\n        c()\n        d()\n    except KeyError: kwargs()",
    "a()\n    b()",
    "b()\n    a()",
    "with a: b()",
    "with b: a()",
    "raise a",
    "raise a from b",
    "global g\n    g = a",
    "g = a",
    "del a",
    "assert a",
    "import os\n    return os",
    "import os.path\n    return os",
    "from os import path\n    return path",
    "class C: x = 1",
    "class C: x = 2",
    "class C(a): x = 1",
    "return f'{a}'",
    "return f'{a!r}'",
    "return f'{a:>3}'",
    "return a if c else b",
    "return None",
    "return ...",
    "return -a",
    "return not a",
    "return ~a",
    "a += b\n    return a",
    "return a, *args",
    "x, *y = a\n    return y",
    "x, y = a\n    return y",
]


def test_whatever_does_something_else_is_something_else():
    found = {}
    for text in DIFFERENT:
        found.setdefault(body(text), []).append(text)

    assert [texts for texts in found.values() if len(texts) > 1] == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("return a", "return(a)"),
        ("if a: return b\n    return c", "if a:\n        return b\n\n    return c  # else"),
        ("if a: return b\n    return c", "if a: return b\n    else: return c"),
        (
            "while True:\n        if a(): break\n        b()",
            "while 1:\n        if a(): break\n        b()\n        pass",
        ),
        ("return a and b and c", "return (a and\n        b and\n        c)"),
        ("if a and (b or c): return 1", "if (a\n        and (b\n        or c)):\n        return 1"),
        ("a()\n    return None", "a()"),
        ("if (a and b) or c: return 1", "if ((a\n        and b)\n        or c):\n        return 1"),
        ("return (a and b) or (b and c)", "return ((a and\n        b) or (b\n        and c))"),
        ("x = (a or b) and c\n    return x", "x = ((a\n        or b)\n        and c)\n    return x"),
        ("while a or (b and c): a()", "while (a\n        or (b\n        and c)): a()"),
        ("return 'a' 'b'", "return 'ab'"),
        ("return 2 * 3", "return 6"),
    ],
)
def test_whatever_does_the_same_is_the_same(one, other):
    assert body(one) == body(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a, b", "b, a"),
        ("a, b", "a, /, b"),
        ("a, b", "a, *, b"),
        ("a, b", "a, *b"),
        ("a, b", "a, **b"),
        ("a, b", "a, c"),
        ("*a", "**a"),
    ],
)
def test_arguments_count(one, other):
    def code(arguments):
        scope = {}
        exec(f"def f({arguments}): pass\nasync def g(): pass", scope)
        return instructions_of(scope["f"].__code__)

    assert code(one) != code(other)


def test_a_coroutine_is_no_plain_function():
    scope = {}
    exec("def f(): return 1\nasync def g(): return 1\ndef h():\n  return 1\n  yield", scope)

    assert len({instructions_of(scope[name].__code__) for name in "fgh"}) == 3


def test_long_code_is_read_with_its_prefixes():
    """More than 256 constants and far jumps take prefixed instructions; a docstring shifts them."""
    lines = "".join(f"        y = x + {n}.5\n" for n in range(300))
    texts = [
        f"def f(x):\n    while x:\n{lines}    return y",
        f"def f(x):\n    'Says a lot.'\n    while x:\n{lines}    return y",
        f"def f(x):\n    while x:\n{lines.replace('299.5', '299.6')}    return y",
    ]
    scopes = [{} for _ in texts]
    for text, scope in zip(texts, scopes, strict=True):
        exec(text, scope)
    one, same, other = [instructions_of(scope["f"].__code__) for scope in scopes]

    assert one == same
    assert one != other


def test_two_functions_of_one_text_and_different_closures_are_two():
    """They do not share results (prefect#23062)."""

    def make(n):
        return lambda x: x + n

    found = fingerprint([Function(n, [], make(n), extra_args=[0]) for n in (1, 2)])

    assert found[1] != found[2]
    assert found[1] == fingerprint([Function("f", [], make(1), extra_args=[0])])["f"]


def test_globals_and_defaults_are_looked_at_when_it_is_asked():
    """Not when a function was first seen: notebooks change what functions use."""
    scope = {"rate": 1}
    exec("def f(x=1): return x * rate", scope)
    first = fingerprint([Function("f", [], scope["f"])])["f"]
    scope["rate"] = 2
    second = fingerprint([Function("f", [], scope["f"])])["f"]
    scope["rate"] = 1
    scope["f"].__defaults__ = (2,)
    third = fingerprint([Function("f", [], scope["f"])])["f"]
    scope["f"].__defaults__ = (1,)

    assert len({first, second, third}) == 3
    assert fingerprint([Function("f", [], scope["f"])])["f"] == first


def test_imports_inside_a_function_count(tmp_path):
    texts = [
        "def f():\n    import helpers\n    return helpers.scale(1)\n",
        "def f():\n    from helpers import scale\n    return scale(1)\n",
        "def f():\n    import helpers\n    return [helpers.scale(v) for v in (1, 2)]\n",
        "def f():\n    import helpers\n    return lambda: (lambda: helpers.scale(1))\n",
        "def f():\n    import helpers\n    h = helpers\n    return h.scale(1)\n",
        "def f():\n    import helpers as h\n    return getattr(h, 'scale')(1)\n",
        "def f():\n    def g():\n        import helpers\n        return helpers.scale(1)\n    return g\n",
        "from helpers import *\ndef f(): return scale(1)\n",
        "import helpers\ndef f():\n    h = helpers\n    return h.scale(1)\n",
        "import helpers\ndef f():\n    return getattr(helpers, 'scale')(1)\n",
        "import package.inner\ndef f():\n    return package.inner.value()\n",
        "def f():\n    import package.inner as i\n    return i.value()\n",
        "def f():\n    import package.inner\n    return package.inner.value()\n",
        "def f():\n    from package import inner\n    return inner.value()\n",
        "def f():\n    from package.again import relative\n    return relative()\n",
    ]
    modules = {
        **HELPERS,
        "package/__init__.py": "",
        "package/inner.py": "def value():\n    return 1\n",
        "package/again.py": "def relative():\n    from .inner import value\n    return value()\n",
    }
    changed = {
        **modules,
        "helpers.py": HELPERS["helpers.py"].replace("x * 2", "x * 3"),
        "package/inner.py": "def value():\n    return 2\n",
    }
    for text in texts:
        job = f"{text}\ndef dag():\n    return [Function('f', [], f)]\n"
        before = here(job, modules)
        assert here(job, modules) == before, text
        assert here(job, changed) != before, text


@pytest.mark.parametrize(
    "text",
    [
        "import helpers\ndef f(): return helpers.scale(1)",
        "def f():\n    import helpers\n    return helpers.scale(1)",
        "def f():\n    import helpers\n    return [helpers.scale(v) for v in (1, 2)]",
        "def f():\n    import helpers as h\n    x = 1\n    return h.scale(x)",
        "def f():\n    from helpers import scale\n    return scale(1)",
        "def outer():\n    import helpers\n    return lambda: helpers.scale(1)\nf = outer()",
    ],
)
def test_of_a_module_counts_what_is_read_of_it(text):
    job = f"{text}\ndef dag(): return [Function('f', [], f)]\n"
    changed = {"helpers.py": HELPERS["helpers.py"].replace("return x\n", "return -x\n")}
    other = {"helpers.py": HELPERS["helpers.py"].replace("x * 2", "x * 3")}

    assert here(job, HELPERS) == here(job, changed)
    assert here(job, HELPERS) != here(job, other)


def test_a_module_that_is_passed_around_counts_as_a_whole():
    job = (
        "import helpers\ndef f():\n    return vars(helpers)\ndef dag():\n    return [Function('f', [], f)]\n"
    )
    changed = {"helpers.py": HELPERS["helpers.py"].replace("return x\n", "return -x\n")}

    assert here(job, HELPERS) != here(job, changed)


def test_an_import_that_is_not_there_is_told(tmp_path):
    job = "def f():\n    import not_there\ndef dag():\n    return [Function('f', [], f)]\n"
    found, why = run(tmp_path, job)["f"]

    assert found is None
    assert "imports not_there, which is not there" in why


def test_docstrings_count_for_who_reads_them():
    def documented(text):
        def helper():
            return 1

        helper.__doc__ = text
        return helper

    def reading(helper):
        return lambda: helper.__doc__

    def calling(helper):
        return lambda: helper() + 1

    def of_code(code):
        return fingerprint([Function("f", [], code)])["f"]

    assert of_code(calling(documented("a"))) == of_code(calling(documented("b")))
    assert of_code(reading(documented("a"))) != of_code(reading(documented("b")))


def test_code_of_packages_is_their_version(tmp_path, monkeypatch):
    from handoff_dask.reuse import owners

    def code(x):
        return np.sum(x)

    functions = [Function("f", [], code, extra_args=[1])]
    before = fingerprint(functions)["f"]
    named = details(functions)["f"].code.parts
    assert named["package numpy"] == f"numpy {np.__version__}"

    monkeypatch.setattr(owners, "_version", lambda name: "0.0")
    owners._owner.cache_clear()
    try:
        assert fingerprint(functions)["f"] != before
    finally:
        owners._owner.cache_clear()


@pytest.mark.parametrize(
    "code",
    [
        abs,
        np.sum,
        np.sin,
        np.linalg.norm,
        "operator:neg",
        json.dumps,
        "x".join,
        int,
        dict,
        functools.partial(max, 1),
    ],
)
def test_functions_of_packages_and_of_python_have_fingerprints(code):
    found = details([Function("f", [], code, extra_args=["a"])])["f"]

    assert found.unknown is None


def test_a_text_is_what_it_names():
    import operator

    named = fingerprint([Function("f", [], "operator:add", extra_args=[1, 2])])["f"]

    assert named == fingerprint([Function("f", [], operator.add, extra_args=[1, 2])])["f"]
    missing = details([Function("f", [], "no.such.module:name")])["f"]
    assert missing.fingerprint is None
    assert "'no.such.module:name' is not there" in missing.unknown


def test_a_file_of_the_users_own_may_bear_the_name_of_a_module_of_python(tmp_path):
    job = "import colorsys\ndef f(): return colorsys.value()\ndef dag(): return [Function('f', [], f)]\n"
    one = of(tmp_path / "a", job, modules={"colorsys.py": "def value(): return 1"})

    assert of(tmp_path / "b", job, modules={"colorsys.py": "def value(): return 2"}) != one


def test_classes_of_a_script_are_told_by_what_they_are(tmp_path):
    """Classes of ``__main__`` are pickled differently in each process (prefect#12229)."""
    job = """
    class Model:
        def __init__(self, n): self.n = n
        def predict(self): return self.n, self.__class__, Model
    def f(model): return model.predict()
    def dag(): return [Function("f", [], f, extra_args=[Model(3)])]
    """
    found = {of(tmp_path / seed, job, seed=seed) for seed in "01"}

    assert len(found) == 1
    assert found == {here(job)}
    assert found != {here(job.replace("Model(3)", "Model(4)"))}
    assert found != {here(job.replace("return self.n", "return -self.n"))}


def test_a_helper_of_many_kinds_is_named():
    """What is kept for later: each helper, global and default under a name that its writer knows."""
    scope = {"__name__": "job", "RATE": 3}
    exec("def helper(x, y=2): return x * RATE\ndef f(x): return helper(x)", scope)

    parts = details([Function("f", [], scope["f"], extra_args=[1])])["f"].code.parts

    assert {
        "code of job.f",
        "code of job.helper",
        "default y of job.helper",
        "global RATE of job.helper",
    } < set(parts)


def test_many_functions_of_one_code_are_looked_at_once(monkeypatch):
    looks = []
    plain = bytecode.instructions_of.__wrapped__
    from handoff_dask.reuse import definitions

    monkeypatch.setattr(definitions, "instructions_of", lambda code: looks.append(code) or plain(code))

    def code(x):
        return helper(x)

    def helper(x):
        return x

    found = fingerprint([Function(n, [], code, extra_args=[n]) for n in range(1000)])

    assert len(set(found.values())) == 1000
    assert looks == [code.__code__, helper.__code__]


def test_circles_do_not_depend_on_where_they_are_entered():
    scope = {}
    text = "def a(n): return n and b(n)\ndef b(n): return n and c(n)\n"
    text += "def c(n): return a(n), b(n), d()\ndef d(): return {}"
    exec(text.format(1), scope)
    together = fingerprint([Function(name, [], scope[name], extra_args=[1]) for name in "abc"])
    alone = {n: fingerprint([Function(n, [], scope[n], extra_args=[1])])[n] for n in "cba"}

    assert together == alone
    assert len(set(alone.values())) == 3
    other = {}
    exec(text.format(2), other)
    changed = {n: fingerprint([Function(n, [], other[n], extra_args=[1])])[n] for n in "cba"}
    assert not set(changed.values()) & set(alone.values())


def test_a_long_chain_of_helpers_is_no_problem():
    scope = {}
    exec("\n".join(f"def f{n}(): return f{n + 1}()" for n in range(3000)) + "\ndef f3000(): return 1", scope)
    first = fingerprint([Function("f", [], scope["f0"])])["f"]
    exec("def f3000(): return 2", scope)

    assert first is not None
    assert fingerprint([Function("f", [], scope["f0"])])["f"] != first


def test_after_a_journey_it_is_the_same():
    offset = 3

    class Model:
        def __call__(self, x):
            return x + offset, Model

    carried = cloudpickle.loads(cloudpickle.dumps(Model()))

    assert (
        fingerprint([Function("f", [], carried, extra_args=[1])])["f"]
        == fingerprint([Function("f", [], Model(), extra_args=[1])])["f"]
    )
