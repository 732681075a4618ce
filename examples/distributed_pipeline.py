"""Load, process on a gpu, format: each function runs on a node that has what it costs.

``python examples/distributed_pipeline.py`` starts an embedded cluster of two nodes, one of which says that
it has a gpu. To run on a cluster of your own::

    dask scheduler --port 8786
    dask worker tcp://localhost:8786 --name plain --resources "cpu=4 memory=8192"
    dask worker tcp://localhost:8786 --name accelerated --resources "cpu=4 memory=8192 gpu=1"
    python examples/distributed_pipeline.py --scheduler tcp://localhost:8786
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from distributed import Client

import handoff_dask as handoff

#: What the embedded cluster is made of; memory is in megabytes.
NODES = {
    "plain": {"cpu": 4, "memory": 8192},
    "accelerated": {"cpu": 4, "memory": 8192, "gpu": 1},
}


def load_data(path: str) -> str:
    """Stand in for reading a file."""
    return f"Loaded: {path}"


def process_on_gpu(data: str) -> str:
    """Stand in for work on a device."""
    return f"Processed [{data}] on GPU"


def format_output(value: str) -> str:
    """Turn the result into a sentence."""
    return f"The final answer is: {value}"


def build() -> handoff.DAG:
    """Three functions in a row; the middle one needs a gpu."""
    load = handoff.Function(
        id="load_data",
        args=[],
        code=load_data,
        extra_args=("/path/to/shared/data.txt",),
        cost={"cpu": 1, "memory": 1000},
    )
    process = handoff.Function(
        id="gpu_process",
        args=["load_data"],
        code=process_on_gpu,
        cost={"cpu": 2, "memory": 2048, "gpu": 1},
    )
    format_result = handoff.Function(
        id="format_result",
        args=["gpu_process"],
        code=format_output,
        cost={"cpu": 1, "memory": 500},
    )
    dag = handoff.new("distributed-pipeline")
    return dag.add_function(load).add_function(process).add_function(format_result)


def run(session: handoff.Handoff) -> None:
    """Execute the DAG; say what came out, and which node ran what."""
    for node, capabilities in session.discover_nodes().items():
        print(f"node {node}: {capabilities}")
    result = session.execute(build())
    print(result.results["format_result"])
    for function_id, node in result.allocations.items():
        print(f"  {function_id} ran on {node}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run on the cluster that was named, or on an embedded one."""
    parser = argparse.ArgumentParser(description="Run three functions, one of which needs a gpu.")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="tcp://host:port of a running Dask scheduler")
    options = parser.parse_args(argv)
    try:
        if options.scheduler:
            with Client(options.scheduler) as client, handoff.Handoff(client) as session:
                run(session)
        else:
            with handoff.Handoff(nodes=NODES) as session:
                run(session)
    except handoff.AllocationError as error:
        # What a cluster without a gpu answers, before anything has run.
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
