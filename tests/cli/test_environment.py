"""`qstep env`: what a bug report needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import qstep
from qstep.cli import environment, main


def test_it_says_what_is_installed_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert main(["env", "--json"]) == 0
    shown = capsys.readouterr().out
    assert "hf_secret" not in shown
    found = json.loads(shown)
    versions = found["versions"]
    assert versions["qstep"] == qstep.__version__ and versions["torch"] == torch.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["machine"]["CUDA of torch"] == torch.version.cuda
    assert found["machine"]["cores this process may use"] == len(os.sched_getaffinity(0))
    assert found["paths"]["HF_HOME"] == str(tmp_path / "hub")
    assert found["variables"]["HF_HOME"] == str(tmp_path / "hub")


def test_the_text_has_a_line_for_each_entry(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_PACKAGES", ("torch", "no-such-package"))
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"  {'torch':28}{torch.__version__}" in lines and f"  {'no-such-package':28}-" in lines
    assert [line for line in lines if not line.startswith(" ")] == ["versions:", "machine:", "paths:", "variables:"]


def test_it_names_the_gpus_that_nvidia_smi_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 570.1'\necho 'NVIDIA H200, 143771 MiB, 570.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert environment.environment()["machine"]["GPUs"] == ["NVIDIA H200; 143771 MiB; 570.1"] * 2
    tool.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert environment.environment()["machine"]["GPUs"] == []


def test_it_loads_no_library() -> None:
    code = (
        "import sys, qstep.cli; qstep.cli.main(['env']);"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'jsonargparse', 'rich'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wrong_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--jason"]) == 2
    assert "--jason" in capsys.readouterr().err
