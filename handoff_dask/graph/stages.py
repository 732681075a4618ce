"""From a DAG to the stages of a stream: what each takes, and who takes its results.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from handoff_dask.errors import InvalidFunctionError, ValidationError
from handoff_dask.graph.expansion import Expansion, Transfer, expand
from handoff_dask.graph.fields import with_arguments
from handoff_dask.graph.functions import Argument, Collocated, Function, FunctionId, id_of
from handoff_dask.graph.structure import FunctionGraph

__all__ = ["CONSTANT", "Slot", "Stage", "StageGraph", "Target", "Workers", "stages_of", "workers_of"]

#: The number of what serves every item: the value of a function that no input leads to.
CONSTANT = -1

#: A change of a value on its way: called as ``fn(value, source, target, *extra)``.
Change = tuple[Callable[..., Any], tuple[Any, ...]]


class Target(NamedTuple):
    """Where a value goes."""

    #: Position of the stage, and of the value among what it takes.
    stage: int
    slot: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One of the values that a stage takes for each item."""

    #: Position of the input, or of the stage that makes it.
    source: int
    is_input: bool
    is_constant: bool
    #: What is done to it on the producer's node and on the consumer's.
    serialize: Change | None = None
    deserialize: Change | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A regular function as a stage."""

    position: int
    function: Function
    slots: tuple[Slot, ...]
    #: How many of these the code is called with; the others are only waited for.
    taken: int
    #: Who takes its value.
    targets: tuple[Target, ...]
    #: Whether no input leads to it: it runs once, and its value serves every item.
    is_constant: bool
    #: Whether its value leaves the pipeline.
    is_sink: bool
    #: The function with its arguments named by their places among the slots, and the inline functions
    #: before it.
    program: Function
    inlined: tuple[Function, ...]

    @property
    def names(self) -> tuple[FunctionId, ...] | None:
        """The ids of its arguments, where the code gets its results by them."""
        if self.function.argument_inclusion != "as_dict":
            return None
        return tuple(map(id_of, self.function.args))

    @property
    def id(self) -> FunctionId:
        """The id of its function."""
        return self.function.id


@dataclass(frozen=True)
class StageGraph:
    """The stages of a DAG."""

    dag_id: FunctionId
    stages: tuple[Stage, ...]
    #: Ids of the inputs, all of them, and for each who takes it.
    inputs: tuple[FunctionId, ...]
    input_targets: tuple[tuple[Target, ...], ...]
    #: Positions of the stages whose values leave.
    sinks: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many stages there are."""
        return len(self.stages)


def stages_of(dag: FunctionGraph) -> StageGraph:
    """The stages of a DAG.

    Raises
    ------
    ValidationError
        If the DAG is not valid, or has no input or no regular function.

    Examples
    --------
    >>> dag = FunctionGraph("g").add_function(Function("x", [], None, type="input"))
    >>> graph = stages_of(dag.add_function(Function("a", ["x"], abs)))
    >>> graph.inputs, graph.input_targets, graph.sinks
    (('x',), ((Target(stage=0, slot=0),),), (0,))
    """
    expansion = expand(dag, streamed=True)
    inputs = tuple([i for i, function in dag.functions.items() if function.type == "input"])
    if not inputs:
        raise ValidationError(
            f"DAG {dag.id!r} has no input, so no item could come in; add Function(id, [], None, type='input')"
        )
    for function in dag.functions.values():
        if function.cost is not None and not isinstance(function.cost, Mapping):
            raise InvalidFunctionError(
                function.id,
                "its cost is a callable, and a stage holds one cost while the pipeline lives; give a mapping",
            )
        if function.is_batched and function.inside:
            raise InvalidFunctionError(
                function.id, "it gets batches, so results can stand in its args alone, not among plain values"
            )
    ids = [i for i, body in expansion.bodies.items() if not body.is_transfer]
    if not ids:
        raise ValidationError(f"DAG {dag.id!r} has no regular function, so it has no stage; add one")
    return _Planner(expansion, dag, inputs, ids).graph()


class _Planner:
    def __init__(
        self, expansion: Expansion, dag: FunctionGraph, inputs: tuple[FunctionId, ...], ids: list[FunctionId]
    ) -> None:
        self.expansion = expansion
        self.functions = dag.functions
        self.inputs = inputs
        self.ids = ids
        self.place = {i: n for n, i in enumerate(ids)}
        self.input_place = {i: n for n, i in enumerate(inputs)}
        self.constant: dict[FunctionId, bool] = {}

    def graph(self) -> StageGraph:
        bodies = self.expansion.bodies
        slots = {i: tuple(map(self._slot, bodies[i].waits_for)) for i in self._ordered()}
        takers: dict[tuple[bool, int], list[Target]] = {}
        for i, own in slots.items():
            for n, slot in enumerate(own):
                takers.setdefault((slot.is_input, slot.source), []).append(Target(self.place[i], n))
        stages = tuple(
            [self._stage(i, slots[i], tuple(takers.get((False, n), ()))) for n, i in enumerate(self.ids)]
        )
        return StageGraph(
            self.expansion.dag_id,
            stages,
            self.inputs,
            tuple([tuple(takers.get((True, n), ())) for n in range(len(self.inputs))]),
            tuple([stage.position for stage in stages if stage.is_sink]),
        )

    def _ordered(self) -> Iterable[FunctionId]:
        """Topological: what a stage takes is known to be constant or not before it is looked at."""
        for i in self.ids:
            needs = [self._origin(need)[0] for need in self.expansion.bodies[i].waits_for]
            self.constant[i] = all(need not in self.input_place and self.constant[need] for need in needs)
            yield i

    def _origin(self, need: FunctionId) -> tuple[FunctionId, Change | None, Change | None]:
        """Whose value it is, and what is done to it on its way."""
        changes: dict[str, Change] = {}
        while need in self.expansion.bodies and need not in self.place:
            body = self.expansion.bodies[need]
            transfer = body.function.code
            assert isinstance(transfer, Transfer)
            changes[transfer.role] = (transfer.fn, transfer.extra)
            need = body.needs[0]
        return need, changes.get("serialize"), changes.get("deserialize")

    def _slot(self, need: FunctionId) -> Slot:
        source, serialize, deserialize = self._origin(need)
        is_input = source in self.input_place
        number = self.input_place[source] if is_input else self.place[source]
        return Slot(number, is_input, not is_input and self.constant[source], serialize, deserialize)

    def _stage(self, i: FunctionId, slots: tuple[Slot, ...], targets: tuple[Target, ...]) -> Stage:
        body = self.expansion.bodies[i]
        # Ids may be of types that the node cannot import: values are named by their places there.
        names: dict[FunctionId, Any] = {need: n for n, need in enumerate(body.needs)}
        inlined = []
        for function in body.inlined:
            inlined.append(_renamed(function, ("inline", function.id), names))
            names[function.id] = inlined[-1].id
        program = _renamed(body.function, "stage", names)
        return Stage(
            self.place[i],
            self.functions[i],
            slots,
            len(body.needs),
            targets,
            self.constant[i],
            not any(self._is_taken(target) for target in targets),
            program,
            tuple(inlined),
        )

    def _is_taken(self, target: Target) -> bool:
        return target.slot < len(self.expansion.bodies[self.ids[target.stage]].needs)


def _renamed(function: Function, name: Any, names: Mapping[FunctionId, Any]) -> Function:
    args: list[FunctionId | Argument] = [names[id_of(arg)] for arg in function.args]
    renamed = with_arguments(function, args, lambda argument: Argument(names[argument.id]))
    return replace(renamed, id=name, cost=None, node=None, after=())


@dataclass(frozen=True)
class Workers:
    """The workers of all stages, as the functions of one execution."""

    functions: tuple[Function, ...]
    #: ``(position of the stage, number of the worker)`` of each.
    of: tuple[tuple[int, int], ...]


def workers_of(graph: StageGraph, code: Callable[[Stage, int], Callable[..., Any]]) -> Workers:
    """One function for each worker of each stage, with its cost and place.

    Parameters
    ----------
    graph
        The stages.
    code
        Gives the code of a worker.
    """
    taken = {stage.id for stage in graph.stages} | set(graph.inputs)
    names: dict[tuple[int, int], Any] = {}
    for stage in graph.stages:
        for n in range(stage.function.parallelism):
            name: Any = stage.id if n == 0 else (stage.id, n)
            while n and name in taken:
                name = (name, n)
            names[stage.position, n] = name
            taken.add(name)
    position = {stage.id: stage for stage in graph.stages}
    functions = []
    for (stage_position, n), name in names.items():
        stage = graph.stages[stage_position]
        function, node = stage.function, stage.function.node
        if isinstance(node, Collocated):
            target = position[node.id]
            node = Collocated(names[target.position, n % target.function.parallelism])
        functions.append(
            Function(
                name, [], code(stage, n), cost=function.cost, node=node, max_retries=0,
                priority=function.priority,
            )
        )  # fmt: skip
    return Workers(tuple(functions), tuple(names))
