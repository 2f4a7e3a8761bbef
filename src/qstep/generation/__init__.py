"""Samples responses from a policy: the engine protocol, and the engines: this process, vLLM, a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qstep.generation.engine import Engine, Request, SamplingSettings
from qstep.lazy import lazy

if TYPE_CHECKING:
    from qstep.generation.hf import HFEngine
    from qstep.generation.http import HTTPEngine
    from qstep.generation.vllm import VLLMEngine as VLLMEngine

__all__ = ["Engine", "HFEngine", "HTTPEngine", "Request", "SamplingSettings"]
"""Without `VLLMEngine`, which needs vllm: so a star import works where that is not installed."""

__getattr__, __dir__ = lazy(__name__, {"HFEngine": "hf", "HTTPEngine": "http", "VLLMEngine": "vllm"})
