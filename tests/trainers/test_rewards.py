"""Rewards and columns that do not say what they seem to: refused with line and field, or named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qstep.data import write_jsonl
from qstep.objectives import METHODS
from qstep.objectives.objective import Objective
from qstep.objectives.source import RowsFile
from qstep.tasks import miniature
from qstep.types import Row

ROW: Row = {"prompt": "1+2=", "completion": "1+2=3\n#3"}
STEPS: Row = {**ROW, "completions": ["1+2=3", "#3"], "labels": [True, True]}


def objective(method: str, folder: Path, **options: Any) -> Objective[Any]:
    made = METHODS[method]
    config = made.config(str(folder), use_cpu=True, report_to="none", **options)
    return made.objective(config, miniature.tokenizer())


def read(folder: Path, rows: list[Row]) -> RowsFile:
    write_jsonl(folder / "rows.jsonl", rows)
    return RowsFile(folder / "rows.jsonl")


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
