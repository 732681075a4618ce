"""``dask handoff run``: one execution, and what is printed of it."""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Hashable, Mapping
from typing import Any

import click
from toolz import frequencies

from handoff_dask.cli.errors import FAILED, Stop, line_of, nobody_reads
from handoff_dask.client.execution import Execution
from handoff_dask.client.page_link import page_link
from handoff_dask.client.session import Handoff
from handoff_dask.errors import FunctionFailedError, ValidationError
from handoff_dask.graph.dag import DAG
from handoff_dask.record.execution import ExecutionRecord
from handoff_dask.record.result import ExecutionResult
from handoff_dask.visualization import report
from handoff_dask.visualization.dot import seconds_text
from handoff_dask.visualization.texts import dag_name, id_texts, shortened, visible

#: Characters of a result that are printed.
SHOWN = 200
#: Failed functions that are named.
FAILED_SHOWN = 20


def refuse_unwritable(path: str) -> None:
    """Refuse a file that cannot be written, before anything runs.

    Raises
    ------
    ValidationError
        With what is wrong.
    """
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ValidationError(f"{path} cannot be written: there is no folder {folder}; make it first")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise ValidationError(f"{path} cannot be written: permission is denied; name another file")


class Run:
    """One execution from the command line."""

    def __init__(self, session: Handoff, dag: DAG, *, quiet: bool, report: str | None, as_json: bool) -> None:
        self._session = session
        self._dag = dag
        self._quiet = quiet
        self._report = report
        self._as_json = as_json
        self._texts = id_texts([dag.id, *dag.functions])

    def execute(self, **options: Any) -> Exception | None:
        """Execute it, print what it came to; the error that it failed with, if it did."""
        if not self._quiet:
            where = f"dask handoff top --scheduler {self._session.scheduler_address}"
            click.echo(f"to watch it: {page_link(self._session.client)} or {where}", err=True)
        execution = self._session.submit(self._dag, progress=not self._quiet, **options)
        if options.get("detach"):
            click.echo(f"detached: {self._texts[self._dag.id]} ({execution.token})")
            return None
        return self.finish(execution, goes_on=options["on_failure"] != "stop")

    def finish(self, execution: Execution, *, goes_on: bool) -> Exception | None:
        """Wait for an execution, and print what it came to."""
        error: Exception | None = None
        try:
            result = execution.result()
        except FunctionFailedError as failure:
            error, result = failure, execution.partial()
        except Exception as failure:
            error, result = failure, None
        except KeyboardInterrupt:
            if not execution.is_detached:
                execution.cancel()
            self._write_report(execution)
            raise
        unwritten = self._write_report(execution)
        if unwritten is not None and error is not None:  # nothing may hide why the DAG has failed
            click.echo(unwritten.message, err=True)
        try:
            if self._as_json:
                click.echo(json.dumps(self._data(execution.record(), result, error), indent=2))
            elif result is not None and not self._quiet and (error is None or goes_on):
                self._print(execution.record(), result)
        except BrokenPipeError:  # whoever reads the output has seen enough: what came of it is as it was
            nobody_reads()
        return error or unwritten

    def _write_report(self, execution: Execution) -> Stop | None:
        """Write what was asked for; how the command ends if that cannot be done."""
        if self._report is None:
            return None
        try:
            path = report(execution.record(), self._report)
        except Exception as why:  # a full disk, a folder that is gone, a value whose repr raises
            return Stop(f"the report {self._report} is not written: {_error_text(why)}", FAILED)
        click.echo(f"wrote {path}", err=True)
        return None

    def _print(self, record: ExecutionRecord, result: ExecutionResult) -> None:
        ran = frequencies(f.node for f in record.functions if f.node is not None and f.stop is not None)
        where = ", ".join(f"{count} on {visible(node)}" for node, count in sorted(ran.items()))
        took = seconds_text((record.ended or 0.0) - (record.submitted or 0.0))
        name = shortened(visible(self._name()), 48)
        reused = f", {len(result.reused)} reused" if result.reused else ""
        click.echo(f"{name} {record.status} in {took}: {where or 'nothing to run'}{reused}", err=True)
        for function_id, value in result.results.items():
            click.echo(f"{visible(self._texts[function_id])}: {_shown(value)}")
        for function_id, why in list(result.failed.items())[:FAILED_SHOWN]:
            click.echo(f"failed: {visible(self._text(function_id))}: {line_of(_error_text(why))}", err=True)
        if len(result.failed) > FAILED_SHOWN:
            click.echo(f"failed: {len(result.failed) - FAILED_SHOWN} more", err=True)

    def _name(self) -> str:
        name = dag_name(self._dag.id, next(reversed(self._dag.functions), None))
        return self._texts.get(name) or str(name)

    def _data(
        self, record: ExecutionRecord, result: ExecutionResult | None, error: Exception | None
    ) -> dict[str, Any]:
        done = {f.id: f for f in record.functions if f.stop is not None}
        results: Mapping[Hashable, Any] = {} if result is None else result.results
        failed: Mapping[Hashable, BaseException] = {} if result is None else result.failed
        skipped: Mapping[Hashable, Hashable] = {} if result is None else result.skipped
        reused = {} if result is None else dict.fromkeys(result.reused)
        return {
            "dag_id": self._texts[self._dag.id],
            "status": record.status,
            "makespan_s": None if record.ended is None else record.ended - (record.submitted or record.ended),
            "error": None if error is None else line_of(str(error)),
            "results": {self._texts[i]: _plain(value) for i, value in results.items()},
            "failed": {self._text(i): line_of(_error_text(why)) for i, why in failed.items()},
            "skipped": {self._text(i): self._text(by) for i, by in skipped.items()},
            "reused": [self._text(i) for i in self._dag.functions if i in reused],
            "allocations": {self._text(i): f.node for i, f in done.items()},
            "timings": {
                self._text(i): {"start": f.start, "stop": f.stop, "attempts": f.attempts}
                for i, f in done.items()
            },
        }

    def _text(self, function_id: Hashable) -> str:
        # What changes an argument is a function of the execution, not of the DAG.
        return self._texts.get(function_id) or repr(function_id)


def _shown(value: Any) -> str:
    return shortened(visible(_repr(value)), SHOWN)


def _error_text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:  # whatever the value's own code raises
        return f"<{type(value).__name__} whose repr raises {error!r}>"


def _plain(value: Any) -> Any:
    """A result as JSON: itself where JSON has it, else its ``repr``."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        as_float = float(value)
        return as_float if abs(as_float) < float("inf") else _repr(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    return _shown(value)
