"""The training benchmark: its batches and counts by hand, and two of its contenders on a tiny model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import training
from real_data import DATA, needs


def row(prompt: int, response: int) -> dict[str, Any]:
    return {"prompt_ids": [0] * prompt, "response_ids": [0] * response}


def problem(prompt: int, *responses: int) -> list[dict[str, Any]]:
    return [row(prompt, response) for response in responses]


def test_positions_of_a_group_and_of_padded_batches():
    problems = [problem(10, 1, 2, 3, 4), problem(20, 5, 5)]
    assert training.positions(problems, training.PQM) == 10 + 1 + 2 + 3 + 4 + 20 + 5 + 5
    padded = training.SORTED_LOOP
    assert training.positions(problems, padded) == 4 * 14 + 2 * 25
    by_two = training.replace(padded, micro_batch=2)
    assert training.positions(problems[:1], by_two) == 2 * 12 + 2 * 14


def test_sorted_batches_hold_all_trajectories_and_least_padding():
    problems = [problem(10, *range(1 + n, 13 + n)) for n in (30, 0, 60)]
    batches = training.batches_of(problems, "length")
    assert [len(batch) for batch in batches] == [12, 12, 12]
    assert [training.length(row) for batch in batches for row in batch] == [
        10 + n + i for n in (0, 30, 60) for i in range(1, 13)
    ]


def test_pairs_stay_together():
    problems = [problem(10 * n, *range(1, 13)) for n in range(1, 7)]
    rows = [row for batch in training.batches_of(problems, "pairs") for row in batch]
    assert len(rows) == 72
    assert all(
        len(a["prompt_ids"]) == len(b["prompt_ids"]) and len(b["response_ids"]) == len(a["response_ids"]) + 1
        for a, b in zip(rows[::2], rows[1::2], strict=True)
    )


def test_all_pairs_are_those_of_right_and_wrong_responses():
    """Six problems with 4 right and 8 wrong responses have 192 pairs; of 384 rows 32 batches of 12 can be filled."""
    problems = [problem(10 * n, *range(1, 13)) for n in range(1, 7)]
    for rows in problems:
        for number, each in enumerate(rows):
            each["reward"] = float(number < 4)
    rows = [row for batch in training.batches_of(problems, "all_pairs") for row in batch]
    assert len(rows) == 32 * 12
    pairs = {(id(a), id(b)) for a, b in zip(rows[::2], rows[1::2], strict=True)}
    assert len(pairs) == 192 and all(a["reward"] > b["reward"] for a, b in zip(rows[::2], rows[1::2], strict=True))


def test_batches_are_taken_evenly_over_their_sizes():
    problems = [problem(n, 1) for n in range(60)]
    assert sorted(len(p[0]["prompt_ids"]) for p in training.spread(problems, training.PQM, 3)) == [10, 30, 50]
    assert sorted(len(p[0]["prompt_ids"]) for p in training.spread(problems, training.PQM, 60)) == list(range(60))


def test_needed_flops_by_hand():
    config = SimpleNamespace(
        num_attention_heads=2, head_dim=4, hidden_size=8, num_key_value_heads=1, intermediate_size=16,
        num_hidden_layers=3, vocab_size=100,
    )  # fmt: skip
    # q and o: 2 x 8 x 8, k and v: 2 x 8 x 4, the MLP: 3 x 8 x 16 weights a layer
    weights = 2 * 64 + 2 * 32 + 3 * 128
    assert training.layer_weights(config) == weights
    # a prompt of 2 tokens and responses of 1 and 2; keys seen: 1 + 2, 3, 3 + 4; a head's two products are 2 x 2 x 4
    forward = 3 * (2 * weights * 5 + 4 * 2 * 4 * (3 + 3 + 7))
    problems = [problem(2, 1, 2)]
    assert training.needed_flops(problems, config, training.PQM) == 3 * forward
    assert training.needed_flops(problems, config, training.DQO) == 3 * (forward + 2 * 8 * 100 * 3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of one layer, with a tokenizer that real text does not make too long."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    lines = (DATA / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:300]
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator([text for line in map(json.loads, lines) for text in line.values()], trainer)
    folder = tmp_path_factory.mktemp("tiny")
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@needs("gsm8k_responses.jsonl")
def test_dpo_runs_on_a_tiny_model(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """qstep's contender on problems that have right and wrong responses."""
    output = tmp_path / "result.json"
    monkeypatch.setitem(training.PARTS, "dpo", (training.OWN_DPO,))
    command = ["training.py", "--model", tiny, "--data", DATA, "--threads", 1, "--output", output]
    command += ["--parts", "dpo", "--policy_steps", 1, "--rounds", 1, "--trl_python", sys.executable]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    training.main()
    (figures,) = json.loads(output.read_text())["parts"]["dpo, float32"]["contenders"].values()
    assert figures["trajectories_per_second"] > 0 and figures["positions_over_needed"] == 1


@needs("gsm8k_responses.jsonl")
def test_full_batches_run_on_a_tiny_model(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 problems, 24 warm up and 24 are measured."""
    output = tmp_path / "result.json"
    monkeypatch.setitem(training.PARTS, "full", (training.PQM,))
    command = ["training.py", "--model", tiny, "--data", DATA, "--threads", 1, "--output", output]
    monkeypatch.setattr(sys, "argv", list(map(str, [*command, "--parts", "full", "--problems", 24])))
    training.main()
    part = json.loads(output.read_text())["parts"]["full, float32"]
    assert part["trajectories"] == 24 * 12
    (figures,) = part["contenders"].values()
    assert figures["trajectories_per_second"] > 0 and figures["share_of_matrix_rate"] > 0


@needs("gsm8k_responses.jsonl")
def test_runs_on_a_tiny_model(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contenders of qstep's own environment, in processes of their own."""
    output = tmp_path / "result.json"
    command = ["training.py", "--model", tiny, "--data", DATA, "--threads", 1, "--output", output]
    command += ["--parts", "few-shot", "--few_shot_steps", 1, "--rounds", 1]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    training.main()
    figures = json.loads(output.read_text())["parts"]["few-shot, float32"]["contenders"]
    assert all(of["trajectories_per_second"] > 0 and of["peak_gib"] > 0 for of in figures.values())
    assert figures["padded loop, sorted by length"]["positions_over_needed"] > 3
