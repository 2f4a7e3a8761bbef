"""Training on rows and models in memory: the weights of the command, and errors that name what the caller gave."""

from __future__ import annotations

import logging
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas
import peft
import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

import qstep
import qstep.trainers
from qstep.data import read_rows
from qstep.objectives import METHODS, packages
from qstep.objectives.config import PolicyConfig
from qstep.objectives.dqo import DQOConfig
from qstep.objectives.ranking import RankingConfig
from qstep.stages.train import TrainInputs, train
from qstep.tasks import miniature
from qstep.trainers import DQOTrainer, PQMTrainer, RSTrainer, SFTTrainer

OPTIONS: dict[str, Any] = dict(
    use_cpu=True,
    report_to="none",
    disable_tqdm=True,
    per_device_train_batch_size=4,
    responses_per_prompt=4,
    learning_rate=1e-2,
    max_steps=3,
    save_strategy="no",
)
MADE = {
    "list": list,
    "Dataset": Dataset.from_list,
    "frame": pandas.DataFrame,
    "generator": iter,
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.fixture(scope="module")
def rows(rows_file: Path) -> list[dict[str, Any]]:
    return list(read_rows(rows_file))


@pytest.fixture(scope="module")
def of_command(base: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `qstep train pqm` makes of the file."""
    folder = tmp_path_factory.mktemp("command") / "pqm"
    inputs = TrainInputs(model_name_or_path=str(base), train_file=rows_file)
    return train("pqm", inputs, RankingConfig(output_dir=str(folder), **OPTIONS))


@pytest.mark.parametrize("kind", [*MADE, "file"])
def test_rows_in_memory_give_the_weights_of_the_command(
    kind: str, base: Path, rows: list[dict[str, Any]], rows_file: Path, of_command: Path, tmp_path: Path
) -> None:
    given = str(rows_file) if kind == "file" else MADE[kind](rows)
    run = PQMTrainer(model=str(base), args=RankingConfig(output_dir=str(tmp_path), **OPTIONS), train_dataset=given)
    run.train()
    run.save_model()
    assert same(weights(tmp_path), weights(of_command))


def test_a_table_has_null_where_rows_have_nothing(base: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Half the rows lack ids, problem_ids and logps: a table fills them up, and the trainer takes them for lacking."""
    optional = ("id", "problem_id", "completion_ids", "logps_behavior")
    uneven = [{k: v for k, v in row.items() if i % 2 == 0 or k not in optional} for i, row in enumerate(rows)]
    args = [DQOConfig(output_dir=str(tmp_path / kind), **OPTIONS) for kind in MADE]
    found = [DQOTrainer(str(base), args[i], MADE[kind](uneven)).train_dataset for i, kind in enumerate(MADE)]
    assert [[dataset.row(number) for number in range(64)] for dataset in found] == [uneven] * len(MADE)


def test_training_on_rows_is_the_command(
    base: Path, rows: list[dict[str, Any]], of_command: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its log and card; the same call leaves a finished folder as it is."""
    folder = qstep.train("pqm", rows, model=base, output_dir=tmp_path / "pqm", **OPTIONS)
    assert same(weights(folder), weights(of_command))
    assert list(read_rows(folder / "train_log.jsonl")) == list(read_rows(of_command / "train_log.jsonl"))
    assert "rows (in memory)" in (folder / "README.md").read_text()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    qstep.train("pqm", Dataset.from_list(rows).to_list(), model=base, output_dir=folder, **OPTIONS)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_other_rows_are_evaluated_by_another_trainer(base: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    run = PQMTrainer(str(base), RankingConfig(output_dir=str(tmp_path), **OPTIONS), rows)
    with pytest.raises(ValueError, match="give it the argument eval_dataset"):
        run.evaluate()
    with pytest.raises(TypeError, match=r"takes no rows\. Make a trainer with them"):
        run.evaluate(rows)
    with pytest.raises(TypeError, match="`qstep score` and `qstep evaluate` read"):
        run.predict(rows)


@pytest.mark.parametrize("method", ["pqm", "rs", "dqo"])
def test_a_model_in_memory_is_trained_as_its_folder(
    method: str, base: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A policy in place; a scorer on the trunk of the causal language model."""
    chosen = qstep.trainers.trainer_class(METHODS[method])
    model = AutoModelForCausalLM.from_pretrained(base)
    for name, given in (("folder", str(base)), ("model", model)):
        args = METHODS[method].config(output_dir=str(tmp_path / name), **OPTIONS)
        run = chosen(given, args, rows, processing_class=miniature.tokenizer())
        run.train()
        run.save_model()
    assert same(weights(tmp_path / "folder"), weights(tmp_path / "model"))
    if method != "pqm":
        assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=2).shape[1] > 2, "it computes plain batches again"
        trained = weights(tmp_path / "model")
        assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items() if name in trained)


@pytest.mark.parametrize("interrupted", ["train", "evaluate"])
def test_an_interrupted_model_in_memory_generates_as_before(
    interrupted: str, base: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    class Interrupt(TrainerCallback):
        def on_step_begin(self, *args: Any, **options: Any) -> None:
            raise KeyboardInterrupt

        on_prediction_step = on_step_begin

    model = AutoModelForCausalLM.from_pretrained(base)
    before = model.generate(torch.tensor([[5, 6]]), max_new_tokens=4)
    args = METHODS["rs"].config(output_dir=str(tmp_path), eval_strategy="epoch", **OPTIONS)
    run = qstep.trainers.RSTrainer(model, args, rows, rows, miniature.tokenizer(), [Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        getattr(run, interrupted)()
    assert torch.equal(model.generate(torch.tensor([[5, 6]]), max_new_tokens=4), before)
    run.remove_callback(Interrupt)
    assert run.evaluate()["eval_loss"] > 0
    assert torch.equal(model.generate(torch.tensor([[5, 6]]), max_new_tokens=4), before)


def test_a_model_that_cannot_be_trained_in_place_is_named(
    base: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    args = METHODS["rs"].config(output_dir=str(tmp_path), **OPTIONS)
    lora = peft.LoraConfig(target_modules=["q_proj"])
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    with pytest.raises(TypeError, match=r"model is a PeftModel: .* For adapters, give ModelOptions\(.*use_peft=True\)"):
        qstep.trainers.RSTrainer(adapted, args, rows, processing_class=miniature.tokenizer())


def test_every_method_has_its_trainer() -> None:
    expected = {"PQMTrainer", "PQMTheoreticalTrainer", "PQMAblationTrainer", "BCETrainer", "MSETrainer", "ORMTrainer"}
    expected |= {"SFTTrainer", "RSTrainer", "REINFORCETrainer", "DROTrainer", "DQOTrainer", "DPOTrainer", "KTOTrainer"}
    assert expected <= {*qstep.trainers.__all__} <= {*dir(qstep.trainers)}
    assert {getattr(qstep.trainers, name).method.name for name in expected} == {*METHODS}
    assert all(getattr(qstep.trainers, name).__name__ == name for name in expected)
    for name in expected:
        options = getattr(qstep.trainers, name.replace("Trainer", "Config"))
        assert options is getattr(qstep.trainers, name).method.config
    with pytest.raises(AttributeError, match="PPOTrainer"):
        qstep.trainers.PPOTrainer  # noqa: B018


def test_errors_name_the_rows_that_were_given(base: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    args = PolicyConfig(output_dir=str(tmp_path), **OPTIONS)
    unusable = [
        ([*rows[:12], {"prompt": "a"}], r"^train_dataset\[12\], field 'completion': is missing"),
        (
            [*rows[:2], {"prompt": "a", "completion": {1, 2}}],
            r"^train_dataset\[2\]: column .* holds what JSON cannot .*set ",
        ),
        ([*rows[:5], rows[2]], r"^train_dataset\[5\], field 'id': .* occurs twice \(first on train_dataset\[2\]\)"),
        ([], r"^train_dataset has no rows"),
        ([{**rows[0], "label": False}], r"^train_dataset: no row can be used\. Left out: {'not right': 1}"),
    ]
    for given, says in unusable:
        with pytest.raises(ValueError, match=says):
            RSTrainer(str(base), args, given)
    no_tables = [
        ([*rows[:3], "a text"], r"^train_dataset\[3\] must be a dict, not str"),
        (DatasetDict(train=Dataset.from_list(rows)), r"^train_dataset is of type DatasetDict with train: .* one split"),
        (7, r"^train_dataset is of type int: give a list of dicts, a datasets.Dataset or a pandas DataFrame"),
    ]
    for given, says in no_tables:
        with pytest.raises(TypeError, match=says):
            RSTrainer(str(base), args, given)
    short = PolicyConfig(output_dir=str(tmp_path), **OPTIONS, max_length=20)
    with pytest.raises(ValueError, match=r"^train_dataset: 64 rows are longer .*: train_dataset\[0\] \(\d+\), "):
        SFTTrainer(str(base), short, rows)
    evaluates = PolicyConfig(output_dir=str(tmp_path), **OPTIONS, eval_strategy="epoch")
    with pytest.raises(ValueError, match=r"^eval_dataset\[1\], field 'prompt': is missing"):
        SFTTrainer(str(base), evaluates, rows, [rows[0], {}])
    with pytest.raises(ValueError, match=r"^eval_dataset has no effect"):
        SFTTrainer(str(base), args, rows, rows)
    with pytest.raises(ValueError, match=r"^rows\[1\], field 'prompt'"):
        qstep.train("sft", [rows[0], {}], model=base, output_dir=tmp_path / "out", **OPTIONS)
    with pytest.raises(ValueError, match=r"no method 'pqn' \(did you mean pqm\?\)"):
        qstep.train("pqn", rows, model=base, output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match=r"sft has no option learning_rat \(did you mean learning_rate\?\)"):
        qstep.train("sft", rows, model=base, output_dir=tmp_path / "out", learning_rat=1)
    model = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(ValueError, match="processing_class is missing: give the tokenizer of the model"):
        SFTTrainer(model, args, rows)


def test_what_is_wrong_is_said_before_a_model_loads(
    tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no model called no/model, and nobody asks for it."""
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name))
    unlabelled = [{**row, "labels": [None] * len(row["labels"])} for row in rows]
    args = RankingConfig(output_dir=str(tmp_path), **OPTIONS)
    with pytest.raises(ValueError, match=r"no row can be used\. Left out: {'no step has a label': 64}"):
        PQMTrainer("no/model", args, unlabelled, processing_class=miniature.tokenizer())
    for name, line in (("wandb", "wandb"), ("comet_ml", "comet-ml"), ("mlflow", "mlflow")):
        with pytest.raises(ValueError, match=f"--report_to {name} is not installed: pip install {line}$"):
            PolicyConfig(output_dir=str(tmp_path), **{**OPTIONS, "report_to": name})
    zero2 = tmp_path / "zero2.json"
    zero2.write_text('{"zero_optimization": {"stage": 2}}')
    for options, sentence in (
        ({"optim": "adamw_bnb_8bit"}, "--optim adamw_bnb_8bit needs the package bitsandbytes, which is not installed"),
        ({"optim": "paged_lion_8bit"}, "--optim paged_lion_8bit needs the package bitsandbytes, which is not"),
        ({"optim": "schedule_free_adamw"}, "--optim schedule_free_adamw needs the package schedulefree, which is not"),
        ({"deepspeed": str(zero2)}, "--deepspeed needs the package deepspeed, which is not installed: pip install"),
        ({"deepspeed": "none.json"}, "--deepspeed none.json: No such file"),
        ({"deepspeed": {"zero_optimization": {}}}, "--deepspeed needs the package deepspeed, which is not installed"),
        ({"torch_compile": True}, "--torch_compile is not supported: remove it. Each batch has its own shape"),
        ({"use_liger_kernel": True}, "--use_liger_kernel is True, but qstep's trainers do not use it: remove it"),
        ({"label_names": ["a"]}, r"--label_names is \['a'\], but qstep's trainers do not use it: remove it"),
        ({"do_predict": True}, "--do_predict is True, but qstep's trainers do not use it: remove it"),
    ):
        with pytest.raises(ValueError, match=f"^{sentence}"):
            PolicyConfig(output_dir=str(tmp_path), **{**OPTIONS, **options})
    with pytest.raises(ValueError, match=r"--report_to wandbb is unknown: choose none, all, or some of"):
        PolicyConfig(output_dir=str(tmp_path), **{**OPTIONS, "report_to": ["wandbb"]})
    with pytest.raises(ValueError, match=r"^--fsdp divides weights among processes, but there is one\. Start several"):
        PQMTrainer("no/model", RankingConfig(output_dir=str(tmp_path), fsdp=True, **OPTIONS), rows)
    with pytest.raises(ValueError, match=r"^Qwen2.5-0.5B is not a folder here. Give a folder, or a Hub id"):
        PQMTrainer("Qwen2.5-0.5B", args, rows)
    with pytest.raises(ValueError, match=r"^Qwen2.5-0.5B is not a folder here"):
        qstep.train("pqm", rows, model="Qwen2.5-0.5B", output_dir=tmp_path / "out", **OPTIONS)
    with pytest.raises(ValueError, match=r"^--hub_model_id has no effect without --push_to_hub true: give that too"):
        qstep.train("pqm", rows, model="no/model", output_dir=tmp_path / "out", hub_model_id="me/pqm", **OPTIONS)


UNREAD: list[tuple[dict[str, Any], str]] = [
    ({"dataloader_multiprocessing_context": "spawn"}, "--dataloader_multiprocessing_context is 'spawn', but qstep's"),
    ({"dataloader_in_order": False}, "--dataloader_in_order is False, but qstep's trainers do not use it: remove it"),
    ({"accelerator_config": {"split_batches": True}}, "--accelerator_config.split_batches is True, but qstep's"),
    ({"accelerator_config": {"dispatch_batches": True}}, "--accelerator_config.dispatch_batches is True, but"),
    ({"length_column_name": "size"}, "--length_column_name is 'size', but"),
    ({"eval_do_concat_batches": False}, "--eval_do_concat_batches is False, but"),
    ({"liger_kernel_config": {"rope": True}}, "--liger_kernel_config is {'rope': True}, but"),
    ({"average_tokens_across_devices": False}, "--average_tokens_across_devices is False, but"),
    ({"hub_always_push": True}, "--hub_always_push is True, but"),
    ({"hub_strategy": "all_checkpoints"}, "--hub_strategy all_checkpoints is not supported: a folder is uploaded once"),
    ({"optim_target_modules": "all-linear"}, "it has no effect without --optim galore_adamw, apollo_adamw or another"),
    (
        {"warmup_steps": 5, "lr_scheduler_type": "constant"},
        "it has no effect without --lr_scheduler_type constant_with_warmup, linear or another that warms up: give that",
    ),
    (
        {"warmup_steps": 0.1, "lr_scheduler_type": "greedy", "eval_strategy": "epoch"},
        "--warmup_steps is 0.1, but it has no effect without --lr_scheduler_type ",
    ),
]


@pytest.mark.parametrize(("options", "says"), UNREAD)
def test_what_the_trainers_do_not_read_is_refused(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        PolicyConfig(output_dir=str(tmp_path), **{**OPTIONS, **options})


def test_a_default_that_is_given_is_not_refused(tmp_path: Path) -> None:
    options = dict(eval_do_concat_batches=True, length_column_name="length", accelerator_config={"even_batches": True})
    options |= dict(dataloader_multiprocessing_context="fork", hub_strategy="end", warmup_steps=3)
    PolicyConfig(output_dir=str(tmp_path), **{**OPTIONS, **options})


def test_a_fresh_head_is_no_news(
    base: Path, rows: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """transformers would report the head as missing; a weight of the trunk that is missing is told."""
    from safetensors.torch import save_file

    args = RankingConfig(output_dir=str(tmp_path), **OPTIONS)
    logging.getLogger("transformers").propagate = True
    with caplog.at_level(logging.WARNING):
        PQMTrainer(str(base), args, rows)
    assert "MISSING" not in caplog.text and "start at random" not in caplog.text
    damaged = tmp_path / "damaged"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(damaged)
    miniature.tokenizer().save_pretrained(damaged)
    kept = {name: value for name, value in weights(damaged).items() if name != "model.norm.weight"}
    save_file(kept, damaged / "model.safetensors", {"format": "pt"})
    with caplog.at_level(logging.WARNING):
        PQMTrainer(str(damaged), args, rows)
    assert "the model lacks model.norm.weight, which start at random" in caplog.text
