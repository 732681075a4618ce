"""Programs that print the fingerprints of functions that a text defines, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType

from handoff_dask.graph.functions import Function
from handoff_dask.reuse.fingerprint import details

ROOT = Path(__file__).parents[2]
END = """
import json
from handoff_dask.reuse.fingerprint import details
print(json.dumps({str(k): [d.fingerprint, d.unknown] for k, d in details(dag()).items()}))
"""


def run(folder, text, *, seed="0", modules=None, name="job.py", more=END, runs="", options=()):
    """What a program prints of the functions that its ``dag()`` gives; modules lie beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    head = "from handoff_dask.graph.functions import Function, Argument\n"
    (folder / name).write_text(dedent(head) + dedent(text) + ("" if runs else more))
    for module, content in (modules or {}).items():
        path = folder / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(content))
    environment = {
        **os.environ,
        "PYTHONHASHSEED": seed,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, *options, *(["-c", runs] if runs else [name])]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def here(text, modules=None):
    """The fingerprint of function ``"f"`` of a program that is run in this process."""
    names = [
        "job",
        *[path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in modules or {}],
    ]
    kept = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    try:
        for name, content in [*zip(names[1:], (modules or {}).values(), strict=True), ("job", text)]:
            module = sys.modules[name] = ModuleType(name)
            module.__file__ = f"/somewhere/{name}.py"
            module.Function = Function
            parent, _, last = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], last, module)
                module.__package__ = parent
            exec(compile(dedent(content), module.__file__, "exec", dont_inherit=True), vars(module))
        found = details(sys.modules["job"].dag())["f"]
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(kept)
    assert found.fingerprint is not None, found.unknown
    return found.fingerprint


def of(folder, text, **options):
    """The fingerprint of function ``"f"`` of a program; it must have one."""
    found, why = run(folder, text, **options)["f"]
    assert found is not None, why
    return found
