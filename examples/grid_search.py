"""A grid search: one function for each candidate, each with two cores, and the best one at the end.

The data are the handwritten digits that scikit-learn ships.  Run it with ``python examples/grid_search.py``.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

import handoff_dask as handoff


@handoff.task
def digits() -> tuple[Any, Any]:
    """Images of digits as rows of numbers, and which digits they are."""
    return load_digits(return_X_y=True)


@handoff.task(cost={"cpu": 2})
def score(candidate: dict[str, Any], data: tuple[Any, Any]) -> float:
    """The accuracy of one candidate; scikit-learn may use the two cores that are claimed."""
    model = RandomForestClassifier(**candidate, n_jobs=2, random_state=0)
    return float(cross_val_score(model, *data, cv=3).mean())


@handoff.task
def best(candidates: list[dict[str, Any]], scores: list[float]) -> tuple[dict[str, Any], float]:
    """The candidate with the highest score."""
    return max(zip(candidates, scores, strict=True), key=lambda pair: pair[1])


def build() -> tuple[handoff.DAG, Any]:
    """The DAG, and the reference of its result."""
    candidates = [{"n_estimators": n, "max_depth": depth} for n, depth in product([10, 40], [4, None])]
    with handoff.DAG("grid search") as dag:
        scores = score.map(candidates, data=digits())
        winner = best(candidates, scores)
    return dag, winner


def main() -> None:
    """Search, and print what won."""
    dag, winner = build()
    with handoff.Handoff(nodes={"here": {"cpu": 2}}) as session:
        result = session.execute(dag, outputs=[winner])
    candidate, accuracy = result[winner]
    print(f"{candidate} is right in {accuracy:.0%} of the cases")


if __name__ == "__main__":
    main()
