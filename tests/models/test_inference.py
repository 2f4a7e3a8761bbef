"""bf16 on a CPU: who has no instructions for it is warned, in training, scoring and sampling."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qstep.models.inference import load_for_sampling
from qstep.scoring import load_scorer
from scorers import miniature_scorer
from tiny_trainers import trainer

UNABLE = {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}
SLOW = "This processor has no instructions for bf16"


@pytest.mark.parametrize("able", [(), ("avx512_bf16",), ("amx_bf16",)])
def test_bf16_is_warned_of_where_the_processor_emulates_it(
    able: tuple[str, ...],
    base: Path,
    rows_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: UNABLE | dict.fromkeys(able, True))
    scorer = miniature_scorer(tmp_path / "scorer")

    def warns() -> bool:
        said = SLOW in caplog.text
        caplog.clear()
        return said

    load_for_sampling(str(base), device="cpu", dtype="bfloat16")
    assert warns() == (not able)
    load_scorer(scorer, device="cpu", dtype="bfloat16")
    assert warns() == (not able)
    trainer("rs", base, rows_file, tmp_path / "mixed", max_steps=1, per_device_train_batch_size=4, bf16=True).train()
    assert warns() == (not able)
    options = {"max_steps": 1, "per_device_train_batch_size": 4}
    trainer("rs", base, rows_file, tmp_path / "frozen", peft=True, dtype="bfloat16", **options).train()
    assert warns() == (not able)


def test_fp32_is_not_warned_of(
    base: Path,
    rows_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: UNABLE)
    load_for_sampling(str(base), device="cpu", dtype="float32")
    load_scorer(miniature_scorer(tmp_path / "scorer"), device="cpu")
    trainer("rs", base, rows_file, tmp_path / "run", max_steps=1, per_device_train_batch_size=4).train()
    assert SLOW not in caplog.text


def test_another_architecture_is_not_warned_of(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its capabilities have other names."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64"})
    load_for_sampling(str(base), device="cpu", dtype="bfloat16")
    assert SLOW not in caplog.text
