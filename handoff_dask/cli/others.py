"""``dask handoff ps``, ``attach``, ``cancel`` and ``costs``: executions, whoever has submitted them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import click

from handoff_dask.cli.cluster import ask, running_cluster
from handoff_dask.cli.running import Run
from handoff_dask.cli.tables import table
from handoff_dask.cli.top import terminal_width
from handoff_dask.client.execution import Execution
from handoff_dask.client.session import Handoff
from handoff_dask.errors import NotFoundError
from handoff_dask.visualization.dot import seconds_text
from handoff_dask.visualization.texts import id_texts, visible

SCHEDULER = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="The cluster: tcp://host:port, or a scheduler file. Default: Dask's scheduler-address.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("ps")
@SCHEDULER
@JSON
def ps(scheduler: str | None, as_json: bool) -> None:
    """List what a cluster runs and remembers, whoever has submitted it."""
    with running_cluster(scheduler) as session:
        found = session.executions()
    told: list[dict[str, Any]] = [
        {
            "dag_id": id_texts([one.dag_id])[one.dag_id],
            "token": one.token,
            "status": one.status,
            "counts": dict(one.counts),
            "submitted": one.submitted,
            "ended": one.ended,
            "client": one.client,
            "detached": one.is_detached,
        }
        for one in found
    ]
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    rows = [
        [
            visible(one["dag_id"]),
            one["status"],
            ", ".join(f"{count} {status}" for status, count in one["counts"].items()),
            seconds_text(max(0.0, (one["ended"] or time.time()) - one["submitted"])),
            "yes" if one["detached"] else "",
            one["token"],
        ]
        for one in told
    ]
    header = ["DAG", "STATUS", "FUNCTIONS", ">TOOK", "DETACHED", "TOKEN"]
    click.echo("\n".join(table(header, rows, terminal_width())) if rows else "no DAG has been executed yet")


@click.command("attach")
@click.argument("dag", metavar="ID")
@SCHEDULER
@click.option("-q", "--quiet", is_flag=True, help="Show no results.")
@JSON
def attach(dag: str, scheduler: str | None, quiet: bool, as_json: bool) -> None:
    """Wait for an execution, and print its results.

    ID is that of its DAG (as repr, unless it is a string), or the token of one execution.
    """
    with running_cluster(scheduler) as session:
        execution = _find(session, dag)
        this = Run(session, execution.dag, quiet=quiet, report=None, as_json=as_json)
        error = this.finish(execution, goes_on=True)
    if error is not None:
        raise error


@click.command("cancel")
@click.argument("dag", metavar="ID")
@SCHEDULER
def cancel(dag: str, scheduler: str | None) -> None:
    """Cancel an execution, whoever has submitted it; ID as for attach."""
    with running_cluster(scheduler) as session:
        execution = _find(session, dag)
        was_over = execution.is_over
        execution.cancel()
    click.echo(f"it has {execution.status} already" if was_over else "cancelled", err=True)


@click.command("costs")
@click.argument("dag", metavar="[ID]", required=False)
@SCHEDULER
@JSON
def costs(dag: str | None, scheduler: str | None, as_json: bool) -> None:
    """Suggest costs: what the measured runs of each code would have needed.

    Of all executions that the cluster remembers, or of one: ID as for attach. Nothing is added to what was
    measured: leave some room.
    """
    with running_cluster(scheduler) as session:
        suggested = ask(session, "suggestions", dag=dag)
    if as_json:
        told = {
            name: {
                "cost": dict(one.cost), "asked": dict(one.asked), "runs": one.runs, "exact": one.exact
            }
            for name, one in suggested.items()
        }  # fmt: skip
        click.echo(json.dumps(told, indent=2))
        return
    rows = [
        [visible(name), _amounts(one.asked), _amounts(one.cost), str(one.runs), "" if one.exact else "no"]
        for name, one in suggested.items()
    ]
    header = ["CODE", "ASKED", "NEEDED", ">RUNS", "EXACT"]
    click.echo("\n".join(table(header, rows, terminal_width())) if rows else "nothing was measured")


def _amounts(cost: Mapping[str, Any]) -> str:
    return ", ".join(f"{visible(name)} {amount:g}" for name, amount in cost.items()) or "nothing"


def _find(session: Handoff, dag: str) -> Execution:
    for one in session.executions():
        if dag in (one.token, id_texts([one.dag_id])[one.dag_id]):
            return session.attach(one.token)
    raise NotFoundError("execution", dag, "dask handoff ps lists them")


#: What ``dask handoff`` has of these.
COMMANDS: tuple[Any, ...] = (ps, attach, cancel, costs)
