"""Sampling responses from a policy: the protocol of engines, and three of them: in this process, vLLM, a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qstep.generation.engine import Engine, Request, SamplingSettings
from qstep.lazy import lazy

if TYPE_CHECKING:
    from qstep.generation.hf import HFEngine
    from qstep.generation.http import HTTPEngine
    from qstep.generation.vllm import VLLMEngine as VLLMEngine

__all__ = ["Engine", "HFEngine", "HTTPEngine", "Request", "SamplingSettings"]
"""`VLLMEngine` is not among them, so that a star import works without vllm."""

__getattr__, __dir__ = lazy(__name__, {"HFEngine": "hf", "HTTPEngine": "http", "VLLMEngine": "vllm"})
