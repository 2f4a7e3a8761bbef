"""Samples responses from a policy: the engine protocol, and the engines: this process, vLLM, a server."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qstep.generation.engine import Engine, Request, SamplingSettings

if TYPE_CHECKING:
    from qstep.generation.hf import HFEngine
    from qstep.generation.http import HTTPEngine
    from qstep.generation.vllm import VLLMEngine

__all__ = ["Engine", "HFEngine", "HTTPEngine", "Request", "SamplingSettings", "VLLMEngine"]

_ENGINES = {"HFEngine": "hf", "HTTPEngine": "http", "VLLMEngine": "vllm"}


def __getattr__(name: str) -> Any:
    """Loads an engine, and the library under it, when it is first asked for."""
    if name in _ENGINES:
        return getattr(import_module(f"qstep.generation.{_ENGINES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
