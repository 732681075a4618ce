"""Finding the DAG that ``FILE[:NAME]`` names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from handoff_dask.errors import HandoffError, ValidationError
from handoff_dask.graph.dag import DAG, as_dag
from handoff_dask.graph.functions import Function
from handoff_dask.protocol.shipping import add_folder

#: What is taken where no name is given.
DEFAULT = "dag"


def load_dag(target: str, problems: list[ValidationError] | None = None) -> DAG:
    """The DAG that a target names.

    Parameters
    ----------
    target
        ``FILE`` or ``FILE:NAME``: a Python file, or a module that can be imported, and in it a DAG,
        a list of functions, or a function without arguments that returns one.  Without a name:
        ``dag``, or the only DAG there is.
    problems
        Given what is wrong with the functions of a list, so that the others can be looked at too; where
        it is ``None``, the first problem is raised.

    Raises
    ------
    ValidationError
        If there is no such file, module or DAG, or it cannot be loaded.
    """
    where, name = _split(target)
    module = _load(where)
    if name:
        return _as_dag(f"{where}:{name}", _named(module, where, name), problems)
    if hasattr(module, DEFAULT):
        return _as_dag(f"{where}:{DEFAULT}", getattr(module, DEFAULT), problems)
    found = {id(value): (name, value) for name, value in vars(module).items() if isinstance(value, DAG)}
    if len(found) == 1:
        return as_dag(next(iter(found.values()))[1])
    names = ", ".join(f"{where}:{name}" for name, _ in found.values())
    raise ValidationError(
        f"{where} has several DAGs; name one: {names}"
        if found
        else f"{where} has no DAG on its top level; name what makes one: {where}:NAME"
    )


def _split(target: str) -> tuple[str, str]:
    where, colon, name = target.rpartition(":")
    # A path may have a colon too: what follows the last one must look like a name.
    if colon and where and all(part.isidentifier() for part in name.split(".")):
        return where, name
    return target, ""


def _load(where: str) -> ModuleType:
    path = Path(where)
    is_file = path.suffix == ".py" or path.is_file()
    if is_file and not path.is_file():
        raise ValidationError(f"there is no file {where!r}; name a Python file or a module")
    try:
        return _load_file(path.resolve()) if is_file else _import(where)
    except HandoffError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        at = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        raise ValidationError(f"{where} cannot be loaded: {type(error).__name__}: {error}{at}") from error
    except SystemExit as error:
        raise ValidationError(f"{where} ends the process while it is loaded ({error.code})") from error


def _import(name: str) -> ModuleType:
    # As `python -m` does.
    if "" not in sys.path:
        sys.path.insert(0, "")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValidationError(f"there is no file {name!r}, and it is no name of a module")
    return importlib.import_module(name)


def _load_file(path: Path) -> ModuleType:
    # What stands beside the file can be imported by it, as if Python had been started with it.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    add_folder(path.parent)
    spec = importlib.util.spec_from_file_location(f"handoff_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValidationError(f"{path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        # Nodes have no such file.  What is in no module that can be imported is sent as a whole.
        del sys.modules[spec.name]
    return module


def _named(module: ModuleType, where: str, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            raise ValidationError(f"{where} has no {name!r}")
        value = getattr(value, part)
    return value


def _as_dag(called: str, value: Any, problems: list[ValidationError] | None) -> DAG:
    if isinstance(value, Callable) and not isinstance(value, (DAG, Function)):  # type: ignore[arg-type]
        try:
            value = value()
        except HandoffError:
            raise
        except Exception as error:
            raise ValidationError(f"{called}() raises {type(error).__name__}: {error}") from error
    if isinstance(value, Function):
        value = [value]
    if not isinstance(value, DAG) and (isinstance(value, (str, bytes, Mapping)) or not _iterable(value)):
        raise ValidationError(f"{called} is {type(value).__name__}; it must be or return a DAG or functions")
    if problems is None or isinstance(value, DAG):
        return as_dag(value)
    dag = DAG()
    for function in value:
        try:
            dag.add_function(function)
        except ValidationError as error:
            problems.append(error)
    return dag


def _iterable(value: Any) -> bool:
    return hasattr(value, "__iter__")
