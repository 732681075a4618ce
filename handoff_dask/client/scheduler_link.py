"""The link between a session and the scheduler's plugin."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import cloudpickle
from distributed import Client, Status, get_client, get_worker, rejoin, secede
from distributed.comm.core import CommClosedError
from distributed.metrics import monotonic
from distributed.protocol import pickle

from handoff_dask.client.forks import is_of_parent
from handoff_dask.errors import HandoffError, SchedulerLostError, SessionEndedError
from handoff_dask.protocol.names import NAME

P = ParamSpec("P")
T = TypeVar("T")

#: Seconds to find out whether a scheduler is still there.
REACH_S = 5.0


class Ask(Protocol):
    """A request to the scheduler's plugin: the name of a method, and its arguments."""

    async def __call__(self, method: str, **arguments: Any) -> Any:
        """Give what the plugin answers, or raise what it refuses the request with."""


class SchedulerLink:
    """Sends requests to the scheduler's plugin through a Dask client.

    Parameters
    ----------
    client
        The Dask client.  It may be the client of several sessions.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        #: The name of this session on the scheduler.
        self.name = f"{client.id}-{uuid.uuid4().hex}"
        #: Whether the session has been stopped.
        self.is_closed = False
        #: Called when a scheduler answers that does not know handoff: a new one, in the place of another.
        self.restore: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._restoring: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ state

    @property
    def asynchronous(self) -> bool:
        """Whether the client is asynchronous."""
        return bool(self.client.asynchronous)

    @property
    def is_usable(self) -> bool:
        """Whether the session has not been stopped and its client is still open."""
        is_open = not self.is_closed and self.client.status not in ("closed", "closing")
        return is_open and not is_of_parent(self.client)

    @property
    def address(self) -> str:
        """The address of the scheduler."""
        scheduler: Any = self.client.scheduler
        return str(scheduler.address)

    def refuse_if_over(self) -> None:
        """Refuse a call that needs the cluster if the session has ended.

        Raises
        ------
        SessionEndedError
            If the session has been stopped, or its client is closed or belongs to the process that this one
            was forked from.
        """
        refuse_parents(self.client)
        if self.is_closed:
            raise SessionEndedError("this session has been stopped; start another one")
        if not self.is_usable:
            raise SessionEndedError("the client of this session is closed; start a session with another one")

    # ------------------------------------------------------------------ from the caller to the client's loop

    def sync(self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a coroutine function on the client's loop, and wait for it.

        With an asynchronous client this returns an awaitable instead, as Dask's own client does.
        The type does not say so: :class:`~handoff_dask.AsyncHandoff` is the typed way.
        """
        self._refuse_without_loop()
        try:
            return cast("T", self.client.sync(function, *args, **kwargs))
        except (HandoffError, TimeoutError) as error:
            # A frame of Dask's holds the error, which holds the frame: with them an execution would stay.
            raise error.with_traceback(None)  # noqa: B904  # it is no other error

    def wait_for(self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """As :meth:`sync`, for calls that wait until functions have run.

        A Dask task that waits here gives back its thread meanwhile.
        """
        if self.asynchronous:
            return self.sync(function, *args, **kwargs)
        self._refuse_without_loop()
        with released_thread() as has_seceded, self._paused(has_seceded):
            return self.sync(function, *args, **kwargs)

    def _refuse_without_loop(self) -> None:
        refuse_parents(self.client)
        if self.client.status == "closed" and not self.asynchronous:
            self.refuse_if_over()  # its loop is gone with it

    @contextmanager
    def _paused(self, has_seceded: bool) -> Iterator[None]:
        """Inside a function, give back its ``cpu`` for the block; elsewhere do nothing."""
        function = this_function()
        attempt = {} if function is None else {"key": function[0], "run_id": function[1]}
        is_paused = bool(attempt) and self.client.sync(self.ask, "pause", **attempt)
        try:
            yield
        finally:
            if is_paused:
                with suppress(SchedulerLostError):  # then there is nobody whose room it would be
                    self.client.sync(self.ask, "go_on", with_thread=has_seceded, **attempt)

    async def run(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Await a coroutine function on the client's loop, whichever loop this is."""
        self._refuse_without_loop()
        if self.asynchronous:
            return await function(*args, **kwargs)
        loop: Any = self.client.loop
        submitted = asyncio.run_coroutine_threadsafe(function(*args, **kwargs), loop.asyncio_loop)
        return await asyncio.wrap_future(submitted)

    # ------------------------------------------------------------------ requests

    async def ask(self, method: str, **arguments: Any) -> Any:
        """Ask the scheduler's plugin.

        Raises
        ------
        HandoffError
            What the plugin refuses the request with.
        SchedulerLostError
            If the scheduler cannot be reached.
        """
        answer = await self._answer(method, arguments)
        if answer is None and self.restore is not None:
            if self._restoring is None or self._restoring.done():
                self._restoring = asyncio.ensure_future(self.restore())
            if self._restoring is not asyncio.current_task():
                await asyncio.shield(self._restoring)
                answer = await self._answer(method, arguments)
        if answer is None:
            raise SchedulerLostError("it does not know handoff")
        if "error" in answer:
            raise pickle.loads(answer["error"])
        return answer["as_is"] if "as_is" in answer else pickle.loads(answer["value"])

    async def knows_handoff(self) -> bool:
        """Whether the scheduler has handoff's plugin."""
        return await self._answer("ping", {}) is not None

    async def _answer(self, method: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """What the plugin answers; ``None`` if the scheduler has no such plugin."""
        if self.client.scheduler is None:
            self.refuse_if_over()
            raise SchedulerLostError("the client is not connected")
        try:
            return await self._call(method, arguments)
        except (CommClosedError, OSError) as error:
            raise SchedulerLostError(repr(error)) from error

    async def next_messages(self, received: Callable[[], int]) -> list[Any]:
        """Wait for the next messages of the scheduler; a broken connection is opened again.

        Parameters
        ----------
        received
            Says how many messages have come here so far; the scheduler drops these.

        Raises
        ------
        SchedulerLostError
            If the scheduler cannot be reached, or does not know this session any more.
        """
        while True:
            try:
                answer = await self._call("watch", {"listener": self.name, "got": received()})
            except (CommClosedError, OSError) as error:
                if not await self.is_reachable():
                    raise SchedulerLostError(repr(error)) from error
                continue
            if answer is None:  # a new scheduler, in the place of another
                await self.ask("ping")
                continue
            if answer["messages"] is None:
                raise SchedulerLostError("it has taken this client for gone")
            messages: list[Any] = answer["messages"]
            return messages

    async def is_reachable(self) -> bool:
        """Whether the scheduler's plugin answers within a few seconds."""
        give_up = monotonic() + REACH_S
        ping = asyncio.ensure_future(self.ask("ping"))
        try:
            # Dask's client may notice before the attempt fails.
            while not ping.done() and self.client.status == "running" and monotonic() < give_up:
                await asyncio.wait({ping}, timeout=0.05)
            return ping.done() and ping.exception() is None
        finally:
            ping.cancel()

    async def _call(self, method: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        packed = cloudpickle.dumps(arguments)
        ask = getattr(self.client.scheduler, NAME)
        try:
            answer: dict[str, Any] | None = await ask(method=method, client=self.client.id, arguments=packed)
        except RuntimeError as error:
            # What Dask says of connections that its client has closed, as it does when the scheduler is lost.
            if self.client.rpc.status is Status.running:
                raise
            raise CommClosedError(str(error)) from error
        return answer


def refuse_parents(client: Client) -> None:
    """Refuse a client of the process that this one was forked from.

    Raises
    ------
    SessionEndedError
        If it is one.
    """
    if is_of_parent(client):
        raise SessionEndedError(
            "this process was forked from the one that has this client and its sessions, and cannot use "
            "them; make a Client here, or start processes by spawn"
        )


def this_worker() -> str | None:
    """The address of the worker whose task calls this; ``None`` outside of a task."""
    try:
        return str(get_worker().address)
    except ValueError:
        return None


def this_function() -> tuple[str, int] | None:
    """The key of the task that calls this, and the number of its attempt; ``None`` outside of a task."""
    try:
        worker = get_worker()
        key = worker.get_current_task()
    except (ValueError, KeyError):
        return None
    task = worker.state.tasks.get(key)
    return None if task is None else (str(key), task.run_id)


@contextmanager
def released_thread() -> Iterator[bool]:
    """Inside a Dask task, give its thread to other tasks for the block; elsewhere do nothing.

    Without this, functions that execute DAGs could take all threads, and wait for ever.
    ``Client.get`` does the same.  The block is told whether a thread has been given back.
    """
    try:
        secede()
        has_seceded = True
    except (ValueError, KeyError):  # this is no task, or it has seceded already
        has_seceded = False
    # Not within the except: what is raised below would carry Dask's error as its context.
    try:
        yield has_seceded
    finally:
        if has_seceded:
            rejoin()


def client_made_current() -> Client | None:
    """The client that ``with client.as_current()`` has made current here, if there is one."""
    try:
        client: Client = Client.current(allow_global=False)
    except ValueError:
        return None
    refuse_parents(client)
    return client


def current_client() -> Client | None:
    """The client that is current in Dask; inside a task, its worker's client."""
    client: Client
    try:
        client = Client.current()
    except ValueError:
        pass
    else:
        refuse_parents(client)
        return client
    try:
        get_worker()
    except ValueError:
        return None
    client = get_client()
    return client
