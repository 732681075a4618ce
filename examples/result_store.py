"""Results that outlive the cluster: a store of one's own, on a disk or in a bucket.

``python examples/result_store.py`` executes a DAG and keeps its results in ``examples/out/results``.  Run it
a second time, and it finds them there and starts no cluster.  Another place is given as an argument:
anything that fsspec understands, such as ``s3://bucket/results``.
"""

from __future__ import annotations

import ast
import pickle
import sys
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from fsspec.core import url_to_fs

import handoff_dask as handoff

DAG_ID = "survey"


class FileStore:
    """A ``ResultStore`` with one file for each value, in one folder for each DAG.

    File names are the ids as Python writes them, so ids are strings, numbers, or tuples of these.

    Parameters
    ----------
    url
        A folder, as fsspec writes it.
    """

    def __init__(self, url: str) -> None:
        self.files, self.root = url_to_fs(url)

    def folder(self, dag_id: Hashable) -> str:
        """Where the values of a DAG are."""
        return f"{self.root}/{quote(repr(dag_id), safe='')}"

    def path(self, dag_id: Hashable, id: Hashable) -> str:  # noqa: A002
        """Where one value is."""
        return f"{self.folder(dag_id)}/{quote(repr(id), safe='')}.pickle"

    def store(self, dag_id: Hashable, id: Hashable, value: Any) -> None:  # noqa: A002
        """Write a value; nobody ever sees half of it."""
        path = self.path(dag_id, id)
        self.files.makedirs(self.folder(dag_id), exist_ok=True)
        self.files.pipe_file(f"{path}.part", pickle.dumps(value))
        self.files.mv(f"{path}.part", path)

    def get(self, dag_id: Hashable, id: Hashable) -> Any:  # noqa: A002
        """Read a value.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        try:
            return pickle.loads(self.files.cat_file(self.path(dag_id, id)))
        except FileNotFoundError:
            raise handoff.NotFoundError("value", id, f"nothing of DAG {dag_id!r} is in {self.root}") from None

    def has(self, dag_id: Hashable, id: Hashable) -> bool:  # noqa: A002
        """Whether there is such a file."""
        return bool(self.files.exists(self.path(dag_id, id)))

    def clear(self, dag_id: Hashable) -> None:
        """Remove the folder of a DAG."""
        if self.files.exists(self.folder(dag_id)):
            self.files.rm(self.folder(dag_id), recursive=True)

    def locations(self, dag_id: Hashable) -> Mapping[Hashable, str]:
        """``{id: path}`` of the values of a DAG."""
        if not self.files.exists(self.folder(dag_id)):
            return {}
        names = [Path(path) for path in self.files.ls(self.folder(dag_id), detail=False)]
        return {ast.literal_eval(unquote(name.stem)): str(name) for name in names if name.suffix == ".pickle"}


def count_words(text: str) -> int:
    """How many words there are."""
    return len(text.split())


def build() -> handoff.DAG:
    """Count the words of three texts, and add them up."""
    texts = {"short": "one word", "longer": "a few words more", "none": ""}
    dag = handoff.new(DAG_ID)
    for name, text in texts.items():
        dag.add_function(
            handoff.Function(("words", name), [], count_words, extra_args=[text], cost={"cpu": 1})
        )
    args = [("words", name) for name in texts]
    return dag.add_function(handoff.Function("total", args, sum, argument_inclusion="as_list"))


def total(url: str) -> int:
    """The number of words, computed unless it is in the store."""
    store = FileStore(url)
    if store.has(DAG_ID, "total"):
        print(f"found in {store.root}")
    else:
        with handoff.Handoff(nodes={"here": {"cpu": 2}}, result_store=store) as session:
            session.execute(build())
        print(f"computed, and kept in {store.root}")
    return int(store.get(DAG_ID, "total"))


def main() -> None:
    """Print the total, and where the parts are."""
    url = sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).parent / "out" / "results")
    print(f"{total(url)} words")


if __name__ == "__main__":
    main()
