"""What training does with responses that were cut off and are not right."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qstep.data import write_jsonl
from qstep.objectives import METHODS
from qstep.objectives.objective import Objective
from qstep.objectives.source import RowsFile
from qstep.tasks import miniature
from qstep.types import ABSENT, Row

CUT = {"finish_reason": "length"}
SCORERS = ["pqm", "pqm_theoretical", "pqm_ablation", "bce", "mse"]


def objective(method: str, folder: Path, **options: Any) -> Objective[Any]:
    made = METHODS[method]
    config = made.config(str(folder), use_cpu=True, report_to="none", **options)
    return made.objective(config, miniature.tokenizer())


def read(path: Path, rows: list[Row]) -> RowsFile:
    write_jsonl(path, rows)
    return RowsFile(path)


def graded(right: bool | None, **more: Any) -> Row:
    return {"prompt": "1+2=", "completion": "1+2=3\n#3", "label": right, **more}


def labelled(labels: list[bool | None], **more: Any) -> Row:
    return {"prompt": "1+2=", "completions": ["1+2=3", "#3"], "labels": labels, **more}


@pytest.mark.parametrize("method", ["sft", "dpo", "dqo", "dro"])
def test_responses_that_were_cut_off_and_are_not_right_are_dropped(method: str, tmp_path: Path) -> None:
    rows = [graded(True, **CUT), graded(False, **CUT), graded(False), graded(False, finish_reason="stop")]
    file = read(tmp_path / "rows.jsonl", rows)
    kept = objective(method, tmp_path).rows(file)
    assert kept.rows.tolist() == [0, 1, 2, 3] and kept.truncated == 1 and not kept.left_out
    dropped = objective(method, tmp_path, truncated="drop").rows(file)
    assert dropped.rows.tolist() == [0, 2, 3] and dropped.truncated == 0
    assert dropped.left_out == {"cut off and not right": 1}


def test_plain_demonstrations_that_were_cut_off_are_not_known_to_be_right(tmp_path: Path) -> None:
    row = {"prompt": "1+2=", "completion": "3"}
    file = read(tmp_path / "rows.jsonl", [row, {**row, **CUT}])
    assert objective("rs", tmp_path, truncated="drop").rows(file).left_out == {"cut off and not right": 1}


@pytest.mark.parametrize("method", [name for name in METHODS if name not in (*SCORERS, "dqo")])
def test_methods_that_judge_only_the_whole_response_mask_nothing(method: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--truncated mask does not work here.*drop"):
        objective(method, tmp_path, truncated="mask")


@pytest.mark.parametrize("method", SCORERS)
def test_an_unfinished_step_has_no_label(method: str, tmp_path: Path) -> None:
    rows = [
        labelled([True, False], label=False, **CUT),
        labelled([False, None], label=False),
        labelled([True, True], label=True, **CUT),
        labelled([None, False], label=False, **CUT),
    ]
    file = read(tmp_path / "rows.jsonl", rows)
    masking = objective(method, tmp_path, truncated="mask", responses_per_prompt=None)
    found = masking.rows(file)
    assert found.rows.tolist() == [0, 1, 2] and found.truncated == 1
    assert found.left_out == {"no step has a label": 1}
    first = [group[:1] for group in masking.collate([found[0]])["step_labels"].tolist()]
    second = [group[1] for group in masking.collate([found[0]])["step_labels"].tolist()]
    assert first == [[1], [0], [1]] and second == [ABSENT, ABSENT, 1]
    kept = objective(method, tmp_path, responses_per_prompt=None)
    assert kept.collate([kept.rows(file)[0]])["step_labels"][0].tolist() == [1, 0]


def test_labels_that_are_not_read_do_not_count_as_two_sides(tmp_path: Path) -> None:
    file = read(tmp_path / "rows.jsonl", [labelled([True, False], label=False, **CUT), labelled([True, None])])
    objective("pqm", tmp_path).check(file)
    with pytest.raises(ValueError, match="all labels of steps are the same"):
        objective("pqm", tmp_path, truncated="mask").check(file)


def test_a_policy_learns_nothing_of_the_end_that_was_cut_off(tmp_path: Path) -> None:
    rows = [graded(True, **CUT), graded(False, reward=-1.0, **CUT), graded(False, reward=-1.0)]
    masking = objective("dqo", tmp_path, truncated="mask", importance="none", responses_per_prompt=None)
    found = masking.rows(read(tmp_path / "rows.jsonl", rows))
    batch = masking.collate([found[0]])
    assert batch["cut_off"].tolist() == [False, True, False]
    logps, values = (torch.zeros(batch["response_mask"].shape, requires_grad=True) for _ in range(2))
    batch["reference_logps"] = torch.zeros(logps.shape)

    class Model(torch.nn.Module):
        def forward(self, batch: Any) -> Any:
            return logps, values

    masking.losses(Model(), batch).per_trajectory.sum().backward()
    # With Q and V of 0 everywhere, only the rewards of 1 and -1 teach.
    assert values.grad is not None and logps.grad is not None
    assert values.grad.sum(1).sign().tolist() == [-1, 0, 1] and logps.grad.sum(1).sign().tolist() == [-1, 0, 1]


def test_rewards_that_do_not_count_are_no_mean(tmp_path: Path) -> None:
    masking = objective("dqo", tmp_path, truncated="mask", importance="none")
    only_cut = masking.rows(read(tmp_path / "cut.jsonl", [graded(False, **CUT)]))

    class Started:
        pretrained = SimpleNamespace(generation_config=None)

        def start_value(self, mean: float) -> None:
            self.mean = mean

    with pytest.raises(ValueError, match="no reward counts"):
        masking.begin(Started(), only_cut)
    model = Started()
    masking.begin(model, masking.rows(read(tmp_path / "rows.jsonl", [graded(False, **CUT), graded(True)])))
    assert model.mean == 1.0
