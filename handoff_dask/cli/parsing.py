"""Values of options: nodes with their capabilities, inputs, ids."""

from __future__ import annotations

import json
import numbers
from collections.abc import Hashable, Iterable
from typing import Any

from dask.utils import parse_bytes

from handoff_dask.errors import ValidationError
from handoff_dask.graph.arguments import nearest
from handoff_dask.graph.dag import DAG
from handoff_dask.resources import Capabilities
from handoff_dask.visualization.texts import id_texts

#: Capabilities that are numbers, whatever is written.
AMOUNTS = ("cpu", "gpu", "memory", "price")


def parse_nodes(text: str) -> dict[str, dict[str, Any]]:
    """Nodes from JSON, or as they are typed.

    Raises
    ------
    ValidationError
        If it is neither.

    Examples
    --------
    >>> parse_nodes("big:cpu=4,memory=8GB,has_cuda;small:cpu=0.5,zone=eu")
    {'big': {'cpu': 4, 'memory': '8GB', 'has_cuda': True}, 'small': {'cpu': 0.5, 'zone': 'eu'}}
    >>> parse_nodes('{"big": {"cpu": 4}}')
    {'big': {'cpu': 4}}
    """
    nodes = _from_json(text) if text.lstrip().startswith("{") else _from_words(text)
    for name, capabilities in nodes.items():
        try:
            Capabilities.parse(capabilities)
        except ValidationError as error:
            raise ValidationError(f"node {name!r}: {error}") from error
        for resource, value in capabilities.items():
            _refuse_text(name, resource, value)
    return nodes


def _refuse_text(node: str, resource: str, value: Any) -> None:
    """Refuse what would be a label, and is meant as an amount."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if resource in AMOUNTS and not is_number and not (resource == "memory" and isinstance(value, str)):
        raise ValidationError(f"node {node!r}: {resource} is {value!r}; give a number, as in {resource}=4")
    if resource not in AMOUNTS and isinstance(value, str) and _is_size(value):
        raise ValidationError(
            f"node {node!r}: {resource}={value} would be a label, since only memory has units; "
            "give a plain number"
        )


def _is_size(text: str) -> bool:
    try:
        parse_bytes(text)
    except ValueError:
        return False
    return text[0].isdigit()


def parse_amount(text: str) -> tuple[str, float]:
    """A name and an amount.

    Raises
    ------
    ValidationError
        If it is none.

    Examples
    --------
    >>> parse_amount("licences=8")
    ('licences', 8)
    """
    name, _, amount = map(str.strip, text.partition("="))
    try:
        return name, int(amount) if amount.isdigit() else float(amount)
    except ValueError:
        raise ValidationError(f"{text!r} is no amount of a resource; write NAME=AMOUNT") from None


def _from_json(text: str) -> dict[str, dict[str, Any]]:
    try:
        nodes = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValidationError(f"the nodes are no JSON: {error}") from error
    if not nodes or not all(isinstance(capabilities, dict) for capabilities in nodes.values()):
        raise ValidationError('write nodes as {"name": {"cpu": 4, …}, …}')
    return dict(nodes)


def _from_words(text: str) -> dict[str, dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        name, colon, rest = part.partition(":")
        name = name.strip()
        problem = None
        if not name or (not colon and "=" in part):
            problem = f"{part!r} names no node"
        elif not colon:
            problem = f"{part!r} says nothing of a node"
        elif name in nodes:
            problem = f"node {name!r} is named twice"
        if problem is not None:
            raise ValidationError(f"{problem}; write nodes as name:cpu=4,memory=8GB;name2:…")
        nodes[name] = {}
        for entry in filter(None, map(str.strip, rest.split(","))):
            resource, equals, value = map(str.strip, entry.partition("="))
            if not resource or (equals and not value) or "=" in value or len(resource.split()) > 1:
                raise ValidationError(
                    f"node {name!r}: {entry!r} is no capability; write cpu=4 or has_cuda, with commas between"
                )
            if resource in nodes[name]:
                raise ValidationError(f"node {name!r}: {resource} is given twice; give it once")
            nodes[name][resource] = _value(value) if equals else True
    if not nodes:
        raise ValidationError("no node is named; write nodes as name:cpu=4,memory=8GB;name2:…")
    return nodes


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def ids_from(texts: Iterable[str], dag: DAG) -> list[Hashable]:
    """The ids that texts stand for: an id that is a string itself, any other its ``repr``.

    Raises
    ------
    ValidationError
        If there is none.
    """
    found, problems = known_ids(texts, dag)
    for problem in problems:
        raise problem
    return found


def known_ids(texts: Iterable[str], dag: DAG) -> tuple[list[Hashable], list[ValidationError]]:
    """As :func:`ids_from`; and what is wrong with the texts that stand for no id."""
    by_text = {text: i for i, text in id_texts(dag.functions).items()}
    found, problems = [], []
    for text in texts:
        if text in by_text:
            found.append(by_text[text])
        else:
            hint = nearest(text, by_text) or f"it has {', '.join(list(by_text)[:8]) or 'none'}"
            problems.append(ValidationError(f"the DAG has no function {text!r}; {hint}"))
    return found, problems


def inputs_from(entries: Iterable[str], dag: DAG) -> dict[Hashable, Any]:
    """``{id: value}`` from ``ID=VALUE``: the value as JSON where it is that, else the text.

    Raises
    ------
    ValidationError
        If the DAG has no such function, or there is no ``=``.
    """
    inputs: dict[Hashable, Any] = {}
    for entry in entries:
        text, equals, value = entry.partition("=")
        if not equals:
            raise ValidationError(f"input {entry!r} has no value; write ID=VALUE")
        (function_id,) = ids_from([text], dag)
        try:
            inputs[function_id] = json.loads(value)
        except json.JSONDecodeError:
            inputs[function_id] = value
    return inputs
