"""A user of the cluster, as a process: executes random DAGs one after the other, and does harm to itself.

Arguments: the scheduler's address, a seed, seconds, how many functions a DAG has at most, a folder for notes,
a file for what has been found.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import dask
from distributed import Client, KilledWorker

import handoff_dask as handoff
from handoff_dask import Function
from tests.soak import jobs

#: Seconds after which an execution counts as one that hangs.
HANGS_S = 120.0

#: What may come of executions that are harmed from outside: nodes and clients go.
HARMED = (handoff.ExecutionCancelledError, asyncio.CancelledError)


class User:
    """Executes DAGs and compares results."""

    def __init__(self, address: str, seed: int, folder: str, most: int) -> None:
        self.most = most
        self.address, self.rng, self.folder = address, random.Random(seed), folder
        self.name = f"user {seed}"
        self.counts: Counter[str] = Counter()
        self.defects: list[str] = []
        self.number = 0

    def run(self, seconds: float) -> None:
        """Go on for so many seconds."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            with Client(self.address, set_as_default=False) as client:
                session = handoff.Handoff(client)
                for _ in range(self.rng.randrange(4, 12)):
                    if time.monotonic() > ends:
                        break
                    self.deed(session)
                # Sometimes it just goes, and sometimes something still runs.
                if self.rng.random() < 0.5:
                    self.count("session stopped")
                    session.stop()

    def deed(self, session: handoff.Handoff) -> None:
        """Do one thing, at random."""
        deeds = [
            self.plain, self.plain, self.plain, self.stepwise, self.outputs, self.cancelled, self.times_out,
            self.fails, self.unplaceable, self.own_strategy, self.bad_strategy, self.watched, self.dask_tasks,
            self.asynchronous, self.dropped, self.as_collection, self.seceding, self.unreadable, self.twice,
        ]  # fmt: skip
        deed = self.rng.choice(deeds)
        self.count(f"deed {deed.__name__}")
        try:
            deed(session)
        except KeyboardInterrupt:
            self.count("harm: Ctrl-C")
        except HARMED as error:
            self.count(f"ended by {type(error).__name__}")
        except handoff.FunctionFailedError as error:
            if not isinstance(error.__cause__, KilledWorker):
                self.defect(deed.__name__, error)
            self.count("ended by KilledWorker")
        except Exception as error:
            self.defect(deed.__name__, error)

    def defect(self, where: str, error: BaseException | str) -> None:
        self.defects.append(f"{self.name}, {where}: {error!r:.600}")

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] += number

    def job(self, most: int | None = None) -> tuple[Any, Any]:
        self.number += 1
        name = f"{self.name} job {self.number}"
        dag, values = jobs.job(self.rng, name, self.rng.randrange(5, most or self.most), self.folder)
        return dag, values

    def compare(self, where: str, got: dict[Any, Any], values: dict[Any, Any]) -> None:
        """Every result must be the one that was worked out here."""
        got = {
            i: v
            for i, v in got.items()
            if not (isinstance(i, tuple) and i[0] in ("serialize", "deserialize"))
        }
        wrong = [i for i in values if i not in got or got[i] != values[i]]
        self.count("functions", len(got))
        self.count("values compared", len(values))
        if wrong or len(got) != len(values):
            self.defect(where, f"wrong values of {wrong[:5]}, {len(got)} of {len(values)}")

    # ------------------------------------------------------------------ deeds

    def plain(self, session: handoff.Handoff, **options: Any) -> None:
        dag, values = self.job()
        strategy = self.rng.choice(["first_available", "load_balanced", "cost_optimized", "fastest"])
        options.setdefault("allocation_strategy", strategy)
        if self.rng.random() < 0.2:
            options["max_concurrency"] = 3
        self.compare("plain", session.execute(dag, timeout=HANGS_S, **options).results, values)

    def twice(self, session: handoff.Handoff) -> None:
        (one, first), (two, second) = self.job(), self.job()
        executions = [session.submit(dag, timeout=HANGS_S) for dag in (one, two)]
        for execution, values in zip(executions, (first, second), strict=True):
            self.compare("twice", execution.result().results, values)

    def stepwise(self, session: handoff.Handoff) -> None:
        dag, values = self.job()
        execution = session.submit(dag, timeout=HANGS_S)
        self.compare("stepwise", dict(execution.as_completed()), values)
        one = self.rng.choice(list(values))
        if session.get_result(execution, one, timeout=60) != values[one]:
            self.defect("stepwise", f"wrong value of {one!r}")

    def outputs(self, session: handoff.Handoff) -> None:
        dag, values = self.job()
        wanted = self.rng.sample(list(values), 2)
        got = session.execute(dag, outputs=wanted, timeout=HANGS_S).results
        self.compare("outputs", got, {i: values[i] for i in wanted})

    def cancelled(self, session: handoff.Handoff) -> None:
        dag, _ = self.job()
        execution = session.submit(dag)
        time.sleep(self.rng.random() * 0.3)
        execution.cancel()
        if execution.status not in ("cancelled", "finished", "failed"):
            self.defect("cancelled", execution.status)

    def times_out(self, session: handoff.Handoff) -> None:
        dag, values = self.job()
        try:
            got = session.execute(dag, timeout=self.rng.random() * 0.3).results
        except TimeoutError:
            return
        self.compare("times_out", got, values)

    def fails(self, session: handoff.Handoff) -> None:
        dag, values = self.job(20)
        bad = self.rng.choice(list(values))
        dag.add_function(Function("bad", [bad], jobs.never, kwargs={"name": "bad"}, max_retries=1))
        try:
            session.execute(dag, timeout=HANGS_S)
        except handoff.FunctionFailedError as error:
            if not isinstance(error.__cause__, (ArithmeticError, KilledWorker)):
                raise
            return
        self.defect("fails", "a function that fails has not failed its DAG")

    def unreadable(self, session: handoff.Handoff) -> None:
        dag = [Function("bad", [], jobs.unreadable, kwargs={"name": "bad"}, max_retries=0)]
        try:
            session.execute(dag, timeout=HANGS_S)
        except handoff.FunctionFailedError:
            return
        self.defect("unreadable", "a function that fails has not failed its DAG")

    def unplaceable(self, session: handoff.Handoff) -> None:
        with dask.config.set({"handoff.allocation-timeout": 0}):
            try:
                session.execute([Function("big", [], int, cost={"cpu": 999})], timeout=HANGS_S)
            except handoff.AllocationError:
                return
        self.defect("unplaceable", "it was placed")

    def own_strategy(self, session: handoff.Handoff) -> None:
        dag, values = self.job(20)
        got = session.execute(dag, allocator=lambda function, nodes: nodes[-1].name, timeout=HANGS_S).results
        self.compare("own_strategy", got, values)

    def bad_strategy(self, session: handoff.Handoff) -> None:
        def broken(function: Any, nodes: Any) -> str:
            raise KeyError("a defect of the user's")

        dag, _ = self.job(10)
        try:
            session.execute(dag, allocator=broken, timeout=HANGS_S)
        except handoff.AllocationError:
            return
        self.defect("bad_strategy", "it was asked, and nothing failed")

    def watched(self, session: handoff.Handoff) -> None:
        name = f"{self.name} watches"

        def broken(*event: Any) -> None:
            raise ValueError("a defect of the user's handler")

        handoff.telemetry.attach(name, ("handoff", "execution", "function", "stop"), broken)
        try:
            self.plain(session)
        finally:
            with suppress(handoff.NotFoundError):  # it has raised, and so it is detached already
                handoff.telemetry.detach(name)

    def dask_tasks(self, session: handoff.Handoff) -> None:
        futures = session.client.map(lambda n: n + 1, range(10), pure=False, resources={"cpu": 1})
        self.plain(session)
        if session.client.gather(futures) != list(range(1, 11)):
            self.defect("dask_tasks", "wrong values of Dask's own tasks")

    def asynchronous(self, session: handoff.Handoff) -> None:
        dag, values = self.job(30)

        async def go() -> None:
            async with (
                Client(self.address, asynchronous=True, set_as_default=False) as client,
                handoff.AsyncHandoff(client) as mine,
            ):
                result = await mine.execute(dag, timeout=HANGS_S)
                self.compare("asynchronous", result.results, values)

        asyncio.run(go())

    def dropped(self, session: handoff.Handoff) -> None:
        """Nobody keeps the execution; it goes on, or ends with the session."""
        session.submit(self.job()[0])

    def as_collection(self, session: handoff.Handoff) -> None:
        dag, values = self.job(20)
        self.compare("as_collection", session.client.compute(dag).result(timeout=HANGS_S), values)

    def seceding(self, session: handoff.Handoff) -> None:
        dag = [Function(n, [], jobs.nested, kwargs={"name": n}, cost={"cpu": 1}) for n in range(6)]
        values = {n: jobs.expected(jobs.nested, n, []) for n in range(6)}
        self.compare("seceding", session.execute(dag, timeout=HANGS_S).results, values)


def main() -> None:
    address, seed, seconds, most, folder, file = sys.argv[1:]
    dask.config.set({"handoff.allocation-timeout": 60})
    user = User(address, int(seed), folder, int(most))
    try:
        user.run(float(seconds))
    finally:
        with open(file, "w", encoding="utf-8") as out:
            json.dump({"counts": user.counts, "defects": user.defects}, out)


if __name__ == "__main__":
    main()
