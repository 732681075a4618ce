"""How long whole workflows take, system by system."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import systems
from benchmarks.scenarios import Scenario, read, write
from benchmarks.turns import OUT, Session, in_process


def course(system: str, path: str, strategy: str, limit_s: float) -> dict[str, Any]:
    """One scenario on one system; to be called in a process of its own."""
    return systems.run(system, read(Path(path)), strategy=strategy, limit_s=limit_s).to_dict()


def one_course(system: str, path: Path, bound_s: float, strategy: str = "first_available") -> dict[str, Any]:
    """One scenario on one system, in a process of its own; given up after six times its bound."""
    limit_s = 6 * bound_s
    return in_process(
        "benchmarks.makespans:course",
        3 * limit_s + 120,
        system=system,
        path=str(path),
        strategy=strategy,
        limit_s=limit_s,
    )


def compare(
    scenarios: Iterable[Scenario], names: Sequence[str], repeats: int, strategy: str = "first_available"
) -> Session:
    """Run scenarios on systems, taking turns; print each result as it comes."""
    session = Session("makespans")
    folder = OUT / "spans" / session.path.stem
    for scenario in scenarios:
        path = write(scenario, OUT / "running")
        for repeat in range(repeats):
            for system in names:
                row = one_course(system, path, scenario.bound_s, strategy)
                spans = row.pop("spans", {})
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{scenario.name}-{system}-{repeat}.json").write_text(json.dumps(spans))
                row = {"bound_s": scenario.bound_s, "best_s": scenario.best_s, **row}
                row |= {"system": system, "scenario": scenario.name, "functions": len(scenario.tasks)}
                row |= {"repeat": repeat, "strategy": strategy}
                print(_line(session.add(row)), flush=True)
    return session


def _line(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return f"{row['scenario']:28} {row['system']:14} {row['status']}"
    return (
        f"{row['scenario']:28} {row['system']:14} {row['makespan_s']:7.2f} s"
        f" = {row['makespan_s'] / row['bound_s']:.3f} x bound,"
        f" avoidable idleness {row['avoidable']:.1%}, load {row['load']}"
    )
