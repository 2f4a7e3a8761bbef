"""Provenance: what a result records so that it can be computed again."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("qstep", "torch", "transformers", "math-verify", "numpy")


def provenance(settings: dict[str, Any]) -> dict[str, Any]:
    """Versions, seeds, git commit, command, hardware, date and settings of this process's run."""
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "seeds": {name: settings[name] for name in ("seed", "data_seed") if name in settings},
        "git_commit": git_commit(),
        "command": shlex.join(["qstep", *sys.argv[1:]]),
        "hardware": ", ".join([f"{os.cpu_count()} cores", cpu_name(), *_gpus()]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": _plain(settings),
    }


def _plain(value: Any) -> Any:
    """The settings as JSON values. Paths become strings."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def git_commit() -> str | None:
    """The commit of the running source; None without git or outside a repository."""
    try:
        git = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return git.stdout.strip() or None


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _gpus() -> list[str]:
    """The GPUs that this process can use. A process that has not imported torch uses none."""
    cuda = sys.modules["torch"].cuda if "torch" in sys.modules else None
    return [cuda.get_device_name(i) for i in range(cuda.device_count())] if cuda is not None else []
