"""On a GPU: what is computed there is what the CPU computes, in fp32 and, within its rounding, in bf16."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from model_families import FAMILIES, saved, tiny
from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.generation import HFEngine, Request, SamplingSettings
from qstep.models import PolicyModel, collate_groups
from qstep.scoring import StepScorer, load_scorer
from qstep.tasks import miniature
from scorers import miniature_scorer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [3]]
RESPONSES = [[[1, 2, 3, 4], [5, 6]], [[7], [8, 9, 10], [2] * 6], [[5]]]


def logps_and_gradients(family: str, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Of a batch with prompts and responses of several lengths; one long row of gradients, in fp32 on the CPU."""
    policy = PolicyModel(tiny(family)).to(device, dtype).train()
    batch = {name: tensor.to(device) for name, tensor in collate_groups(PROMPTS, RESPONSES).items()}
    logps = policy(batch)
    (logps.float().sum(1) * torch.arange(1.0, 7.0, device=device)).sum().backward()
    gradients = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    return logps.detach().float().cpu(), gradients.float().cpu()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 0.1)], ids=["fp32", "bf16"])
def test_packed_groups_have_the_cpus_logps_and_gradients(family: str, dtype: torch.dtype, tolerance: float) -> None:
    expected, expected_gradients = logps_and_gradients(family, "cpu", torch.float32)
    logps, gradients = logps_and_gradients(family, "cuda", dtype)
    assert (logps - expected).norm() <= tolerance * expected.norm()
    assert (gradients - expected_gradients).norm() <= tolerance * expected_gradients.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_draws_the_cpus_tokens(family: str) -> None:
    """The random numbers are the CPU's, so that tokens part only where a draw is within rounding of a boundary."""
    drawn = {}
    for device in ("cpu", "cuda"):
        engine = HFEngine(tiny(family).to(device), miniature.tokenizer())
        requests = [Request(str(i), prompt, range(4)) for i, prompt in enumerate(PROMPTS)]
        drawn[device] = {
            request.key: [response.token_ids for response in responses]
            for request, responses in engine.sample(requests, SamplingSettings(12, seed=5))
        }
    assert drawn["cuda"] == drawn["cpu"]


@pytest.mark.parametrize(
    "method, options", [("pqm", ["--margin", "4"]), ("bce", []), ("rs", []), ("dpo", []), ("kto", []), ("dqo", [])]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_there_descends_as_on_the_cpu(
    method: str, options: list[str], precision: str, rows_file: Path, tmp_path: Path
) -> None:
    """Eight updates on the same batches: the losses logged are within 2 % (half precision 10 %) of the CPU's."""
    base = saved("qwen3", tmp_path / "base")
    losses = {}
    for place in ("cpu", "gpu"):
        output = tmp_path / place
        command = ["train", method, "--model_name_or_path", base, "--train_file", rows_file, "--output_dir", output]
        command += ["--per_device_train_batch_size", 8, "--max_steps", 8, "--seed", 3]
        command += [] if method == "dpo" else ["--responses_per_prompt", 4]
        command += ["--learning_rate", 1e-3, "--logging_steps", 1, "--save_steps", 4, "--report_to", "none"]
        command += ["--disable_tqdm", "true", *options]
        if place == "cpu":
            command += ["--use_cpu", "true"]
        elif precision != "fp32":
            command += [f"--{precision}", "true"]
        assert main(list(map(str, command))) == 0
        log = json.loads((output / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
        losses[place] = torch.tensor([entry["loss"] for entry in log if "loss" in entry])
    assert len(losses["gpu"]) == 8
    tolerance = 0.02 if precision == "fp32" else 0.1
    assert (losses["gpu"] - losses["cpu"]).norm() <= tolerance * losses["cpu"].norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_policy_answers_while_it_trains_there(precision: str, rows_file: Path, tmp_path: Path) -> None:
    """The logits of autocast differ with the shape of a batch, and the check of the model's cache allows for it."""
    rows = [
        {"problem_id": p.id, "task": "miniature", "prompt": p.prompt, "gold": p.gold, "completion": "#1"}
        for p in miniature.problems("test", 6)
    ]
    write_jsonl(tmp_path / "validation.jsonl", rows)
    command = ["train", "sft", "--model_name_or_path", saved("qwen3", tmp_path / "base"), "--train_file", rows_file]
    command += ["--eval_file", tmp_path / "validation.jsonl", "--eval_samples", 6, "--eval_steps", 2, "--max_steps", 2]
    command += ["--eval_max_new_tokens", 12, "--output_dir", tmp_path / "run", "--report_to", "none"]
    command += [] if precision == "fp32" else [f"--{precision}", "true"]
    assert main(list(map(str, command))) == 0
    assert "eval_accuracy" in {name for line in read_rows(tmp_path / "run" / "train_log.jsonl") for name in line}


def test_scores_there_are_the_cpus(rows_file: Path, tmp_path: Path) -> None:
    scorer = miniature_scorer(tmp_path / "scorer")
    values = {}
    for device in ("cpu", "cuda"):
        command = ["score", "--input", rows_file, "--scorer", scorer, "--output", tmp_path / f"{device}.jsonl"]
        assert main(list(map(str, [*command, "--device", device]))) == 0
        values[device] = [q for row in read_rows(tmp_path / f"{device}.jsonl") for q in row["q_values"]]
    assert values["cuda"] == pytest.approx(values["cpu"], abs=1e-4)
    assert load_scorer(scorer).model.device.type == StepScorer.load(scorer).model.device.type == "cuda"
