"""`qstep env`: what a bug report needs to say about the machine. It loads no library, so it is quick."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import qstep
from qstep.cores import cores
from qstep.runs.provenance import cpu_name, git_commit

_PACKAGES = (
    *("torch", "transformers", "accelerate", "peft", "datasets", "huggingface_hub", "math-verify", "numpy", "scipy"),
    *("jsonargparse", "vllm", "trl", "ray", "starlette", "uvicorn", "reasoning-gym", "trackio", "wandb", "tensorboard"),
)
_VARIABLES = (
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "PYTHONPATH", "ACCELERATE_USE_FSDP", "WORLD_SIZE", "RAY_ADDRESS"),
)


def env(arguments: Sequence[str]) -> int:
    """Prints the environment, as text or with `--json`."""
    parser = argparse.ArgumentParser(prog="qstep env", description="Versions, devices and folders, for a bug report.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:
        return 2 if stop.code else 0
    found = environment()
    print(json.dumps(found, indent=2) if options.json else "\n".join(_lines(found)))
    return 0


def environment() -> dict[str, Any]:
    """What is installed and what it runs on. A package that is not installed is None."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "versions": {
            "qstep": qstep.__version__,
            "commit": git_commit(),
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "machine": {
            "platform": platform.platform(),
            "processor": cpu_name(),
            "cores": os.cpu_count(),
            "cores this process may use": cores(),
            "memory": f"{memory:.1f} GiB",
            "CUDA of torch": _cuda_of_torch(),
            "GPUs": _gpus(),
        },
        "paths": {
            "qstep": str(Path(qstep.__file__).parent),
            "python": sys.executable,
            "HF_HOME": str(home),
            "qstep's cache": f"{cache / 'qstep'}, for files in folders that cannot be written",
            "free disk here": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB",
        },
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _lines(found: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for title, entries in found.items():
        lines.append(f"{title}:")
        for name, value in entries.items():
            text = ", ".join(value) or "none" if isinstance(value, list) else value
            lines.append(f"  {name:28}{'-' if text is None else text}")
    return lines


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cuda_of_torch() -> str | None:
    """The CUDA version that torch was built for, read from its own file of versions."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    return runpy.run_path(str(Path(torch.origin).with_name("version.py"))).get("cuda")


def _gpus() -> list[str]:
    """Name, memory and driver of each GPU of NVIDIA, as its own tool says."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True, check=False, timeout=10)
    return [line.replace(",", ";") for line in said.stdout.splitlines()] if said.returncode == 0 else []
