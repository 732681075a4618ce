"""Fetches values from the workers that hold them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Hashable, Mapping
from typing import Any, cast

from distributed import CancelledError, Future
from distributed.core import ConnectionPool
from distributed.utils_comm import gather_from_workers

from handoff_dask.client.scheduler_link import SchedulerLink
from handoff_dask.errors import HandoffError, NotFoundError
from handoff_dask.protocol.failed_values import FailedValue
from handoff_dask.protocol.names import LOST
from handoff_dask.protocol.packing import opened
from handoff_dask.protocol.transfers import load, opaque_pool

logger = logging.getLogger(__name__)

#: Seconds that a worker has to answer before results are fetched through the scheduler instead.
REACH_S = 3.0


class Fetcher:
    """Fetches values, directly from workers where they can be reached.

    Parameters
    ----------
    link
        The link to the scheduler.
    """

    def __init__(self, link: SchedulerLink) -> None:
        self._link = link
        #: Whether workers can be reached from here; None before it was tried.
        self._direct: bool | None = None
        self._pool: ConnectionPool | None = None

    async def gather(self, dag_id: Hashable, futures: Mapping[Hashable, Future[Any]]) -> dict[Hashable, Any]:
        """The values of futures that have ended well.

        Raises
        ------
        HandoffError
            If a value cannot be pickled, or not loaded here.
        """
        client = self._link.client
        if not futures:
            return {}
        if client.scheduler is None:
            self._link.refuse_if_over()
        # Whoever releases the given ones meanwhile, as forget does, takes nothing from this call.
        held: list[Future[Any]] = [Future(future.key, client) for future in futures.values()]
        try:
            packed = await self._gather_packed({str(future.key) for future in futures.values()})
            lost = {one: future for one, future in futures.items() if future.key not in packed}
            rest = await self._computed_again(lost) if lost else {}
        except CancelledError as error:
            if client.status != "running":  # what it held went with it
                self._link.refuse_if_over()
            raise self._lost(futures, error) from error
        here = {one: packed[future.key] for one, future in futures.items() if future.key in packed}
        del held
        # Not in the event loop: it would wait for whatever the values do when they are loaded.
        loaded = await asyncio.to_thread(_load_all, dag_id, here)
        return {one: loaded[one] if one in loaded else rest[one] for one in futures}

    async def _computed_again(self, lost: Mapping[Hashable, Future[Any]]) -> dict[Hashable, Any]:
        """Wait for results that were lost with their node: they are computed again for who asks."""
        for future in lost.values():
            state: Any = future._state
            if _was_lost(state):
                state.retry()
        await self._link.ask("again", keys=[str(future.key) for future in lost.values()])
        return dict(await self._link.client.gather(dict(lost), asynchronous=True))

    async def _gather_packed(self, keys: Collection[str]) -> dict[str, Any]:
        """Values as they are sent; those that nobody has are left out."""
        scheduler = cast("Any", self._link.client.scheduler)
        pool = await self._opaque()
        found: dict[str, Any] = {}
        if await self.is_direct(None):
            who_has = await scheduler.who_has(keys=list(keys))
            data, *_ = await gather_from_workers(who_has, rpc=pool)
            found = {str(key): value for key, value in data.items()}
        missing = [key for key in keys if key not in found]
        if missing:
            answer = await pool(scheduler.address).gather(keys=missing)
            if answer["status"] == "OK":
                found.update(answer["data"])
        return found

    async def _opaque(self) -> ConnectionPool:
        """Connections over which values come as bytes."""
        pool = self._pool
        if pool is None:
            pool = self._pool = opaque_pool(self._link.client.rpc)
            await pool.start()
        return pool

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.close()
            self._pool = None

    @staticmethod
    def _lost(futures: Mapping[Hashable, Future[Any]], error: CancelledError) -> Exception:
        """What is said of results that nobody has any more."""
        for one, future in futures.items():
            if future.status == "cancelled":
                state: Any = future._state
                why = getattr(state.exception, "reason", None) or "it was released"
                return NotFoundError(
                    "result",
                    one,
                    f"it is not there any more and cannot be computed again ({why}); execute its DAG again",
                )
        return error

    async def fetch(
        self, key: str, dag_id: Hashable, value_id: Hashable, from_node: str | None = None
    ) -> Any:
        """A value that is in some worker's memory now; see :meth:`_fetch`."""
        value = await self._fetch(key, dag_id, value_id, from_node)
        if isinstance(value, FailedValue):
            raise NotFoundError("value", value_id, f"it has failed, or needed what has, in DAG {dag_id!r}")
        return value

    async def _fetch(self, key: str, dag_id: Hashable, value_id: Hashable, from_node: str | None) -> Any:
        """A value that is in some worker's memory now.

        Raises
        ------
        NotFoundError
            If no worker holds it, or ``from_node`` does not.
        HandoffError
            If it cannot be pickled, or not loaded here.
        """
        holders: dict[str, str] = await self._link.ask("where", key=key)
        if from_node is not None:
            name = await self._link.ask("name_of", node=str(from_node))
            if name not in holders:
                where = ", ".join(map(repr, holders)) or "no node"
                raise NotFoundError("value", value_id, f"node {name!r} does not hold it; {where} does")
        if holders:
            packed = await self._gather_packed({key})
            if key in packed:
                loaded = await asyncio.to_thread(_load_all, dag_id, {value_id: packed[key]})
                return loaded[value_id]
        raise NotFoundError(
            "value", value_id, f"no node holds it for DAG {dag_id!r}; get_result waits for it"
        )

    async def is_direct(self, address: str | None) -> bool:
        """Whether workers can be reached from here.  It is tried once, with this worker or some other."""
        client = self._link.client
        if client.direct_to_workers is not None:
            return bool(client.direct_to_workers)
        if self._direct is None:
            try:
                if address is None:
                    name = await self._link.ask("some_node", node="")
                    address = await self._link.ask("address_of", node=name)
                await asyncio.wait_for(client.rpc(address).identity(), REACH_S)
            except (OSError, asyncio.TimeoutError, NotFoundError) as error:
                logger.info(
                    "worker %s cannot be reached (%r); results pass through the scheduler", address, error
                )
                self._direct = False
            else:
                self._direct = True
        return self._direct


def _was_lost(state: Any) -> bool:
    """Whether a future was told that its result is computed again for who asks."""
    return state.status == "cancelled" and getattr(state.exception, "reason", None) == LOST


def _load_all(dag_id: Hashable, packed: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    return {value_id: _loaded(dag_id, value_id, value) for value_id, value in packed.items()}


def _loaded(dag_id: Hashable, value_id: Hashable, packed: Any) -> Any:
    try:
        return opened(load(packed))
    except (Exception, SystemExit) as error:  # whatever loading it raises, and whomever it would end
        about, *_ = str(error).split("\n")
        raise HandoffError(
            f"the result of function {value_id!r} of DAG {dag_id!r} cannot be fetched "
            f"({type(error).__name__}: {about}); let it return what can be pickled and loaded here, "
            "or leave it out of outputs"
        ) from error
