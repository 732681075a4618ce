"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def describe() -> dict[str, str | int | float]:
    """The machine and the versions, by name."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "dask": version("dask"),
        "distributed": version("distributed"),
        "handoff": _handoff(),
        "load": load(),
    }


def load() -> float:
    """How many processes wanted to run of late, this benchmark's own among them."""
    return round(os.getloadavg()[0], 2)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _handoff() -> str:
    """The version, and the commit if this is a checkout."""
    try:
        found = [version("handoff-dask")]
    except PackageNotFoundError:
        found = []
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    with suppress(OSError, subprocess.CalledProcessError):
        found.append(subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip())
    return " at ".join(found) or "unknown"
