"""Extract, transform, load: what is large in between stays on the nodes.

The data are the measurements of tumours that scikit-learn ships.  Run it with ``python examples/etl.py``.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer

import handoff_dask as handoff


@handoff.task
def extract() -> Any:
    """One row of measurements for each tumour."""
    return load_breast_cancer().data


@handoff.task(cost={"cpu": 1, "memory": "500 MB"})
def transform(rows: Any) -> Any:
    """The products of all pairs of measurements: much more than what came in."""
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    return np.einsum("ri,rj,rk->rijk", scaled, scaled, scaled).reshape(len(rows), -1)


@handoff.task(cost={"cpu": 1})
def load(products: Any, path: Path) -> int:
    """Write the products that vary most; how many bytes that takes."""
    most = np.argsort(products.var(axis=0))[-100:]
    np.save(path, products[:, most])
    return path.stat().st_size


@handoff.task
def check(path: Path) -> tuple[int, ...]:
    """Read what was written: this runs after it, and gets nothing of it."""
    return tuple(np.load(path).shape)


def main() -> None:
    """Run it; only the sizes come back here."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "products.npy"
        with handoff.DAG("etl") as dag:
            written = load(transform(extract()), path)
            shape = check.options(after=[written])(path)
        with handoff.Handoff(nodes={"here": {"cpu": 2, "memory": 2000}}) as session:
            result = session.execute(dag, outputs="sinks")
        print(f"{result[written]:,} bytes, of shape {result[shape]}")


if __name__ == "__main__":
    main()
