"""From a DAG to what is called: inline functions taken in, transfers of arguments made functions.

Pure: every way of executing (in this process, on a cluster) runs what :func:`expand` gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from handoff_dask.errors import ValidationError, blame_inline
from handoff_dask.graph.arguments import Reference, did_you_mean, fill
from handoff_dask.graph.fields import with_arguments
from handoff_dask.graph.functions import (
    Argument,
    Collocated,
    Failed,
    Function,
    FunctionId,
    id_of,
    name_of,
    resolve_code,
)
from handoff_dask.graph.items import Expand, Gather, Spawn, spawned
from handoff_dask.graph.signatures import check_calls
from handoff_dask.graph.structure import FunctionGraph, as_graph
from handoff_dask.resources import NOTHING, Cost

__all__ = ["Body", "Expansion", "Transfer", "call_function", "expand", "given_inputs"]


def call_function(
    function: Function,
    values: Sequence[Any],
    before: tuple[Any, ...] = (),
    names: Sequence[FunctionId] | None = None,
) -> Any:
    """Call a function's code with the results of its arguments, in their order.

    Parameters
    ----------
    function
        The function.
    values
        The results.
    before
        What the code is given before them: a state, say.
    names
        By which it gets its results where it asks for a dict; the ids of its arguments if ``None``.

    Raises
    ------
    Exception
        Whatever the code raises, or :func:`~handoff_dask.graph.functions.resolve_code`.

    Examples
    --------
    >>> call_function(Function("f", ["a", "b"], sum, argument_inclusion="as_list", extra_args=[10]), [1, 2])
    13
    """
    if function.code is None:
        raise TypeError(f"input {function.id!r} cannot be called; give its value in inputs")
    code = resolve_code(function.code)
    count = len(function.args)
    results, rest = values[:count], iter(values[count:])
    if function.argument_inclusion == "as_list":
        results = [list(results)]
    elif function.argument_inclusion == "as_dict":
        keys = map(id_of, function.args) if names is None else names
        results = [dict(zip(keys, results, strict=True))]
    extra_args = [fill(value, rest) for value in function.extra_args]
    kwargs = {name: fill(value, rest) for name, value in (function.kwargs or {}).items()}
    return code(*before, *results, *extra_args, **kwargs)


@dataclass(frozen=True, slots=True)
class Transfer:
    """The code of a function that changes a value on its way between two nodes."""

    #: Called as ``fn(value, source, target, *extra)``.
    fn: Callable[..., Any]
    #: Plain values.
    extra: tuple[Any, ...]
    #: Whether it runs on the producer's node or the consumer's.
    role: Literal["serialize", "deserialize"]

    def __call__(self, value: Any, source: str, target: str) -> Any:
        """Change the value; source and target are node names."""
        return self.fn(value, source, target, *self.extra)

    @property
    def __name__(self) -> str:
        return f"{self.role}_{name_of(self.fn)}"


@dataclass(frozen=True, slots=True)
class Body:
    """What runs as one: a function, and before it the inline functions that it needs.

    An inline function is computed once in each body, however often the body uses it.

    Examples
    --------
    >>> half = Function("half", ["x"], lambda x: x / 2, type="inline")
    >>> Body(Function("f", ["half", "x"], max), ("x",), (half,))(6)
    6
    """

    #: The function that is run; its code is a :class:`Transfer` where an argument is changed.
    function: Function
    #: Ids of the results and inputs that it is called with, each once.
    needs: tuple[FunctionId, ...]
    #: Inline functions, each after those it takes.
    inlined: tuple[Function, ...] = ()
    #: Ids of what must have ended before, without a value of it being taken.
    after: tuple[FunctionId, ...] = ()

    @property
    def waits_for(self) -> tuple[FunctionId, ...]:
        """Ids of all that must be there or have ended before it starts."""
        return (*self.needs, *self.after)

    @property
    def behind_lists(self) -> tuple[FunctionId, ...]:
        """Of what makes the items of a map: the ids in ``needs`` without which there are no lists."""
        inlined = {step.id: step for step in self.inlined}
        ahead, found = [*map(id_of, self.function.args)], set()
        while ahead:
            key = ahead.pop()
            if key in inlined:
                ahead.extend(inlined[key].argument_ids)
            else:
                found.add(key)
        return tuple([key for key in self.needs if key in found])

    @property
    def hinders(self) -> tuple[FunctionId, ...]:
        """Ids of the functions because of whose failure it does not run."""
        if not self.placed.accept_failed:
            return self.waits_for
        return (*self.behind_lists, *self.after) if self.is_spawn else self.after

    def __call__(self, *values: Any) -> Any:
        """Run it with the values of ``needs``, in their order."""
        return self.run(values, lambda value: value)

    def run(self, values: Sequence[Any], complete: Callable[[Any], Any]) -> Any:
        """Run it; ``complete`` makes of each value that a function returns what counts as its result."""
        known = dict(zip(self.needs, values, strict=True))
        value: Any = None
        for function in (*self.inlined, self.function):
            given = [known[key] for key in function.argument_ids]
            failed = next((value for value in given if isinstance(value, Failed)), None)
            if failed is not None and function.type == "inline":
                known[function.id] = failed  # for the function that accepts it
                continue
            try:
                value = complete(call_function(function, given))
            except Exception as error:
                if function.type == "inline":
                    blame_inline(error, repr(function.id))
                raise
            known[function.id] = value
        return value

    def transfer(self, value: Any, source: str, target: str) -> Any:
        """Run the body of a transfer."""
        assert isinstance(self.function.code, Transfer)
        return self.function.code(value, source, target)

    @property
    def is_transfer(self) -> bool:
        """Whether it changes an argument on its way: it is then run by :meth:`transfer`."""
        return isinstance(self.function.code, Transfer)

    @property
    def placed(self) -> Function:
        """The function whose cost and node count: for what makes the items of a map, the items."""
        code = self.function.code
        return code.template if isinstance(code, Spawn) else self.function

    @property
    def is_spawn(self) -> bool:
        """Whether it makes the items of a map while the DAG runs: it has no result of its own."""
        return isinstance(self.function.code, Spawn)


@dataclass(frozen=True, slots=True)
class Expansion:
    """What an execution of a DAG runs."""

    #: What names the DAG.
    dag_id: FunctionId
    #: ``{id: what runs}`` in topological order: neither inputs nor inline functions.
    bodies: dict[FunctionId, Body]
    #: All that is needed, inputs and inline functions too, in topological order.
    functions: dict[FunctionId, Function]
    #: Ids of the inputs that are needed.
    inputs: tuple[FunctionId, ...]
    #: Ids of the results to give.
    outputs: tuple[FunctionId, ...]
    #: ``{id: the function whose node decides}`` for each that shares a node, transfers included.
    roots: Mapping[FunctionId, FunctionId]
    #: ``{root: the node it is pinned to}``, for roots with a pin.
    pins: Mapping[FunctionId, str]
    #: Whether nobody has said which results are wanted: all are.
    all_wanted: bool = True

    def add_items(self, of: FunctionId, rows: Sequence[tuple[Any, ...]]) -> list[FunctionId]:
        """Add the items of a map whose lists are known now; their ids.

        Parameters
        ----------
        of
            The function that takes the results of the items.
        rows
            What each of them is called with; empty tuples where that is known elsewhere only.
        """
        code = self.functions[of].code
        assert isinstance(code, Gather)
        items = {item.id: item for item in code.items(of, rows)}
        before = self.functions[of].args
        gather = replace(self.functions[of], args=[*before, *items], code=replace(code, count=len(items)))
        # In topological order still: the items before what takes their results.
        later = False
        for key in [*self.functions]:
            if key == of:
                later = True
                self.functions.update(items)
                del self.functions[of]
                self.functions[of] = gather
            elif later:
                self.functions[key] = self.functions.pop(key)
        for item in items.values():
            self.bodies[item.id] = Body(item, tuple(dict.fromkeys(item.argument_ids)))
        self.bodies[of] = replace(self.bodies[of], function=gather, needs=(*self.bodies[of].needs, *items))
        return [*items]

    def pin_of(self, function_id: FunctionId) -> str | None:
        """Name or address of the only node it may run on, its own or its root's."""
        # The root of a group need not be among what runs.
        function = self.functions.get(function_id)
        if function is not None and isinstance(function.node, str):
            return function.node
        return self.pins.get(self.roots.get(function_id, function_id))

    def group_costs(self) -> dict[FunctionId, Cost]:
        """``{root: what one node must be able to hold}`` for functions that share a node."""
        costs: dict[FunctionId, Cost] = {}
        for key in self.bodies:
            if key in self.roots:
                root = self.roots[key]
                costs[root] = costs.get(root, NOTHING).union(self.bodies[key].function.needs)
        return costs

    def consumer_of(self, function_id: FunctionId) -> FunctionId:
        """The function for which a transfer changes an argument."""
        assert self.bodies[function_id].is_transfer
        return function_id[3]  # type: ignore[index, no-any-return]


def expand(
    dag: FunctionGraph | Iterable[Function],
    outputs: Iterable[FunctionId] | None = None,
    *,
    streamed: bool = False,
) -> Expansion:
    """What must run for some outputs of a DAG, or for all.

    Parameters
    ----------
    dag
        The functions.
    outputs
        Ids of the functions whose results are wanted; all if ``None``.
    streamed
        Whether a stream calls them, not an execution.

    Raises
    ------
    ValidationError
        If the DAG is not valid, or an output is unknown, inline or an input.

    Examples
    --------
    >>> scan = Function("scan", [], "builtins:dict")
    >>> view = Function("view", [Argument("scan", serialization_fn=(dict,))], len)
    >>> [*expand([scan, view]).bodies]
    ['scan', ('serialize', 0, 'scan', 'view'), 'view']
    """
    dag = as_graph(dag)
    dag.validate()
    staged = [f for f in dag.functions.values() if f.init is not None or f.is_batched]
    if staged:
        check_calls(staged, "streamed" if streamed else "executed")
    wanted = None if outputs is None else _checked_outputs(dag, outputs)
    travelling = _transfers(dag)
    functions: dict[FunctionId, Function] = {}
    for key in dag.order() if wanted is None else dag.needed_by(wanted):
        if isinstance(dag.functions[key].code, Expand) and not streamed:
            changed = travelling.get(key, [dag.functions[key]])
            functions.update((step.id, step) for step in [*changed[:-1], *spawned(changed[-1])])
        elif key in travelling:
            functions.update((step.id, step) for step in travelling[key])
        else:
            functions[key] = dag.functions[key]
    roots = dict(dag.collocation_roots())
    for function in functions.values():
        if isinstance(function.code, Transfer) and isinstance(function.node, Collocated):
            root = roots.setdefault(function.node.id, function.node.id)
            roots[function.id] = root
    bodies = _bodies(functions)
    return Expansion(
        dag_id=dag.id,
        bodies=bodies,
        functions=functions,
        inputs=tuple([key for key, function in functions.items() if function.type == "input"]),
        outputs=tuple([i for i, b in bodies.items() if not b.is_spawn]) if wanted is None else wanted,
        roots=roots,
        all_wanted=wanted is None,
        pins={root: node for root in roots.values() if isinstance(node := dag.functions[root].node, str)},
    )


def given_inputs(
    dag: FunctionGraph, expansion: Expansion, inputs: Mapping[FunctionId, Any] | None
) -> dict[FunctionId, Any]:
    """The values of the inputs that are needed.

    Raises
    ------
    ValidationError
        If a value is missing, or given to what is no input of the DAG.
    """
    if inputs is not None and not isinstance(inputs, Mapping):
        raise ValidationError(f"inputs: {inputs!r} is not a mapping; give {{input id: value}}")
    values = {id_of(key): value for key, value in (inputs or {}).items()}
    for key in values:
        if key not in dag:
            raise ValidationError(f"inputs: {key!r} is not in the DAG; {did_you_mean(key, dag, 'an input')}")
        if dag.functions[key].type != "input":
            raise ValidationError(f'inputs: function {key!r} is no input; give it type="input", or no value')
    missing = [key for key in expansion.inputs if key not in values]
    if missing:
        raise ValidationError(
            f"inputs: no value for {', '.join(map(repr, missing))}; give inputs={{id: value}}"
        )
    return {key: values[key] for key in expansion.inputs}


def _checked_outputs(dag: FunctionGraph, outputs: Iterable[Any]) -> tuple[FunctionId, ...]:
    if isinstance(outputs, str) and outputs == "sinks":
        return dag.sinks()
    if isinstance(outputs, (str, bytes)) or not isinstance(outputs, Iterable):
        raise ValidationError(f'outputs: {outputs!r} is not a list; give a list of function ids, or "sinks"')
    wanted = []
    for named in outputs:
        key = id_of(named)
        if key not in dag or (isinstance(named, Reference) and named.dag is not dag):
            raise ValidationError(f"outputs: {named!r} is not in the DAG; {did_you_mean(key, dag)}")
        wanted.append(key)
    for key in wanted:
        kind = dag.functions[key].type
        if kind != "regular":
            raise ValidationError(f"outputs: {key!r} is {kind} and has no result; name a regular function")
    return tuple(dict.fromkeys(wanted))


def _transfers(dag: FunctionGraph) -> dict[FunctionId, list[Function]]:
    """``{consumer: [what changes its arguments, in order; then the consumer itself]}``."""
    steps: dict[FunctionId, list[Function]] = {}
    number = 0
    for consumer in dag.functions.values():
        if all(
            not isinstance(arg, Argument) or arg.travels_as_is for arg in (*consumer.args, *consumer.inside)
        ):
            continue
        before: list[Function] = []
        taken: list[FunctionId | Argument] = []
        for arg in (*consumer.args, *consumer.inside):
            if not isinstance(arg, Argument) or arg.travels_as_is:
                taken.append(arg)
                continue
            while any((role, number, arg.id, consumer.id) in dag for role in ("serialize", "deserialize")):
                number += 1
            before += _way(dag.functions[arg.id], arg, consumer, number)
            taken.append(before[-1].id)
            number += 1
        count = len(consumer.args)
        changed = with_arguments(consumer, taken[:count], _next_of(taken[count:]))
        steps[consumer.id] = [*before, changed]
    return steps


def _next_of(taken: Iterable[FunctionId | Argument]) -> Callable[[Argument], Argument]:
    """What gives these one after the other, whatever it is asked."""
    rest = map(id_of, taken)
    return lambda _: Argument(next(rest))


def _way(producer: Function, arg: Argument, consumer: Function, number: int) -> list[Function]:
    """The one or two functions that an argument passes on its way."""
    steps: list[Function] = []
    taken: FunctionId = producer.id
    # An input is on no node: it is changed where it is used.
    home = consumer if producer.type == "input" else producer
    sides: tuple[tuple[Literal["serialize", "deserialize"], tuple[Any, ...] | None, Function], ...] = (
        ("serialize", arg.serialization_fn, home),
        ("deserialize", arg.deserialization_fn, consumer),
    )
    for role, side, end in sides:
        if side is not None:
            step = Function(
                (role, number, producer.id, consumer.id),
                [taken],
                Transfer(side[0], side[1:], role),
                node=Collocated(end.id),
                priority=consumer.priority,
                max_retries=consumer.max_retries,
                retry=consumer.retry,
            )
            steps.append(step)
            taken = step.id
    return steps


def _bodies(functions: Mapping[FunctionId, Function]) -> dict[FunctionId, Body]:
    inline = {key: i for i, (key, function) in enumerate(functions.items()) if function.type == "inline"}
    bodies: dict[FunctionId, Body] = {}
    for key, function in functions.items():
        if function.type != "regular":
            continue
        needs: dict[FunctionId, None] = {}
        taken_in: set[FunctionId] = set()
        todo = list(function.argument_ids[::-1])
        while todo:
            arg = todo.pop()
            if arg not in inline:
                needs[arg] = None
            elif arg not in taken_in:
                taken_in.add(arg)
                todo.extend(functions[arg].argument_ids[::-1])
        inlined = [functions[arg] for arg in sorted(taken_in, key=inline.__getitem__)]
        after: dict[FunctionId, None] = {}
        for step in (function, *inlined):
            # The value of an input is there from the start.
            after.update((i, None) for i in step.after if i not in needs and functions[i].type == "regular")
        bodies[key] = Body(function, tuple(needs), tuple(inlined), tuple(after))
    return bodies
