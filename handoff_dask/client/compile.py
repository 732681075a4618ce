"""The compilation of a DAG: the Dask graph with its keys and annotations, and the run's manifest."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, cast

import cloudpickle
from dask._task_spec import DataNode, GraphNode, Task, TaskRef
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.sizeof import sizeof
from distributed import Future
from toolz import concat, frequencies

from handoff_dask.client.asked_costs import asked_costs
from handoff_dask.client.reuse import Reuse
from handoff_dask.client.shared_values import SharedValues
from handoff_dask.client.user_strategies import pack_functions
from handoff_dask.collector import collector_held
from handoff_dask.errors import InvalidFunctionError
from handoff_dask.graph.arguments import Structure, without_ids
from handoff_dask.graph.dag import DAG, as_dag
from handoff_dask.graph.expansion import Body, Expansion, Transfer, expand, given_inputs
from handoff_dask.graph.functions import Code, Function, FunctionId, name_of
from handoff_dask.graph.growing import growth_of
from handoff_dask.graph.items import Spawn
from handoff_dask.graph.retry import Retry
from handoff_dask.placement.events import Demand
from handoff_dask.protocol.calls import After, Carried, Constant, Inlined, Moved, nothing
from handoff_dask.protocol.failed_values import Guarded
from handoff_dask.protocol.filled import Filled
from handoff_dask.protocol.isolated_call import Isolated
from handoff_dask.protocol.manifest import Items, Manifest, Options, position_of, token_of
from handoff_dask.protocol.names import ANNOTATION, barrier_key, is_barrier
from handoff_dask.protocol.packing import Packer
from handoff_dask.protocol.spawning import Guard, Spawner
from handoff_dask.protocol.timed_call import Timed
from handoff_dask.resources import Cost

#: Inputs of at most this many bytes are embedded in the functions that take them.
SMALL_INPUT = 10_000


@dataclass(frozen=True)
class Compiled:
    """What will be sent to Dask for a DAG."""

    #: A Dask graph: ``{key: task}`` in one layer that carries the annotations.
    graph: HighLevelGraph
    #: ``{function id: Dask key}`` of the functions that are scheduled.
    keys: Mapping[FunctionId, str]
    #: ``{key: {"resources": {name: amount}, …}}``: what each task costs, for Dask to see.
    annotations: Mapping[str, Mapping[str, Any]]
    #: What is sent to the scheduler plugin ahead of the graph.
    manifest: Manifest
    #: What an execution runs, inputs and inline functions too.
    expansion: Expansion
    #: Futures that inputs are or hold: what they stand for must stay on the cluster.
    held: Sequence[tuple[FunctionId, Future[Any]]] = ()
    #: Functions that do not run, since their results are known.
    reused: frozenset[FunctionId] = frozenset()
    #: Those of them whose results are wanted, in order.
    wanted_reused: tuple[FunctionId, ...] = ()
    #: ``{function: future}`` of those whose results an earlier run has, and are wanted.
    wanted_earlier: Mapping[FunctionId, Future[Any]] = field(default_factory=dict)

    @cached_property
    def args(self) -> list[tuple[int, ...]]:
        """By position: the positions of the functions that each one waits for."""
        place = {i: n for n, i in enumerate(self.keys)}
        bodies = self.expansion.bodies.values()
        return [tuple(place[a] for a in body.waits_for if a in place) for body in bodies]

    def take_items(self, spawned: Sequence[tuple[int, int, int]]) -> dict[FunctionId, str]:
        """Take in the items of maps that the scheduler knows; ``{id: key}`` of those that are new."""
        new: dict[FunctionId, str] = {}
        keys = cast("dict[FunctionId, str]", self.keys)
        for first, count, of in spawned:
            if first < len(keys):
                continue
            ids = list(keys)
            name = next(items.name for items in self.manifest.items.values() if items.of == of)
            added = self.expansion.add_items(ids[of], [()] * count)
            new.update({i: f"{name}-{self.manifest.token}-{first + n}" for n, i in enumerate(added)})
            keys.update(new)
        return new

    def refuse_what_cannot_travel(self, error: Exception) -> None:
        """Name the first function that cannot be pickled, if there is one.

        Raises
        ------
        InvalidFunctionError
            With the error that sending the whole graph raised as its cause.
        """
        for function_id, key in self.keys.items():
            try:
                cloudpickle.dumps(self.graph[key])
            except Exception as why:  # whatever the user's __reduce__ raises
                problem = f"its code and its plain arguments cannot be sent to a worker: {why!r}"
                raise InvalidFunctionError(function_id, f"{problem}; make them picklable") from error


class _Resources:
    """The ``resources=`` annotation: called with a key, it gives what the task costs."""

    def __init__(self, amounts: list[dict[str, int | float]], demand_of: list[int]) -> None:
        self.amounts = amounts
        self.demand_of = demand_of

    def __call__(self, key: str) -> dict[str, int | float]:
        return {} if is_barrier(key) else self.amounts[self.demand_of[position_of(key)]]


class _Annotations(Mapping[str, Mapping[str, Any]]):
    """``{key: annotations}``, worked out for the keys that somebody looks at."""

    def __init__(self, resources: _Resources, graph: Mapping[str, Any]) -> None:
        self._resources = resources
        self._graph = graph

    def __getitem__(self, key: str) -> Mapping[str, Any]:
        if key not in self._graph:
            raise KeyError(key)
        amounts = self._resources(key)
        return {"resources": amounts} if amounts else {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._graph)

    def __len__(self) -> int:
        return len(self._graph)

    def __repr__(self) -> str:
        return repr(dict(self))


def compile(  # noqa: A001
    dag: DAG | Iterable[Function],
    *,
    inputs: Mapping[FunctionId, Any] | None = None,
    outputs: Iterable[FunctionId] | None = None,
    options: Options | None = None,
    announced: bool = False,
    resources: bool = True,
    carrier: Mapping[str, str] | None = None,
    reuse: Reuse | None = None,
) -> Compiled:
    """Turn a DAG into a Dask graph with ``resources=`` annotations.

    Parameters
    ----------
    dag
        A DAG, or a list of functions.
    inputs
        ``{id: value}`` of its inputs; ``None`` to look at the graph without them.
    outputs
        Ids of the functions that are wanted, or ``"sinks"``; all if ``None``.
    options
        How the run is to be executed.
    announced
        The scheduler gets the manifest on its own, so the graph names the run only.
    resources
        Whether the graph itself says what each task costs, not the manifest alone.
    carrier
        What the functions carry to their nodes (a trace, say); it may be filled until the graph
        is sent.
    reuse
        What need not run, and keeps what does.

    Raises
    ------
    ValidationError
        If the DAG is not valid, an output is unknown, or a value is missing or has no input.

    Examples
    --------
    >>> compiled = compile([Function("two", [], int, extra_args=["2"], cost={"cpu": 1})])
    >>> key = compiled.keys["two"]
    >>> key.split("-")[0], compiled.annotations[key]["resources"]
    ('int', {'cpu': 1})
    """
    dag = as_dag(dag)
    with collector_held(len(dag)):
        expansion = expand(dag, outputs)
        values = {} if inputs is None else given_inputs(dag, expansion, inputs)
        if reuse is not None:
            expansion = reuse.applied(dag, expansion, values)
            values = {**values, **reuse.inputs}
        return _Compiler(expansion, values, options or Options(), carrier, reuse).compiled(
            announced, resources
        )


class _Compiler:
    """One compilation."""

    def __init__(
        self,
        expansion: Expansion,
        inputs: Mapping[FunctionId, Any],
        options: Options,
        carrier: Mapping[str, str] | None,
        reuse: Reuse | None,
    ) -> None:
        self.expansion = expansion
        self.carrier = carrier
        self.packer = Packer()
        self.reuse = reuse
        self.inputs = inputs
        self.options = options
        bodies = expansion.bodies
        # A digit first, so that Dask's key_split takes only the name before it.
        self.token = f"0{uuid.uuid4().hex[:15]}"
        self.names = _key_names(body.function.code for body in bodies.values())
        self.keys = {
            i: f"{name}-{self.token}-{n}" for n, (i, name) in enumerate(zip(bodies, self.names, strict=True))
        }
        self.positions = {i: n for n, i in enumerate(bodies)}
        goes_on = options.on_failure != "stop"
        #: The functions that run although arguments failed.
        self.accepting = {i for i, body in bodies.items() if goes_on and body.placed.accept_failed}
        #: Futures that inputs are or hold.
        self.held: list[tuple[FunctionId, Future[Any]]] = []
        self.input_nodes = self._input_nodes()
        #: ``{input: key}`` of those that Dask brings to the functions; the others travel within them.
        self.input_keys: dict[FunctionId, Any] = {i: node.key for i, node in self.input_nodes.items()}
        self.input_keys.update({i: v.key for i, v in inputs.items() if isinstance(v, Future)})
        self._small_inputs: dict[FunctionId, Any] = {}
        self._group_keys: dict[FunctionId, str] = {}
        steps = chain(
            (step for body in bodies.values() for step in (*body.inlined, body.function)), self._templates()
        )
        self.shared = SharedValues((step for step in steps if step.code is not None), self.token, self.packer)

    def _templates(self) -> Iterator[Function]:
        """What items of maps are made from: each twice, since there may be many items."""
        for body in self.expansion.bodies.values():
            if isinstance(body.function.code, Spawn):
                yield from (body.function.code.template,) * 2

    def _input_nodes(self) -> dict[FunctionId, GraphNode]:
        """Large inputs that several functions take, and those that hold futures, as nodes of the graph."""
        if not self.expansion.inputs:
            return {}
        uses = frequencies(concat(body.needs for body in self.expansion.bodies.values()))
        nodes: dict[FunctionId, GraphNode] = {}
        for n, i in enumerate(self.expansion.inputs):
            key, value = f"input-{self.token}-{n}", self.inputs.get(i)
            if isinstance(value, Future):
                self.held.append((i, value))
                continue
            given = Structure.of(value, Future)
            if given is not value:
                self.held.extend((i, future) for future in given.arguments)
                filled = Filled(self.packer.value(without_ids(given)))
                nodes[i] = Task(key, filled, *(TaskRef(future.key) for future in given.arguments))
            elif uses.get(i, 0) > 1 and sizeof(value) > SMALL_INPUT:
                nodes[i] = DataNode(key, self.packer.kept(value))
        return nodes

    def compiled(self, announced: bool, says_costs: bool) -> Compiled:
        graph = {key: self._task(self.expansion.bodies[i], key) for i, key in self.keys.items()}
        graph.update(self._barriers())
        manifest = self._manifest()
        resources = _Resources([d.cost.to_amounts() for d in manifest.demands], manifest.demand_of)
        annotations: dict[str, Any] = {ANNOTATION: manifest.token if announced else manifest}
        if says_costs and any(resources.amounts):
            annotations["resources"] = resources
        name, inputs = f"{ANNOTATION}-{self.token}", f"inputs-{self.token}"
        layers = {name: MaterializedLayer(graph, annotations=annotations)}
        dependencies: dict[str, set[str]] = {name: set()}
        nodes = [*self.input_nodes.values(), *self.shared.nodes()]
        if nodes:
            layers[inputs] = MaterializedLayer({n.key: n for n in nodes})
            dependencies = {name: {inputs}, inputs: set()}
        return Compiled(
            HighLevelGraph(layers, dependencies),
            self.keys,
            _Annotations(resources, graph),
            manifest,
            self.expansion,
            self.held,
            frozenset() if self.reuse is None else self.reuse.plan.reused,
            () if self.reuse is None else self.reuse.wanted,
            {} if self.reuse is None else self.reuse.wanted_futures,
        )

    # ------------------------------------------------------------------ tasks

    def _task(self, body: Body, key: str) -> Task:
        task = self._plain_task(body, key)
        task.func = self._limited(task.func, body.function)
        if self.reuse is not None:
            task.func = self.reuse.keeping(body.function.id, task.func)
        self._guard(task, body.function)
        if body.after:
            barriers = [TaskRef(barrier_key(self.keys[i])) for i in body.after]
            task = Task(key, After(task.func, len(barriers)), *task.args, *barriers)
        if self.carrier is not None:
            task.func = Carried(task.func, self.carrier)
        return task

    def _limited(self, call: Callable[..., Any], function: Function) -> Callable[..., Any]:
        """A call in a process of its own, or with a time limit, where its function asks for that."""
        if function.isolated:
            return Isolated(call, function.timeout, self.carrier)
        return call if function.timeout is None else Timed(call, function.timeout)

    def _picky(self, function: Function) -> Retry | None:
        """Which exceptions of a function are worth another attempt; ``None``: all, or none."""
        retry = function.retries or self.options.retry
        return None if retry.retries_all or not retry.times else retry

    def _guard(self, task: Task, function: Function) -> None:
        """Put around a call what heeds failures, where that is needed."""
        picky = self._picky(function)
        if self.accepting:
            packed, accepts = cloudpickle.dumps(function.id), function.id in self.accepting
            task.func = Guarded(task.func, self.packer.value(picky), packed, accepts)
        elif picky is not None:
            task.func = Guarded(task.func, self.packer.value(picky))

    def _plain_task(self, body: Body, key: str) -> Task:
        function, keys = body.function, self.keys
        if body.is_transfer:
            return Task(key, Moved(self.packer.code(function.code)), *self._refs(body.needs))
        if body.is_spawn:
            return self._spawn_task(body, key)
        if body.inlined or (self.inputs and not all(i in keys for i in body.needs)):
            return self._task_with_inlined(body, key)
        refs = [TaskRef(keys[i]) for i in function.argument_ids]
        call, shared = self.shared.call_of(function)
        return Task(key, call, *refs, *shared)

    def _spawn_task(self, body: Body, key: str) -> Task:
        """The task that makes the items of a map on a node: it brings along what each of them runs."""
        spawner = self._spawner(body.function)
        task = self._plain_task(Body(replace(body.function, code=spawner), body.needs, body.inlined), key)
        shared = [
            ref for ref in spawner.shared if isinstance(ref, TaskRef) and ref.key not in task.dependencies
        ]
        # What the items take must be there when they come.
        return Task(key, After(task.func, len(shared)), *task.args, *shared) if shared else task

    def _spawner(self, function: Function) -> Spawner:
        assert isinstance(function.code, Spawn)
        template = function.code.template
        call: Any
        call, shared = self.shared.call_of(template)
        call = self._limited(call, template)
        if self.carrier is not None:
            call = Carried(call, self.carrier)
        picky = self._picky(template)
        guard = None
        if self.accepting or picky is not None:
            of = function.code.of if self.accepting else None
            guard = Guard(self.packer.value(picky), self.packer.value(of), function.id in self.accepting)
        count = len(function.args)
        lists = [self.keys.get(i) for i in function.argument_ids[:count]]
        constants = [*self._refs(template.argument_ids), *shared]
        return Spawner(call, self._item_name(template), lists, constants, guard)

    @staticmethod
    def _item_name(template: Function) -> str:
        return _key_name(name_of(template.code))

    def _items(self, numbers: dict[Demand, int]) -> dict[int, Items]:
        """What is known of the items of maps, by the position of what makes them."""
        found = {}
        for i, body in self.expansion.bodies.items():
            if isinstance(body.function.code, Spawn):
                template, of = body.function.code.template, self.positions[body.function.code.of]
                retry = template.retries or self.options.retry
                found[self.positions[i]] = Items(
                    of=of,
                    name=self._item_name(template),
                    demand=numbers.setdefault(self._demand(template), len(numbers)),
                    retries=retry.times,
                    retry=None if retry.bare == Retry(retry.times) else retry.bare,
                    priority=float(template.priority),
                    duration_s=None if template.duration is None else float(template.duration),
                    wanted=self.expansion.all_wanted,
                    growth=_growth(template),
                    accepts=i in self.accepting,
                    lists=frozenset(self.positions[n] for n in body.behind_lists if n in self.positions),
                )
        return found

    def _barriers(self) -> dict[str, Task]:
        """What has no value and is there once a function has ended: those that run after it need no more."""
        ended = dict.fromkeys(self.keys[i] for body in self.expansion.bodies.values() for i in body.after)
        return {(barrier := barrier_key(key)): Task(barrier, nothing, TaskRef(key)) for key in ended}

    def _refs(self, needs: Iterable[FunctionId]) -> list[Any]:
        return [
            TaskRef(self.keys[i])
            if i in self.keys
            else TaskRef(self.input_keys[i])
            if i in self.input_keys
            else DataNode(None, self._small_input(i))
            for i in needs
        ]

    def _small_input(self, i: FunctionId) -> Any:
        """A small input, packed once."""
        if i not in self._small_inputs:
            self._small_inputs[i] = self.packer.value(self.inputs.get(i))
        return self._small_inputs[i]

    def _task_with_inlined(self, body: Body, key: str) -> Task:
        """Put the inline functions and the small inputs that it takes into it."""
        outside = [i for i in body.needs if i in self.keys or i in self.input_keys]
        inside = [i for i in body.needs if i not in self.keys and i not in self.input_keys]
        calls = [(step, *self.shared.call_of(step)) for step in (*body.inlined, body.function)]
        shared = list(dict.fromkeys(ref.key for _, _, refs in calls for ref in refs))
        first = len(outside) + len(shared)
        place: dict[Any, int] = {i: n for n, i in enumerate(outside)}
        place.update({i: first + n for n, i in enumerate(inside)})
        at = {value: len(outside) + n for n, value in enumerate(shared)}
        steps: list[tuple[Any, tuple[int, ...], str | None]] = [
            (Constant(self._small_input(i)), (), None) for i in inside
        ]
        for step, call, refs in calls:
            name = repr(step.id) if step.type == "inline" else None
            sources = (*(place[a] for a in step.argument_ids), *(at[ref.key] for ref in refs))
            steps.append((call, sources, name))
            place[step.id] = first + len(steps) - 1
        return Task(key, Inlined(tuple(steps)), *self._refs(outside), *map(TaskRef, shared))

    # ------------------------------------------------------------------ manifest

    def _manifest(self) -> Manifest:
        functions = [body.function for body in self.expansion.bodies.values()]
        numbers: dict[Demand, int] = {}
        demand_of = self._demand_of(functions, numbers)
        items = self._items(numbers)
        retries = [function.retries or self.options.retry for function in functions]
        return Manifest(
            token=self.token,
            dag_id=cloudpickle.dumps(self.expansion.dag_id),
            dag_token=token_of(self.expansion.dag_id),
            ids=cloudpickle.dumps(list(self.keys)),
            names=self.names,
            demands=list(numbers),
            demand_of=demand_of,
            retries=[retry.times for retry in retries],
            retry={n: retry.bare for n, retry in enumerate(retries) if retry.bare != Retry(retry.times)},
            priorities={n: float(f.priority) for n, f in enumerate(functions) if f.priority},
            durations={n: float(f.duration) for n, f in enumerate(functions) if f.duration is not None},
            growth={n: growth for n, f in enumerate(functions) if f.cost and (growth := _growth(f))},
            asked=asked_costs(self.expansion, self.keys, self.inputs, self.packer),
            groups=self._groups(),
            options=replace(self.options, retry=self.options.retry.bare),
            shown=pack_functions(self.expansion) if isinstance(self.options.strategy, bytes) else None,
            transfers=self._transfers(),
            items=items,
            accepting=frozenset(self.positions[i] for i in self.accepting),
            **self._reused(),
        )

    def _reused(self) -> dict[str, Any]:
        """What does not run, of all functions and of those that are read in their place."""
        if self.reuse is None:
            return {}
        plan = self.reuse.plan
        reading = frozenset(self.positions[i] for i in plan.read if i in self.positions)
        return {"reading": reading, "reused": cloudpickle.dumps(list(plan.reused))}

    def _demand_of(self, functions: list[Function], numbers: dict[Demand, int]) -> list[int]:
        """The number of each function's demand; most functions only have a cost."""
        roots, bound = self.expansion.roots, self._bound
        plain: dict[Cost, int] = {}
        demand_of = []
        for function in functions:
            needs = function.needs
            if function.node is None and function.id not in roots and function.id not in bound:
                number = plain.get(needs)
                if number is None:
                    number = plain[needs] = numbers.setdefault(Demand(cost=needs), len(numbers))
            else:
                number = numbers.setdefault(self._demand(function), len(numbers))
            demand_of.append(number)
        return demand_of

    def _demand(self, function: Function) -> Demand:
        expansion = self.expansion
        root = expansion.roots.get(function.id)
        demand = Demand(
            cost=function.needs,
            pin=function.node if isinstance(function.node, str) else None,
            group=None if root is None else self._group_key(root),
        )
        if isinstance(function.code, Transfer) and function.code.role == "serialize":
            binds = self._group_key(self._root_of_consumer(function.id))
            if binds != demand.group:
                demand = replace(demand, binds=binds)
        elif root is None and function.id in self._bound:
            demand = replace(demand, group=self._group_key(function.id))
        return demand

    @cached_property
    def _bound(self) -> frozenset[FunctionId]:
        """Consumers that are given a node before they are ready, and share it with no other function."""
        expansion = self.expansion
        consumers = [expansion.consumer_of(i) for i, body in expansion.bodies.items() if body.is_transfer]
        return frozenset(c for c in consumers if c not in expansion.roots)

    def _root_of_consumer(self, transfer: FunctionId) -> FunctionId:
        consumer = self.expansion.consumer_of(transfer)
        return self.expansion.roots.get(consumer, consumer)

    def _group_key(self, root: FunctionId) -> str:
        """The name of a collocation group, also where its root itself does not run."""
        return self._group_keys.setdefault(root, f"group-{self.token}-{len(self._group_keys)}")

    def _groups(self) -> dict[Hashable, Demand]:
        """What the node of each collocation group must be able to hold, and where it is pinned."""
        costs = dict(self.expansion.group_costs())
        for consumer in self._bound:
            costs[consumer] = self.expansion.functions[consumer].needs
        groups: dict[Hashable, Demand] = {}
        for root, cost in costs.items():
            key = self._group_key(root)
            groups[key] = Demand(cost=cost, pin=self.expansion.pin_of(root), group=key)
        return groups

    def _transfers(self) -> dict[int, tuple[str, int | None, int]]:
        """``{position: (role, position of the producer, position of the consumer)}``."""
        found: dict[int, tuple[str, int | None, int]] = {}
        for i, body in self.expansion.bodies.items():
            if body.is_transfer:
                role, _, producer, consumer = cast("tuple[str, int, FunctionId, FunctionId]", i)
                found[self.positions[i]] = (role, self.positions.get(producer), self.positions[consumer])
        return found


def _growth(function: Function) -> dict[str, tuple[float, int | None]]:
    return growth_of(function.known_cost)


def _key_names(codes: Iterable[Code | None]) -> list[str]:
    known: dict[int, str] = {}
    names = []
    for code in codes:
        name = known.get(id(code))
        if name is None:
            name = known[id(code)] = _key_name(name_of(code))
        names.append(name)
    return names


def _key_name(name: str) -> str:
    """A code's name as Dask's ``key_split`` can find it again at the start of a key."""
    plain = "".join(c if c.isalnum() or c == "_" else "_" for c in name).strip("_")
    return plain if plain and plain[0].isalpha() else f"f_{plain}" if plain else "function"
