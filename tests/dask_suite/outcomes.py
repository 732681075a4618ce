"""A plugin of pytest: writes what became of each test to the file that ``OUTCOMES`` names, as JSON lines."""

from __future__ import annotations

import json
import os
from typing import Any


def pytest_runtest_logreport(report: Any) -> None:
    """Note every failure, and every call that passed or was skipped."""
    if report.when != "call" and report.passed:
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    said = "" if report.passed else str(getattr(crash, "message", report.longrepr)).strip()
    row = {"test": report.nodeid, "when": report.when, "outcome": report.outcome, "said": said[:300]}
    with open(os.environ["OUTCOMES"], "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
