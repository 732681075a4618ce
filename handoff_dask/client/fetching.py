"""Fetches values from the workers that hold them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Mapping
from pickle import PickleError
from typing import Any

from distributed import CancelledError, Future
from distributed.utils_comm import gather_from_workers

from handoff_dask.client.scheduler_link import SchedulerLink
from handoff_dask.errors import HandoffError, NotFoundError

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

    async def gather(self, dag_id: Hashable, futures: Mapping[Hashable, Future[Any]]) -> dict[Hashable, Any]:
        """The values of futures.

        Raises
        ------
        HandoffError
            If a value cannot be pickled.
        """
        client, direct = self._link.client, None
        if futures and client.direct_to_workers is None:
            direct = await self.is_direct(None) or None
        try:
            return dict(await client.gather(dict(futures), direct=direct, asynchronous=True))
        except CancelledError as error:
            if client.status != "running":  # what it held went with it
                self._link.refuse_if_over()
            raise self._lost(futures, error) from error
        except (TypeError, AttributeError, ImportError, PickleError) as error:
            if len(futures) > 1:  # Dask does not say which value it is
                for one, future in futures.items():
                    await self.gather(dag_id, {one: future})
            (one,), (about, *_) = futures, str(error).split("\n")
            raise HandoffError(
                f"the result of function {one!r} of DAG {dag_id!r} cannot be fetched ({about}); "
                "let it return what can be pickled, or leave it out of outputs"
            ) from error

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
        """A value that is in some worker's memory now.

        Raises
        ------
        NotFoundError
            If no worker holds it, or ``from_node`` does not.
        """
        client = self._link.client
        holders: dict[str, str] = await self._link.ask("where", key=key)
        if from_node is not None:
            name = await self._link.ask("name_of", node=str(from_node))
            if name not in holders:
                where = ", ".join(map(repr, holders)) or "no node"
                raise NotFoundError("value", value_id, f"node {name!r} does not hold it; {where} does")
            holders = {name: holders[name]}
        addresses = list(holders.values())
        if addresses and await self.is_direct(addresses[0]):
            data, *_ = await gather_from_workers({key: addresses}, rpc=client.rpc)
            if key in data:
                return data[key]
        if addresses:
            scheduler: Any = client.scheduler
            answer = await scheduler.gather(keys=[key])
            if answer["status"] == "OK":
                return answer["data"][key]
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
