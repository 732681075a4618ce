"""From any value to what stands for it in a fingerprint."""

from __future__ import annotations

from typing import Any

from handoff_dask.reuse.bytecode import leaf
from handoff_dask.reuse.definitions import DESCRIBE, describe_class, name_of_definition
from handoff_dask.reuse.file import File
from handoff_dask.reuse.nodes import Node, Piece, digest_of, settle, walk
from handoff_dask.reuse.values import UnknownValueError, describe_value

__all__ = ["Building"]

#: Plain data of at most so many bytes stands for itself; more of it is digested, once for an object.
SHORT = 200


class Building:
    """What has been looked at while fingerprints are made: each object once.

    It holds what it has looked at, so that identities stay.
    """

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {}
        self._todo: list[Node] = []

    def piece(self, value: Any) -> Piece:
        """What stands for a value."""
        plain = None if id(value) in self._nodes else leaf(value)
        if plain is not None and len(plain) <= SHORT:
            return plain
        return self._node(value, plain)

    def _node(self, value: Any, plain: bytes | None) -> Node:
        node = self._nodes.get(id(value))
        if node is None:
            defined = type(value) in DESCRIBE or isinstance(value, type)
            name = name_of_definition(value) if defined else f"a {type(value).__name__}"
            node = self._nodes[id(value)] = Node(value, "definition" if defined else "value", name)
            if plain is None:
                self._todo.append(node)
            else:
                node.add("data", digest_of(plain))
        return node

    def look_at(self, value: Any) -> Node:
        """A value with all that it consists of, and its digest or why it has none."""
        node = self._node(value, leaf(value))
        while self._todo:
            self._describe(self._todo.pop())
        settle(node)
        return node

    def _describe(self, node: Node) -> None:
        describe = DESCRIBE.get(type(node.value))
        try:
            if describe is not None:
                describe(node, self)
            elif isinstance(node.value, type):
                describe_class(node, self)
            else:
                describe_value(node, self)
        except UnknownValueError as error:
            node.unknown = str(error)
        except Exception as error:  # whatever the user's methods raise
            node.unknown = f"{node.name} cannot be told by its content ({type(error).__name__}: {error})"

    def parts_of(self, root: Node) -> dict[str, str]:
        """``{what it is: digest}`` of the parts of a settled definition, as a user knows them.

        Each function and class has its code as a part, and each global, default and variable that
        it reads.
        """
        parts: dict[str, bytes] = {}
        packages: dict[str, str] = {}
        for node in walk(root):
            if node.kind == "value" and node is not root:
                continue
            if node.facts and node.facts[0][0].startswith("package "):
                packages[node.facts[0][0]] = _text(node.facts[0][1])
                continue
            for label, piece in node.facts:
                if isinstance(piece, Node) and piece.kind == "definition":
                    continue
                told = piece.digest if isinstance(piece, Node) else digest_of(piece)
                name = label if label.startswith("compiled ") else f"{label} of {node.name}"
                parts[name] = told if name not in parts else digest_of(parts[name], told)
        return packages | {name: digest.hex()[:16] for name, digest in sorted(parts.items())}

    def files_of(self, root: Node) -> dict[str, str]:
        """``{path: digest of its content}`` of the files in a value or a definition."""
        found = [node for node in walk(root) if isinstance(node.value, File)]
        return {
            str(node.value): piece.decode()
            for node in found
            for _, piece in node.facts
            if type(piece) is bytes
        }


def _text(piece: Piece) -> str:
    return piece.decode() if isinstance(piece, bytes) else ""
