"""Compiled code by what it does: the same for any formatting, comments, line numbers and file.

The compiler leaves traces of formatting in its instructions: it keeps a ``NOP`` for a line of its
own, follows a jump to a jump only within a line, and copies the end of a function to several
places.  So the instructions are read as a graph, in which empty instructions and plain jumps
vanish, and instructions that do the same and are followed by the same count as one.
"""

from __future__ import annotations

import dis
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from types import CodeType
from typing import Any, TypeAlias

__all__ = ["Import", "Reads", "Uses", "instructions_of", "leaf", "uses_of"]

#: Flags of a code object that say what a call of it does.
_FLAGS = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)
_EMPTY = frozenset({"NOP", "CACHE", "NOT_TAKEN"})
_PLAIN_JUMPS = frozenset(
    {"JUMP", "JUMP_FORWARD", "JUMP_ABSOLUTE", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"}
)
_ENDS = frozenset({"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "INTERPRETER_EXIT"})
_JUMPS = frozenset([*dis.hasjrel, *dis.hasjabs])
_CONSTANTS = frozenset(dis.hasconst)
_NAMED = frozenset([*dis.hasname, *dis.haslocal, *dis.hasfree, *dis.hascompare])
#: Jumps that keep what they test: the one on the other condition, and the one that takes it.
_OTHER = {
    b"JUMP_IF_FALSE_OR_POP ": b"JUMP_IF_TRUE_OR_POP ",
    b"JUMP_IF_TRUE_OR_POP ": b"JUMP_IF_FALSE_OR_POP ",
}
_TAKING = {b"JUMP_IF_FALSE_OR_POP ": b"POP_JUMP_IF_FALSE ", b"JUMP_IF_TRUE_OR_POP ": b"POP_JUMP_IF_TRUE "}
#: Conditions, and whether the jump is on the second way of those that they are written as.
_CONDITIONS = {
    b"POP_JUMP_IF_TRUE ": (b"POP_JUMP_IF", False),
    b"POP_JUMP_IF_FALSE ": (b"POP_JUMP_IF", True),
    b"POP_JUMP_IF_NONE ": (b"POP_JUMP_IF_NO_VALUE", False),
    b"POP_JUMP_IF_NOT_NONE ": (b"POP_JUMP_IF_NO_VALUE", True),
}
#: An instruction for two variables, from Python 3.13 on; whether there is one depends on lines.
_PAIR = re.compile(r"((?:LOAD|STORE)_FAST)(?:_BORROW)?_((?:LOAD|STORE)_FAST)(?:_BORROW)?")
#: What follows an instruction: next, after a jump, after an exception; and how the last is entered.
_Edges: TypeAlias = "tuple[int | None, int | None, int | None, object]"
#: Names that a class body gives to what is text and place, not meaning.
_TEXTUAL = frozenset({"__doc__", "__firstlineno__"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
#: Names by which code reads docstrings, and type hints, of others.
_OF_DOCSTRINGS = frozenset({"__doc__", "getdoc", "cleandoc"})
_OF_HINTS = frozenset(
    {"__annotations__", "get_annotations", "get_type_hints", "signature", "getfullargspec", "Signature"}
)


def leaf(value: Any) -> bytes | None:
    """A plain value as bytes that tell its type and are those of no other value; else ``None``.

    Examples
    --------
    >>> leaf(1) == leaf(1.0) or leaf(1) == leaf(True), leaf([])
    (False, None)
    """
    kind = type(value)
    if kind is str:
        data: bytes = value.encode("utf-8", "surrogatepass")
    elif kind is int:
        # Python refuses to write very long integers as decimal digits.
        data = b"%x" % value if value >= 0 else b"-%x" % -value
    elif kind is bool or value is None or value is Ellipsis or value is NotImplemented:
        data = repr(value).encode()
    elif kind is float:
        # All that are no number are one.
        data = value.hex().encode()
    elif kind is bytes:
        data = value
    elif kind is complex:
        data = f"{value.real.hex()},{value.imag.hex()}".encode()
    else:
        return None
    return b"%s:%d:%s" % (kind.__name__.encode(), len(data), data)


def _constant(value: Any) -> bytes:
    """A constant of compiled code as bytes."""
    plain = leaf(value)
    if plain is not None:
        return plain
    if isinstance(value, CodeType):
        inner = instructions_of(value)
        return b"code:%d:%s" % (len(inner), inner)
    parts = (value.start, value.stop, value.step) if isinstance(value, slice) else value
    items = [_constant(item) for item in parts]
    if isinstance(value, frozenset):
        items.sort()
    return b"%s:%d:(%s)" % (type(value).__name__.encode(), len(items), b",".join(items))


@dataclass(frozen=True, slots=True)
class Import:
    """A module that a function imports while it runs."""

    #: As it is written; empty for ``from . import x``.
    module: str
    #: How many dots stand before it.
    level: int
    #: What is taken from it; ``None`` if it is the module itself that gets a name.
    names: tuple[str, ...] | None
    #: Chains of attributes that are read of the module; one that is empty reads the module as a whole.
    paths: tuple[tuple[str, ...], ...] = ()
    #: The module that they are read of: ``import a.b`` reads a.
    root: str = ""
    #: The variable that is the module.
    variable: str = ""


@dataclass(frozen=True, slots=True)
class Reads:
    """What code reads of functions and classes, beside what they do."""

    docstrings: bool = False
    #: Type hints, which decorators and signatures show.
    hints: bool = False

    def __or__(self, other: Reads) -> Reads:
        return Reads(self.docstrings or other.docstrings, self.hints or other.hints)


@dataclass(frozen=True, slots=True)
class Uses:
    """What compiled code, and the code in it, reads from outside."""

    #: ``(name, attribute, …)`` of globals, in the order of the text.
    names: tuple[tuple[str, ...], ...]
    #: The same of variables of functions around it.
    outer: tuple[tuple[str, ...], ...]
    #: Modules that it imports while it runs.
    imports: tuple[Import, ...]
    #: What it reads of others that says nothing of what they do.
    reads: Reads


@lru_cache(maxsize=4096)
def instructions_of(code: CodeType) -> bytes:
    r"""What compiled code does, as bytes.

    Examples
    --------
    >>> one = compile("def f(x):\n    '''Say it.'''\n    return x  # back", "a.py", "exec").co_consts[0]
    >>> two = compile("\n\ndef f(x): return (x)", "b.py", "exec").co_consts[0]
    >>> instructions_of(one) == instructions_of(two)
    True
    """
    arguments = code.co_argcount + code.co_kwonlyargcount
    arguments += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    head = (
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags & _FLAGS,
        *code.co_varnames[:arguments],
    )
    return b"\n".join([repr(head).encode(), *_Flow(code).lines()])


@dataclass(frozen=True, slots=True)
class _Step:
    """One thing that is done."""

    name: str
    #: The name and what it is done with.
    label: bytes
    offset: int
    #: The offset to which it may jump.
    target: int | None


def _steps_of(code: CodeType) -> list[_Step]:
    """The instructions of a code object; one that does two things is two, prefixes belong to the next."""
    found: list[_Step] = []
    for step in dis.get_instructions(code):
        pair = _PAIR.fullmatch(step.opname)
        if pair is not None:
            for name, value in zip(pair.groups(), step.argval, strict=True):
                found.append(_Step(name, f"{name} {value}".encode(), step.offset, None))
            continue
        if step.opname == "STORE_NAME" and step.argval in _TEXTUAL:
            found[-1] = _Step("LOAD_CONST", b"LOAD_TEXT", found[-1].offset, None)
        jumps = step.opcode in _JUMPS
        name = step.opname.replace("JUMP_FORWARD_IF", "JUMP_IF").replace("JUMP_BACKWARD_IF", "JUMP_IF")
        name = name.removesuffix("_BORROW")
        label = name.encode() + b" " + (b"" if jumps else _argument(code, step))
        found.append(_Step(name, label, step.offset, step.argval if jumps else None))
    return found


def _argument(code: CodeType, step: dis.Instruction) -> bytes:
    if step.arg is None:
        return b""
    if step.opcode in _CONSTANTS:
        return _constant(code.co_consts[step.arg])
    if step.opcode in _NAMED:
        return step.argrepr.encode("utf-8", "surrogatepass")
    return b"%d" % step.arg


class _Flow:
    """The instructions of one code object, as a graph."""

    def __init__(self, code: CodeType) -> None:
        self.steps: list[_Step] = []
        #: Where each offset of a jump leads.
        self.at: dict[int, int] = {}
        for step in _steps_of(code):
            self.at.setdefault(step.offset, len(self.steps))
            if step.name != "EXTENDED_ARG":
                self.steps.append(step)
        self.handlers = _handlers(code)
        self.labels = [step.label for step in self.steps]
        self.edges = [self._edges(n) for n in range(len(self.steps))]
        # They jump forwards: what they lead to is read first.
        for n in reversed(range(len(self.steps))):
            self._follow_conditions(n)
        for n, label in enumerate(self.labels):
            if label in _CONDITIONS:
                # Which of the two ways is the jump means nothing.
                self.labels[n], swapped = _CONDITIONS[label]
                after, jump, handler, entered = self.edges[n]
                self.edges[n] = (jump, after, handler, entered) if swapped else self.edges[n]

    def _resolved(self, n: int) -> int | None:
        """The first instruction from here on that does something; ``None`` if there is none."""
        seen = set()
        while n < len(self.steps) and n not in seen:
            seen.add(n)
            step = self.steps[n]
            if step.name in _EMPTY:
                n += 1
            elif step.name in _PLAIN_JUMPS and step.target is not None:
                n = self.at[step.target]
            else:
                return n
        return None

    def _edges(self, n: int) -> _Edges:
        """What follows: next, after a jump, after an exception; and how the last is entered."""
        step = self.steps[n]
        after = None if step.name in _ENDS else self._resolved(n + 1)
        jump = None if step.target is None else self._resolved(self.at[step.target])
        for start, end, target, entered in self.handlers:
            if start <= step.offset < end:
                return after, jump, self._resolved(self.at[target]), entered
        return after, jump, None, None

    def _follow_conditions(self, n: int) -> None:
        """Read a jump that keeps its condition for a second test of it as what the two come to.

        Up to Python 3.11 the compiler joins them itself if they stand in one line.
        """
        label, target = self.labels[n], self.edges[n][1]
        if label not in _OTHER or target is None:
            return
        other, taking = _OTHER[label], _TAKING[label]
        reached = self.labels[target]
        after, _, handler, entered = self.edges[n]
        if reached == label:
            self.edges[n] = (after, self.edges[target][1], handler, entered)
        elif reached in (taking, other, _TAKING[other]):
            self.labels[n] = taking
            # On the same condition it jumps again; on the other it goes on.
            again = self.edges[target]
            self.edges[n] = (after, again[1] if reached == taking else again[0], handler, entered)

    def _classes(self, reached: list[int]) -> dict[int, int]:
        """Numbers for instructions; those that do the same and are followed by the same have one."""
        classes: dict[int, int] = {}
        numbers: dict[Any, int] = {}
        for n in reached:
            classes[n] = numbers.setdefault((self.labels[n], self.edges[n][3]), len(numbers))
        count = 0
        while len(numbers) > count:
            count, numbers, new = len(numbers), {}, {}
            for n in reached:
                after, jump, handler, _ = self.edges[n]
                key = (classes[n], *[None if e is None else classes[e] for e in (after, jump, handler)])
                new[n] = numbers.setdefault(key, len(numbers))
            classes = new
        return classes

    def lines(self) -> Iterator[bytes]:
        """One line for each instruction that differs, in the order in which they are reached."""
        start = self._resolved(0)
        reached = _reached(start, self.edges)
        classes = self._classes(reached)
        order: dict[int, int] = {}
        first: list[int] = []
        for n in reached:
            if classes[n] not in order:
                order[classes[n]] = len(first)
                first.append(n)
        for n in first:
            *edges, entered = self.edges[n]
            told = ["-" if e is None else str(order[classes[e]]) for e in edges]
            yield b"%s %s" % (self.labels[n], f"{told} {entered}".encode())


def _reached(start: int | None, edges: list[_Edges]) -> list[int]:
    """Each instruction that can be reached, breadth first."""
    order = {} if start is None else {start: None}
    queue = list(order)
    for n in queue:
        for edge in edges[n][:3]:
            if edge is not None and edge not in order:
                order[edge] = None
                queue.append(edge)
    return queue


def _handlers(code: CodeType) -> list[tuple[int, int, int, object]]:
    """``(start, end, target, how it is entered)`` of the exception table, which Python 3.11 brought."""
    entries = getattr(dis.Bytecode(code), "exception_entries", ())
    return [(e.start, e.end, e.target, (e.depth, e.lasti)) for e in entries]


@lru_cache(maxsize=4096)
def uses_of(code: CodeType) -> Uses:
    """What compiled code reads from outside.

    Examples
    --------
    >>> uses_of((lambda x: math.pi * len(x)).__code__).names
    (('math', 'pi'), ('len',))
    """
    names: dict[tuple[str, ...], None] = {}
    outer: dict[tuple[str, ...], None] = {}
    imports: list[Import] = []
    reads = Reads(not _OF_DOCSTRINGS.isdisjoint(code.co_names), not _OF_HINTS.isdisjoint(code.co_names))
    steps = [s for s in dis.get_instructions(code) if s.opname not in {"EXTENDED_ARG", *_EMPTY}]
    own_cells = set(code.co_cellvars)
    for n, step in enumerate(steps):
        if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
            names[_path(steps, n)] = None
        elif step.opname in {"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"}:
            if step.argval not in own_cells:
                outer[_path(steps, n)] = None
        elif step.opname == "IMPORT_NAME":
            imports.append(_import(steps, n, own_cells))
    inside: list[tuple[str, ...]] = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = uses_of(constant)
            names.update(dict.fromkeys(inner.names))
            outer.update({path: None for path in inner.outer if path[0] not in own_cells})
            inside += [path for path in inner.outer if path[0] in own_cells]
            imports += inner.imports
            reads |= inner.reads
    # A module that is imported here may be read in the functions in here.
    imports = [
        replace(each, paths=(*each.paths, *[path[1:] for path in inside if path[0] == each.variable]))
        for each in imports
    ]
    return Uses(tuple(names), tuple(outer), tuple(imports), reads)


def _path(steps: list[dis.Instruction], n: int) -> tuple[str, ...]:
    """A name with the attributes that are read of it at once."""
    path = [str(steps[n].argval)]
    for step in steps[n + 1 :]:
        if step.opname not in _ATTRIBUTES:
            break
        path.append(str(step.argval))
    return tuple(path)


def _import(steps: list[dis.Instruction], n: int, cells: set[str]) -> Import:
    module, level, taken = str(steps[n].argval), steps[n - 2].argval, steps[n - 1].argval
    if taken:
        return Import(module, level, tuple(taken))
    # ``import a.b`` names a, ``import a.b as c`` names a.b.
    end, alias = n + 1, False
    while end < len(steps) and not steps[end].opname.startswith("STORE_"):
        alias = alias or steps[end].opname == "IMPORT_FROM"
        end += 1
    stored = _names(steps[end]) if end < len(steps) else ()
    variable = stored[0] if stored else ""
    paths = []
    for i, step in enumerate(steps):
        found = _names(step)
        # To hand a variable to a function in here is no use of it.
        loads = "LOAD" in step.opname and (variable not in cells or "DEREF" in step.opname)
        if variable in found and loads and i > n:
            # Of two names that are read at once, attributes are read of the second alone.
            paths += [_path(steps, i)[1:] if found[-1] == variable else ()]
    root = module if alias else module.partition(".")[0]
    return Import(module, level, None, tuple(paths), root, variable)


def _names(step: dis.Instruction) -> tuple[str, ...]:
    """The names of an instruction; some have two."""
    found = step.argval
    return tuple(map(str, found)) if isinstance(found, tuple) else (str(found),)
