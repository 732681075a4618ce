"""Tells the scheduler what the results of an execution depend on, so that a later one may resume it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from handoff_dask import config
from handoff_dask.client.execution_core import ExecutionCore
from handoff_dask.client.scheduler_link import Ask
from handoff_dask.client.submission import Submission
from handoff_dask.errors import HandoffError
from handoff_dask.protocol.outcome import Outcome
from handoff_dask.record.status import FINISHED
from handoff_dask.reuse.fingerprint import fingerprint
from handoff_dask.reuse.reasons import opting_out

logger = logging.getLogger(__name__)

#: An execution that ends well within so many seconds is not worth resuming.
SOON_S = 1.0


class Fingerprints:
    """Works out the fingerprints of an execution while it runs.

    They must be those of its code as it was when it was submitted; a user may change it meanwhile.

    Parameters
    ----------
    ask
        Asks the scheduler.
    execution, submission
        The execution, and what it was made from.
    """

    def __init__(self, ask: Ask, execution: ExecutionCore, submission: Submission) -> None:
        self._ask = ask
        self._submission = submission
        self._over = asyncio.Event()
        self._ended_well = False
        if config.switch("resumable"):
            execution.noting = asyncio.ensure_future(self._note(execution.token))

    def end(self, outcome: Outcome | None, status: str) -> None:
        """The execution is over."""
        self._ended_well = status == FINISHED
        self._over.set()

    async def _note(self, token: str) -> None:
        reuse, keys = self._submission.reuse, self._submission.compiled.keys
        if reuse is not None:
            prints = [reuse.plan.fingerprint(i) for i in keys]
        else:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._over.wait(), SOON_S)
            if self._ended_well:
                return
            prints = await asyncio.to_thread(self._worked_out)
        try:
            await self._ask("note_fingerprints", token=token, fingerprints=prints)
        except HandoffError as error:
            logger.info("the execution cannot be resumed (%s)", error)

    def _worked_out(self) -> list[str | None]:
        submission = self._submission
        dag, compiled = submission.dag, submission.compiled
        off = opting_out(dag)
        try:
            found = fingerprint(dag, submission.inputs)
        except Exception:  # whatever the code of the user's values raises
            logger.info("the execution cannot be resumed", exc_info=True)
            return [None for _ in compiled.keys]
        return [None if i in off else found.get(i) for i in compiled.keys]
