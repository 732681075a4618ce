"""Tells the scheduler what the results of an execution depend on, so that a later one may resume it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress

from handoff_dask import config
from handoff_dask.client.execution_core import ExecutionCore
from handoff_dask.client.scheduler_link import Ask
from handoff_dask.client.submission import Submission
from handoff_dask.errors import HandoffError
from handoff_dask.graph.functions import FunctionId
from handoff_dask.protocol.outcome import Outcome
from handoff_dask.record.status import FINISHED
from handoff_dask.reuse.earlier import packed_records
from handoff_dask.reuse.fingerprint import Details
from handoff_dask.reuse.reasons import opting_out

logger = logging.getLogger(__name__)

#: What ends well within so many seconds is told only when somebody asks.
SOON_S = 1.0


class Fingerprints:
    """Works out the fingerprints of an execution while it runs, from what was looked at before it was sent.

    Parameters
    ----------
    ask
        Asks the scheduler.
    execution, submission
        The execution, and what it was made from.
    """

    def __init__(self, ask: Ask, execution: ExecutionCore, submission: Submission) -> None:
        self._ask = ask
        self._token = execution.token
        self._submission = submission
        self._over = asyncio.Event()
        self._ended_well = False
        self._telling: asyncio.Future[None] | None = None
        if config.get("resumable"):
            execution.noting = self.told
            self._waiting = asyncio.ensure_future(self._when_it_takes_longer())

    def end(self, outcome: Outcome | None, status: str) -> None:
        """The execution is over."""
        self._ended_well = status == FINISHED
        self._over.set()

    async def told(self) -> None:
        """Until the scheduler knows."""
        if self._telling is None:
            self._telling = asyncio.ensure_future(self._tell())
        await asyncio.shield(self._telling)

    async def _when_it_takes_longer(self) -> None:
        if self._submission.reuse is None:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._over.wait(), SOON_S)
            if self._ended_well:
                return
        await self.told()

    async def _tell(self) -> None:
        submission = self._submission
        keys, reuse = submission.compiled.keys, submission.reuse
        try:
            if reuse is not None:
                found, off = reuse.plan.details, reuse.plan.off
            else:
                found, off = await asyncio.to_thread(self._worked_out)
            packed = await asyncio.to_thread(packed_records, {i: found[i] for i in found if i not in off})
            await self._ask(
                "note_fingerprints",
                token=self._token,
                fingerprints=[None if i in off or i not in found else found[i].fingerprint for i in keys],
                records=packed,
                earlier={} if reuse is None else reuse.keys_of_earlier(),
            )
        except HandoffError as error:
            logger.info("the execution cannot be resumed (%s)", error)
        except Exception:  # whatever the code of the user's values raises
            logger.info("the execution cannot be resumed", exc_info=True)

    def _worked_out(self) -> tuple[Mapping[FunctionId, Details], frozenset[FunctionId]]:
        depends = self._submission.depends
        return ({} if depends is None else depends.details()), opting_out(self._submission.dag)
