"""What the log shows of a policy: computed once more by hand, the same however the batch is split."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from qstep.data import read_rows, write_jsonl
from qstep.losses.divergence import kl_k3
from qstep.models import logps as slices
from qstep.objectives.metrics import derived, of_values
from qstep.trainers.common_fall import WarnOfCommonFall, has_fallen
from tiny_trainers import trainer

POLICIES = ["sft", "rs", "reinforce", "dpo", "kto", "dqo", "dro"]


def first_line(run: Any) -> dict[str, Any]:
    run.train()
    return run.state.log_history[0]


def test_k3_by_hand() -> None:
    """ref/pi = e^.5: e^.5 - 1 - .5 = .1487; ref/pi = e^-1: e^-1 - 1 + 1 = .3679; equal: 0; outside the mask: 0."""
    logps, reference = torch.tensor([[-2.0, -1.0, -3.0, -9.0]]), torch.tensor([[-1.5, -2.0, -3.0, -1.0]])
    mask = torch.tensor([[True, True, True, False]])
    found = kl_k3(logps, reference, mask)
    torch.testing.assert_close(found, torch.tensor([[0.148721, 0.367879, 0.0, 0.0]]), atol=1e-5, rtol=0)
    assert kl_k3(torch.tensor([[-500.0]]), torch.tensor([[0.0]]), torch.tensor([[True]])).isfinite().all()


def test_k3_is_unbiased_for_tokens_of_the_policy() -> None:
    """Over a vocabulary of three, its expectation under pi is the exact KL; under the reference it is greater."""
    pi, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    k3 = kl_k3(pi.log()[None], reference.log()[None], torch.ones(1, 3, dtype=torch.bool))[0]
    exact = float((pi * (pi / reference).log()).sum())
    assert float((pi * k3).sum()) == pytest.approx(exact, abs=1e-6)
    assert float((reference * k3).sum()) > exact


def test_explained_variance_by_hand() -> None:
    """G = 0, 1, 1, 2 has variance .5. V = 0, .5, 1.5, 2 leaves errors 0, .5, -.5, 0 of variance .125: 1 - .25."""
    returns, values = torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.tensor([0.0, 0.5, 1.5, 2.0])
    means = {name: float(value.mean()) for name, value in of_values(returns, values).items()}
    assert derived(means) == {"values/explained_variance": pytest.approx(0.75)}
    shifted = {name: float(value.mean()) for name, value in of_values(returns, values + 3).items()}
    assert derived(shifted)["values/explained_variance"] == pytest.approx(0.75, abs=1e-5), "an offset is no variance"
    same = {name: float(value.mean()) for name, value in of_values(torch.ones(4), values).items()}
    assert derived(same) == {}, "returns that are all the same have nothing to explain"


@pytest.mark.parametrize("kind", POLICIES)
def test_entropy_and_lengths_of_every_policy(
    kind: str, base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entropy is that of the dense softmax at the rows' tokens; slices of three tokens give the same."""
    run = trainer(kind, base, rows_file, tmp_path, per_device_train_batch_size=2, max_steps=1, seed=3)
    batch = run.collate([run.train_dataset[i] for i in run.sampler(run.train_dataset, training=True).order(0)[:2]])
    monkeypatch.setattr(slices, "_LOGITS_AT_ONCE", 3 * run.bare_model.config.vocab_size)
    model, expected, lengths = run.bare_model.pretrained, [], []
    model.set_attn_implementation("eager")
    starts = batch["input_ids"].split(
        [
            n
            for g, prompt in enumerate(batch["prompt_lengths"].tolist())
            for n in (prompt, *batch["response_lengths"][batch["group_index"] == g].tolist())
        ]
    )
    prompt = None
    sizes = iter(starts)
    for g in range(len(batch["prompt_lengths"])):
        prompt = next(sizes)
        for _ in range(int((batch["group_index"] == g).sum())):
            response = next(sizes)
            with torch.no_grad():
                logits = model(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1].float()
            logps = logits.log_softmax(-1)
            expected += (-(logps.exp() * logps).sum(-1)).tolist()
            lengths.append(len(response))
    model.set_attn_implementation("qstep_packed")
    line = first_line(run)
    assert line["entropy"] == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert line["completions/mean_length"] == pytest.approx(sum(lengths) / len(lengths))


@pytest.mark.parametrize("kind", POLICIES)
def test_averages_are_the_same_however_a_step_is_accumulated(
    kind: str, base: Path, rows_file: Path, tmp_path: Path
) -> None:
    """A step of 8 items in one, two or eight micro-batches, logged after two steps: all values to 1e-4.

    A margin is as exact as the two values whose difference it is.
    """
    lines, groups = [], {} if kind == "dpo" else {"responses_per_prompt": 3}
    for size, splits in ((8, 1), (4, 2), (1, 8)):
        options = dict(per_device_train_batch_size=size, gradient_accumulation_steps=splits, max_steps=2, **groups)
        run = trainer(kind, base, rows_file, tmp_path / f"{size}", logging_steps=2, **options)
        lines.append(first_line(run))
    for line in lines[1:]:
        assert line.keys() == lines[0].keys()
        for name, value in lines[0].items():
            size = abs(lines[0].get(name.replace("margins", "chosen"), 0.0))
            assert line[name] == pytest.approx(value, rel=1e-4, abs=1e-5 + 1e-6 * size), name


def test_what_each_method_logs(base: Path, rows_file: Path, tmp_path: Path) -> None:
    everywhere = {"entropy", "completions/mean_length", "logps/chosen"}
    both = everywhere | {"logps/rejected", "logps/margins"}
    of_reference = {"kl", "rewards/chosen", "rewards/rejected", "rewards/margins"}
    of_value = {"values/mean", "values/explained_variance", "logps/ratio"}
    expected = {
        "sft": both,
        "rs": everywhere,
        "reinforce": both | {"advantages/size"},
        "dpo": both | of_reference | {"rewards/accuracies"},
        "kto": both | of_reference | {"kl/mismatched"},
        "dro": both | of_reference | of_value,
        "dqo": both | of_reference | of_value | {"loss/value", "loss/q"},
    }
    for kind, names in expected.items():
        line = first_line(trainer(kind, base, rows_file, tmp_path / kind, per_device_train_batch_size=4, max_steps=1))
        others = {name for name in line if "/" in name or name in ("entropy", "kl")}
        assert others == names, kind
        assert not any("moments" in name for name in line)
        if "kl" in line:
            assert line["kl"] == pytest.approx(0, abs=1e-6), "the first step is taken at the reference"
            assert line["rewards/margins"] == pytest.approx(0, abs=1e-5)


def test_the_kl_and_the_rewards_follow_the_policy(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """After some steps, both equal what the policy and the reference say about the evaluated rows."""
    write_jsonl(tmp_path / "eval.jsonl", list(read_rows(rows_file))[:8])
    run = trainer(
        "dqo", base, rows_file, tmp_path / "run", tmp_path / "eval.jsonl", max_steps=5, eval_strategy="steps", beta=0.5
    )
    run.train()
    found = run.evaluate()
    (batch,) = [run.collate([run.eval_dataset[i] for i in range(len(run.eval_dataset))])]
    with torch.no_grad():
        logps, values = run.bare_model.eval()(batch)
    mask, reference = batch["response_mask"].bool(), batch["reference_logps"]
    ratio = (reference - logps)[mask]
    assert found["eval_kl"] == pytest.approx(float((ratio.exp() - 1 - ratio).mean()), rel=1e-4)
    rewards, right = 0.5 * (logps - reference).sum(1), batch["right"]
    assert found["eval_rewards/chosen"] == pytest.approx(float(rewards[right].mean()), rel=1e-3)
    assert found["eval_rewards/margins"] == pytest.approx(
        float(rewards[right].mean() - rewards[~right].mean()), rel=1e-3
    )
    soft = batch["rewards"] - 0.5 * (logps - reference) * mask
    returns = soft.flip(1).cumsum(1).flip(1)[mask]  # lambda = 1
    explained = 1 - float((returns - values[mask]).var() / returns.var())
    assert found["eval_values/explained_variance"] == pytest.approx(explained, rel=1e-3, abs=1e-3)


def lines(right: list[float], wrong: list[float], /, **rewards: list[float]) -> list[dict[str, float]]:
    columns = {"logps/chosen": right, "logps/rejected": wrong}
    columns |= {f"rewards/{side}": values for side, values in rewards.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_a_common_fall_is_told_from_noise_and_from_learning() -> None:
    noise = [0.0, 2.0, -2.0, 1.0, -1.0]
    start, low = [-40 + n for n in noise], [-60 + n for n in noise]
    assert has_fallen(lines(start + low, start + low))
    assert not has_fallen(lines(start + start[::-1], start + low)), "only wrong ones fell: that is learning"
    assert not has_fallen(lines(start + low, start + start)), "only right ones"
    assert not has_fallen(lines(low + start, low + start))
    wild = [-40 + 20 * n for n in noise]
    assert not has_fallen(lines(wild + [w - 20 for w in wild], wild + [w - 20 for w in wild])), "within the noise"
    assert not has_fallen(lines((start + low)[:9], (start + low)[:9])), "too early"
    one = [-40.0] * 5
    assert has_fallen(lines(one, one, chosen=[-0.5] * 5, rejected=[-0.9] * 5), beta=0.2), "2.5 nats below the start"
    assert not has_fallen(lines(one, one, chosen=[-0.5] * 4 + [0.1], rejected=[-0.9] * 5), beta=0.2)
    assert not has_fallen(lines(one, one, chosen=[-0.1] * 5, rejected=[-0.9] * 5), beta=0.2), "half a nat"


def test_the_warning_comes_once_with_what_to_do_also_after_a_resume(caplog: pytest.LogCaptureFixture) -> None:
    args, control = SimpleNamespace(beta=0.2, learning_rate=1e-5), TrainerControl()
    state = TrainerState(log_history=[], is_world_process_zero=True)
    for step, line in enumerate(lines([-40.0] * 12, [-50.0] * 12, chosen=[-1.0] * 12, rejected=[-2.0] * 12)):
        state.global_step = step
        state.log_history.append(line)
        WarnOfCommonFall().on_log(args, state, control)  # a fresh one each time, as after a resume
        state.log_history.append({"eval_loss": 1.0})
        WarnOfCommonFall().on_log(args, state, control)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "step 4: right and wrong responses have both become less likely" in record.message
    assert record.message.endswith("Watch the accuracy with --eval_samples, and lower --learning_rate, or raise --beta")


def test_a_run_that_unlearns_is_warned(
    base: Path, rows_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every reward is -4, so every response is made less likely."""
    rows = [{**row, "reward": -4.0 - number % 2} for number, row in enumerate(read_rows(rows_file))]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    options = dict(max_steps=40, per_device_train_batch_size=16, learning_rate=3e-3)
    run = trainer("dro", base, tmp_path / "rows.jsonl", tmp_path / "run", value_learning_rate=0.0, beta=0.05, **options)
    run.bare_model.start_value(0.0)
    run.train()
    warnings = [record.message for record in caplog.records if "become less likely" in record.message]
    assert len(warnings) == 1 and math.isfinite(run.state.log_history[0]["kl"])
