"""What functions would have had to claim, by what was measured of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from handoff_dask.errors import NotFoundError
from handoff_dask.record.execution import FunctionRecord
from handoff_dask.record.suggestions import CostSuggestions, suggestions_of
from handoff_dask.record.usage import Usage
from handoff_dask.scheduler.runs import Runs, RunState
from handoff_dask.visualization.texts import id_texts


class MeasuredCosts:
    """Answers clients that ask for the costs of functions.

    Parameters
    ----------
    runs
        What is known of runs.
    ended
        Gives the last runs that are over.
    """

    def __init__(self, runs: Runs, ended: Callable[[], Iterable[RunState]]) -> None:
        self._runs = runs
        self._ended = ended

    def methods(self) -> dict[str, Callable[..., Any]]:
        """What clients may ask."""
        return {"suggestions": self.suggestions}

    def suggestions(self, client: str, dag: str | None) -> CostSuggestions:
        """The costs that measured functions would have needed, of all runs that are remembered, or of one.

        Parameters
        ----------
        dag
            Token of a run, or id of its DAG as text.

        Raises
        ------
        NotFoundError
            If the run is not among them.
        """
        runs = {run.token: run for run in [*self._ended(), *self._runs.open()] if not run.is_of_tasks}
        asked = [run for run in runs.values() if dag is None or dag in (run.token, _text(run))]
        if dag is not None and not asked:
            raise NotFoundError("execution", dag, "dask handoff ps lists them")
        return suggestions_of(
            FunctionRecord(
                id=f.position,
                name=run.manifest.names[f.position],
                cost=run.cost(f.position),
                start=f.fact("start"),
                stop=f.fact("stop"),
                usage=Usage(*f.fact("used")),
            )
            for run in asked
            for f in run.functions.values()
            if f.fact("used") is not None
        )


def _text(run: RunState) -> str | None:
    try:
        return id_texts([run.dag_id])[run.dag_id]
    except Exception:  # whatever the user's __repr__ and __hash__ raise
        return None
