"""Values of options: nodes with their capabilities, inputs, ids."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from typing import Any

from handoff_dask.errors import ValidationError
from handoff_dask.graph.dag import DAG
from handoff_dask.resources import Capabilities
from handoff_dask.visualization.texts import id_texts


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
    return nodes


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
        name, _, rest = part.partition(":")
        name = name.strip()
        if not name or name in nodes:
            problem = f"node {name!r} is named twice" if name else f"{part!r} names no node"
            raise ValidationError(f"{problem}; write nodes as name:cpu=4,memory=8GB;name2:…")
        nodes[name] = {}
        for entry in filter(None, map(str.strip, rest.split(","))):
            resource, equals, value = map(str.strip, entry.partition("="))
            if not resource or (equals and not value):
                raise ValidationError(f"node {name!r}: {entry!r} is no capability; write cpu=4 or has_cuda")
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
    by_text = {text: i for i, text in id_texts(dag.functions).items()}
    found = []
    for text in texts:
        if text not in by_text:
            some = ", ".join(list(by_text)[:8])
            raise ValidationError(f"the DAG has no function {text!r}; it has {some}")
        found.append(by_text[text])
    return found


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
