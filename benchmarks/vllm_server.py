"""`vllm serve` of a scorer's checkpoint as a process of its own, unmodified."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil

from qstep.models import StepContract


def step_pooling(contract: StepContract) -> dict[str, Any]:
    """A row for each separator token."""
    return {"task": "token_classify", "tok_pooling_type": "STEP", "step_tag_id": contract.separator_token_id}


TOKEN_POOLING: Mapping[str, Any] = {"task": "token_classify", "tok_pooling_type": "ALL"}
"""A row for each token."""


def free_port() -> int:
    """A port of the loopback address at which nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def vllm_serving(
    python: Path | str, scorer: Path, log: Path, pooling: Mapping[str, Any], *options: str, seconds: float = 1200
) -> Iterator[str]:
    """Runs `vllm serve` at a free port, in fp32, and yields its URL once it answers.

    (By its module: the command itself looks for a package called vllm, which the one for CPUs is not.)
    """
    port = free_port()
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", scorer]
    command += ["--pooler-config", json.dumps(pooling), "--dtype", "float32", "--enforce-eager"]
    command += ["--host", "127.0.0.1", "--port", str(port), *options]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "2", **os.environ, "VLLM_NO_USAGE_STATS": "1"}
    environment.pop("PYTHONPATH", None)
    with log.open("wb") as output:
        process = subprocess.Popen([*map(str, command)], stdout=output, stderr=output, env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + seconds
        while not _answers(url):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-5000:]
            time.sleep(0.5)
        yield url
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for child in children:
            if child.is_running():
                child.kill()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False
