"""Handoff on SLURM by dask-jobqueue: two kinds of jobs, one cluster.

Needs ``pip install dask-jobqueue``, and handoff-dask in the environment that the jobs use.  Change queue,
cores, memory and walltime to those of your site.
"""

from __future__ import annotations

import dask
from dask_jobqueue import SLURMCluster
from distributed import Client

import handoff_dask as handoff


def main() -> None:
    """Start a cluster that grows to ten jobs, and run a function on a node with a GPU."""
    # A function may wait so long for a job to begin; without this it is refused while there is no node.
    dask.config.set({"handoff.allocation-timeout": "1 hour"})
    cluster = SLURMCluster(
        queue="gpu",
        cores=8,
        memory="32GB",
        walltime="02:00:00",
        worker_extra_args=["--resources", "cpu=8 gpu=1", "--lifetime", "110m", "--lifetime-stagger", "5m"],
        job_extra_directives=["--gres=gpu:1"],
    )
    cluster.adapt(minimum_jobs=1, maximum_jobs=10)
    with Client(cluster) as client, handoff.Handoff(client) as session:
        train = handoff.Function("train", [], sum, extra_args=[[1, 2, 3]], cost={"gpu": 1, "memory": "8 GB"})
        print(session.execute([train])["train"])


if __name__ == "__main__":
    main()
