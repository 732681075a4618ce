"""What the results of a DAG's functions depend on, as one short text for each function."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import FunctionType, MethodType
from typing import Any

from handoff_dask.graph.arguments import Structure, without_ids
from handoff_dask.graph.dag import DAG, as_dag
from handoff_dask.graph.functions import (
    Argument,
    Code,
    Function,
    FunctionId,
    id_of,
    name_of,
    resolve_code,
)
from handoff_dask.reuse.building import Building
from handoff_dask.reuse.bytecode import leaf
from handoff_dask.reuse.file import File, state_of_file
from handoff_dask.reuse.nodes import Node, Piece, digest_of
from handoff_dask.reuse.owners import PYTHON

__all__ = ["CodeDetails", "Details", "Snapshot", "details", "fingerprint"]

#: Changed whenever fingerprints of old and new versions of this package must differ.
FORMAT = b"handoff fingerprint 2"
#: Containers in which files are looked for before they are read.
_FLAT = (list, tuple, dict)
#: Of the codes of a DAG the parts of so many are named; to name them takes 10 to 30 ms for each.  A code
#: whose parts have no names is compared as a whole.
MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class CodeDetails:
    """What a function's code consists of."""

    #: A short name of it.
    name: str
    #: Of all that it consists of; empty if that cannot be told.
    digest: str
    #: ``{what it is: digest}``: ``"code of job.clean"``, ``"global RATE of job.clean"``, …
    parts: Mapping[str, str] = field(default_factory=dict)
    #: ``{path: digest}`` of the files that it holds.
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Details:
    """What a function's result depends on.

    Digests in here are short: they tell what has changed, and are compared with nothing else.
    """

    #: The whole as one text; ``None`` if it cannot be told.
    fingerprint: str | None
    #: Why it cannot be told.
    unknown: str | None = None
    code: CodeDetails = CodeDetails("input", "")
    #: The function's own ``version``, as a digest.
    version: str = ""
    #: ``{what it is: digest}`` of the plain values: ``"extra_args[0]"``, ``"kwargs['rate']"``, …
    values: Mapping[str, str] = field(default_factory=dict)
    #: ``{path: digest}`` of the files among the plain values.
    files: Mapping[str, str] = field(default_factory=dict)
    #: The ``repr`` of each argument's id, and its fingerprint.
    arguments: tuple[tuple[str, str | None], ...] = ()


def fingerprint(
    dag: DAG | Iterable[Function], inputs: Mapping[FunctionId, Any] | None = None
) -> dict[FunctionId, str | None]:
    """What the result of each function depends on.

    That is its code with all of the user's own that it uses, the versions of the packages that it
    uses, the minor version of Python, its plain values, ``version``, ``argument_inclusion``, and
    the fingerprints of its arguments.  It is the same in every process and on every machine.

    Parameters
    ----------
    dag
        A DAG, or a list of functions.
    inputs
        ``{input id: value}``.  What depends on an input without a value has no fingerprint.

    Returns
    -------
    dict
        ``{function id: fingerprint}``; ``None`` where it cannot be told: such a function is never
        reused.  :func:`details` says why.

    Raises
    ------
    ValidationError
        If the DAG is not valid.

    Examples
    --------
    >>> functions = [Function("a", [], int, extra_args=["3"]), Function("b", ["a"], lambda x: x + 1)]
    >>> renamed = [Function("one", [], int, extra_args=["3"], cost={"cpu": 1})]
    >>> fingerprint(functions)["a"] == fingerprint(renamed)["one"]
    True
    """
    return {key: found.fingerprint for key, found in _made(dag, inputs, parts=False).items()}


def details(
    dag: DAG | Iterable[Function], inputs: Mapping[FunctionId, Any] | None = None
) -> dict[FunctionId, Details]:
    """What the result of each function depends on, piece by piece; see :func:`fingerprint`.

    Examples
    --------
    >>> details([Function("a", [], int, extra_args=[(i for i in "ab")])])["a"].unknown
    "extra_args[0]: a generator cannot be told by its content (cannot pickle 'generator' object)"
    """
    return _made(dag, inputs, parts=True)


def _made(
    dag: DAG | Iterable[Function], inputs: Mapping[FunctionId, Any] | None, *, parts: bool
) -> dict[FunctionId, Details]:
    """The details of each function; to name the parts of its code takes longer than all the rest."""
    dag = as_dag(dag)
    dag.validate()
    maker = _Maker(inputs or {}, parts=parts)
    for key in dag.order():
        maker.add(dag.functions[key])
    return {key: maker.found[key] for key in dag.functions}


class Snapshot:
    """What the results of a DAG depend on at one moment; worked out later.

    Code and values are looked at now, since a user may change them afterwards.  Files among the plain values
    are read later: one that has changed until then has no fingerprint.

    Parameters
    ----------
    dag
        A valid DAG.
    inputs
        ``{input id: value}``.

    Examples
    --------
    >>> steps = [1, 2]
    >>> dag = DAG("job").add_function(Function("a", [], sum, extra_args=[steps]))
    >>> before, snapshot = fingerprint(dag), Snapshot(dag, {})
    >>> steps.append(3)
    >>> {i: found.fingerprint for i, found in snapshot.details().items()} == before
    True
    """

    def __init__(self, dag: DAG, inputs: Mapping[FunctionId, Any]) -> None:
        self._dag = dag
        self._maker = _Maker(inputs, parts=True)
        self._files: dict[str, object] = {}
        for function in dag.functions.values():
            self._look_at(function)

    def _look_at(self, function: Function) -> None:
        if function.type == "input":
            self._look_at_value(self._maker.inputs.get(function.id))
            return
        assert function.code is not None
        self._maker.code(function.code)
        for value in (*function.extra_args, *(function.kwargs or {}).values()):
            self._look_at_value(value)

    def _look_at_value(self, value: Any) -> None:
        if isinstance(value, Structure):
            value = value.value
        if leaf(value) is not None:
            return
        items = value.values() if isinstance(value, dict) else value
        files = [one for one in (items if isinstance(value, _FLAT) else [value]) if type(one) is File]
        if files:
            self._files.update((file.path, state_of_file(file.path)) for file in files)
        else:
            self._maker.building.look_at(value)

    def details(self) -> dict[FunctionId, Details]:
        """What the result of each function depends on, as :func:`details` gives it."""
        for key in self._dag.order():
            self._maker.add(self._dag.functions[key])
        changed = {path for path, state in self._files.items() if state_of_file(path) != state}
        found = self._maker.found
        for key in self._dag.order() if changed else ():
            one = found[key]
            stale = next((path for path in one.files if path in changed), None)
            arguments = [found[id_of(arg)] for arg in self._dag.functions[key].argument_ids]
            if stale is not None or any(arg.fingerprint is None for arg in arguments):
                why = one.unknown or f"the file {stale} has changed since, or one of an argument"
                found[key] = replace(one, fingerprint=None, unknown=why)
        return {key: found[key] for key in self._dag.functions}


class _Maker:
    """Makes the fingerprints of one DAG, each after those of its arguments."""

    def __init__(self, inputs: Mapping[FunctionId, Any], *, parts: bool) -> None:
        self.inputs = inputs
        self._parts = parts
        self.building = Building()
        self.found: dict[FunctionId, Details] = {}
        self._codes: dict[int | str, tuple[Node | None, CodeDetails, str | None]] = {}

    def add(self, function: Function) -> None:
        """Find the details of a function."""
        if function.type == "input":
            self.found[function.id] = self._input(function.id)
        else:
            self.found[function.id] = _Call(self, function).details()

    def _input(self, key: FunctionId) -> Details:
        if key not in self.inputs:
            return Details(None, f"no value is given for input {key!r}")
        call = _Gathered(self.building)
        call.take("its value", self.inputs[key])
        return call.details(CodeDetails("input", ""), b"input")

    def code(self, code: Code) -> tuple[Node | None, CodeDetails, str | None]:
        """The code of a function, what it consists of, and why that cannot be told."""
        key = code if isinstance(code, str) else id(code)
        if key not in self._codes:
            self._codes[key] = self._looked_at(code)
        return self._codes[key]

    def _looked_at(self, code: Code) -> tuple[Node | None, CodeDetails, str | None]:
        try:
            found = resolve_code(code)
        except Exception as error:
            return None, CodeDetails(name_of(code), ""), f"{code!r} is not there ({error})"
        node = self.building.look_at(found)
        if node.why is not None:
            return node, CodeDetails(name_of(code), ""), node.why
        building = self.building
        if not self._parts or len(self._codes) >= MOST_NAMED:
            return node, CodeDetails(name_of(code), node.digest.hex()), None
        parts = {f"python {PYTHON.split()[0]}": PYTHON, **building.parts_of(node)}
        return node, CodeDetails(name_of(code), node.digest.hex(), parts, building.files_of(node)), None


class _Gathered:
    """The plain values of one function."""

    def __init__(self, building: Building) -> None:
        self.building = building
        self.values: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.told: list[bytes] = []
        self.unknown: str | None = None

    def take(self, name: str, value: Any) -> None:
        """Add a value."""
        piece: Piece = self.building.piece(value)
        if isinstance(piece, Node):
            if not piece.is_settled:
                self.building.look_at(value)
            if piece.why is not None:
                self.unknown = self.unknown or f"{name}: {piece.why}"
                return
            self.files.update(self.building.files_of(piece))
            piece = piece.digest
            self.values[name] = piece.hex()[:16]
        else:
            self.values[name] = digest_of(piece).hex()[:16]
        self.told += (name.encode("utf-8", "surrogatepass"), piece)

    def details(self, code: CodeDetails, *more: bytes, **fields: Any) -> Details:
        """What has been gathered, with what else there is."""
        whole = None
        if self.unknown is None:
            python = PYTHON.encode()
            whole = digest_of(FORMAT, python, code.digest.encode(), *more, digest_of(*self.told)).hex()
        return Details(whole, self.unknown, code, values=self.values, files=self.files, **fields)


class _Call:
    """One function that is called."""

    def __init__(self, maker: _Maker, function: Function) -> None:
        self.maker = maker
        self.function = function
        self.gathered = _Gathered(maker.building)

    def details(self) -> Details:
        function, gathered = self.function, self.gathered
        assert function.code is not None
        node, code, gathered.unknown = self.maker.code(function.code)
        version = function.version
        told = [function.argument_inclusion.encode()]
        shown = ""
        if version is not None:
            gathered.take("version", version)
            shown = gathered.values.pop("version", "")
        for n, value in enumerate(function.extra_args):
            gathered.take(f"extra_args[{n}]", without_ids(value))
        if function.kwargs:
            self._take_kwargs(function.kwargs, None if node is None else node.value)
        taken = (*function.args, *function.inside)
        arguments = [self._argument(n, arg) for n, arg in enumerate(taken)]
        if function.argument_inclusion == "as_dict":  # its code sees the ids
            gathered.take("ids of its arguments", tuple(map(id_of, function.args)))
        told += [(taken or "").encode() for _, taken in arguments]
        gathered.values["argument_inclusion"] = function.argument_inclusion
        return gathered.details(code, *told, version=shown, arguments=tuple(arguments))

    def _take_kwargs(self, kwargs: Mapping[str, Any], code: Any) -> None:
        """By name; in the order of the call if the code can see that."""
        for name in kwargs if _sees_order(code) else sorted(kwargs):
            self.gathered.take(f"kwargs[{name!r}]", without_ids(kwargs[name]))

    def _argument(self, n: int, arg: FunctionId | Argument) -> tuple[str, str | None]:
        key = arg.id if isinstance(arg, Argument) else arg
        found = self.maker.found[key]
        if found.fingerprint is None:
            why = f"its argument {key!r} has no fingerprint: {found.unknown}"
            self.gathered.unknown = self.gathered.unknown or why
        if isinstance(arg, Argument):
            for side in ("serialization_fn", "deserialization_fn"):
                if getattr(arg, side) is not None:
                    self.gathered.take(f"the {side} of args[{n}]", getattr(arg, side))
        return repr(key), found.fingerprint


def _sees_order(code: Any) -> bool:
    """Whether it may matter in which order values are given by name."""
    while isinstance(code, MethodType):
        code = code.__func__
    return not isinstance(code, FunctionType) or bool(code.__code__.co_flags & inspect.CO_VARKEYWORDS)
