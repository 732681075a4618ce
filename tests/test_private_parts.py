"""What is private in Dask and touched here: all of it is on one list, and is as it was."""

from __future__ import annotations

import ast
import importlib
import inspect
import multiprocessing
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dask import _task_spec as specs
from distributed import Client, Scheduler, Worker
from distributed.client import FutureState
from distributed.collections import HeapSet
from distributed.scheduler import SchedulerState, TaskState
from distributed.stealing import WorkStealing
from distributed.worker_memory import NannyMemoryManager
from distributed.worker_state_machine import WorkerState

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "handoff_dask"
#: Private names of Python's that are used in public ways.
PYTHONS = {"_replace", "_fields", "_exit", "_value_", "_get_dump"}
#: What Dask's own objects are called where names of handoff's are the same as theirs.
DASKS = {"client", "scheduler", "worker", "future", "task", "process"}
ROW = re.compile(r"^\| `([^`]+)` \| (.+?) \| .+? \|$", re.MULTILINE)


def listed() -> dict[str, set[str]]:
    """``{what is on the page: files}``."""
    text = (ROOT / "docs" / "private_parts.md").read_text(encoding="utf-8")
    return {name: set(re.findall(r"`([^`]+)`", files)) for name, files in ROW.findall(text)}


def is_private(name: str) -> bool:
    """Whether a part of a dotted name says that it is private."""
    return any(part.startswith("_") and not part.startswith("__") and part != "_" for part in name.split("."))


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def our_names() -> set[str]:
    """What the package itself calls something."""
    found: set[str] = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found


def touched(tree: ast.Module, ours: set[str]) -> Iterator[str]:
    """Private names of others in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in ("dask", "distributed"):
                yield from filter(is_private, (f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            of = ast.unparse(node.value).rpartition(".")[2].lstrip("_")
            if node.attr not in ours or of in DASKS:
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)) and name.value not in ours:
                yield str(name.value)


def test_all_that_is_private_is_on_the_page():
    ours, found = our_names(), {}
    for file, tree in trees():
        for name in set(touched(tree, ours)) - PYTHONS:
            found.setdefault(name, set()).add(file)
    assert {name: files for name, files in listed().items() if is_private(name)} == found


def parameters(of: Any) -> list[str]:
    return list(inspect.signature(of).parameters)


def says(of: Any, *words: str) -> bool:
    """Whether these words are in the source of something, in this order."""
    source, at = inspect.getsource(of), -1
    for word in words:
        at = source.find(word, at + 1)
        if at < 0:
            return False
    return True


def is_there(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return hasattr(importlib.import_module(module), attribute)


def plain_arguments_stay() -> bool:
    task = specs.Task("t", lambda a, b: (a, b), specs.TaskRef("x"), (len, "x"))
    return task({"x": 1}) == (1, (len, "x")) and isinstance(task, specs.GraphNode)


FRAMES = "dask.dataframe.dask_expr"
#: How each row of the page is tried.
CHECKS: dict[str, Callable[[], Any]] = {
    "dask._task_spec.Alias": lambda: specs.Alias("a", "b").dependencies == {"b"},
    "dask._task_spec.DataNode": lambda: specs.DataNode("a", (len, 1))() == (len, 1),
    "dask._task_spec.GraphNode": lambda: {"key", "dependencies"} <= set(dir(specs.GraphNode)),
    "dask._task_spec.Task": plain_arguments_stay,
    "dask._task_spec.TaskRef": lambda: specs.TaskRef("a").key == "a",
    "dask._task_spec.convert_legacy_graph": lambda: specs.convert_legacy_graph({"a": (abs, -1)})["a"]() == 1,
    "dask._task_spec.fuse_linear_task_spec": lambda: (
        parameters(specs.fuse_linear_task_spec)[:2] == ["dsk", "keys"]
    ),
    "dask._expr.HLGExpr": lambda: is_there("dask._expr.HLGExpr"),
    "dask.array.optimization._optimize_slices": lambda: is_there("dask.array.optimization._optimize_slices"),
    f"{FRAMES}._collection": lambda: is_there(f"{FRAMES}._collection.FrameBase"),
    **{
        f"{FRAMES}._expr.{name}": lambda name=name: is_there(f"{FRAMES}._expr.{name}")
        for name in (
            "Blockwise",
            "Elemwise",
            "Expr",
            "MapPartitions",
            "Projection",
            "plain_column_projection",
        )
    },
    "_absorb_projections": lambda: hasattr(
        importlib.import_module(f"{FRAMES}.io.io").BlockwiseIO, "_absorb_projections"
    ),
    "distributed.shuffle._core.id_from_key": lambda: is_there("distributed.shuffle._core.id_from_key"),
    "_graph_to_futures": lambda: (
        {"expr", "keys", "span_metadata", "internal_priority"} <= set(parameters(Client._graph_to_futures))
    ),
    "_send_to_scheduler": lambda: parameters(Client._send_to_scheduler) == ["self", "msg"],
    "_scheduler_identity": lambda: says(Client, "self._scheduler_identity"),
    "_instances": lambda: hasattr(Client, "_instances"),
    "_state": lambda: {"wait", "exception", "status"} <= set(dir(FutureState)),
    "_create_taskstate_from_graph": lambda: (
        {"dsk", "keys", "ordered", "client", "annotations_by_type"}
        <= set(parameters(Scheduler._create_taskstate_from_graph))
    ),
    "_config": lambda: isinstance(multiprocessing.current_process()._config, dict),
    "WorkerState.constrained": lambda: (
        says(WorkerState, "constrained", "HeapSet(", ".constrained.peek()")
        and {"add", "discard", "peek", "pop", "sorted"} <= set(dir(HeapSet))
    ),
    "Worker.gather_dep": lambda: (
        parameters(Worker.gather_dep)[1:] == ["worker", "to_gather", "total_nbytes", "stimulus_id"]
    ),
    'periodic_callbacks["heartbeat"]': lambda: says(Worker, 'self.periodic_callbacks["heartbeat"] = '),
    'handlers["set_resources"]': lambda: says(Scheduler, '"set_resources": self.add_resources'),
    'stream_handlers["task-finished"]': lambda: says(Scheduler, '"task-finished": self.handle_task_finished'),
    'stream_handlers["steal-response"]': lambda: (
        says(WorkStealing, '"steal-response"')
        and {"key", "state", "stimulus_id"} <= set(parameters(WorkStealing.move_task_confirm))
    ),
    "Scheduler.handle_task_erred": lambda: (
        parameters(Scheduler.handle_task_erred)[:3] == ["self", "key", "stimulus_id"]
    ),
    '"worker-restart-memory"': lambda: says(
        NannyMemoryManager.memory_monitor,
        '"worker"',
        '"rss"',
        'log_event("worker-restart-memory"',
        "terminate()",
    ),
    '"remove-worker"': lambda: says(
        Scheduler.remove_worker,
        '"action": "remove-worker"',
        '"lost-computed-tasks"',
        '"expected"',
        "self.log_event(address",
        "self.transitions(",
    ),
    '"worker-status-change"': lambda: says(Scheduler, '"worker-status-change"'),
    "Scheduler.unrunnable": lambda: says(SchedulerState, "self.unrunnable = "),
    "TaskState.worker_restrictions": lambda: (
        {
            "worker_restrictions",
            "host_restrictions",
            "resource_restrictions",
            "loose_restrictions",
            "annotations",
            "retries",
            "run_id",
            "priority",
            "run_spec",
        }
        <= set(TaskState.__slots__)
    ),
    "TaskState.suspicious": lambda: (
        "suspicious" in TaskState.__slots__
        and says(Scheduler.remove_worker, "ts.suspicious += 1", "ts.suspicious > self.allowed_failures")
    ),
    "TaskState.exception_blame": lambda: (
        {"exception", "traceback", "exception_blame"} <= set(TaskState.__slots__)
    ),
    "Scheduler.transitions": lambda: (
        parameters(Scheduler.transitions) == ["self", "recommendations", "stimulus_id"]
    ),
    "Scheduler.client_desires_keys": lambda: (
        parameters(Scheduler.client_desires_keys) == ["self", "keys", "client"]
    ),
}


@pytest.mark.parametrize("name", CHECKS)
def test_it_is_as_it_was(name):
    assert CHECKS[name]()


def test_every_row_of_the_page_is_tried():
    assert set(CHECKS) == set(listed())
