"""Finding the right costs: none at all, then measured ones, then costs that follow the size of the data.

The handwritten digits that scikit-learn ships are reduced to a few numbers each, and these are classified.
The matrix by which they are reduced grows with the square of the number of images.  ``docs/costs.md`` tells
the story.  Run it with ``python examples/finding_costs.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import KernelPCA
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import handoff_dask as handoff

Data = tuple[np.ndarray, np.ndarray]
#: What is measured is multiplied by this, and this many megabytes are added.
ROOM, MORE_MB = 1.5, 50


@handoff.task(isolated=True)
def digits(copies: int) -> Data:
    """Images of digits as rows of numbers, and which digits they are; each so many times."""
    data = load_digits()
    return np.tile(data.data, (copies, 1)), np.tile(data.target, copies)


@handoff.task(isolated=True)
def reduced(data: Data) -> Data:
    """Sixteen numbers for each image: this takes the memory."""
    images, labels = data
    model = KernelPCA(16, kernel="rbf", eigen_solver="randomized", random_state=0)
    return model.fit_transform(images), labels


@handoff.task(isolated=True)
def accuracy(data: Data) -> float:
    """Which part is classified right."""
    return float(cross_val_score(KNeighborsClassifier(), *data, cv=3).mean())


def run(session: handoff.Handoff, copies: int, cost: Any) -> handoff.ExecutionResult:
    """Do it all, with a cost of the function that takes the memory."""
    with handoff.DAG(f"digits, {copies} times") as dag:
        accuracy(reduced.options(cost=cost)(digits(copies)))
    return session.execute(dag)


def main() -> None:
    """Measure, claim what was measured, and let the claim follow the data."""
    with handoff.Handoff(nodes={"here": {"cpu": 2, "memory": 4000}}) as session:
        first = run(session, 1, None)
        suggested = handoff.suggest_costs(first)
        print(suggested)
        needed_mb = suggested["reduced"].cost["memory"]
        size_then = next(f.nbytes for f in first.record.functions if f.name == "digits")
        assert size_then is not None

        def by_size(attempt: int, inputs: Mapping[Any, int]) -> dict[str, float]:
            times = sum(inputs.values()) / size_then
            return {"cpu": 1, "memory": attempt * (ROOM * needed_mb * times**2 + MORE_MB)}

        second = run(session, 2, by_size)
        record = next(f for f in second.record.functions if f.name == "reduced")
        assert record.usage is not None
        claimed = record.cost["memory"]
        print(f"twice the data: claimed {claimed:.0f} MB, used {record.usage.peak_memory_mb:.0f} MB")


if __name__ == "__main__":
    main()
