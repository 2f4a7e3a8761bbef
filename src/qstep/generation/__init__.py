"""Samples responses from a policy: the engine protocol, and the engine inside this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qstep.generation.engine import Engine, Request, SamplingSettings

if TYPE_CHECKING:
    from qstep.generation.hf import HFEngine

__all__ = ["Engine", "HFEngine", "Request", "SamplingSettings"]


def __getattr__(name: str) -> Any:
    """Loads the engine, and torch with it, when it is first asked for."""
    if name == "HFEngine":
        from qstep.generation.hf import HFEngine

        return HFEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
