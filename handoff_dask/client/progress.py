"""Updates the progress bar of an execution."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable

from toolz import frequencies

from handoff_dask.client.scheduler_link import Ask
from handoff_dask.progress import REFRESH_S, Counts, Row, show
from handoff_dask.protocol.outcome import Outcome
from handoff_dask.record.status import CANCELLED, PENDING, WAITING

logger = logging.getLogger(__name__)

#: Counting takes at most this share of the scheduler's time.
SHARE = 0.01


class ProgressUpdates:
    """Asks the scheduler how an execution stands, and draws it, until the execution ends.

    Parameters
    ----------
    ask
        Asks the scheduler.
    token
        The name of the run on the scheduler.
    row
        Where it is drawn.
    """

    def __init__(self, ask: Ask, token: str, row: Row) -> None:
        self._ask = ask
        self._token = token
        self._row = row
        self._task = asyncio.ensure_future(self._update())

    async def _update(self) -> None:
        try:
            while not self._row.status:
                states, causes, took_s = await self._ask("progress", token=self._token)
                self._row.update(Counts(sum(states.values()), states, causes))
                # Counting a large execution takes longer.
                await asyncio.sleep(max(REFRESH_S, took_s / SHARE))
        except Exception:
            # The run or its scheduler is gone.  The execution will end the row too.
            logger.debug("there are no further progress updates", exc_info=True)
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
            states = frequencies(dropped.get(state, state) for state in outcome.states if state != "none")
            counts = Counts(sum(states.values()), states)
        self._row.end(status, counts)
        self._task.cancel()


def progress_updates(ask: Ask, name: Hashable, token: str) -> ProgressUpdates | None:
    """Show the progress of an execution; ``None`` if there is no terminal or notebook."""
    row = show(name)
    return None if row is None else ProgressUpdates(ask, token, row)
