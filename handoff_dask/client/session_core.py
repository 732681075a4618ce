"""The asynchronous core of a session: its parts, its life, and the coroutines behind its methods."""

from __future__ import annotations

import asyncio
import logging
import warnings
import weakref
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

import dask
from distributed import Client, Future
from distributed.metrics import time
from distributed.protocol import pickle

from handoff_dask.allocators import Strategy
from handoff_dask.client import options as checks
from handoff_dask.client.attaching import attached
from handoff_dask.client.cluster_tracker import pack_tracker
from handoff_dask.client.compile import Compiled
from handoff_dask.client.dask_costs import keep_costs
from handoff_dask.client.embedded import EmbeddedCluster
from handoff_dask.client.execution import Execution
from handoff_dask.client.execution_core import ExecutionCore
from handoff_dask.client.executions import Executions
from handoff_dask.client.explain import explain_latest, explain_task
from handoff_dask.client.explanations import FunctionExplanation, from_record
from handoff_dask.client.fetching import Fetcher
from handoff_dask.client.fingerprints import Fingerprints
from handoff_dask.client.forks import is_of_parent
from handoff_dask.client.input_checks import InputChecks, refuse_cancelled
from handoff_dask.client.install import install
from handoff_dask.client.messages import Messages
from handoff_dask.client.nodes import Nodes
from handoff_dask.client.pipeline import AnyPipeline, AsyncPipeline, Pipeline
from handoff_dask.client.pipeline_core import PipelineCore
from handoff_dask.client.planner import Planner
from handoff_dask.client.progress import progress_updates
from handoff_dask.client.results import Results, checked_store
from handoff_dask.client.reuse import CachedValues, CacheLike
from handoff_dask.client.scheduler_link import SchedulerLink, current_client
from handoff_dask.client.sending import send
from handoff_dask.client.session_summary import session_summary
from handoff_dask.client.stream_submission import StreamSubmission
from handoff_dask.client.stream_telemetry import StreamTelemetry
from handoff_dask.client.submission import Submission, prepare
from handoff_dask.client.telemetry import TelemetryReceiver
from handoff_dask.config import Placing, placing_of
from handoff_dask.errors import (
    AllocationError,
    HandoffError,
    NotFoundError,
    SchedulerLostError,
    ValidationError,
)
from handoff_dask.graph.arguments import id_of
from handoff_dask.graph.dag import DAG
from handoff_dask.graph.functions import Function, FunctionId
from handoff_dask.graph.retry import Retry
from handoff_dask.protocol.futures import adopt
from handoff_dask.protocol.manifest import token_of
from handoff_dask.protocol.outcome import Outcome
from handoff_dask.record.overview import ExecutionInfo
from handoff_dask.record.result import ExecutionResult
from handoff_dask.record.status import OnFailure
from handoff_dask.resources import Capabilities
from handoff_dask.reuse.earlier import EarlierRun
from handoff_dask.reuse.reasons import Reason, reasons_of, why_rerun
from handoff_dask.stores import ResultStore
from handoff_dask.trackers import ResourceTracker
from handoff_dask.version import VERSION
from handoff_dask.visualization.summary import Summary
from handoff_dask.visualization.texts import dag_name

E = TypeVar("E", bound=ExecutionCore)
L = TypeVar("L", Pipeline, AsyncPipeline)
P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Seconds that the stages of a pipeline have to find nodes before it is returned to an asynchronous caller.
PROMPT_S = 1.0


class SessionCore:
    """The parts of a session, and how they work together.

    The parameters are those of :class:`~handoff_dask.Handoff`.
    """

    def __init__(
        self,
        client: Client | None = None,
        *,
        nodes: Mapping[str, Mapping[str, Any]] | None = None,
        resource_tracker: ResourceTracker | type[ResourceTracker] | None = None,
        result_store: ResultStore | type[ResultStore] | None = None,
        allocator: Strategy | None = None,
        dask_tasks: Placing | None = None,
    ) -> None:
        self._dask_tasks = None if dask_tasks is None else placing_of(dask_tasks)
        if self._dask_tasks == "place":
            keep_costs()
        checks.refuse_other_than_client(client)
        self._embedded: EmbeddedCluster | None = None
        #: The client of a cluster that Dask's configuration names.
        self._connected: Client | None = None
        #: The nodes that were asked for as an embedded cluster.
        self.nodes = nodes
        if allocator is not None:
            checks.strategy_of(None, allocator)
        self._allocator = allocator
        self._tracker = pack_tracker(resource_tracker)
        store = checked_store(result_store)
        # Last of all: where something is wrong, no embedded cluster is left behind.
        if client is None:
            client = self._own_client(nodes)
        elif nodes is not None:
            raise ValidationError(
                "client and nodes are both given; nodes make an embedded cluster, so give one"
            )
        self._started = False
        self._starting: asyncio.Task[None] | None = None
        #: The link to the scheduler.
        self.link = SchedulerLink(client)
        self.link.restore = self._restore
        self._executions = Executions()
        self._pipelines: weakref.WeakValueDictionary[str, PipelineCore] = weakref.WeakValueDictionary()
        #: What is under way to compute again what nodes could not read.
        self._repairs: set[asyncio.Task[None]] = set()
        self._messages = Messages(self.link, is_needed=self._is_listening, take=self._take, lost=self._lose)
        self._telemetry = TelemetryReceiver(
            self.link,
            self._messages,
            is_installed=lambda: self._started,
            ids_of=self._executions.ids_of,
        )
        self._fetcher = Fetcher(self.link)
        self._results = Results(self.link, self._fetcher, self._executions.latest, store)
        self._nodes = Nodes(self.link.ask, self._start)

    def _own_client(self, nodes: Mapping[str, Mapping[str, Any]] | None) -> Client:
        client = current_client() if nodes is None else None
        if client is not None:
            return client
        if nodes is None and dask.config.get("scheduler-address", default=None) is not None:
            self._connected = Client(set_as_default=False)
            return self._connected
        self._embedded = EmbeddedCluster(nodes)
        return self._embedded.client

    # ------------------------------------------------------------------ state

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.client!r}>"

    def __str__(self) -> str:
        return str(self._summary())

    def _repr_html_(self) -> str:
        return self._summary().html()

    def _summary(self) -> Summary:
        return session_summary(
            f"{type(self).__name__} session on",
            self.link,
            self._executions.known(),
            has_plugin=self._started,
            embedded=self.is_embedded,
        )

    @property
    def client(self) -> Client:
        """The Dask client of this session."""
        return self.link.client

    @property
    def name(self) -> str:
        """The name of this session on the scheduler; a client may have several sessions."""
        return self.link.name

    @property
    def asynchronous(self) -> bool:
        """Whether the Dask client is asynchronous."""
        return self.link.asynchronous

    @property
    def is_embedded(self) -> bool:
        """Whether it has started a cluster of its own."""
        return self._embedded is not None

    @property
    def is_usable(self) -> bool:
        """Whether it has not been stopped and its client is still open."""
        return self.link.is_usable

    @property
    def is_watching(self) -> bool:
        """Whether it receives messages of the scheduler."""
        return self._messages.is_running

    @property
    def has_plugin(self) -> bool:
        """Whether the scheduler's plugin has been installed, as far as is known here."""
        return self._started

    @property
    def scheduler_address(self) -> str:
        """The address of the scheduler."""
        return self.link.address

    async def ask(self, method: str, **arguments: Any) -> Any:
        """Ask the scheduler's plugin.

        Raises
        ------
        HandoffError
            What the plugin refuses the request with, or that the scheduler cannot be reached.
        """
        return await self.link.ask(method, **arguments)

    def sync(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a coroutine function on the client's loop and wait for it, as ``Client.sync`` does."""
        return self.link.sync(function, *args, **kwargs)

    # ------------------------------------------------------------------ life

    async def _start(self) -> None:
        self.link.refuse_if_over()
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._install())
        starting = self._starting
        try:
            await asyncio.shield(starting)
        finally:
            if starting.done() and not self._started:  # it may work another time
                self._starting = None

    async def _restore(self) -> None:
        """A new scheduler has taken the place of the one that was started: start handoff there."""
        if self._started:
            logger.warning("another scheduler answers at %s; handoff is started there", self.link.address)
        self._executions.lose(SchedulerLostError("another one has taken its place"))
        self._messages.begin_anew()
        self.link.refuse_if_over()
        await self._install_plugins()
        await self._telemetry.listen_again()

    async def _install(self) -> None:
        await self._install_plugins()
        self._started = True
        await self._telemetry.sync(greet=True)

    async def _install_plugins(self) -> None:
        may_fail = self._tracker is not None
        is_new = may_fail and not await self.link.knows_handoff()
        await install(self.client)
        try:
            await self._set_up()
        except HandoffError:
            if is_new:
                await self.link.ask("undo_start")
            raise

    async def _set_up(self) -> None:
        # Answered once the plugin is on every worker.
        self._check_cluster(await self.link.ask("ping"))
        if self._embedded is not None:
            for name, capabilities in self._embedded.nodes.items():
                offered = Capabilities.parse(capabilities)
                await self.link.ask("register", node=name, capabilities=offered, merge=False)
        if self._tracker is not None:
            await self.link.ask("use_tracker", tracker=self._tracker)
        if self._dask_tasks is not None:
            await self.link.ask("dask_tasks", mode=self._dask_tasks)

    def _check_cluster(self, answer: Any) -> None:
        """Refuse a scheduler with another version; warn of workers that are no nodes.

        Raises
        ------
        HandoffError
            If the versions differ.
        """
        version, outsiders = answer if isinstance(answer, tuple) else ("an earlier version", [])
        if version != VERSION:
            raise HandoffError(
                f"the scheduler runs handoff_dask {version} and this client has {VERSION}; install the same "
                "version on both, and start the scheduler again"
            )
        for name, address, problem in outsiders:
            warnings.warn(
                f"worker {name!r} ({address}) is no node, and runs plain Dask tasks only: {problem}",
                stacklevel=2,
            )

    async def _started_first(
        self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        await self._start()
        return await function(*args, **kwargs)

    async def _stop(self) -> None:
        if self.is_usable:
            with suppress(SchedulerLostError):
                await self._telemetry.catch_up_for_good()
        usable, self.link.is_closed = self.is_usable, True
        self._telemetry.close()
        self._executions.clear_retained()
        if not usable:
            return
        running = self._executions.running
        try:
            while running:  # what is just being submitted, too
                token, execution = next(iter(running.items()))
                if not execution.is_detached:
                    await execution.cancel_run()
                running.pop(token, None)
            if self._started and await self.link.is_reachable():
                if self._tracker is not None:
                    await self.link.ask("use_tracker", tracker=None)
                await self.link.ask("leave", listener=self.name)
        except SchedulerLostError:
            logger.info("the scheduler is gone; there is nothing to cancel")
        await self._fetcher.close()
        self._messages.stop()

    def _close_own(self) -> None:
        """Close what the session has started or connected to by itself."""
        if is_of_parent(self.client):
            return
        if self._embedded is not None:
            self._embedded.close()
        if self._connected is not None:
            self._connected.close()

    def _close(self) -> None:
        """End what belongs to this process, once the client's loop is gone."""
        self.link.is_closed = True
        self._telemetry.close()

    # ------------------------------------------------------------------ messages of the scheduler

    def _is_listening(self) -> bool:
        return bool(self._executions.running) or self._telemetry.is_receiving

    async def _take(self, kind: str, content: Any) -> None:
        """Deal with one message."""
        if kind == "status":
            token, _ = content
            self._executions.has_begun(token)
        elif kind == "stage":
            token, *rest = content
            if token in self._pipelines:
                self._pipelines[token].stage_changed(*rest)
        elif kind == "grew":
            self._executions.has_grown(*content)
        elif kind == "missed":
            repair = asyncio.ensure_future(self._repair(*content))
            self._repairs.add(repair)
            repair.add_done_callback(self._repairs.discard)
        elif kind == "events":
            self._telemetry.take(content)
        elif kind == "ended":
            packed, exceptions = content
            outcome: Outcome = pickle.loads(packed)
            if outcome.token in self._executions.running:
                try:
                    await self._telemetry.catch_up()
                finally:
                    self._executions.has_ended(outcome, exceptions)

    def _lose(self, error: BaseException) -> None:
        """No further message can come."""
        self._executions.lose(error)
        if not self.is_usable:
            self._telemetry.close()

    # ------------------------------------------------------------------ executions

    def _preparation(
        self,
        dag: DAG | Iterable[Function],
        unknown: Mapping[str, Any],
        *,
        inputs: Mapping[FunctionId, Any] | None,
        allocation_strategy: Strategy | None,
        allocator: Strategy | None,
        resources: Iterable[Mapping[str, Any]] | None,
        max_retries: int | None,
        retry: Retry | None,
        max_concurrency: int | None,
        priority: float,
        share: float,
        outputs: Collection[FunctionId] | None,
        timeout: float | None,
        progress: bool,
        on_failure: OnFailure,
        cache: CacheLike | None,
        resume: ExecutionCore | Hashable | None,
        detach: bool = False,
    ) -> Callable[[], Submission]:
        """What makes the submission of a DAG, when it is called."""
        return partial(
            prepare,
            dag,
            unknown,
            inputs=inputs,
            allocation_strategy=allocation_strategy,
            allocator=allocator,
            resources=resources,
            max_retries=max_retries,
            retry=retry,
            max_concurrency=max_concurrency,
            priority=priority,
            share=share,
            outputs=outputs,
            timeout=timeout,
            progress=progress,
            on_failure=on_failure,
            cache=cache,
            resume=resume,
            detach=detach,
            default_allocator=self._allocator,
        )

    async def _submit(self, submission: Submission, kind: type[E], *, is_hidden: bool = False) -> E:
        """Send a DAG; ``kind`` is the class of the execution.  A hidden one is part of another."""
        self.link.refuse_if_over()
        if not self._started:
            await self._start()
        if submission.resume is not None:
            earlier = await self._earlier(submission.resume)
            submission = await asyncio.to_thread(submission.again, earlier=earlier)
        dag, compiled = submission.dag, submission.compiled
        refuse_cancelled(compiled.held)
        compiled.manifest.listener = self.name
        ids = compiled.expansion.outputs
        keys = [compiled.keys[i] for i in ids]
        if not keys:
            execution = kind(self.link, self._results.collect, dag, compiled, dict(compiled.wanted_earlier))
            self._give_cached(execution, submission)
            now = time()
            execution.has_ended(Outcome(token=execution.token, status="finished", submitted=now, ended=now))
            if compiled.reused and not is_hidden:
                self._executions.keep(execution)
            strategy = compiled.manifest.options.strategy_name
            await self._telemetry.deliver_empty(dag.id, strategy, compiled.reused)
            return execution
        await self._telemetry.sync()
        try:
            await self._announce(compiled)
            submission.carry_trace()
            self.link.refuse_if_over()  # stopped meanwhile: nobody would cancel it
            futures = self._send(compiled, keys)
        except BaseException:  # cancelled, too: by Ctrl-C, say
            with suppress(SchedulerLostError):
                await asyncio.shield(self.link.ask("withdraw", token=compiled.manifest.token))
            raise
        held = {**compiled.wanted_earlier, **dict(zip(ids, futures, strict=True))}
        execution = kind(self.link, self._results.collect, dag, compiled, held)
        execution.asks_for_all = submission.asks_for_all
        execution.is_detached = compiled.manifest.options.detach
        self._give_cached(execution, submission)
        self._executions.add(execution, is_hidden=is_hidden)
        self._messages.start()
        self._accompany(execution, submission)
        if execution.is_detached:  # its client may be gone in a moment
            await execution.fingerprints_noted()
        return execution

    async def _stream(self, prepared: StreamSubmission, kind: type[L]) -> L:
        """Place the stages of a pipeline; ``kind`` is the class of the pipeline."""
        self.link.refuse_if_over()
        if not self._started:
            await self._start()
        submission, compiled = prepared.submission, prepared.submission.compiled
        compiled.manifest.listener = self.name
        await self._telemetry.sync()
        await self._announce(compiled)
        submission.carry_trace()
        try:
            self.link.refuse_if_over()
            futures = self._send(compiled, list(compiled.keys.values()))
        except BaseException:
            with suppress(SchedulerLostError):
                await asyncio.shield(self.link.ask("withdraw", token=compiled.manifest.token))
            raise
        held = dict(zip(compiled.keys, futures, strict=True))
        execution = Execution(self.link, self._results.collect, submission.dag, compiled, held)
        told = StreamTelemetry(prepared.graph.dag_id, prepared.graph.count, self._telemetry.deliver_soon)
        core = PipelineCore(
            self.link,
            execution,
            prepared.graph,
            prepared.workers,
            name=prepared.name,
            max_in_flight=prepared.max_in_flight,
            ordered=prepared.ordered,
            on_node_loss=prepared.on_node_loss,
            telemetry=told,
        )
        told.pipeline_began()
        self._executions.add_unnamed(execution)
        self._pipelines[core.token] = core
        execution.accompany(core)
        self._messages.start()
        if self.asynchronous or kind is AsyncPipeline:
            await core.wait_for_nodes(PROMPT_S)
        return kind(core)

    def _send(self, compiled: Compiled, keys: list[str]) -> list[Future[Any]]:
        try:
            return send(self.client, compiled.graph, keys)
        except Exception as error:  # whatever pickling the user's values raises
            compiled.refuse_what_cannot_travel(error)
            raise

    def _submit_and_wait(self, submission: Submission, kind: type[E]) -> E:
        """Send a DAG from a thread that waits; interrupted by Ctrl-C, cancel it: nobody has it."""
        try:
            return self.link.sync(self._submit, submission, kind)
        except Exception:
            raise
        except BaseException:
            self.link.sync(self._cancel_submitted, submission.compiled.manifest.token)
            raise

    async def _cancel_submitted(self, token: str) -> None:
        execution = self._executions.running.get(token)
        if execution is not None:
            await execution.cancel_run()

    def _give_cached(self, execution: ExecutionCore, submission: Submission) -> None:
        """Let an execution read what did not run, and have computed what is missing."""
        reuse = submission.reuse
        if reuse is None or not submission.compiled.reused:
            return

        async def compute(ids: Collection[Hashable]) -> ExecutionCore:
            again = await asyncio.to_thread(submission.again, list(ids), reuse.missed)
            return await self._submit(again, ExecutionCore, is_hidden=True)

        execution.cached = CachedValues(reuse, compute)

    async def _repair(self, token: str, position: int, why: str) -> None:
        """A node could not read a result that was known: have it computed, then let the node read again."""
        execution = self._executions.running.get(token)
        if execution is None or execution.cached is None:
            return
        try:
            await execution.cached.compute_again(list(execution.compiled.keys)[position], why)
        except Exception:
            logger.warning("what could not be read from the cache cannot be computed again", exc_info=True)
        finally:
            await self.link.ask("repaired", token=token, position=position)

    async def _earlier(self, of: ExecutionCore | Hashable) -> dict[str, Future[Any]]:
        """``{fingerprint: future}`` of the results of an earlier run that the cluster still has."""
        found = await self._ask_earlier("earlier", of)
        futures: dict[str, Future[Any]] = {f: Future(key) for f, key in found.items()}
        if futures:
            adopt(futures.values(), self.client)
        return futures

    async def _ask_earlier(self, method: str, of: ExecutionCore | Hashable) -> Any:
        """Ask of an earlier run, or of the latest one of a DAG; it must be one that can be resumed."""
        execution = of if isinstance(of, ExecutionCore) else self._executions.latest(of)
        if execution is not None:
            await execution.fingerprints_noted()
        found = None
        if isinstance(of, ExecutionCore):
            found = await self.link.ask(method, token=of.token, dag=None)
        if found is None:  # or nothing of it had to run
            dag_id = of.dag_id if isinstance(of, ExecutionCore) else of
            found = await self.link.ask(method, token=None, dag=token_of(dag_id))
        if found is None:
            raise NotFoundError(
                "execution", getattr(of, "dag_id", of), "the cluster has none of it that can be resumed"
            )
        return found

    async def _why_rerun(
        self,
        dag: DAG | Iterable[Function],
        cache: CacheLike | None,
        resume: ExecutionCore | Hashable | None,
        inputs: Mapping[FunctionId, Any] | None,
    ) -> dict[FunctionId, Reason]:
        """Why each function would run again, by a cache or by what an earlier run has left."""
        if (cache is None) == (resume is None):
            raise ValidationError("why_rerun: give either cache= or resume=")
        if cache is not None:
            return await asyncio.to_thread(partial(why_rerun, dag, cache=cache, inputs=inputs))
        held = await self._ask_earlier("earlier", resume)
        known = EarlierRun(held, await self._ask_earlier("earlier_records", resume))
        return await asyncio.to_thread(reasons_of, dag, known, inputs)

    async def _list_executions(self) -> list[ExecutionInfo]:
        listed = []
        for facts in await self.link.ask("executions"):
            try:
                dag_id = pickle.loads(facts.pop("dag_id"))
            except Exception:  # whatever the type's own unpickling raises, or its module is not here
                dag_id = facts["token"]
            listed.append(ExecutionInfo(dag_id=dag_id, **facts))
        return listed

    async def _attach(self, dag_id: Hashable, kind: type[E]) -> E:
        """The execution of a DAG id, or of a token, whoever has submitted it; ``kind`` is its class."""
        token = dag_id if isinstance(dag_id, str) else None
        packed, exceptions = await self.link.ask(
            "attach", listener=self.name, dag=token_of(dag_id), token=token
        )
        facts = pickle.loads(packed)
        dag, compiled = attached(facts)
        futures: dict[Hashable, Future[Any]] = {
            i: Future(compiled.keys[i]) for i in compiled.expansion.outputs
        }
        if futures:
            adopt(futures.values(), self.client)
        execution = kind(self.link, self._results.collect, dag, compiled, futures)
        execution.is_detached = True
        self._executions.add(execution)
        if facts["over"]:
            self._executions.has_ended(facts["outcome"], exceptions)
        else:
            if facts["outcome"].status == "running":
                execution.has_begun()
            self._messages.start()
        return execution

    async def _announce(self, compiled: Compiled) -> None:
        """Send the manifest ahead of the graph; the scheduler refuses what no node could hold."""
        refused = await self.link.ask("announce", manifest=compiled.manifest)
        if refused is not None:
            position, reasons, problem = refused
            function_id = list(compiled.keys)[position]
            cost = compiled.expansion.functions[function_id].known_cost
            raise AllocationError(function_id, cost, reasons, problem)

    def _accompany(self, execution: ExecutionCore, submission: Submission) -> None:
        """Start what accompanies an execution: its timer, checks, progress bar and planner."""
        ask, compiled, token = self.link.ask, submission.compiled, execution.token

        def fail(error: BaseException, is_known: bool) -> None:
            execution.is_lost(error)
            if not is_known:
                self._executions.running.pop(token, None)

        execution.cancel_after(submission.timeout_s)
        if submission.progress:
            name = dag_name(execution.dag_id, next(reversed(submission.dag.functions), None))
            execution.accompany(progress_updates(ask, name, token))
        execution.accompany(
            InputChecks(
                self.link,
                dag_id=execution.dag_id,
                token=token,
                first=execution.futures[compiled.expansion.outputs[0]],
                inputs=compiled.held,
                fail=fail,
            )
        )
        execution.accompany(Fingerprints(ask, execution, submission))
        planner = Planner(ask, compiled)
        if planner.is_worth_while:
            planner.start()
            execution.accompany(planner)

    async def _execute(self, preparation: Callable[[], Submission], kind: type[E]) -> ExecutionResult:
        execution = await self._submit(preparation(), kind)
        try:
            return await execution.fetch()
        except BaseException:
            await asyncio.shield(execution.cancel_run())
            raise

    async def _explain(self, of: Hashable, function_id: Hashable) -> FunctionExplanation:
        function_id = id_of(function_id)
        if isinstance(of, ExecutionResult):
            return from_record(of.record, function_id)
        known = of if isinstance(of, ExecutionCore) else self._latest(of)
        if known is not None:
            return await known.explain_function(function_id)
        if function_id is None:
            task = await explain_task(self.link.ask, of.key if isinstance(of, Future) else of)
            if task is not None:
                return task
        return await explain_latest(self.link.ask, of, function_id)

    def _latest(self, of: Any) -> ExecutionCore | None:
        """The execution of a pipeline, or the latest of a DAG's id; an open pipeline counts as that."""
        if isinstance(of, AnyPipeline):
            return of.execution
        for core in list(self._pipelines.values()):
            if core.dag_id == of and core.status in ("running", "closed"):
                return core.execution
        return self._executions.latest(of)

    # ------------------------------------------------------------------ results and data

    async def _get_result(self, of: object, function_id: Hashable, timeout: float | None) -> Any:
        await self._start()
        function_id = id_of(function_id)
        if isinstance(of, ExecutionResult):
            return of[function_id]
        if isinstance(of, ExecutionCore):
            return await of.fetch_result(function_id, timeout)
        return await self._results.get_result(of, function_id, timeout)

    async def _register_location(self, dag_id: Hashable, data_id: Hashable, node: object) -> None:
        await self._start()
        await self.link.ask(
            "register_location", dag=token_of(dag_id), value=token_of(data_id), node=str(node)
        )

    async def _forget(self, dag_id: Hashable) -> None:
        await self._start()
        self._executions.forget(dag_id)
        await self._results.forget(dag_id)
        await self.link.ask("forget", dag=token_of(dag_id))
