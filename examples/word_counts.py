"""A map over files that are found while the job runs, and a summary of all of them.

The files are the descriptions of the data sets that scikit-learn ships.  Run it with
``python examples/word_counts.py``.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import sklearn.datasets

import handoff_dask as handoff

FOLDER = Path(sklearn.datasets.__file__).parent / "descr"


@handoff.task
def find(folder: Path) -> list[Path]:
    """The files of a folder."""
    return sorted(folder.glob("*.rst"))


@handoff.task(cost={"cpu": 1}, max_retries=2)
def count(path: Path, longer_than: int = 4) -> Counter[str]:
    """How often each longer word is in a file."""
    words = path.read_text(encoding="utf-8").lower().split()
    return Counter(word for word in words if word.isalpha() and len(word) > longer_than)


@handoff.task
def merge(counts: list[Counter[str]]) -> Counter[str]:
    """All counts as one."""
    return sum(counts, Counter())


def main() -> None:
    """Count, and print the words that are most frequent."""
    with handoff.DAG("word counts") as dag:
        counts = count.expand(find(FOLDER))
        total = merge(counts)
    with handoff.Handoff(nodes={"here": {"cpu": 2}}) as session:
        result = session.execute(dag, outputs="sinks")
    print(", ".join(word for word, _ in result[total].most_common(5)))


if __name__ == "__main__":
    main()
