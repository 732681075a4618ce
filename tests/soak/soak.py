"""The soak: users execute random DAGs on a cluster of real processes that is harmed all the time.

Afterwards every value has been compared, and nothing is left behind.  ``SEED`` and ``SOAK_S`` (seconds) come
from the environment.  ``make soak`` runs it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

from handoff_dask.simulation.audit import audit
from tests.soak.cluster import Harms, Machine

#: Seconds that users have to end after the last harm.
END_S = 240.0


def left_on_scheduler(dask_scheduler: Any) -> dict[str, Any]:
    """What the scheduler still keeps; runs there."""
    plugin = dask_scheduler.plugins.get("handoff")
    kept: dict[str, Any] = {"tasks": len(dask_scheduler.tasks)}
    if plugin is not None:
        engine = plugin.driver.engine
        engine.check()
        kept |= {k: n for k, n in engine.remembers().items() if k not in ("nodes", "changes")}
        kept |= {
            "runs": len(plugin.runs.by_token),
            "functions": len(plugin.runs.functions),
            "announced": len(plugin.runs.announced) + len(plugin.runs.announcing),
            "threads": len(plugin.threads.threads),
            "pauses": len(plugin.pauses._pauses),
            "used": sum(any(n.used.values()) or n.threads_used for n in engine.nodes().values()),
        }
    return {name: number for name, number in kept.items() if number}


def soak(
    seed: int, seconds: float, *, workers: int = 3, users: int = 3, most: int = 60, patience_s: float = END_S
) -> dict[str, Any]:
    """Run it; what was done and found."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        machine = Machine(folder, workers, most)
        try:
            return _soak(machine, rng, seconds, workers, users, patience_s)
        finally:
            machine.end()


def _soak(
    machine: Machine, rng: random.Random, seconds: float, workers: int, users: int, patience_s: float
) -> dict[str, Any]:
    with Client(machine.address, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=120)
    harms = Harms(machine, rng, workers)
    scheduler = psutil.Process(machine.scheduler.pid)
    before = scheduler.num_fds(), scheduler.num_threads(), scheduler.memory_info().rss
    for _ in range(users):
        machine.add_user(rng.randrange(10**6), seconds)
    harms.start(seconds)
    harms.join()
    defects: list[str] = []
    give_up = time.monotonic() + patience_s
    for user_name, (user, _) in machine.users.items():
        try:
            user.wait(max(1.0, give_up - time.monotonic()))
        except Exception:
            defects.append(f"user {user_name} does not end: something hangs")
    counts: Counter[str] = Counter(harms.counts)
    for _, file in machine.users.values():
        if file.exists():  # one that was killed has written nothing
            found = json.loads(file.read_text())
            counts.update(found["counts"])
            defects += found["defects"]
    with Client(machine.address, set_as_default=False) as client:
        give_up = time.monotonic() + 30
        while (left := client.run_on_scheduler(left_on_scheduler)) and time.monotonic() < give_up:
            time.sleep(0.5)
        if left:
            defects.append(f"the scheduler still keeps {left}")
        client.run_on_scheduler(_flush)
    after = scheduler.num_fds(), scheduler.num_threads(), scheduler.memory_info().rss
    report = audit(str(machine.log))
    defects += [f"audit: {finding}" for finding in report.findings]
    errors = (machine.folder / "errors.txt").read_text(errors="replace")
    defects += [f"in a log: {line}" for line in errors.splitlines() if "defect in handoff" in line][:10]
    return {
        "counts": dict(sorted(counts.items())),
        "kinds of harm": len({k for k in counts if k.startswith(("harm", "deed"))}),
        "descriptors, threads, bytes before": before,
        "and after": after,
        "audit": str(report).splitlines()[0],
        "errors": errors[-20_000:],
        "defects": defects,
    }


def _flush(dask_scheduler: Any) -> None:
    log = dask_scheduler.plugins["handoff"].log
    if log is not None:
        log.flush()


def main() -> int:
    """Run it as the environment says, and print what came of it."""
    seed, seconds = int(os.environ.get("SEED", "1")), float(os.environ.get("SOAK_S", "60"))
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))  # what was started is ended all the same
    # Large DAGs: what a user does beside executing takes no longer for them.
    found = soak(seed, seconds, most=400)
    errors = found.pop("errors")
    print(json.dumps({"seed": seed, "seconds": round(time.monotonic() - began, 1), **found}, indent=1))
    if found["defects"]:
        print(errors, file=sys.stderr)
    return 1 if found["defects"] else 0


if __name__ == "__main__":
    sys.exit(main())
