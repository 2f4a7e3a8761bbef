"""What a user turns on: precision, evaluation, the best checkpoint; and what the trainers make of it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from model_families import saved, tiny
from qstep.data import read_rows, write_jsonl
from qstep.models import ModelOptions, PolicyModel, collate_groups
from qstep.objectives import METHODS
from qstep.objectives.arguments import EVALUATES
from qstep.runs.options import ReadIf, options_of
from qstep.stages.train import TrainInputs
from qstep.tasks import miniature
from qstep.trainers import NonFiniteLoss, RSTrainer, reference
from qstep.trainers.reference import ReferenceStore
from tiny_trainers import VARIANTS, trainer, weights

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def dtypes_of_linear_layers(model: nn.Module) -> Counter[torch.dtype]:
    """Counts, from now on, the dtypes that the trunk's linear layers give out."""
    seen: Counter[torch.dtype] = Counter()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "_proj" in name:
            module.register_forward_hook(lambda module, inputs, output: seen.update([output.dtype]))
    return seen


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", ["pqm", "rs", "reinforce", "dpo", "kto", "dqo", "dro", *VARIANTS])
def test_autocast_reaches_the_linear_layers_and_losses_stay_in_fp32(
    kind: str,
    precision: str,
    base: Path,
    rows_file: Path,
    tmp_path: Path,
) -> None:
    options = {"beta": 0.05} if kind == "dro_group" else {}  # else its first gradient exceeds fp16 at the first scale
    run = trainer(
        kind, base, rows_file, tmp_path, per_device_train_batch_size=4, max_steps=2, **options, **{precision: True}
    )
    seen = dtypes_of_linear_layers(run.bare_model)
    dtypes = []
    losses = run.losses

    def watched(model: Any, inputs: Any) -> torch.Tensor:
        values = losses(model, inputs)
        dtypes.append(values.dtype)
        return values

    run.losses = watched
    before = weights(run)
    run.train()
    assert set(seen) == {HALF[precision]} and set(dtypes) == {torch.float32}
    assert all(value.dtype == torch.float32 for value in weights(run).values())
    assert any(not torch.equal(value, before[name]) for name, value in weights(run).items())
    assert [line["loss"] for line in run.state.log_history if "loss" in line] == pytest.approx([0, 0], abs=1e3)


def test_a_step_that_overflows_in_fp16_is_skipped_and_logged_as_null(
    base: Path,
    rows_file: Path,
    tmp_path: Path,
) -> None:
    """The second of three steps has an infinite loss: it changes nothing, and the third goes on."""
    run = trainer("rs", base, rows_file, tmp_path, per_device_train_batch_size=4, max_steps=3, fp16=True)
    losses, seen = run.losses, []

    def overflowing(model: Any, inputs: Any) -> torch.Tensor:
        seen.append(weights(run)["pretrained.model.norm.weight"])
        values = losses(model, inputs)
        return values * float("inf") if len(seen) == 2 else values

    run.losses = overflowing
    run.train()
    lines = [line for line in run.state.log_history if "loss" in line]
    assert [line["loss"] is None for line in lines] == [False, True, False]
    assert [line.get("skipped_steps") for line in lines] == [None, 1, None]
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2])
    assert json.dumps(lines, allow_nan=False)


def test_what_a_skipped_step_recorded_is_left_out_of_the_log(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """Of four steps of DQO the third overflows: the parts of the loss are averaged as the loss is."""
    options = dict(per_device_train_batch_size=4, max_steps=4, logging_steps=4, fp16=True, seed=3)
    run = trainer("dqo", base, rows_file, tmp_path, **options)
    losses, calls = run.losses, []

    def overflowing(model: Any, inputs: Any) -> torch.Tensor:
        calls.append(0)
        values = losses(model, inputs)
        if len(calls) == 3:
            run.record({"loss/q": torch.tensor([float("inf")])})
            return values * float("inf")
        return values

    run.losses = overflowing
    run.train()
    (line,) = [line for line in run.state.log_history if "loss" in line]
    assert line["skipped_steps"] == 1
    assert line["loss/q"] + line["loss/value"] == pytest.approx(line["loss"], rel=1e-4)


def test_a_run_that_skips_every_step_has_not_succeeded(base: Path, rows_file: Path, tmp_path: Path) -> None:
    run = trainer("rs", base, rows_file, tmp_path, per_device_train_batch_size=4, max_steps=3, fp16=True)
    losses = run.losses
    run.losses = lambda model, inputs: losses(model, inputs) * float("inf")
    with pytest.raises(NonFiniteLoss, match="every step overflowed fp16 and was skipped"):
        run.train()


def test_a_gradient_that_is_not_finite_is_an_overflow_in_fp16_and_else_stops_the_run(
    base: Path, rows_file: Path, tmp_path: Path
) -> None:
    """The loss of the second of three steps is finite, its gradient infinite."""
    for precision in ({"fp16": True}, {"bf16": True}, {}):
        run = trainer("rs", base, rows_file, tmp_path, per_device_train_batch_size=4, max_steps=3, **precision)
        losses, seen = run.losses, []

        def steep(model: Any, inputs: Any, losses=losses, seen=seen) -> torch.Tensor:
            values = losses(model, inputs)
            seen.append(0)
            if len(seen) == 2:
                values.register_hook(lambda gradient: gradient * float("inf"))
            return values

        run.losses = steep
        if precision == {"fp16": True}:
            run.train()
            lines = [line for line in run.state.log_history if "loss" in line]
            assert [line["loss"] is None for line in lines] == [False, True, False]
        else:
            with pytest.raises(NonFiniteLoss, match=r"step 1: the gradient is not finite"):
                run.train()


def test_what_overflows_at_every_step_stops_the_run(base: Path, rows_file: Path, tmp_path: Path) -> None:
    run = trainer("rs", base, rows_file, tmp_path, per_device_train_batch_size=1, max_steps=40, fp16=True)
    run.bare_model.pretrained.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NonFiniteLoss, match=r"step 25: the loss of row"):
        run.train()


def test_a_row_that_overflows_in_every_step_stops_the_run_whatever_the_accumulation(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of the two micro-batches of each step overflows, the second is finite; one whole step begins anew."""
    monkeypatch.setattr("qstep.trainers.finite._OVERFLOWS", 2)
    options = dict(per_device_train_batch_size=2, gradient_accumulation_steps=2, fp16=True)
    for whole_steps, stops in (((), True), ((2,), False)):
        run = trainer("rs", base, rows_file, tmp_path, max_steps=4, **options)
        losses, calls = run.losses, []

        def overflowing(model: Any, inputs: Any, of=losses, calls=calls, spared=whole_steps) -> torch.Tensor:
            calls.append(0)
            step, first = divmod(len(calls) - 1, 2)
            values = of(model, inputs)
            return values if first or step in spared else values * float("inf")

        run.losses = overflowing
        if stops:
            with pytest.raises(NonFiniteLoss, match=r"step 2: the loss of row"):
                run.train()
        else:
            run.train()


@pytest.mark.parametrize("kind", ["pqm", "rs", "dqo", "dro_group"])
def test_evaluation_is_the_training_loss_of_another_file(
    kind: str,
    base: Path,
    rows_file: Path,
    tmp_path: Path,
) -> None:
    """At a learning rate of 0 the loss of the one step over all rows is the evaluation's, whatever its batches."""
    options = dict(per_device_train_batch_size=64, learning_rate=0.0, max_steps=1, eval_strategy="steps", eval_steps=1)
    options |= {"value_learning_rate": 0.0} if kind == "dqo" else {}
    run = trainer(kind, base, rows_file, tmp_path, eval_file=rows_file, per_device_eval_batch_size=3, **options)
    run.train()
    training = next(line for line in run.state.log_history if "loss" in line)
    evaluation = next(line for line in run.state.log_history if "eval_loss" in line)
    names = [name for name in training if name == "loss" or "/" in name]
    assert names and all(evaluation[f"eval_{name}"] == pytest.approx(training[name], abs=1e-4) for name in names)


def test_the_best_checkpoint_is_kept(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """At a huge learning rate the loss only grows: the first checkpoint is the best, and the run ends with it."""
    rows, other = list(read_rows(rows_file)), tmp_path / "other.jsonl"
    write_jsonl(tmp_path / "train.jsonl", rows[:40])
    write_jsonl(other, [row for row in rows[40:] if row["prompt"] not in {row["prompt"] for row in rows[:40]}])
    run = trainer(
        "pqm",
        base,
        tmp_path / "train.jsonl",
        tmp_path,
        eval_file=other,
        per_device_train_batch_size=8,
        max_steps=3,
        learning_rate=3.0,
        optim="sgd",
        max_grad_norm=0.0,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    run.train()
    losses = [line["eval_loss"] for line in run.state.log_history if "eval_loss" in line]
    best = losses.index(min(losses)) + 1
    assert run.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    ended = weights(run)
    run.bare_model.restore(tmp_path / f"checkpoint-{best}")
    assert all(torch.equal(value, weights(run)[name]) for name, value in ended.items())
    run.bare_model.restore(tmp_path / f"checkpoint-{best % 3 + 1}")
    assert any(not torch.equal(value, weights(run)[name]) for name, value in ended.items())


def test_evaluation_needs_a_file_and_lengths_are_not_grouped(
    base: Path,
    rows_file: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="Give --eval_file"):
        trainer("rs", base, rows_file, tmp_path, eval_strategy="steps", eval_steps=1)
    with pytest.raises(ValueError, match="Give --eval_file"):
        trainer("rs", base, rows_file, tmp_path, eval_on_start=True)
    with pytest.raises(
        ValueError, match=r"--eval_file .* has no effect without evaluations: give --eval_strategy steps or epoch"
    ):
        trainer("rs", base, rows_file, tmp_path, eval_file=rows_file)
    assert options_of(TrainInputs)["eval_file"].of(ReadIf) == [EVALUATES], "the field says what the check reads"
    with pytest.raises(ValueError, match="choose random or sequential"):
        trainer("rs", base, rows_file, tmp_path, train_sampling_strategy="group_by_length")


def test_several_visible_gpus_do_not_make_replicas(
    base: Path,
    rows_file: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = METHODS["rs"].config(str(tmp_path), use_cpu=True, report_to="none", per_device_train_batch_size=4)
    assert config.n_gpu <= 1
    config._n_gpu = 4
    run = RSTrainer(str(base), config, rows_file)
    assert not isinstance(run._wrap_model(run.model), nn.DataParallel)
    assert run.sampler(run.train_dataset, training=True).step_items == 4
    assert "4 GPUs are visible, but only one is used. Start with torchrun" in caplog.text


@pytest.mark.parametrize("family", ["mixtral", "llama"])
def test_a_training_says_that_the_routers_loss_is_off(
    family: str, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer("rs", saved(family, tmp_path / "model"), rows_file, tmp_path, max_length=128)
    said = "The auxiliary loss of the model's router (router_aux_loss_coef 0.001) is off in training"
    assert (said in " ".join(capsys.readouterr().err.split())) == (family == "mixtral")


def test_a_wrong_response_with_a_partial_reward_is_logged_with_the_rejected(
    base: Path, rows_file: Path, tmp_path: Path
) -> None:
    rows = [{**row, "label": i % 2 == 0, "reward": 0.5} for i, row in enumerate(read_rows(rows_file))]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    run = trainer("dro", base, tmp_path / "rows.jsonl", tmp_path)
    [batch] = next(iter(run.get_train_dataloader()))
    assert batch["right"].tolist() == [rows[number]["label"] for number in batch["row_index"].tolist()]
    run.losses(run.model, batch)
    logged = run.take_means()
    logps = run.model(batch)[0].sum(1)
    assert logged["logps/chosen"] == pytest.approx(logps[batch["right"]].mean().item(), rel=1e-5)
    assert logged["logps/rejected"] == pytest.approx(logps[~batch["right"]].mean().item(), rel=1e-5)


def test_norms_and_biases_are_not_decayed_and_the_value_has_its_own_rate(
    base: Path,
    rows_file: Path,
    tmp_path: Path,
) -> None:
    run = trainer("dqo", base, rows_file, tmp_path, weight_decay=0.1, learning_rate=1e-4, value_learning_rate=1e-3)
    names = {id(parameter): name for name, parameter in run.bare_model.named_parameters()}
    for group in run.create_optimizer().param_groups:
        members = [names.pop(id(parameter)) for parameter in group["params"]]
        assert {("norm" in name or name.endswith("bias")) for name in members} == {group["weight_decay"] == 0}
        assert {name.startswith("value_") for name in members} == {group["lr"] == 1e-3}
    assert not names


def test_right_and_other_responses_are_averaged_apart(base: Path, rows_file: Path, tmp_path: Path) -> None:
    run = trainer("dqo", base, rows_file, tmp_path, per_device_train_batch_size=64, max_steps=1)
    policy = PolicyModel.new(ModelOptions(model_name_or_path=str(base))).eval()
    sums: dict[bool, list[float]] = {True: [], False: []}
    for row in read_rows(rows_file):
        batch = collate_groups([run.processing_class(row["prompt"])["input_ids"]], [[row["completion_ids"]]])
        with torch.no_grad():
            sums[row["label"]].append(policy(batch).sum().item())
    run.train()
    line = run.state.log_history[0]
    assert line["logps/chosen"] == pytest.approx(np.mean(sums[True]), abs=1e-3)
    assert line["logps/rejected"] == pytest.approx(np.mean(sums[False]), abs=1e-3)


def test_rows_without_behaviour_logps_are_warned_of(
    base: Path,
    rows_file: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = list(read_rows(rows_file))
    for row in rows[:5]:
        del row["logps_behavior"]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    trainer("dqo", base, tmp_path / "rows.jsonl", tmp_path, importance="none")
    assert "logps_behavior" not in caplog.text
    trainer("dqo", base, tmp_path / "rows.jsonl", tmp_path, importance="trajectory")
    assert "5 of 64 rows have no logps_behavior" in caplog.text


@pytest.mark.parametrize("method", ["dqo", "dro"])
def test_rewards_that_tell_nothing_are_warned_of(
    method: str, base: Path, rows_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(method, base, rows_file, tmp_path)
    assert "do not distinguish responses" not in caplog.text
    write_jsonl(tmp_path / "rows.jsonl", [{**row, "label": False, "reward": 0.0} for row in read_rows(rows_file)])
    trainer(method, base, tmp_path / "rows.jsonl", tmp_path)
    assert "every row has the reward 0, so the outcomes do not distinguish responses" in caplog.text


@pytest.mark.parametrize("peft", [False, True])
def test_the_reference_is_computed_once_for_the_rows_that_are_reached(
    peft: bool,
    base: Path,
    rows_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two steps of 3 items reach 24 of 64 rows; DRO and a rerun take what is there, and more steps add the rest.

    They compute the batch that the first run had begun as a whole, as a longer first run would have.

    With an adapter, whatever it has become, the reference is the base.
    """
    rows = tmp_path / "rows.jsonl"
    write_jsonl(rows, read_rows(rows_file))
    computed: list[int] = []
    compute = reference._logps_of

    def counted(items: list[dict[str, Any]], *functions: Any) -> Any:
        found = compute(items, *functions)
        computed.extend(number for number, _ in found)
        return found

    monkeypatch.setattr(reference, "_logps_of", counted)
    options = dict(per_device_train_batch_size=3, peft=peft)
    trainer("dqo", base, rows, tmp_path / "a", max_steps=2, **options).train()
    assert len(computed) == len(set(computed)) == 24
    trainer("dro", base, rows, tmp_path / "b", max_steps=2, **options)
    assert len(computed) == 24
    run = trainer("dqo", base, rows, tmp_path / "c", max_steps=6, **options)
    assert len(computed) == 24 + 64 and len(set(computed)) == 64
    store = run.train_dataset.columns["reference_logps"]
    policy = PolicyModel.new(ModelOptions(model_name_or_path=str(base))).eval()
    for number in range(0, 64, 7):
        row = run.train_dataset.row(number)
        batch = collate_groups([run.processing_class(row["prompt"])["input_ids"]], [[row["completion_ids"]]])
        with torch.no_grad():
            assert store[number] == pytest.approx(policy(batch)[0].numpy(), abs=1e-5)
    other = PolicyModel.new(ModelOptions(model_name_or_path=str(base)))
    other.pretrained.model.norm.weight.data += 0.1
    other.save(tmp_path / "other")
    miniature.tokenizer().save_pretrained(tmp_path / "other")
    trainer("dqo", tmp_path / "other", rows, tmp_path / "d", max_steps=2, **options)
    assert len(computed) == 24 + 64 + 24
    config = json.loads((base / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 100.0
    turned = Path(shutil.copytree(base, tmp_path / "turned"))
    (turned / "config.json").write_text(json.dumps(config))
    trainer("dqo", turned, rows, tmp_path / "e", max_steps=2, **options)
    assert len(computed) == 24 + 64 + 24 + 24  # the weights are the base's, and what they compute is not


def test_reference_files_hold_fp32_and_half_written_ones_do_not_count(tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path)
    store.write([(7, np.array([-0.5, -0.25])), (2, np.array([-1.0]))])
    (tmp_path / ".half.logps.tmp").write_bytes(b"{}")
    again = ReferenceStore(tmp_path)
    assert 7 in again and 2 in again and 3 not in again
    assert again[7].tolist() == [-0.5, -0.25] and again[2].dtype == np.float32
    assert sum(file.stat().st_size for file in tmp_path.glob("*.logps")) < 100


def test_a_model_of_learned_positions_is_told_of_before_it_is_trained(rows_file: Path, tmp_path: Path) -> None:
    """GPT-2 and OPT have a table of 128 positions, OPT's with two places more; Llama computes any."""
    config = METHODS["rs"].config(str(tmp_path), use_cpu=True, report_to="none", max_length=129)
    for family in ("gpt2", "opt"):
        with pytest.raises(
            ValueError, match=r"--max_length is 129, but this model has only 128 positions: set it to 128 or less"
        ):
            RSTrainer(PolicyModel(tiny(family)), config, rows_file, processing_class=miniature.tokenizer())
    RSTrainer(PolicyModel(tiny("llama")), config, rows_file, processing_class=miniature.tokenizer())
    scaled = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}
    shape = tiny("llama").config.to_dict() | {**scaled, "max_position_embeddings": 128}
    dynamic = PolicyModel(LlamaForCausalLM(LlamaConfig(**shape)))
    with pytest.raises(ValueError, match=r"--max_length is 129, but beyond 128 tokens this model's rotary positions"):
        RSTrainer(dynamic, config, rows_file, processing_class=miniature.tokenizer())


def test_a_skipped_step_has_no_part_in_the_line_that_averages_it(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """Of three steps the second overflows: the line has the mean of the other two, and says that one was skipped."""
    run = trainer("rs", base, rows_file, tmp_path, per_device_train_batch_size=4, max_steps=3, fp16=True)
    run.args.logging_steps = run.state.logging_steps = 3
    losses, seen = run.losses, []

    def overflowing(model: Any, inputs: Any) -> torch.Tensor:
        values = losses(model, inputs)
        seen.append((values.sum() / inputs["response_mask"].sum()).item())
        return values * float("inf") if len(seen) == 2 else values

    run.losses = overflowing
    run.train()
    (line,) = [line for line in run.state.log_history if "loss" in line]
    assert line["step"] == 3 and line["skipped_steps"] == 1
    assert line["loss"] == pytest.approx((seen[0] + seen[2]) / 2, rel=1e-3)


def test_there_is_a_line_before_each_checkpoint_and_at_the_end(base: Path, rows_file: Path, tmp_path: Path) -> None:
    options = dict(logging_steps=100, save_strategy="steps", save_steps=2, max_steps=5)
    run = trainer("rs", base, rows_file, tmp_path, per_device_train_batch_size=4, **options)
    run.train()
    assert [line["step"] for line in run.state.log_history if "loss" in line] == [2, 4, 5]


def test_fp16_weights_are_not_scaled(base: Path, rows_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--fp16 needs weights in fp32.*--dtype float32"):
        trainer("rs", base, rows_file, tmp_path, fp16=True, dtype="float16")
