"""DPO and KTO: their pairs, what divides their losses, and KTO's estimate of the KL."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qstep.data import read_rows, write_jsonl
from qstep.losses import dpo_loss, ipo_loss, kto_loss
from qstep.models import collate_groups
from qstep.objectives.pairs import Pairs, pairs_by_problem
from qstep.tasks import miniature
from qstep.trainers.batches import begin_step
from tiny_trainers import trainer, weights


def graded(folder: Path, *groups: list[float]) -> Path:
    """A file with a problem for each list of rewards, its rows not next to each other."""
    rows = [
        {
            "id": f"{sample}/{number}",
            "prompt": f"{number}+1=",
            "completion": f"{number}+1={sample}\n" * (1 + sample) + "#7",
            "reward": reward,
        }
        for number, rewards in enumerate(groups)
        for sample, reward in enumerate(rewards)
    ]
    write_jsonl(folder / "rows.jsonl", sorted(rows, key=lambda row: str(row["id"])))
    return folder / "rows.jsonl"


def names(run: Any, pairs: Pairs, seed: int = 0) -> list[list[str]]:
    """The pairs of each problem, as `better>worse`."""

    def name(number: int) -> str:
        return str(run.train_dataset.row(number)["id"])

    found = pairs_by_problem(run.train_dataset, pairs, seed)
    return [[f"{name(a)}>{name(b)}" for a, b in zip(*each, strict=True)] for each in found]


def test_pairs_by_hand(base: Path, tmp_path: Path) -> None:
    """Rewards 0, 1, .5, 1 and 2, 2, -1. Ids are sample/problem."""
    run = trainer("dpo", base, graded(tmp_path, [0, 1, 0.5, 1], [2, 2, -1]), tmp_path)
    first = {"1/0>0/0", "1/0>2/0", "2/0>0/0", "3/0>0/0", "3/0>2/0"}
    second = {"0/1>2/1", "1/1>2/1"}
    assert [{*found} for found in names(run, "all")] == [first, second]
    assert names(run, "best_worst") == [["1/0>0/0"], ["0/1>2/1"]]
    drawn = [names(run, "one", seed) for seed in range(40)]
    assert drawn == [names(run, "one", seed) for seed in range(40)]
    assert {found[0][0] for found in drawn} == first and {found[1][0] for found in drawn} == second
    assert all(len(each) == 1 for found in drawn for each in found)


def test_the_pair_that_is_drawn_does_not_depend_on_other_problems(base: Path, tmp_path: Path) -> None:
    groups = [[0, 1, 0.5, 1], [2, 2, -1]]
    (tmp_path / "alone").mkdir()
    both = trainer("dpo", base, graded(tmp_path, *groups), tmp_path / "a")
    alone = trainer("dpo", base, graded(tmp_path / "alone", groups[0]), tmp_path / "b")
    assert all(names(both, "one", seed)[0] == names(alone, "one", seed)[0] for seed in range(10))


@pytest.mark.parametrize(("pairs", "rows"), [("all", 7), ("one", 4), ("best_worst", 4)])
def test_problems_without_a_pair_are_said_once(
    pairs: str, rows: int, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = graded(tmp_path, [0, 1, 0.5, 1], [1, 1], [2, 2, -1], [0])
    with caplog.at_level(logging.WARNING):
        run = trainer("dpo", base, file, tmp_path, pairs=pairs)
    assert [record.getMessage() for record in caplog.records if "pair" in record.getMessage()] == [
        f"{file}: 2 of 4 problems have no pair, because all their responses have the same reward"
    ]
    assert len(run.train_dataset) == 2 and len(run.train_dataset.rows) == rows
    assert run.train_dataset.count_tokens is not None  # max_tokens_per_batch counts tokens, not bytes
    unused = {"not in a chosen pair": 7 - rows} if rows < 7 else {}
    assert run.train_dataset.left_out == {"without two rewards": 3, **unused}


def test_a_file_without_any_pair_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no row can be used. Left out: \{'without two rewards': 3\}"):
        trainer("dpo", base, graded(tmp_path, [1, 1], [0]), tmp_path)


def test_a_divided_group_would_lose_pairs(base: Path, rows_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--responses_per_prompt 4 would divide .* Leave it out"):
        trainer("dpo", base, rows_file, tmp_path, responses_per_prompt=4)


def moved(run: Any) -> None:
    """Moves the policy away from the reference, whose log-probabilities are stored already."""
    torch.manual_seed(5)
    for parameter in run.bare_model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)


def log_ratio(run: Any, row: dict[str, Any], prompt: str, reference: Any) -> tuple[float, int]:
    """log pi/pi_ref of one response after a prompt, each computed alone, and the response's number of tokens."""
    tokenizer = miniature.tokenizer()
    ids = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
    batch = collate_groups([tokenizer(prompt)["input_ids"]], [[ids]])
    with torch.no_grad():
        return float(run.bare_model(batch).sum() - reference.bare_model(batch).sum()), len(ids)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
@pytest.mark.parametrize("pairs", ["all", "one", "best_worst"])
def test_the_loss_is_the_mean_over_the_pairs(loss: str, pairs: Any, base: Path, tmp_path: Path) -> None:
    """Also where problems have 5, 2 and 0 pairs: each pair counts alike, and each is computed alone for comparison."""
    file = graded(tmp_path, [0, 1, 0.5, 1], [2, 2, -1], [1, 1])
    run, reference = (trainer("dpo", base, file, tmp_path, loss=loss, pairs=pairs) for _ in range(2))
    moved(run)
    batch = run.collate([run.train_dataset[0], run.train_dataset[1]])
    expected = []
    for found in pairs_by_problem(run.train_dataset, "all", 0):
        for numbers in zip(*found, strict=True):
            rows = [run.train_dataset.row(int(number)) for number in numbers]
            ratios, lengths = zip(*(log_ratio(run, row, row["prompt"], reference) for row in rows), strict=True)
            if loss == "ipo":
                ratios = tuple(ratio / length for ratio, length in zip(ratios, lengths, strict=True))
            better, worse = torch.tensor(ratios)[:, None]
            expected.append((dpo_loss if loss == "sigmoid" else ipo_loss)(better, worse, 0.1).item())
    assert len(expected) == {"all": 7}.get(pairs, 2) == int(run.count_items(batch))
    assert run.compute_loss(run.bare_model, batch).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_kto_pairs_responses_with_the_next_prompt(base: Path, tmp_path: Path) -> None:
    """The KL is the mean log-ratio of the step's responses after the next problem's prompt; the last has the first."""
    file = graded(tmp_path, [0, 1], [1, 0.5], [0])
    run, reference = (trainer("kto", base, file, tmp_path, undesirable_weight=2.0) for _ in range(2))
    moved(run)
    batches = [run.collate([run.train_dataset[0], run.train_dataset[2]]), run.collate([run.train_dataset[1]])]
    begin_step(run, run.bare_model, [batches])
    rows = [run.train_dataset.row(number) for number in run.train_dataset.rows.tolist()]
    following = {"0+1=": "1+1=", "1+1=": "2+1=", "2+1=": "0+1="}
    ratios = [log_ratio(run, row, following[row["prompt"]], reference)[0] for row in rows]
    assert run.objective.kl.item() == pytest.approx(max(np.mean(ratios), 0), rel=1e-4, abs=1e-6)
    for batch in batches:
        own = [run.train_dataset.row(number) for number in batch["row_index"].tolist()]
        ratios = torch.tensor([log_ratio(run, row, row["prompt"], reference)[0] for row in own])
        right = torch.tensor([row["reward"] >= 1 for row in own])
        expected = kto_loss(ratios, right, run.objective.kl, 0.1, undesirable_weight=2.0)
        found = run.objective.losses(run.bare_model, batch).per_trajectory
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_kl_below_zero_counts_as_zero_and_one_that_is_not_finite_stays(base: Path, tmp_path: Path) -> None:
    run = trainer("kto", base, graded(tmp_path, [0, 1], [1, 0]), tmp_path)
    batch = run.collate([run.train_dataset[0], run.train_dataset[1]])
    for shift, expected in ((-1.0, 0.0), (2.0, 2.0)):
        shifted = {**batch, "mismatched_reference": batch["mismatched_reference"] - shift}
        begin_step(run, run.bare_model, [[shifted]])
        assert run.objective.kl.item() == pytest.approx(expected, abs=1e-5)
    broken = {**batch, "mismatched_reference": batch["mismatched_reference"] * float("nan")}
    begin_step(run, run.bare_model, [[broken]])
    assert run.objective.kl.isnan()


def test_kto_needs_two_prompts(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"all rows have the same prompt.*give at least two problems"):
        trainer("kto", base, graded(tmp_path, [0, 1]), tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {},
            "3 responses are right and 1 wrong, so right ones weigh 3 in sum and wrong ones 1.*desirable_weight 0.333",
        ),
        ({"desirable_weight": 0.4}, None),
        ({"undesirable_weight": 2.5}, None),
        ({"undesirable_weight": 4.0}, "right ones weigh 3 in sum and wrong ones 4.*--desirable_weight 1.33"),
    ],
)
def test_kto_says_the_balance(
    options: dict[str, float], said: str | None, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = graded(tmp_path, [1, 1], [1, 0])
    with caplog.at_level(logging.WARNING):
        trainer("kto", base, file, tmp_path, **options)
    warned = [record.getMessage() for record in caplog.records if "right and" in record.getMessage()]
    assert len(warned) == (said is not None)
    assert not said or re.search(said, warned[0])


def test_an_evaluation_of_kto_does_not_depend_on_its_batches(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """It has one KL, of all its rows, and leaves the training as it is."""
    rows = list(read_rows(rows_file))
    for name, part in (("train", rows[:40]), ("eval", rows[40:])):
        write_jsonl(tmp_path / f"{name}.jsonl", part)
    found, ends = [], []
    for size in (1, 6):
        options = dict(eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=size, max_steps=3)
        run = trainer("kto", base, tmp_path / "train.jsonl", tmp_path, tmp_path / "eval.jsonl", **options)
        run.train()
        found.append([(line["eval_loss"], line["eval_kl"]) for line in run.state.log_history if "eval_loss" in line])
        ends.append(weights(run))
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-5, atol=1e-6)
    without = trainer("kto", base, tmp_path / "train.jsonl", tmp_path, max_steps=3)
    without.train()
    assert all(torch.equal(value, ends[0][name]) for name, value in weights(without).items())
