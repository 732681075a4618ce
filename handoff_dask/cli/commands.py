"""The commands, as Dask's command line finds them under ``dask handoff``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import click

from handoff_dask.cli import top as view
from handoff_dask.cli.cluster import address_of, ask, overview_of, running_cluster, session_on
from handoff_dask.cli.errors import UNPLACEABLE, WRONG, Commands, Stop
from handoff_dask.cli.loading import load_dag
from handoff_dask.cli.others import COMMANDS as OTHERS
from handoff_dask.cli.parsing import ids_from, inputs_from, known_ids, parse_amount, parse_nodes
from handoff_dask.cli.reuse import COMMANDS, STORAGE_OPTIONS, cache_at
from handoff_dask.cli.running import Run, refuse_unwritable
from handoff_dask.cli.tables import amounts, labels, number, shared_text, table
from handoff_dask.client.embedded import this_machine
from handoff_dask.errors import ValidationError
from handoff_dask.graph.check import CheckReport, check_wrong
from handoff_dask.graph.dag import DAG
from handoff_dask.placement.strategies import BUILT_IN
from handoff_dask.record.logs import LogLine, Logs
from handoff_dask.simulation.audit import audit
from handoff_dask.visualization import dag_graph
from handoff_dask.visualization.page_data import cost_text
from handoff_dask.visualization.texts import id_texts, plain, visible

TARGET = click.argument("target", metavar="FILE[:NAME]")
SCHEDULER = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="The cluster: tcp://host:port, or a scheduler file. Default: Dask's scheduler-address.",
)
NODES = click.option(
    "--nodes",
    metavar="NODES",
    callback=lambda ctx, param, value: None if value is None else parse_nodes(value),
    help='Nodes: "big:cpu=4,memory=8GB,has_cuda;small:cpu=1", or JSON.',
)
OUTPUTS = click.option(
    "--output",
    "outputs",
    metavar="ID",
    multiple=True,
    help="A function whose result is wanted; may be repeated. Default: those that nothing else needs.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 well; 1 the DAG failed, or its report was not written; 2 wrong usage or DAG; "
    "3 a function fits nowhere; 4 the cluster does not answer; 130 ended from the keyboard.",
)
@click.option("--traceback", is_flag=True, help="Show errors with their Python traceback.")
def handoff(traceback: bool) -> None:
    """Run DAGs of functions with costs, and look at the cluster that runs them.

    FILE is a Python file or an importable module; NAME in it is a DAG, a list of functions, or a
    function that returns one. Without NAME: "dag", or the only DAG there is.

    Commands that take --scheduler start handoff on that cluster, as handoff_dask.start() does.
    """


for _command in (*COMMANDS, *OTHERS):
    handoff.add_command(_command)


@handoff.command()
@TARGET
@SCHEDULER
@NODES
@click.option("--strategy", type=click.Choice(list(BUILT_IN)), help="Which node a function gets.")
@click.option(
    "--input", "inputs", metavar="ID=VALUE", multiple=True, help="An input's value, as JSON or text."
)
@OUTPUTS
@click.option(
    "--max-retries", type=click.IntRange(min=0), help="How often a function that raises is tried again."
)
@click.option("--max-concurrency", type=click.IntRange(min=1), help="The most functions that run at once.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Cancel the DAG after that.")
@click.option(
    "--cache",
    metavar="URL",
    help="Where results are kept and found: a directory, or an fsspec URL.",
)
@STORAGE_OPTIONS
@click.option(
    "--resume",
    metavar="ID",
    help="Reuse what the cluster still has of this DAG's latest execution.",
)
@click.option("--detach", is_flag=True, help="Return at once; the DAG goes on without this command.")
@click.option(
    "--keep-going",
    is_flag=True,
    help="When a function has failed, run all that does not need it; exit with 1 all the same.",
)
@click.option(
    "--report",
    metavar="PATH",
    type=click.Path(dir_okay=False),
    help="Write a report as HTML, also of a failure.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress and no results.")
@JSON
def run(
    target: str,
    scheduler: str | None,
    nodes: dict[str, Any] | None,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    keep_going: bool,
    report: str | None,
    quiet: bool,
    as_json: bool,
    cache: str | None,
    storage_options: tuple[str, ...],
    **options: Any,
) -> None:
    """Execute a DAG; print its results.

    On the cluster of --scheduler, or on an embedded one: of --nodes, or of one node that is this
    machine.
    """
    if report is not None:
        if options["detach"]:
            raise ValidationError("--report and --detach are both given; there is nothing to report yet")
        refuse_unwritable(report)
    dag = load_dag(target)
    wanted = ids_from(outputs, dag) if outputs else dag.sinks() or None
    values = inputs_from(inputs, dag)
    if cache is None and storage_options:
        raise ValidationError("--storage-option is given without --cache")
    options["cache"] = None if cache is None else cache_at(cache, storage_options)
    options["allocation_strategy"] = options.pop("strategy")
    options["on_failure"] = "continue" if keep_going else "stop"
    with session_on(scheduler, nodes) as session:
        this = Run(session, dag, quiet=quiet, report=report, as_json=as_json)
        error = this.execute(inputs=values, outputs=wanted, **options)
    if error is not None:
        raise error


@handoff.command()
@TARGET
@SCHEDULER
@NODES
@OUTPUTS
@JSON
def check(
    target: str, scheduler: str | None, nodes: dict[str, Any] | None, outputs: tuple[str, ...], as_json: bool
) -> None:
    """Check a DAG against nodes; execute nothing.

    Lists all that is wrong with it, says what fits nowhere, is misspelt or unused, and how fast it could
    run at best: on the nodes of --scheduler, of --nodes, or on this machine.
    """
    problems: list[ValidationError] = []
    dag = load_dag(target, problems)
    wanted, unknown = known_ids(outputs, dag)
    problems += [*dag.problems(), *unknown]
    if nodes is not None and scheduler is not None:
        raise ValidationError("--scheduler and --nodes are both given; give one of them")

    def checked(against: Any) -> CheckReport:
        if problems:
            return check_wrong(dag, against, problems)
        return dag.check(against, outputs=wanted if outputs else None)

    if nodes is None and address_of(scheduler) is not None:
        with session_on(scheduler) as session:
            report = checked(session)
    else:
        report = checked(nodes or {"local": this_machine()})
    click.echo(
        _as_json(_checked(report, dag)) if as_json else "\n".join(map(visible, str(report).splitlines()))
    )
    if report.problems:
        count = len(report.problems)
        raise Stop(
            report.problems[0] if count == 1 else f"{count} problems; the DAG cannot be executed", WRONG
        )
    if not report.ok:
        count = len(report.unplaceable)
        raise Stop(f"{count} {'function fits' if count == 1 else 'functions fit'} on no node", UNPLACEABLE)


def _checked(report: CheckReport, dag: DAG) -> dict[str, Any]:
    texts = id_texts([dag.id, *dag.functions])
    data = asdict(report)
    data.update(dag_id=texts[report.dag_id], ok=report.ok, lower_bound_s=report.lower_bound_s)
    for name in ("unused", "without_duration"):
        data[name] = [texts[i] for i in data[name]]
    for one in data["unplaceable"]:
        one.update(function_id=texts[one["function_id"]], together=[texts[i] for i in one["together"]])
    for bound in data["bounds"]:
        bound["path"] = [texts[i] for i in bound["path"]]
    return data


@handoff.command()
@SCHEDULER
@JSON
def nodes(scheduler: str | None, as_json: bool) -> None:
    """List the nodes of a cluster.

    What each has, and what of it is in use.
    """
    with running_cluster(scheduler) as session:
        overview = overview_of(session)
    found, shared = overview["nodes"], overview["shared"]
    outsiders = overview["outsiders"]
    if as_json:
        found += [
            {"name": name, "address": address, "status": "no node", "problem": problem}
            for name, address, problem in outsiders
        ]
        click.echo(_as_json(found))
        return
    rows = [
        [
            node["name"],
            node["status"],
            ", ".join(f"{name} {number(used)}/{number(total)}" for name, used, total in amounts(node)),
            f"{node['threads_used']}/{node['threads']}",
            cost_text(labels(node)),
            node["address"] or "",
        ]
        for node in found
    ]
    header = ["NODE", "STATUS", "IN USE", ">THREADS", "LABELS", "ADDRESS"]
    click.echo("\n".join(table(header, rows, view.terminal_width())))
    for note in [note for node in found for note in node["notes"]]:
        click.echo(f"note: {visible(note)}")
    for name, address, problem in outsiders:
        click.echo(f"{name} ({address}) is no node: {problem}")
    if shared:
        click.echo(f"\nshared by all nodes: {shared_text(shared)}")


@handoff.command()
@click.argument("said", nargs=-1, metavar="[NAME=AMOUNT]...")
@SCHEDULER
@JSON
def shared(said: tuple[str, ...], scheduler: str | None, as_json: bool) -> None:
    """List what the whole cluster shares, or say how much there is.

    As in: dask handoff shared licences=8.
    """
    parsed = [parse_amount(text) for text in said]
    with running_cluster(scheduler) as session:
        for name, amount in parsed:
            session.register_shared(name, amount)
        found = overview_of(session)["shared"]
    if as_json:
        click.echo(_as_json(found))
        return
    rows = [[one["name"], number(one["used"]), number(one["amount"])] for one in found]
    click.echo("\n".join(table(["NAME", ">IN USE", ">OF"], rows, view.terminal_width())))


@handoff.command()
@click.argument("function", required=False)
@SCHEDULER
@click.option("--dag", metavar="ID", help="Only in this DAG; its id, or the token of one execution.")
@JSON
def explain(function: str | None, scheduler: str | None, dag: str | None, as_json: bool) -> None:
    """Say why a FUNCTION waits, node by node.

    FUNCTION is its id (as repr, unless it is a string) or its Dask key. Without it: all that waits.
    """
    with running_cluster(scheduler) as session:
        if function is None:
            found = overview_of(session)["waiting"]
            if dag is not None:
                found = [kind for kind in found if dag in (kind["dag_id"], kind["token"])]
        else:
            found = ask(session, "explain", function=function, dag=dag)
    if as_json:
        click.echo(_as_json(found))
    elif not found:
        click.echo("nothing waits for a node")
    for one in [] if as_json else found:
        for line in _explained(one):
            click.echo(line)


@handoff.command()
@click.argument("dag")
@click.argument("function", required=False)
@SCHEDULER
@JSON
def logs(dag: str, function: str | None, scheduler: str | None, as_json: bool) -> None:
    """Show what the functions of a DAG printed and logged.

    DAG is its id, or the token of one execution; of several, the latest counts. With FUNCTION, its
    lines alone.
    """
    with running_cluster(scheduler) as session:
        found = ask(session, "logs", dag=dag, function=function)
    if as_json:
        click.echo(_as_json(found))
        return
    text = str(Logs([LogLine(**line) for line in found]))
    for line in text.splitlines():
        click.echo(visible(line))


def _explained(one: dict[str, Any]) -> list[str]:
    if "words" in one:
        head, *rest = map(visible, one["words"].splitlines())
        return [f"{visible(one['name'])}: {head}", *rest]
    names = ", ".join(map(visible, one["functions"])) + (
        ", …" if one["count"] > len(one["functions"]) else ""
    )
    why = one["cause"] or "about to be placed"
    head = f"{visible(one['name'])}: {one['count']} waiting ({why}): {names}"
    return [head, *(f"  {visible(node)}: {visible(why or 'has room')}" for node, why in one["nodes"].items())]


@handoff.command()
@TARGET
@click.option(
    "-o",
    "--out",
    metavar="PATH",
    type=click.Path(dir_okay=False),
    help="Draw into this file; needs graphviz.",
)
@click.option(
    "--format", "form", type=click.Choice(["dot", "svg"]), default="dot", help="What to print otherwise."
)
@click.option("--collapse/--no-collapse", default=None, help="Groups of functions instead of single ones.")
@JSON
def graph(target: str, out: str | None, form: str, collapse: bool | None, as_json: bool) -> None:
    """Draw the graph of a DAG.

    Prints it as DOT or SVG, or writes it as .svg, .png, .pdf or .dot.
    """
    if out is not None:
        refuse_unwritable(out)
    picture = dag_graph(load_dag(target), collapse=collapse)
    if as_json:
        click.echo(_as_json(picture.to_dict()))
    elif out is not None and out.endswith((".dot", ".gv")):
        with open(out, "w", encoding="utf-8") as file:
            file.write(picture.to_dot())
    elif out is not None:
        click.echo(picture.render(out), err=True)
    else:
        click.echo(picture.to_dot() if form == "dot" else picture.to_svg(), nl=False)


@handoff.command()
@SCHEDULER
@click.option(
    "--interval", type=click.FloatRange(min=0.2), default=1.0, metavar="SECONDS", help="Between two looks."
)
@click.option("--once", is_flag=True, help="Look once; so it does where the output is no terminal.")
@JSON
def top(scheduler: str | None, interval: float, once: bool, as_json: bool) -> None:
    """Show a cluster while it works.

    Nodes and what is claimed of them, what waits and why, the DAGs.
    """
    with running_cluster(scheduler) as session:
        session.discover_nodes()
        if as_json:
            click.echo(_as_json(overview_of(session)))
        elif once or not sys.stdout.isatty():
            view.print_once(overview_of(session))
        else:
            view.watch(lambda: ask(session, "overview"), session.scheduler_address, interval)


@handoff.command("audit")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False))
@JSON
def audit_command(file: str, as_json: bool) -> None:
    """Audit an event log (handoff.event-log).

    A new engine is told what the scheduler's was told, and must decide the same. Besides, the room of nodes,
    pins, labels, the order of arguments and the number of attempts are checked. Exit code 1 if something is
    found.
    """
    report = audit(file)
    click.echo(_as_json(asdict(report)) if as_json else str(report))
    if report.findings:
        raise SystemExit(1)


def _as_json(value: Any) -> str:
    return json.dumps(plain(value), indent=2, allow_nan=False)
