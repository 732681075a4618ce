"""Commands, run in this process, and a file of DAGs for them."""

from __future__ import annotations

import os
import sys

from click.testing import CliRunner
from distributed import Event

from handoff_dask.cli import handoff as command

if sys.version_info >= (3, 11):
    pass
else:
    pass


PIPELINE = """
from __future__ import annotations
import dataclasses
import handoff_dask as handoff

@dataclasses.dataclass
class Box:
    content: int

def pack(value):
    return Box(2 * value)

def unpack(box):
    return box.content

def boom():
    raise ValueError("no\\nway")

dag = (
    handoff.DAG("sums")
    .add_function(handoff.Function("n", [], None, type="input"))
    .add_function(handoff.Function(("pack", 1), ["n"], pack, cost={"cpu": 1}, node="big"))
    .add_function(handoff.Function("unpack", [("pack", 1)], unpack, duration=2, node="small"))
)
broken = [handoff.Function("x", [], boom, max_retries=0)]
partly = [
    *broken,
    handoff.Function("after", ["x"], str),
    handoff.Function("good", [], int, extra_args=["7"]),
]
large = [handoff.Function(("x", 1), [], boom, cost={"gpus": 2}, duration=3)]
circle = [handoff.Function("a", ["b"], abs), handoff.Function("b", ["a"], abs)]
number = 3

class Makers:
    @staticmethod
    def one():
        return handoff.Function("only", [], int, extra_args=["7"])

def fails():
    raise RuntimeError("cannot build")
"""


def run(*arguments, code=0):
    """Run a command; what it wrote to standard output and to standard error."""
    result = CliRunner().invoke(command, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def error_of(*arguments, code):
    """The line on standard error with which a command failed."""
    (line,) = [line for line in run(*arguments, code=code)[1].splitlines() if line.startswith("Error: ")]
    return line.removeprefix("Error: ")


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def wait_for(name, *args):
    Event(name).wait()
    return name
