"""Things that consist of other things, in circles too, and digests of all that they consist of.

A digest depends on nothing but the content: neither on where a thing was first met, nor on what
else has been looked at.  Things that need each other form a group.  Seen from one of them, the
members of its group are numbered in the order in which they are reached; all else enters by its
own digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

__all__ = ["Node", "Piece", "digest_of", "settle", "walk"]

#: What a thing consists of: bytes, or another thing.
Piece: TypeAlias = "bytes | Node"
SIZE = 20


def digest_of(*parts: bytes | bytearray | memoryview) -> bytes:
    """A digest of several pieces of data; where one ends and the next begins counts."""
    hashed = blake2b(digest_size=SIZE)
    for part in parts:
        hashed.update(b"%d:" % memoryview(part).nbytes)
        hashed.update(part)
    return hashed.digest()


class Node:
    """A function, a class, a module or a value, and what it consists of."""

    __slots__ = ("digest", "facts", "kind", "name", "unknown", "unordered", "value", "why")

    def __init__(self, value: Any, kind: Literal["definition", "value"], name: str) -> None:
        #: What it describes; held, so that no other object gets its identity.
        self.value = value
        self.kind = kind
        #: What it is called to the user.
        self.name = name
        #: ``(what it is of the thing, the piece)``.
        self.facts: list[tuple[str, Piece]] = []
        #: Whether the order of the facts means nothing.
        self.unordered = False
        #: Why it cannot be told what it is.
        self.unknown: str | None = None
        #: Set by :func:`settle`: the digest of all that it consists of, and why it has none.
        self.digest = b""
        self.why: str | None = None

    def add(self, label: str, piece: Piece) -> None:
        """Say what else it consists of."""
        self.facts.append((label, piece))

    def children(self) -> Iterator[Node]:
        """The things that it consists of."""
        for _, piece in self.facts:
            if isinstance(piece, Node):
                yield piece

    @property
    def is_settled(self) -> bool:
        """Whether its digest is known, or why it has none."""
        return bool(self.digest) or self.why is not None


def walk(root: Node) -> Iterator[Node]:
    """A thing and all that it consists of, each once, breadth first."""
    seen = {id(root)}
    queue = [root]
    for node in queue:
        yield node
        for child in node.children():
            if id(child) not in seen:
                seen.add(id(child))
                queue.append(child)


def settle(root: Node) -> None:
    """Find the digest of a thing and of all that it consists of."""
    for group in _groups(root):
        _settle_group(group)


def _groups(root: Node) -> Iterator[list[Node]]:
    """Groups of things that need each other, each after those that it needs (Tarjan's algorithm)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[Node] = []
    open_: set[int] = set()
    work: list[tuple[Node, Iterator[Node]]] = []

    def enter(node: Node) -> None:
        index[id(node)] = low[id(node)] = len(index)
        stack.append(node)
        open_.add(id(node))
        work.append((node, node.children()))

    if not root.is_settled:
        enter(root)
    while work:
        node, rest = work[-1]
        for child in rest:
            if child.is_settled:
                continue
            if id(child) not in index:
                enter(child)
                break
            if id(child) in open_:
                low[id(node)] = min(low[id(node)], index[id(child)])
        else:
            work.pop()
            if work:
                above = id(work[-1][0])
                low[above] = min(low[above], low[id(node)])
            if low[id(node)] == index[id(node)]:
                at = next(n for n, member in enumerate(stack) if member is node)
                group = stack[at:]
                del stack[at:]
                open_.difference_update(map(id, group))
                yield group


def _settle_group(group: list[Node]) -> None:
    members = {id(node) for node in group}
    why = _why(group, members)
    if why is not None:
        for node in group:
            node.why = why
        return
    digests = [_digest(node, members) for node in group]
    for node, digest in zip(group, digests, strict=True):
        node.digest = digest


def _why(group: list[Node], members: set[int]) -> str | None:
    """Why the members of a group have no digest, if that is so."""
    for node in group:
        if node.unknown is not None:
            return node.unknown
        if node.unordered and any(id(child) in members for child in node.children()):
            return f"{node.name} contains itself"
        for label, piece in node.facts:
            if isinstance(piece, Node) and id(piece) not in members and piece.why is not None:
                return _told(node, label, piece)
    return None


def _told(node: Node, label: str, piece: Node) -> str:
    """Why a piece has no digest, said of what it is a piece of."""
    assert piece.why is not None
    named = node.kind == "definition" and piece.kind == "value"
    return f"{label} of {node.name}: {piece.why}" if named else piece.why


def _digest(root: Node, members: set[int]) -> bytes:
    """What a thing consists of, seen from itself."""
    numbers = {id(root): 0}
    queue = [root]
    hashed = blake2b(digest_size=SIZE)
    for node in queue:
        lines = []
        for label, piece in node.facts:
            if not isinstance(piece, Node):
                told = b"=" + piece
            elif id(piece) not in members:
                told = b">" + piece.digest
            else:
                if id(piece) not in numbers:
                    numbers[id(piece)] = len(numbers)
                    queue.append(piece)
                told = b"#%d" % numbers[id(piece)]
            lines.append((label.encode("utf-8", "surrogatepass"), told))
        _feed(hashed, sorted(lines) if node.unordered else lines)
    return hashed.digest()


def _feed(hashed: Any, lines: Iterable[tuple[bytes, bytes]]) -> None:
    for label, told in lines:
        hashed.update(b"%d:%d:" % (len(label), len(told)))
        hashed.update(label)
        hashed.update(told)
    hashed.update(b".")
