"""The command line: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks import tables
from benchmarks.cluster import ROOT
from benchmarks.scenarios import FOLDER, HANDFUL, Scenario, load
from benchmarks.systems import SYSTEMS
from benchmarks.turns import OUT, sessions

GENERATED = OUT / "generated"

EPILOG = """
what
  all          makespans, overheads and engine, one after the other (without any word: this)
  makespans    whole workflows on stock Dask and handoff, in turn, over the lower bound
  overheads    functions that do nothing: per second, and seconds to submit
  data         functions that pass large results, on hosts with limited links: seconds and bytes
  throughput   functions that do nothing, ten runs in a row on one cluster: the slowest counts
  memory       large blocks and a scarce resource: the most that is in the workers' memory at once
  streams      a pipeline beside execute for each item, Dask's actors, streamz and submit
  isolated     calls in processes of their own, beside a pool of loky's
  maps         task.expand beside Client.map in a function that waits for it
  workers      many workers in one process: how long places stay empty between two functions
  engine       the engine alone
  simulate     the engine on a virtual clock: all scenarios in seconds, no cluster
  generate     make further scenarios that nobody has tuned for
  adversary    search for small scenarios on which our order is bad
  pictures     timelines of stock Dask and handoff, from real runs, into docs/images/
  table        print the latest results again; --write-docs puts them into docs/measurements.md

systems
""" + "\n".join(f"  {name:12} {text}" for name, text in SYSTEMS.items())


def parser() -> argparse.ArgumentParser:
    """What may be said."""
    p = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    words = (
        "all",
        "makespans",
        "overheads",
        "data",
        "throughput",
        "memory",
        "streams",
        "isolated",
        "maps",
        "workers",
        "engine",
        "simulate",
        "generate",
        "adversary",
        "pictures",
        "table",
    )
    p.add_argument("what", nargs="?", default="all", choices=words)
    p.add_argument("--only", nargs="+", default=[], metavar="NAME", help="scenarios, by name or pattern")
    p.add_argument("--all", action="store_true", help="all scenarios, not the usual handful")
    p.add_argument("--folder", type=Path, help="where scenarios are (for generate: go) instead")
    p.add_argument(
        "--systems", nargs="+", default=["dask", "handoff"], choices=list(SYSTEMS), metavar="SYSTEM"
    )
    p.add_argument("--strategy", default="first_available", help="handoff's allocation_strategy")
    p.add_argument("--repeats", type=int, default=2)
    p.add_argument("--quick", action="store_true", help="one repeat, two scenarios, fewer functions")
    p.add_argument("--rate", default="1gbit", help="of each host's link, in data")
    p.add_argument("--slow-host", metavar="RATE", help="another rate for the last host, in data")
    p.add_argument("--loopback", action="store_true", help="no network namespaces in data")
    p.add_argument("--runs", type=int, default=10, help="in a row on one cluster, in throughput")
    p.add_argument("--late", type=float, default=0.0, metavar="SECONDS",
                   help="the scheduler's messages arrive so much later, in workers")  # fmt: skip
    p.add_argument("--tries", type=int, default=200, help="orders that planning may try in simulate")
    p.add_argument("--seed", type=int, default=1, help="of generate and adversary")
    p.add_argument("--count", type=int, default=12, help="scenarios to generate, or steps of the adversary")
    p.add_argument("--from", dest="sources", nargs="+", type=Path, default=[], help="results for the table")
    p.add_argument("--write-docs", action="store_true")
    return p


def chosen(options: argparse.Namespace) -> list[Scenario]:
    """The scenarios that were asked for."""
    every = options.all or options.folder or options.what == "simulate"
    usual = () if every else HANDFUL[:2] if options.quick else HANDFUL
    return list(load(options.only or usual, folder=options.folder or FOLDER))


def makespans(options: argparse.Namespace) -> None:
    from benchmarks.makespans import compare

    repeats = 1 if options.quick else options.repeats
    session = compare(chosen(options), options.systems, repeats, options.strategy)
    print("\n" + tables.makespans([session.data]), flush=True)


def overheads(options: argparse.Namespace) -> None:
    from benchmarks.overheads import compare

    repeats = 1 if options.quick else options.repeats
    counts = (2_000, 10_000) if options.quick else (10_000, 100_000)
    session = compare(counts, 3_000 if options.quick else 10_000, repeats)
    print("\n" + tables.overheads([session.data]), flush=True)


def data(options: argparse.Namespace) -> None:
    from benchmarks.data import compare
    from benchmarks.data_workflows import chosen as dags

    session = compare(
        dags(options.only)[: 2 if options.quick else None],
        options.systems,
        1 if options.quick else options.repeats,
        strategy=options.strategy,
        rate=options.rate,
        slow=options.slow_host,
        loopback=options.loopback,
    )
    print("\n" + tables.data([session.data]), flush=True)


def throughput(options: argparse.Namespace) -> None:
    from benchmarks.throughput import COUNTS, compare

    counts = COUNTS[:1] if options.quick else COUNTS
    repeats = 1 if options.quick else options.repeats
    session = compare(counts, 3 if options.quick else options.runs, options.only, repeats)
    print("\n" + tables.throughput([session.data]), flush=True)


def isolated(options: argparse.Namespace) -> None:
    from benchmarks.isolated import main

    main(quick=options.quick, repeats=options.repeats)


def memory(options: argparse.Namespace) -> None:
    from benchmarks.memory import compare

    compare(20 if options.quick else 100, options.only, 1 if options.quick else options.repeats)


def streams(options: argparse.Namespace) -> None:
    from benchmarks.streams import compare

    print("\n" + compare(options.quick), flush=True)


def maps(options: argparse.Namespace) -> None:
    from benchmarks.maps import compare

    print("\n" + compare(options.quick), flush=True)


def workers(options: argparse.Namespace) -> None:
    from benchmarks.workers import compare

    session = compare(5 if options.quick else 20, 1 if options.quick else options.repeats, options.late)
    print("\n" + tables.workers([session.data]), flush=True)


def engine(options: argparse.Namespace) -> None:
    from benchmarks.engine import main as alone

    alone()


def simulate(options: argparse.Namespace) -> None:
    from benchmarks.simulated import table

    print(table(chosen(options), options.tries))


def generate(options: argparse.Namespace) -> None:
    from benchmarks.generate import scenarios
    from benchmarks.scenarios import write

    for scenario in scenarios(options.count, random.Random(options.seed)):
        path = write(scenario, options.folder or GENERATED)
        print(f"{path.name:40} {len(scenario.tasks):5} functions  {scenario.notes}", flush=True)


def adversary(options: argparse.Namespace) -> None:
    from benchmarks.adversary import search

    search(options.seed, options.count, options.folder or OUT / "adversary")


def pictures(options: argparse.Namespace) -> None:
    from benchmarks.pictures import draw

    draw(options.only, 1 if options.quick else max(3, options.repeats), ROOT / "docs" / "images")


def table(options: argparse.Namespace) -> None:
    found = sessions("makespans", options.sources)
    if not found:
        raise SystemExit("there are no results yet; run python -m benchmarks first")
    # A better schedule may have been found since.
    known = {scenario.name: scenario.best_s for scenario in load()}
    for row in (row for session in found for row in session["rows"]):
        row["best_s"] = min(row["best_s"], known.get(row["scenario"], row["best_s"]))
    text = tables.makespans(found)
    print(text)
    writers = (
        ("overheads", tables.overheads),
        ("data", tables.data),
        ("throughput", tables.throughput),
        ("workers", tables.workers),
    )
    parts = [text]
    for what, writer in writers:
        more = sessions(what, options.sources)
        if more:
            parts.append(writer(more))
            print(parts[-1])
    if options.write_docs:
        tables.put_into(ROOT / "docs" / "measurements.md", "\n".join(parts))


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is asked."""
    options = parser().parse_args(arguments)
    if options.what == "all":
        for each in (makespans, overheads, engine):
            each(options)
    else:
        globals()[options.what](options)


if __name__ == "__main__":
    main()
