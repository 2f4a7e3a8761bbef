"""Rewards and columns that do not say what they seem to: refused with line and field, or named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chats import chat_tokenizer
from model_families import saved
from qstep.data import write_jsonl
from qstep.objectives import METHODS
from qstep.objectives.objective import Objective
from qstep.objectives.source import RowsFile
from qstep.tasks import miniature
from qstep.trainers.reference import ReferenceStore
from qstep.types import Row
from tiny_trainers import trainer

ROW: Row = {"prompt": "1+2=", "completion": "1+2=3\n#3"}
STEPS: Row = {**ROW, "completions": ["1+2=3", "#3"], "labels": [True, True]}


def objective(method: str, folder: Path, **options: Any) -> Objective[Any]:
    made = METHODS[method]
    config = made.config(str(folder), use_cpu=True, report_to="none", **options)
    return made.objective(config, miniature.tokenizer())


def read(folder: Path, rows: list[Row]) -> RowsFile:
    write_jsonl(folder / "rows.jsonl", rows)
    return RowsFile(folder / "rows.jsonl")


def test_steps_must_be_those_of_the_response(tmp_path: Path) -> None:
    """They ended the training in its middle, without the row's name."""
    good = {**ROW, "reward": 1.0, "step_rewards": [0.5, 1.0]}
    for bad in (["7+8=5", "#7"], ["7+8=5\n#5"]):
        rows = read(tmp_path, [good, {**good, "completions": bad, "step_rewards": [1.0] * len(bad)}])
        with pytest.raises(ValueError, match="line 2, field 'completions': do not fit the completion"):
            objective("dqo", tmp_path, process_rewards="potential").rows(rows)


@pytest.mark.parametrize("mode", ["potential", "additive"])
@pytest.mark.parametrize(("rewards", "entries"), [([5.0, 2.5, 1.25], "3 entries"), ([1.0], "1 entry")])
def test_step_rewards_must_be_one_a_step(tmp_path: Path, mode: str, rewards: list[float], entries: str) -> None:
    """Three rewards for a response of one step lay on its last token, and others failed in the middle of training."""
    good = {**ROW, "reward": 1.0, "step_rewards": [0.5, 1.0]}
    options = dict(process_rewards=mode, responses_per_prompt=None)
    assert len(objective("dqo", tmp_path, **options).rows(read(tmp_path, [good])).rows) == 1
    with pytest.raises(ValueError, match=rf"line 2, field 'step_rewards': has {entries}, .* into 2 steps"):
        objective("dqo", tmp_path, **options).rows(read(tmp_path, [good, {**good, "step_rewards": rewards}]))
    one = {"prompt": "1+1=", "completion": "It is 2", "reward": 1.0, "step_rewards": [5.0, 2.5, 1.25]}
    with pytest.raises(ValueError, match=r"line 1, field 'step_rewards': has 3 entries, .* into 1 step\."):
        objective("dqo", tmp_path, **options).rows(read(tmp_path, [one]))


@pytest.mark.parametrize("method", ["sft", "rs", "reinforce", "dqo", "dro"])
def test_a_label_that_contradicts_the_reward_is_refused(tmp_path: Path, method: str) -> None:
    right, wrong = {**ROW, "label": True, "reward": 1.0}, {**ROW, "label": False, "reward": 0.0}
    file = read(tmp_path, [right, wrong, {**ROW, "label": True, "reward": 0.0}])
    with pytest.raises(ValueError, match=r"line 3, field 'label': is true, but reward is 0\.0 \(1 such rows\)"):
        objective(method, tmp_path).rows(file)
    file = read(tmp_path, [right, {**ROW, "label": False, "reward": 1}, {**ROW, "label": None, "reward": 1}])
    with pytest.raises(ValueError, match=r"line 2, field 'label': is false, but reward is 1 "):
        objective(method, tmp_path).rows(file)
    file = read(tmp_path, [right, {**ROW, "label": False, "reward": 0.5}, {**ROW, "label": True, "reward": 0.0}])
    with pytest.raises(ValueError, match=r"line 3, field 'label': is true, but reward is 0\.0 \(1 such rows\)"):
        objective(method, tmp_path).rows(file)
    scaled = [{**ROW, "label": True, "reward": 0.0}, {**ROW, "label": False, "reward": 1.0}, {**ROW, "reward": 3.0}]
    if method != "rs":  # another scale, in which 1 may be bad
        assert len(objective(method, tmp_path).rows(read(tmp_path, scaled)).rows) == 3


@pytest.mark.parametrize(("method", "used"), [("pqm", 3), ("rs", 1), ("dpo", 2), ("dqo", 3)])
def test_two_gold_answers_to_a_problem_are_refused(tmp_path: Path, method: str, used: int) -> None:
    row = STEPS if method == "pqm" else {**ROW, "reward": 1.0}
    other = {**row, **({"labels": [True, False]} if method == "pqm" else {"reward": 0.0})}
    same = [{**row, "gold": "3"}, {**other, "gold": "3.0"}, {**other, "prompt": "2+2=", "gold": "4"}]
    assert len(objective(method, tmp_path).rows(read(tmp_path, same)).rows) == used
    with pytest.raises(ValueError, match=r"line 3, field 'gold': is '4', but the same problem has '3' on line 1\. "):
        objective(method, tmp_path).rows(read(tmp_path, [*same[:2], {**other, "gold": "4"}]))
    users = [{**row, "task": "mine:TASK", "gold": "3"}, {**other, "task": "mine:TASK", "gold": "III"}]
    assert len(objective(method, tmp_path).rows(read(tmp_path, users)).rows) == min(used, 2)


@pytest.mark.parametrize(
    ("method", "options"), [("rs", {}), ("reinforce", {"taper": True}), ("dqo", {"truncated": "drop"})]
)
def test_rewards_of_another_scale_need_a_threshold(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    file = read(tmp_path, [{**ROW, "reward": float(stars)} for stars in (1, 5, 3, 4, 2)])
    with pytest.raises(ValueError, match=r"line 2, field 'reward': is 5, and rewards are from 1 to 5.* --right_at"):
        objective(method, tmp_path, **options).rows(file)
    rows = objective(method, tmp_path, right_at=4, **options).rows(file)
    assert rows.index.table["right"].tolist() == [0, 1, 0, 1, 0]
    assert [row["label"] for row in map(rows.row, range(5))] == [False, True, False, True, False]
    if method == "rs":
        assert rows.rows.tolist() == [1, 3]


def test_a_verdict_on_steps_needs_it_too(tmp_path: Path) -> None:
    file = read(tmp_path, [{**STEPS, "reward": float(stars)} for stars in (1, 5)])
    with pytest.raises(ValueError, match="Give --right_at"):
        objective("orm", tmp_path).check(file)
    objective("orm", tmp_path, right_at=4).check(file)


def test_partial_rewards_and_labels_need_none(tmp_path: Path) -> None:
    rows = [{**ROW, "reward": 1.0}, {**ROW, "reward": 0.5}, {**ROW, "reward": 7.0, "label": True}]
    assert objective("rs", tmp_path).rows(read(tmp_path, rows)).rows.tolist() == [0, 2]
    assert objective("rs", tmp_path, right_at=0.5).rows(read(tmp_path, rows)).rows.tolist() == [0, 1, 2]


def test_columns_of_other_programs_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**ROW, "reward": 1.0, "logprobs": [0.0], "token_rewards": [1.0]}, {**ROW, "reward": 0.0, "note": "mine"}]
    objective("dqo", tmp_path).rows(read(tmp_path, rows))
    said = [record.message for record in caplog.records if "does not read" in record.message]
    assert len(said) == 1 and "the column 'logprobs', 'token_rewards'" in said[0] and "logps_behavior" in said[0]


def test_an_audit_fails_where_training_would(tmp_path: Path) -> None:
    from qstep.stages.audit import AuditConfig, audit

    read(tmp_path, [{**ROW, "reward": float(stars)} for stars in (1, 5)])
    allowed: dict[str, Any] = {"train_file": tmp_path / "rows.jsonl", "max_contradictions": 9}
    with pytest.raises(ValueError, match="Give --right_at"):
        audit(AuditConfig(**allowed))
    assert audit(AuditConfig(**allowed, right_at=4)).responses.right == 1
    read(tmp_path, [{**ROW, "label": True, "reward": 0.0}, {**ROW, "label": False, "reward": 0.0}])
    with pytest.raises(ValueError, match=r"field 'label': is true, but reward is 0\.0"):
        audit(AuditConfig(**allowed))


def test_mostly_partial_rewards_need_a_threshold(tmp_path: Path) -> None:
    """A single reward of exactly 1 made .99 count as wrong."""
    file = read(tmp_path, [{**ROW, "reward": reward} for reward in (0.3, 1.0, 0.99)])
    for method in ("rs", "kto"):
        with pytest.raises(
            ValueError, match=r"line 2, field 'reward': is 1, and rewards are from 0\.3 to 1, .*right_at"
        ):
            objective(method, tmp_path).rows(file)
    assert objective("rs", tmp_path, right_at=0.9).rows(file).rows.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("method", "options"), [("dqo", {}), ("dro", {}), ("dro", {"value": "group"}), ("reinforce", {})]
)
def test_methods_that_read_rewards_only_say_how_the_log_divides_them(
    method: str, options: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = read(tmp_path, [{**ROW, "reward": float(stars)} for stars in (1, 5)])
    objective("dpo", tmp_path).rows(file)
    assert "divides" not in caplog.text, "its log has the better and the worse response of a pair"
    assert len(objective(method, tmp_path, **options).rows(file).rows) == 2
    assert "the greatest reward is 5, and rewards are from 1 to 5. The log divides" in caplog.text
    caplog.clear()
    objective(method, tmp_path, right_at=3, **options).rows(file)
    assert "divides" not in caplog.text


def test_prompts_that_are_texts_get_no_chat_template(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**ROW, "reward": 1.0}, {**ROW, "prompt": "2+2=", "reward": 0.0}]
    chat = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    config = METHODS["dqo"].config(str(tmp_path), use_cpu=True, report_to="none")
    for given, said in ((rows, True), (chat, False)):
        METHODS["dqo"].objective(config, chat_tokenizer()).rows(read(tmp_path, given))
        assert ("so this model's chat template is not applied" in caplog.text) is said
        caplog.clear()
    objective("dqo", tmp_path).rows(read(tmp_path, rows))
    assert "template" not in caplog.text, "the miniature's tokenizer has none"


def test_a_text_that_the_tokenizer_cannot_write_is_named(tmp_path: Path) -> None:
    for column in ("prompt", "completion"):
        dataset = objective("sft", tmp_path).rows(read(tmp_path, [{**ROW, column: "1+1=é"}]))
        with pytest.raises(ValueError, match=rf"rows\.jsonl, line 1, field '{column}': .*é"):
            objective("sft", tmp_path).collate([dataset[0]])


def test_the_groups_value_needs_a_reference_that_sampled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--value group does not work with --reference uniform"):
        objective("dro", tmp_path, value="group", reference="uniform")


@pytest.mark.parametrize(
    ("measure", "greater"), [("loss/value", False), ("eval_kl", False), ("loss", False), ("rewards/margins", True)]
)
def test_losses_and_the_kl_are_better_if_they_are_smaller(tmp_path: Path, measure: str, greater: bool) -> None:
    """transformers takes the greatest value of every measure whose name does not end in `loss`."""
    options = dict(eval_strategy="steps", save_strategy="steps", eval_steps=5, save_steps=5)
    config = METHODS["dqo"].config(
        str(tmp_path),
        use_cpu=True,
        report_to="none",
        metric_for_best_model=measure,
        load_best_model_at_end=True,
        **options,
    )
    assert config.greater_is_better is greater


def test_kto_names_a_response_that_is_too_long_after_another_prompt(tmp_path: Path) -> None:
    long = {"prompt": "1+" * 40 + "1=", "completion": "#1", "label": True}
    file = read(tmp_path, [long, {"prompt": "1+1=", "completion": "1+1=2\n" * 10, "label": False}])
    says = r"line 2: KTO puts the response after .* makes 143 tokens, .* 128 positions"
    with pytest.raises(ValueError, match=says):
        trainer("kto", saved("gpt2", tmp_path / "gpt2"), file.path, tmp_path / "run", max_length=96, max_steps=1)


def test_trained_weights_in_bf16_are_warned_of(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = read(tmp_path, [{**ROW, "reward": 1.0}])
    for options, said in (
        ({"dtype": "bfloat16"}, True),
        ({"bf16": True}, False),
        ({"dtype": "bfloat16", "peft": True}, False),
    ):
        trainer("sft", base, file.path, tmp_path / "run", max_steps=1, **options)
        assert ("The trained weights are in bf16" in caplog.text) is said, options
        caplog.clear()


def test_a_damaged_file_of_reference_log_probabilities_is_named(tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path)
    store.write([(0, np.array([-1.0, -2.0], np.float32))])
    [file] = tmp_path.glob("*.logps")
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"\.logps is damaged: .* Delete it"):
        ReferenceStore(tmp_path)
