"""What users' own strategies are shown of a function, in place of its code."""

from __future__ import annotations

from typing import Any


class Elsewhere:
    """Stands for the code of a function where only its name is known: the code is on the nodes."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __repr__(self) -> str:
        return f"<code {self.__name__!r}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: strategies place functions, nodes run them."""
        raise TypeError(f"the code of {self.__name__!r} is not here; it runs on the nodes")
