"""Three functions in a row: the first example of Handoff.

Run it with ``python examples/simple_pipeline.py``.
"""

from __future__ import annotations

import operator

import handoff_dask as handoff


def identity(value: int) -> int:
    """Give back what came in."""
    return value


def format_output(value: int) -> str:
    """Turn a number into a sentence."""
    return f"The final answer is: {value}"


def build() -> handoff.DAG:
    """Source, then times two, then a sentence."""
    return (
        handoff.new("simple-pipeline")
        .add_function(handoff.Function(id="source", args=[], code=identity, extra_args=(42,)))
        .add_function(handoff.Function(id="transform", args=["source"], code=operator.mul, extra_args=(2,)))
        .add_function(handoff.Function(id="sink", args=["transform"], code=format_output))
    )


def main() -> None:
    """Check the DAG, run it on an embedded cluster, print what came out."""
    dag = build()
    dag.validate()
    with handoff.Handoff(nodes={"here": {"cpu": 2, "memory": 1024}}) as session:
        result = session.execute(dag)
    print(result.results["sink"])


if __name__ == "__main__":
    main()
