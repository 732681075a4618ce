"""Follows an execution for its progress bar."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from handoff_dask.progress import REFRESH_S, Counts, Row, show
from handoff_dask.record.status import CANCELLED, PENDING, WAITING

if TYPE_CHECKING:
    from handoff_dask.client.execution import Execution
    from handoff_dask.protocol.outcome import Outcome

logger = logging.getLogger(__name__)

#: Looking takes at most this share of the scheduler's time.
SHARE = 0.01


class Follower:
    """Shows how an execution goes, from its submission to its end."""

    def __init__(self, execution: Execution, row: Row) -> None:
        self._execution = execution
        self._row = row
        self._task = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        session, token = self._execution.session, self._execution.compiled.manifest.token
        try:
            while not self._row.status:
                states, causes, took_s = await session.ask("progress", token=token)
                self._row.update(Counts(sum(states.values()), states, causes))
                # Counting a large execution takes longer.
                await asyncio.sleep(max(REFRESH_S, took_s / SHARE))
        except Exception:
            # Gone, or its scheduler is: whoever tells the execution will end the row too.
            logger.debug("progress cannot be followed any further", exc_info=True)
        except BaseException:
            # The client is being closed, and with it whatever runs on its loop.
            self._row.end("no longer followed")
            raise

    def end(self, outcome: Outcome | None, status: str) -> None:
        """The execution is over."""
        counts = None
        if outcome is not None and outcome.states:
            # What had not begun by then never will.
            dropped = {PENDING: CANCELLED, WAITING: CANCELLED}
            states = Counter(dropped.get(state, state) for state in outcome.states if state != "none")
            counts = Counts(states.total(), states)
        self._row.end(status, counts)
        self._task.cancel()


def follow(execution: Execution) -> Follower | None:
    """Show an execution's progress, if there is anybody who could see it."""
    row = show(execution.dag_id)
    return None if row is None else Follower(execution, row)
