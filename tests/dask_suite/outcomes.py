"""A plugin of pytest: writes what became of each test to the file that ``OUTCOMES`` names, as JSON lines.

With ``COST_OF_ALL`` (JSON) every task that names no resources is submitted with these.
"""

from __future__ import annotations

import json
import os
from typing import Any


def pytest_configure(config: Any) -> None:
    """Give tasks a cost, if there is one for all."""
    cost = json.loads(os.environ.get("COST_OF_ALL", "null"))
    if not cost:
        return
    from distributed import Client

    submit = Client._graph_to_futures

    def with_cost(self: Any, *args: Any, resources: Any = None, actors: Any = None, **kwargs: Any) -> Any:
        resources = resources if resources or actors else cost
        return submit(self, *args, resources=resources, actors=actors, **kwargs)

    Client._graph_to_futures = with_cost


def pytest_runtest_logreport(report: Any) -> None:
    """Note every failure, and every call that passed or was skipped."""
    if report.when != "call" and report.passed:
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    said = "" if report.passed else str(getattr(crash, "message", report.longrepr)).strip()
    row = {"test": report.nodeid, "when": report.when, "outcome": report.outcome, "said": said[:300]}
    with open(os.environ["OUTCOMES"], "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
