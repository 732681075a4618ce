"""The words of pipelines."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["OnNodeLoss", "PipelineStatus"]

#: What becomes of a pipeline when the node of a stage goes.
OnNodeLoss: TypeAlias = Literal["move", "fail"]
#: How a pipeline stands.
PipelineStatus: TypeAlias = Literal["running", "closed", "stopped", "failed"]
