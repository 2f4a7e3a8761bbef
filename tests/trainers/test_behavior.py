"""Rows without sampling probabilities: whose samples they count as, and what is said of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from byte_tokenizer import byte_tokenizer
from own_samples import samples, saved_policy, tiny_policy
from qstep.data import RowError, read_rows, write_jsonl
from qstep.evals.sampled_by import compare_with_own
from qstep.models import ModelOptions, PolicyModel
from qstep.objectives import METHODS
from qstep.trainers import trainer_class

COMMON = dict(use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, logging_steps=1, max_length=256)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_policy(tmp_path_factory.mktemp("policy"), 0)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 rows that the policy sampled, without log-probabilities."""
    path = tmp_path_factory.mktemp("own") / "rows.jsonl"
    write_jsonl(path, samples(tiny_policy(0), byte_tokenizer(), 32))
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 rows that another model sampled."""
    path = tmp_path_factory.mktemp("foreign") / "rows.jsonl"
    write_jsonl(path, samples(tiny_policy(1), byte_tokenizer(), 32))
    return path


def trainer(base: Path, rows: Path, output: Path, method: str = "dqo", **options: Any):
    made = METHODS[method]
    config = made.config(str(output), **{**COMMON, "per_device_train_batch_size": 8, "learning_rate": 1e-3, **options})
    return trainer_class(made)(ModelOptions(model_name_or_path=str(base)), config, rows)


def test_rows_that_teach_nothing_are_refused(base: Path, own: Path, tmp_path: Path) -> None:
    """Each response has a problem_id of its own, so none is compared with another."""
    rows = [{**row, "problem_id": row["id"]} for row in read_rows(own)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=r"so they teach nothing. .* drop that column: responses to the same prompt"):
        trainer(base, tmp_path / "rows.jsonl", tmp_path / "run", "reinforce", max_steps=1)


def test_a_row_that_cannot_be_read_is_named(base: Path, own: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "reward": n} for n in (0, 1)]
    write_jsonl(tmp_path / "rows.jsonl", [*rows, *read_rows(own)])
    shutil.copytree(base, tmp_path / "plain")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    for template in ("chat_template.jinja", "tokenizer_config.json"):
        (tmp_path / "plain" / template).unlink(missing_ok=True)
    tokenizer.save_pretrained(tmp_path / "plain")
    with pytest.raises(
        RowError, match=r"line 3, field 'prompt': the prompt is a conversation, but the tokenizer has no"
    ):
        trainer(tmp_path / "plain", tmp_path / "rows.jsonl", tmp_path / "run", max_steps=1)
    with pytest.raises(ValueError, match=r"^row 7: the prompt is a conversation"):
        compare_with_own(PolicyModel(tiny_policy(0)), tokenizer, [("row 7", next(read_rows(own)))], max_length=9)


def losses(run: Any) -> torch.Tensor:
    batch = run.collate([run.train_dataset[item] for item in range(8)])
    with torch.no_grad():
        return run.objective.losses(run.model.eval(), batch).per_trajectory


@pytest.mark.parametrize("method", ["dqo", "reinforce"])
def test_rows_of_another_model_are_not_weighed(
    method: str, base: Path, foreign: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(base, foreign, tmp_path, method, max_steps=4)
    said = caplog.text
    assert "32 of 32 rows have no logps_behavior. They are not weighed by importance, because 32 rows are" in said
    assert "another model" in said and "--behavior reference would" in said and "`qstep sample`" in said
    run.train()  # after steps, weights would differ from 1
    expected = trainer(base, foreign, tmp_path, method, importance="none", max_steps=4)
    expected.train()
    torch.testing.assert_close(losses(run), losses(expected), rtol=0, atol=0)
    assert not any(name.startswith("importance/") for line in run.state.log_history for name in line)


def test_own_samples_count_as_the_references(
    base: Path, own: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(base, own, tmp_path, max_steps=4)
    assert "They count as samples of the model that training starts from, because 32 rows look like" in caplog.text
    assert "--behavior unknown would not weigh them" in caplog.text
    batch = run.collate([run.train_dataset[0]])
    torch.testing.assert_close(batch["behavior_logps"], batch["reference_logps"])
    run.train()
    assert run.state.log_history[0]["importance/effective_sample_size"] == pytest.approx(1.0)


def test_what_the_option_says_is_not_tested(
    base: Path, own: Path, foreign: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = trainer(base, foreign, tmp_path, behavior="reference")
    assert taken.objective.importance.assumed == "reference"
    assert "the model that training starts from, as --behavior says" in caplog.text
    assert trainer(base, own, tmp_path, behavior="unknown").objective.importance.assumed == "unknown"
    assert "(p = " not in caplog.text


def test_rows_must_have_them_if_they_are_demanded(base: Path, own: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in own.read_text().splitlines()]
    for row in rows[:5]:
        row["logps_behavior"] = [-1.0] * len(row["completion_ids"])
    write_jsonl(tmp_path / "rows.jsonl", rows)
    for method in ("dqo", "reinforce"):
        with pytest.raises(ValueError, match=r"line 6, field 'logps_behavior': is missing \(27 such rows\)"):
            trainer(base, tmp_path / "rows.jsonl", tmp_path, method, behavior="rows")
    write_jsonl(tmp_path / "all.jsonl", rows[:5])
    trainer(base, tmp_path / "all.jsonl", tmp_path, behavior="rows")


def test_rows_with_their_own_are_weighed_and_the_others_are_not(base: Path, foreign: Path, tmp_path: Path) -> None:
    """Each token of the first row was sampled with probability e^-9, so its weight is the clip."""
    rows = [json.loads(line) for line in foreign.read_text().splitlines()]
    rows[0]["logps_behavior"] = [-50.0] * len(rows[0]["completion_ids"])
    write_jsonl(tmp_path / "rows.jsonl", rows)
    options = dict(importance_clip=3.0, responses_per_prompt=4)
    weighed = losses(trainer(base, tmp_path / "rows.jsonl", tmp_path, "reinforce", **options))
    plain = losses(trainer(base, foreign, tmp_path, "reinforce", importance="none", responses_per_prompt=4))
    torch.testing.assert_close(weighed[1:], plain[1:], rtol=0, atol=0)
    torch.testing.assert_close(weighed[0], 3 * plain[0])
    limited = losses(
        trainer(base, tmp_path / "rows.jsonl", tmp_path, "reinforce", **{**options, "importance_clip": 0.5})
    )
    torch.testing.assert_close(limited[1:], plain[1:], rtol=0, atol=0)
    torch.testing.assert_close(limited[0], 0.5 * plain[0])


def test_the_decision_outlives_a_resume(base: Path, own: Path, tmp_path: Path) -> None:
    first = trainer(base, own, tmp_path)
    state = first.objective.state()
    assert state["assumed"] == "reference"
    again = trainer(base, own, tmp_path, behavior="unknown", importance="token")
    again.objective.restore(state)
    assert again.objective.importance.assumed == "reference"
    reinforce = trainer(base, own, tmp_path, "reinforce", behavior="unknown")
    reinforce.objective.restore(state)
    with pytest.raises(ValueError, match="the test now finds that they are not"):
        reinforce.collate([reinforce.train_dataset[0]])


def test_an_infinite_clip_is_taken_and_written_down(tmp_path: Path) -> None:
    from qstep.objectives.arguments import training_settings
    from qstep.stages.commands import COMMANDS

    given = ["--train_file=r", "--model_name_or_path=m", f"--output_dir={tmp_path}"]
    for words in (["--importance_clip=inf"], ["--importance_clip", "inf"]):
        _, config = COMMANDS["train dqo"].parse([*given, *words])
        assert config.importance_clip == float("inf") and training_settings(config)["importance_clip"] == "inf"
    with pytest.raises(Exception, match="nan"):
        COMMANDS["train dqo"].parse([*given, "--importance_clip=nan"])
    _, config = COMMANDS["train dqo"].parse([*given, "--run_name=inf"])
    assert config.run_name == "inf"
