"""A session's tie to its cluster: started, asked, listened to, ended."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import cloudpickle
from distributed import Client, get_client, get_worker, rejoin, secede
from distributed.comm.core import CommClosedError
from distributed.metrics import monotonic
from distributed.protocol import pickle

from handoff_dask import config
from handoff_dask.client import options as checks
from handoff_dask.client.cluster_tracker import ClusterTracker, pack_tracker
from handoff_dask.client.embedded import EmbeddedCluster
from handoff_dask.client.execution import Execution
from handoff_dask.client.install import install
from handoff_dask.client.results import Results
from handoff_dask.client.telemetry import Hearing
from handoff_dask.errors import SchedulerLostError, SessionEndedError, ValidationError
from handoff_dask.protocol.names import NAME
from handoff_dask.protocol.outcome import Outcome
from handoff_dask.resources import Capabilities

if TYPE_CHECKING:
    from handoff_dask.client.nodes import NodeMethods


S = TypeVar("S", bound="Connection")

logger = logging.getLogger(__name__)

#: Seconds to find out whether a scheduler is still there.
REACH_S = 5.0


class Connection:
    """The client of a session, and what its scheduler's plugin is asked and says."""

    def __init__(
        self,
        client: Client | None = None,
        *,
        nodes: Mapping[str, Mapping[str, Any]] | None = None,
        resource_tracker: Any = None,
        result_store: Any = None,
        allocator: Any = None,
    ) -> None:
        checks.refuse_other_than_client(client)
        self._embedded: EmbeddedCluster | None = None
        #: What it was asked to make an embedded cluster of.
        self.nodes = nodes
        if allocator is not None:
            checks.strategy_of(None, allocator)
        self._allocator = allocator
        self._tracker = pack_tracker(resource_tracker)
        self._started = False
        self._closed = False
        self._starting: asyncio.Task[None] | None = None
        self._lock = threading.RLock()
        #: Executions that have not ended, by token.
        self._live: dict[str, Execution] = {}
        #: The latest execution of each DAG id that anybody still holds.
        self._by_dag: weakref.WeakValueDictionary[Hashable, Execution] = weakref.WeakValueDictionary()
        self._retained: deque[Execution] = deque()
        self._watching: asyncio.Task[None] | None = None
        #: Messages of the scheduler that have come here.
        self._got = 0
        #: What this session knows of results and values.
        self.results = Results(self, result_store)
        # Last of all: where something is wrong, no embedded cluster is left behind.
        if client is None:
            client = self._own_client(nodes)
        elif nodes is not None:
            raise ValidationError(
                "client and nodes are both given; nodes make an embedded cluster, so give one"
            )
        #: The Dask client of this session.
        self.client: Client = client
        #: What the scheduler knows it by: a client may have several sessions.
        self.name = f"{client.id}-{uuid.uuid4().hex}"
        self._hearing = Hearing(self)
        #: The cluster's tracker: what is claimed with it counts for every placement.
        self.resource_tracker = ClusterTracker(cast("NodeMethods", self))

    def _own_client(self, nodes: Mapping[str, Mapping[str, Any]] | None) -> Client:
        client = current_client() if nodes is None else None
        if client is not None:
            return client
        self._embedded = EmbeddedCluster(nodes)
        return self._embedded.client

    # ------------------------------------------------------------------ life

    @property
    def asynchronous(self) -> bool:
        """Whether methods return awaitables, as the client's do."""
        return bool(self.client.asynchronous)

    @property
    def is_embedded(self) -> bool:
        """Whether it has started a cluster of its own."""
        return self._embedded is not None

    @property
    def is_usable(self) -> bool:
        """Whether it has not been stopped and its client is still there."""
        return not self._closed and self.client.status not in ("closed", "closing")

    @property
    def is_watching(self) -> bool:
        """Whether it listens to the scheduler."""
        return self._watching is not None

    @property
    def has_plugin(self) -> bool:
        """Whether the scheduler's plugin has been installed, as far as is known here."""
        return self._started

    def ids_of(self, token: str) -> tuple[Hashable, list[Hashable]] | None:
        """The ids of a run of this session, as the user wrote them."""
        execution = self._live.get(token)
        if execution is None:
            return None
        return execution.dag_id, list(execution.compiled.keys)

    @property
    def scheduler_address(self) -> str:
        """Where the scheduler of this session listens."""
        scheduler: Any = self.client.scheduler
        return str(scheduler.address)

    def execution_of(self, dag_id: Hashable) -> Execution | None:
        """The latest execution of a DAG id that this session still holds."""
        return self._by_dag.get(dag_id)

    def sync(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a coroutine function on the client's loop; wait for it, or return its awaitable."""
        if self.client.status == "closed" and not self.asynchronous:
            self.refuse_if_over()  # its loop is gone with it
        return self.client.sync(function, *args, **kwargs)

    def wait_for(self, function: Any, *args: Any) -> Any:
        """The same as :meth:`sync`, for what waits for functions: a task lets go of its thread meanwhile."""
        if self.asynchronous:
            return self.sync(function, *args)
        with thread_let_go():
            return self.sync(function, *args)

    def start(self) -> Any:
        """Install the plugins on the scheduler and on all present and future workers; the session."""
        return self.sync(self._start)

    async def _start(self: S) -> S:
        self.refuse_if_over()
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._install())
        starting = self._starting
        try:
            await asyncio.shield(starting)
        finally:
            if starting.done() and not self._started:  # it may work another time
                self._starting = None
        return self

    async def _install(self) -> None:
        await install(self.client)
        # Answered once the plugin is on every worker.
        await self.ask("ping")
        if self._embedded is not None:
            for name, capabilities in self._embedded.nodes.items():
                offered = Capabilities.parse(capabilities)
                await self.ask("register", node=name, capabilities=offered, merge=False)
        if self._tracker is not None:
            await self.ask("use_tracker", tracker=self._tracker)
        self._started = True
        await self._hearing.sync(greet=True)

    def refuse_if_over(self) -> None:
        """Refuse what needs the cluster once this session has none.

        Raises
        ------
        SessionEndedError
            If it has been stopped, or its client is closed.
        """
        if self._closed:
            raise SessionEndedError("this session has been stopped; start another one")
        if not self.is_usable:
            raise SessionEndedError("the client of this session is closed; start a session with another one")

    def stop(self) -> Any:
        """End the session: cancel what it still runs; leave the user's client and cluster alone."""
        if self.asynchronous:
            return self.sync(self._stop)
        if self.is_usable:
            self.sync(self._stop)
        else:  # its loop may be gone with the client
            self._closed = True
            self._hearing.close()
        if self._embedded is not None:
            self._embedded.close()
        return None

    async def _stop(self) -> None:
        usable, self._closed = self.is_usable, True
        self._hearing.close()
        self._retained.clear()
        if not usable:
            return
        try:
            while self._live:  # what is just being submitted, too
                token, execution = next(iter(self._live.items()))
                await execution._cancel()
                self._live.pop(token, None)
            if self._started and await self._is_reachable():
                if self._tracker is not None:
                    await self.ask("use_tracker", tracker=None)
                await self.ask("leave", listener=self.name)
        except SchedulerLostError:
            logger.info("the scheduler is gone; there is nothing to cancel")
        if self._watching is not None:
            self._watching.cancel()

    def __enter__(self: S) -> S:
        if self.asynchronous:
            raise TypeError("this session's client is asynchronous; write `async with`")
        self.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.stop()

    async def __aenter__(self: S) -> S:
        return await self._start()

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._stop()

    # ------------------------------------------------------------------ the scheduler

    async def ask(self, method: str, **arguments: Any) -> Any:
        """Ask the scheduler's plugin.

        Raises
        ------
        HandoffError
            What the plugin refuses it with, or that the scheduler cannot be reached.
        """
        if self.client.scheduler is None:
            self.refuse_if_over()
        try:
            answer = await self._call(method, arguments)
        except (CommClosedError, OSError) as error:
            raise SchedulerLostError(repr(error)) from error
        if "error" in answer:
            raise pickle.loads(answer["error"])
        return answer["as_is"] if "as_is" in answer else pickle.loads(answer["value"])

    async def _call(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = await getattr(self.client.scheduler, NAME)(
            method=method, client=self.client.id, arguments=cloudpickle.dumps(arguments)
        )
        return answer

    def watch(self) -> None:
        """Begin to listen to the scheduler, unless that is so."""
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        """Listen to the scheduler while something of this session runs."""
        try:
            while self._live or self._hearing.listens:
                for kind, content in await self._messages():
                    self._got += 1
                    await self._told(kind, content)
                    self._hearing.heard += 1
        except Exception as error:
            lost = error if isinstance(error, SchedulerLostError) else SchedulerLostError(repr(error))
            self._lose(lost)
            if lost is not error:
                raise
        finally:
            self._watching = None
            # Cancelled, with the session or the client's loop: nobody must wait for what nobody will say.
            self._lose(SessionEndedError("the session has ended before its execution; submit it again"))
            if not self.is_usable:
                self._hearing.close()

    def _lose(self, error: BaseException) -> None:
        live = list(self._live.values())
        self._live.clear()
        for execution in live:
            execution.is_lost(error)

    async def _messages(self) -> list[Any]:
        """What the scheduler has to say next; that one connection breaks does not matter."""
        while True:
            try:
                answer = await self._call("watch", {"listener": self.name, "got": self._got})
            except (CommClosedError, OSError) as error:
                if not await self._is_reachable():
                    raise SchedulerLostError(repr(error)) from error
                continue
            if answer["messages"] is None:
                raise SchedulerLostError("it has taken this client for gone")
            messages: list[Any] = answer["messages"]
            return messages

    async def _is_reachable(self) -> bool:
        give_up = monotonic() + REACH_S
        ping = asyncio.ensure_future(self.ask("ping"))
        try:
            # Dask's client may notice before the attempt fails.
            while not ping.done() and self.client.status == "running" and monotonic() < give_up:
                await asyncio.wait({ping}, timeout=0.05)
            return ping.done() and ping.exception() is None
        finally:
            ping.cancel()

    async def _told(self, kind: str, content: Any) -> None:
        if kind == "status":
            token, _ = content
            if token in self._live:
                self._live[token].has_begun()
        elif kind == "events":
            await self._hearing.take(content)
        elif kind == "ended":
            packed, exception, traceback = content
            outcome: Outcome = pickle.loads(packed)
            execution = self._live.get(outcome.token)
            if execution is not None:
                try:
                    await self._hearing.catch_up()
                finally:
                    self._live.pop(outcome.token, None)
                    execution.has_ended(outcome, exception, traceback)
                    self._retain(execution)

    async def expects(self, execution: Execution) -> bool:
        """Whether the graph of an execution, which has failed, never reached the scheduler's plugin."""
        if not self.is_usable:
            return False
        try:
            never = await self.ask("withdraw", token=execution.compiled.manifest.token)
        except (SchedulerLostError, RuntimeError):  # the connection, or all of them, are closed
            return False
        if never:
            self._live.pop(execution.compiled.manifest.token, None)
        return bool(never)

    def _retain(self, execution: Execution) -> None:
        self._retained.append(execution)
        while len(self._retained) > config.get("retained-dags"):
            self._retained.popleft()


def this_worker() -> str | None:
    """Address of the worker in whose task this is called, if it is called in one."""
    try:
        return str(get_worker().address)
    except ValueError:
        return None


@contextmanager
def thread_let_go() -> Iterator[None]:
    """Inside a task, let others have its thread, as ``Client.get`` does; elsewhere nothing.

    Else functions that execute DAGs could take all threads, and wait for ever for one to be free.
    """
    try:
        secede()
        has_let_go = True
    except (ValueError, KeyError):  # this is no task, or it has let go already
        has_let_go = False
    # Not within the except: what is raised below would carry Dask's error as its context.
    try:
        yield
    finally:
        if has_let_go:
            rejoin()


def current_client() -> Client | None:
    """The client that is current in Dask: inside a task, its worker's."""
    client: Client
    try:
        client = Client.current()
    except ValueError:
        pass
    else:
        return client
    try:
        get_worker()
    except ValueError:
        return None
    client = get_client()
    return client
