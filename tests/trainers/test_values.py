"""V without a network, and the options of DQO's losses, as the trainers compute them."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from qstep.data import read_rows, write_jsonl
from qstep.models import PolicyModel, PolicyWithValue
from qstep.objectives.dqo import DQOConfig
from qstep.stages.commands import COMMANDS
from tiny_trainers import trainer, weights

BETA = 0.2
HALF = BETA * math.log((math.exp(1 / BETA) + 1) / 2)
"""V of a problem whose responses are right half of the time."""


@pytest.fixture
def rows(rows_file: Path) -> list[dict[str, Any]]:
    """Sixteen problems, each with the rewards 1, 0, 1, 0."""
    return list(read_rows(rows_file))


def test_dro_takes_v_from_the_group(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """No network: the model is a plain policy, and the loss is that of the bandit with V of the problem."""
    run = trainer("dro_group", base, rows_file, tmp_path, responses_per_prompt=3)
    assert type(run.bare_model) is PolicyModel and run.objective.learning_rates(run.bare_model) == {}
    batch = run.collate([run.train_dataset[0], run.train_dataset[1]])
    assert batch["group_index"].tolist() == [0, 0, 0, 1], "the group is the problem's, in whichever batch"
    torch.testing.assert_close(batch["prompt_values"], torch.full((4,), HALF))
    run.bare_model.pretrained.lm_head.weight.data += 0.1
    with torch.no_grad():
        ratios = (run.model.eval()(batch) - batch["reference_logps"]).mul(batch["response_mask"]).sum(1)
        found = run.objective.losses(run.model, batch)
    expected = (batch["outcomes"] - HALF - BETA * ratios).square()
    torch.testing.assert_close(found.per_trajectory, expected)
    run.train()
    run.save_model()
    assert not (tmp_path / "value.safetensors").exists()
    with pytest.raises(ValueError, match="has no value function"):
        PolicyWithValue.load(tmp_path)


@pytest.mark.parametrize("left_out", ["long", "truncated", "ungradable"])
def test_v_counts_every_graded_response_of_the_file(
    left_out: str, base: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The first response of rewards 1, 0, 1, 0 is left out of training. V counts it unless nobody knows its reward.

    Among four it is one of two right ones; without it V = beta log((exp(1 / beta) + 2) / 3).
    """
    if left_out == "long":
        rows[0] = {name: rows[0][name] for name in ("id", "problem_id", "prompt", "reward")}
        rows[0]["completion"] = "1" * 200
        options = {"over_long": "drop", "max_length": 100}
    elif left_out == "truncated":
        rows[1] |= {"finish_reason": "length"}
        options = {"truncated": "drop"}
    else:
        rows[0] |= {"reward": None, "label": None}
        options = {}
    write_jsonl(tmp_path / "rows.jsonl", rows[:4])
    run = trainer("dro_group", base, tmp_path / "rows.jsonl", tmp_path / "run", **options)
    assert sum(run.train_dataset.left_out.values()) == 1
    three = BETA * math.log((math.exp(1 / BETA) + 2) / 3)
    batch = run.collate([run.train_dataset[0]])
    torch.testing.assert_close(batch["prompt_values"], torch.full((3,), three if left_out == "ungradable" else HALF))


def test_responses_that_v_explains_are_counted(
    base: Path, rows: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One response alone, two of one reward, and four of two rewards: three of seven teach only the KL term."""
    write_jsonl(tmp_path / "rows.jsonl", [rows[0], rows[4], rows[6], *rows[8:12]])
    run = trainer("dro_group", base, tmp_path / "rows.jsonl", tmp_path / "run")
    said = "3 of 7 responses have the same reward as all others of their problem, and 1 of these are the only response"
    assert caplog.text.count(said) == 1
    batch = run.collate([run.train_dataset[0]])
    assert batch["prompt_values"].tolist() == batch["outcomes"].tolist() == [1.0]
    with torch.no_grad():
        found = run.objective.losses(run.model.eval(), batch).per_trajectory
    assert found.abs().max() < 1e-8, "at the reference"


def test_dqo_refuses_the_group_before_anything_is_read() -> None:
    given = ["--train_file=none.jsonl", "--model_name_or_path=none", "--output_dir=out", "--value=group"]
    with pytest.raises(ValueError, match="--value group does not work here: this method needs V after every token"):
        COMMANDS["train dqo"].parse(given)
    with pytest.raises(ValueError, match=r"--value_learning_rate is 0\.1, but it has no effect without --value separ"):
        COMMANDS["train dro"].parse([*given, "--value_learning_rate=.1"])
    COMMANDS["train dro"].parse(given)


# --- DQO's options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["separate", "head"])
def test_alternating_updates_train_v_and_policy_in_turn(
    value: str, base: Path, rows_file: Path, tmp_path: Path
) -> None:
    """V in the 1st and 3rd step, the policy in the 2nd and 4th, although Adam has momentum and weight decay.

    A head is on the policy's trunk, so its steps move the trunk too.
    """
    seen: list[dict[str, torch.Tensor]] = []
    run = trainer(
        "dqo_alternating",
        base,
        rows_file,
        tmp_path,
        value=value,
        max_steps=4,
        weight_decay=0.1,
        lr_scheduler_type="constant",
    )
    end_step = run.objective.end_step

    def watched(step: int) -> Any:
        seen.append(weights(run))
        return end_step(step)

    run.objective.end_step = watched
    run.train()
    seen.append(weights(run))
    for step, (before, after) in enumerate(pairwise(seen)):
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        own = {name for name in before if name.startswith("value_")}
        trunk = {name for name in before if name.startswith("pretrained.model")}
        if value == "separate":
            assert moved and (moved <= own if step % 2 == 0 else moved.isdisjoint(own)), step
        else:
            assert moved & trunk and bool(moved & own) == (step % 2 == 0), step


def test_a_resumed_run_knows_whose_turn_it_is(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """After three steps it is the policy's, as in the run without interruption. A new run begins with V."""
    options: dict[str, Any] = dict(max_steps=4, save_strategy="steps", save_steps=3, per_device_train_batch_size=4)
    whole = trainer("dqo_alternating", base, rows_file, tmp_path / "whole", **options)
    whole.train()
    resumed = trainer("dqo_alternating", base, rows_file, tmp_path / "resumed", **options)
    assert resumed.objective.steps == 0
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert whole.objective.steps == resumed.objective.steps == 4
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_alternating_losses_are_the_parts_of_the_sum(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """Evaluation has their sum, whichever is trained next. (With lambda 1 they are equal.)"""
    run = trainer("dqo_alternating", base, rows_file, tmp_path, lam=0.5)
    batch = run.collate([run.train_dataset[0], run.train_dataset[1]])
    batch["reference_logps"] -= 0.1 * batch["response_mask"]
    objective, losses = run.objective, []
    with torch.no_grad():
        for step in (0, 1, 2):
            objective.steps = step
            losses.append(objective.losses(run.model.train(), batch))
        both = objective.losses(run.model.eval(), batch)
    torch.testing.assert_close(losses[0].per_trajectory, both.recorded["loss/value"])
    torch.testing.assert_close(losses[1].per_trajectory, both.recorded["loss/q"])
    torch.testing.assert_close(losses[2].per_trajectory, losses[0].per_trajectory)
    torch.testing.assert_close(both.per_trajectory, losses[0].per_trajectory + losses[1].per_trajectory)
    assert (losses[0].per_trajectory - losses[1].per_trajectory).abs().max() > 1e-6


def test_alternating_needs_a_new_order_in_each_epoch(tmp_path: Path) -> None:
    options: dict[str, Any] = dict(output_dir=str(tmp_path), use_cpu=True, report_to="none", updates="alternating")
    with pytest.raises(ValueError, match="Set --train_sampling_strategy to random"):
        DQOConfig(**options, train_sampling_strategy="sequential")
    DQOConfig(**options)


@pytest.mark.parametrize("normalize", ["sequence", "token"])
def test_the_loss_is_divided_by_responses_or_tokens(
    normalize: str, base: Path, rows_file: Path, tmp_path: Path
) -> None:
    """Of the complete optimizer step: the logged loss of one step over two micro-batches."""
    run = trainer(
        "dqo",
        base,
        rows_file,
        tmp_path,
        normalize=normalize,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        max_steps=1,
    )
    batch = run.collate([run.train_dataset[i] for i in range(16)])
    with torch.no_grad():
        total = run.objective.losses(run.model.eval(), batch).per_trajectory.sum().item()
    run.train()
    divisor = {"sequence": 64, "token": int(batch["response_mask"].sum())}[normalize]
    assert run.state.log_history[0]["loss"] == pytest.approx(total / divisor, rel=1e-5)


def test_the_return_may_leave_out_the_kl_term(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """Where the policy has moved by .1 nat a token, V's targets are the reward less what is paid for later tokens."""
    soft, plain = (trainer("dqo", base, rows_file, tmp_path, soft_return=soft) for soft in (True, False))
    batch = soft.collate([soft.train_dataset[0]])
    mask = batch["response_mask"].bool()
    batch["reference_logps"] -= 0.1 * mask
    with torch.no_grad():
        _, values = soft.model.eval()(batch)
        found = [run.objective.losses(soft.model, batch).recorded["loss/value"] for run in (soft, plain)]
    to_go = mask.flip(1).cumsum(1).flip(1)
    for loss, paid in zip(found, (BETA * 0.1, 0.0), strict=True):
        returns = batch["outcomes"][:, None] - paid * to_go
        torch.testing.assert_close(loss, ((values - returns).square() * mask).sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_min_form_rewards_add_a_minimum_of_the_step_rewards(
    temperature: float, base: Path, rows_file: Path, tmp_path: Path
) -> None:
    options = {} if temperature else {"process_reward_temperature": 0.0}
    run = trainer("dqo", base, rows_file, tmp_path, process_rewards="min", process_reward_weight=0.5, **options)
    plain = trainer("dqo", base, rows_file, tmp_path)
    items = [run.train_dataset[0], run.train_dataset[3]]
    added = (run.collate(items)["rewards"] - plain.collate(items)["rewards"]).sum(1)
    steps = [torch.tensor(row["step_rewards"]) for item in items for row in item["rows"]]
    soft = [(r * (-r / temperature).softmax(0)).sum() if temperature else r.min() for r in steps]
    torch.testing.assert_close(added, 0.5 * torch.stack(soft), rtol=1e-5, atol=1e-6)
