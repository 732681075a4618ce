"""Workflows whose functions pass on as many bytes as their traces record, as small files.

A file of ``data_workflows/`` is one JSON object: ``name``, ``source``, ``notes``, ``kinds`` (names of
functions), and ``steps``, in topological order:
``[kind, seconds, [how many places before it each argument stands, …], megabytes, cpu]``.

:func:`derive` makes one from an execution in WfInstances::

    python -m benchmarks.data_workflows montage CHECKOUT pegasus/montage/montage-chameleon-dss-05d-001.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.data_shapes import SHAPES, Step

FOLDER = Path(__file__).parent / "data_workflows"


@dataclass(frozen=True)
class Workflow:
    """A DAG of functions that pass large results, and where it is from."""

    name: str
    steps: tuple[Step, ...]
    source: str = ""
    notes: str = ""

    @property
    def sinks(self) -> list[str]:
        """The functions whose results nobody takes."""
        taken = {arg for step in self.steps for arg in step.args}
        return [step.id for step in self.steps if step.id not in taken]

    @property
    def passed_megabytes(self) -> float:
        """Sum, over all functions, of the sizes of their arguments."""
        sizes = {step.id: step.megabytes for step in self.steps}
        return sum(sizes[arg] for step in self.steps for arg in step.args)


def read(path: Path) -> Workflow:
    """Read a file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    steps: list[Step] = []
    for place, (kind, seconds, back, megabytes, cpu) in enumerate(data["steps"]):
        args = tuple(steps[place - far].id for far in back)
        steps.append(Step(f"{data['kinds'][kind]}-{place:04d}", args, seconds, megabytes, cpu))
    return Workflow(data["name"], tuple(steps), data["source"], data["notes"])


def write(workflow: Workflow, folder: Path) -> Path:
    """Write a file, one function to a line; ids become the kind's name and the place."""
    kinds: dict[str, int] = {}
    place = {step.id: n for n, step in enumerate(workflow.steps)}
    rows = []
    for n, step in enumerate(workflow.steps):
        kind = kinds.setdefault(step.id.rpartition("-")[0], len(kinds))
        back = [n - place[arg] for arg in step.args]
        rows.append(_dumps([kind, step.seconds, back, step.megabytes, step.cpu]))
    head = {"name": workflow.name, "source": workflow.source, "notes": workflow.notes, "kinds": list(kinds)}
    lines = [f"{_dumps(key)}:{_dumps(value)}," for key, value in head.items()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{workflow.name}.json"
    text = "{" + "\n".join(lines) + '\n"steps":[\n' + ",\n".join(rows) + "\n]}\n"
    path.write_text(text, encoding="utf-8")
    return path


def names(folder: Path = FOLDER) -> list[str]:
    """All DAGs with data: the shapes, then the workflows."""
    return [*SHAPES, *sorted(path.stem for path in folder.glob("*.json"))]


def chosen(only: Iterable[str] = (), folder: Path = FOLDER) -> list[str]:
    """Names of the DAGs that have one of these names or patterns; all if none is given."""
    words, there = list(only), names(folder)
    found = [name for name in there if not words or any(fnmatchcase(name, word) for word in words)]
    if not found:
        raise SystemExit(f"no DAG with data is called {words}; there are {', '.join(there)}")
    return found


def load(name: str, folder: Path = FOLDER) -> Workflow:
    """A shape or a workflow, by its name; or one that stands elsewhere, by its path."""
    if name in SHAPES:
        return Workflow(name, tuple(SHAPES[name]()), notes=" ".join((SHAPES[name].__doc__ or "").split()))
    return read(Path(name) if name.endswith(".json") else folder / f"{name}.json")


# ---------------------------------------------------------------------- from traces

#: A derived workflow occupies four hosts of two cores at least so long.
BOUND_S = 8.0
CORES = 8
#: Its functions pass each other so much.
PASSED_MEGABYTES = 2_000.0
#: No function gets shorter than this.
LEAST_S = 0.005
#: A kind of functions that used more than so much of one core on average is given two.
TWO_CORES_PERCENT = 150.0


def derive(name: str, trace: Mapping[str, Any], source: str) -> Workflow:
    """Facts of one execution, in the format of WfCommons (1.5), as a workflow for four hosts of two cores.

    A function's result is as large as what one of its dependents takes of its files, on average, so that the
    bytes which all functions take together keep their proportions.
    """
    tasks = {task["id"]: task for task in trace["workflow"]["specification"]["tasks"]}
    ran = {task["id"]: task for task in trace["workflow"]["execution"]["tasks"]}
    args = {i: tuple(p for p in dict.fromkeys(task["parents"]) if p in tasks) for i, task in tasks.items()}
    order = _topological(args)
    sizes = _passed_on(trace["workflow"]["specification"], args)
    cores = _cores({i: _kind(tasks[i]) for i in order}, ran)
    seconds = _scaled(order, args, {i: float(ran[i]["runtimeInSeconds"]) for i in order}, cores)
    passed = sum(sizes[p] for i in order for p in args[i])
    share = PASSED_MEGABYTES / passed
    ids = {i: f"{_kind(tasks[i])}-{place:04d}" for place, i in enumerate(order)}
    steps = tuple(
        Step(ids[i], tuple(ids[p] for p in args[i]), seconds[i], round(sizes[i] * share, 4), cores[i])
        for i in order
    )
    work = sum(float(ran[i]["runtimeInSeconds"]) for i in order)
    notes = f"{len(order)} functions of {work:,.0f} s that pass {passed / 1e6:,.0f} MB in the trace"
    return Workflow(name, steps, source, notes)


def _kind(task: Mapping[str, Any]) -> str:
    """The name of a task without what tells it from others of its kind."""
    name = str(task["name"])
    # Nextflow's names are paths of the same for every task of a kind; Pegasus appends what tells them apart.
    first = name.rpartition(".")[2] if "." in name else name.partition("_")[0]
    return "".join(c for c in first if c.isalpha() or c in "-_").strip("-_") or "task"


def _topological(args: Mapping[str, Iterable[str]]) -> list[str]:
    placed: dict[str, None] = {}
    for start in args:
        stack = [start]
        while stack:
            last = stack[-1]
            missing = [p for p in args[last] if p not in placed]
            if last in placed or not missing:
                placed[stack.pop()] = None
            else:
                stack += missing
    return list(placed)


def _passed_on(specification: Mapping[str, Any], args: Mapping[str, Iterable[str]]) -> dict[str, float]:
    """``{task: bytes of its files that one dependent takes, on average}``."""
    nbytes = {file["id"]: file["sizeInBytes"] for file in specification["files"]}
    outputs = {task["id"]: set(task.get("outputFiles", ())) for task in specification["tasks"]}
    taken: dict[str, list[int]] = {i: [] for i in outputs}
    for task in specification["tasks"]:
        inputs = set(task.get("inputFiles", ()))
        for parent in args[task["id"]]:
            taken[parent].append(sum(nbytes.get(file, 0) for file in inputs & outputs[parent]))
    return {i: sum(each) / len(each) if each else 0.0 for i, each in taken.items()}


def _cores(kinds: Mapping[str, str], ran: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    used: dict[str, list[float]] = {}
    for i, kind in kinds.items():
        used.setdefault(kind, []).append(float(ran[i].get("avgCPU") or 0.0))
    wide = {kind for kind, each in used.items() if sum(each) / len(each) > TWO_CORES_PERCENT}
    return {i: 2 if kind in wide else 1 for i, kind in kinds.items()}


def _scaled(
    order: list[str],
    args: Mapping[str, Iterable[str]],
    seconds: Mapping[str, float],
    cores: Mapping[str, int],
) -> dict[str, float]:
    """The durations, times one factor, so that the work or the longest path lasts as long as is wished."""
    ends: dict[str, float] = {}
    for i in order:
        ends[i] = seconds[i] + max((ends[p] for p in args[i]), default=0.0)
    bound_s = max(*ends.values(), sum(seconds[i] * cores[i] for i in order) / CORES)
    return {i: max(LEAST_S, round(seconds[i] * BOUND_S / bound_s, 4)) for i in order}


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def main(arguments: list[str]) -> None:
    """Derive one workflow: its name, a checkout of WfInstances, and the path of the trace there."""
    name, checkout, source = arguments
    trace = json.loads((Path(checkout) / source).read_text(encoding="utf-8"))
    print(write(derive(name, trace, source), FOLDER))


if __name__ == "__main__":
    main(sys.argv[1:])
