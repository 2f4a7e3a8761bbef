"""The trainers: invariants of the weights they end with, and what they refuse."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import tokenizer_families as families
from qstep.data import RowError, encode_text, read_rows, row_step_ends, split_steps, write_jsonl
from qstep.losses import pqm_loss, pqm_theoretical_loss
from qstep.objectives import METHODS, source
from qstep.objectives.classification import ClassificationConfig
from qstep.objectives.importance import ImportanceCollapse
from qstep.objectives.labels import hard_labels, soft_labels, verdict_label
from qstep.objectives.ranking import RankingConfig, TheoreticalConfig
from qstep.objectives.steps import StepwiseConfig
from qstep.tasks import miniature
from qstep.trainers import DQOTrainer, NonFiniteLoss
from qstep.types import ABSENT
from tiny_trainers import COMMON, VARIANTS, trainer, weights


@pytest.mark.parametrize("kind", ["pqm", "orm", "rs", "reinforce", "dpo", "kto", "dqo", "dro", *VARIANTS])
def test_accumulation_splits_share_one_trajectory(kind: str, base: Path, rows_file: Path, tmp_path: Path) -> None:
    """One batch of 8, and 8 batches of 1 accumulated, end with the same weights to 1e-6 (as do 2 of 4, and one of 8 in
    parts of at most 100 tokens).

    The optimizer is SGD, which shows the gradient: Adam divides by its size, and so blows rounding up where a
    gradient is near zero.
    """
    ends = []
    for size, splits, tokens in ((8, 1, None), (1, 8, None), (2, 4, None), (8, 1, 100)):
        run = trainer(
            kind,
            base,
            rows_file,
            tmp_path / f"{size} {tokens}",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=splits,
            max_tokens_per_batch=tokens,
            max_steps=4,
            optim="sgd",
            learning_rate=1e-2,
            max_grad_norm=0.0,
        )
        run.train()
        ends.append(weights(run))
    for other in ends[1:]:
        for name, value in ends[0].items():
            assert (value - other[name]).abs().max() <= 1e-6, name


@pytest.mark.parametrize(
    ("kind", "peft"),
    [
        *(("pqm", False), ("pqm", True), ("rs", False), ("dqo", False), ("dqo", True)),
        *((kind, peft) for kind in VARIANTS for peft in (False, True)),
        *(("dpo", True), ("kto", False)),
    ],
)
def test_resume_gives_bit_equal_weights(kind: str, peft: bool, base: Path, rows_file: Path, tmp_path: Path) -> None:
    """The checkpoint is of the middle of the second epoch, which is cut off in its third step."""
    options = dict(per_device_train_batch_size=6, max_steps=7, save_strategy="steps", save_steps=4, peft=peft)
    whole = trainer(kind, base, rows_file, tmp_path / "whole", **options)
    whole.train()
    torch.manual_seed(99)
    resumed = trainer(kind, base, rows_file, tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert resumed.state.global_step == 7
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


@pytest.mark.parametrize(
    "kind",
    [
        *("pqm", "pqm_theoretical", "pqm_ablation", "bce", "mse", "orm"),
        *("sft", "rs", "reinforce", "dpo", "kto", "dqo", "dro", *VARIANTS),
    ],
)
def test_every_method_lowers_its_loss(kind: str, base: Path, rows_file: Path, tmp_path: Path) -> None:
    options = {"max_steps": 20, "learning_rate": 3e-3}
    if kind == "dqo_alternating":  # half of the steps train V, and the policy must not overtake it
        options = {"max_steps": 40, "learning_rate": 1e-3}
    run = trainer(kind, base, rows_file, tmp_path, per_device_train_batch_size=16, **options)
    run.train()
    losses = [line["loss"] for line in run.state.log_history if "loss" in line]
    assert sum(losses[-3:]) < sum(losses[:3])


def test_scorer_learns_to_tell_right_steps_from_wrong_ones(base: Path, rows_file: Path, tmp_path: Path) -> None:
    run = trainer("pqm", base, rows_file, tmp_path, per_device_train_batch_size=16, max_steps=100, learning_rate=5e-3)
    run.train()
    first, last = run.state.log_history[0], run.state.log_history[-2]
    assert last["rewards/margins"] > first["rewards/margins"] + 1


def test_dqo_logs_its_health(base: Path, rows_file: Path, tmp_path: Path) -> None:
    run = trainer(
        "dqo", base, rows_file, tmp_path, importance="trajectory", per_device_train_batch_size=16, max_steps=2
    )
    run.train()
    line = run.state.log_history[0]
    expected = {
        "importance/effective_sample_size",
        "importance/mean_weight",
        "logps/ratio",
        "loss/value",
        "loss/q",
    }
    assert expected <= set(line)
    assert abs(line["logps/ratio"]) < 1e-5  # the first step is taken at the reference


def test_a_collapse_of_the_effective_sample_size_stops_with_advice(base: Path, rows_file: Path, tmp_path: Path) -> None:
    run = trainer(
        "dqo",
        base,
        rows_file,
        tmp_path,
        importance="trajectory",
        per_device_train_batch_size=16,
        max_steps=50,
        min_effective_sample_size=1.1,
        collapse_patience=3,
    )
    with pytest.raises(ImportanceCollapse, match=r"for 3 steps .* Lower --learning_rate"):
        run.train()
    assert run.state.global_step < 5


def test_token_weights_do_not_collapse_because_their_product_does(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """The policy gives each token about e^-3, mu gave it e^-2.8: .8 as much, and nearly nothing in a response of 40."""
    rows = [{**row, "logps_behavior": [-2.8] * len(row["logps_behavior"])} for row in read_rows(rows_file)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    options = dict(min_effective_sample_size=0.3, collapse_patience=2, max_steps=4, learning_rate=1e-6)
    advice = "the mean of the importance weights stayed below 0.3 for 2 steps .* --importance prefix, token or none"
    with pytest.raises(ImportanceCollapse, match=advice):
        trainer("dqo", base, tmp_path / "rows.jsonl", tmp_path / "a", importance="trajectory", **options).train()
    run = trainer("dqo", base, tmp_path / "rows.jsonl", tmp_path / "b", importance="token", **options)
    run.train()
    means = [row["importance/mean_weight"] for row in run.state.log_history if "importance/mean_weight" in row]
    assert run.state.global_step == 4 and all(0.7 < mean < 1.0 for mean in means)


def test_patience_with_a_collapse_outlives_a_resume(base: Path, rows_file: Path, tmp_path: Path) -> None:
    options = dict(importance="trajectory", per_device_train_batch_size=4, min_effective_sample_size=1.1)
    options |= dict(max_steps=9, collapse_patience=5, save_strategy="steps", save_steps=3)
    with pytest.raises(ImportanceCollapse, match=r"step 4: .* for 5 steps"):
        trainer("dqo", base, rows_file, tmp_path, **options).train()
    with pytest.raises(ImportanceCollapse, match=r"step 4: .* for 5 steps"):
        trainer("dqo", base, rows_file, tmp_path, **options).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-3")
        )


def test_step_rewards_are_asked_of_the_eval_file_before_training(base: Path, rows_file: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    del rows[6]["step_rewards"]
    write_jsonl(tmp_path / "eval.jsonl", rows)
    with pytest.raises(RowError, match=r"eval\.jsonl, line 7, field 'step_rewards': is missing \(1 such rows\)"):
        options = dict(process_rewards="potential", eval_strategy="steps")
        trainer("dqo", base, rows_file, tmp_path, tmp_path / "eval.jsonl", **options)


def test_a_non_finite_loss_names_the_row(base: Path, rows_file: Path, tmp_path: Path) -> None:
    run = trainer("rs", base, rows_file, tmp_path, per_device_train_batch_size=4, max_steps=2)
    run.bare_model.pretrained.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NonFiniteLoss, match=r"the loss of row 'miniature/train/0/\d+#\d'"):
        run.train()


def test_sft_learns_from_every_response_whatever_its_reward(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """Right, wrong and ungradable ones, 64 in all; rejection sampling keeps the 32 right ones."""
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    rows[1] |= {"label": None, "reward": None}
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert len(trainer("sft", base, tmp_path / "rows.jsonl", tmp_path).train_dataset.rows) == 64
    assert len(trainer("rs", base, tmp_path / "rows.jsonl", tmp_path).train_dataset.rows) == 32


def test_rows_left_out_are_counted(base: Path, rows_file: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    rows[0] |= {"label": None, "reward": None}
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert trainer("rs", base, tmp_path / "rows.jsonl", tmp_path).train_dataset.left_out == {
        "ungradable": 1,
        "not right": 32,
    }
    assert trainer("dqo", base, tmp_path / "rows.jsonl", tmp_path).train_dataset.left_out == {"ungradable": 1}


@pytest.mark.parametrize("kind", ["rs", "pqm"])
def test_an_over_long_row_is_refused(kind: str, base: Path, rows_file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"rows\.jsonl: \d+ rows are longer than --max_length 20 tokens: line 1 \(\d\d\), .*Raise --max_length",
    ):
        trainer(kind, base, rows_file, tmp_path, max_length=20)


def test_potential_rewards_sum_to_zero_along_every_response(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """Differences of potentials telescope: what they add to the outcome is Phi(end) - Phi(start) = 0."""
    plain = trainer("dqo", base, rows_file, tmp_path)
    shaped = trainer("dqo", base, rows_file, tmp_path, process_rewards="potential")
    items = [plain.train_dataset[0], plain.train_dataset[3]]
    before, after = plain.collate(items)["rewards"], shaped.collate(items)["rewards"]
    assert not torch.equal(before, after)
    torch.testing.assert_close(before.sum(1), after.sum(1))


@pytest.mark.parametrize("name", ["line", "blank_line", "numbered", "sentence"])
def test_step_rewards_of_another_tokenizer_are_placed_where_the_steps_end(name: str, tmp_path: Path) -> None:
    """A policy whose tokenizer composes characters and cannot give the text back learns from another's step scores.

    Each response's additions telescope to 0 at its last token; before it there is one at the end of each step.
    """
    torch.manual_seed(0)
    tokenizer = families.unigram()
    shape = dict(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, intermediate_size=64
    )
    Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), head_dim=16, **shape)).save_pretrained(tmp_path / "base")
    rng = random.Random(0)
    rows = []
    for number in range(4):
        text = "Step 1: ﬁnd e\u0301.\n\nStep 2:\r\n" + families.hostile_text(rng)
        steps = split_steps(text, f"split:{name}")
        rewards = [0.25 + step / 8 for step in range(len(steps))]
        rows.append({"prompt": "q", "completion": text, "completions": steps, "step_separator": f"split:{name}"})
        rows[-1] |= {"step_rewards": rewards, "reward": float(number % 2)}
    write_jsonl(tmp_path / "rows.jsonl", rows)
    config = METHODS["dqo"].config(
        **{**COMMON, "output_dir": str(tmp_path / "out"), "importance": "none", "responses_per_prompt": 4},
        **{"process_rewards": "potential", "step_separator": f"split:{name}", "max_steps": 1},
    )
    run = DQOTrainer(str(tmp_path / "base"), config, tmp_path / "rows.jsonl", processing_class=tokenizer)
    batch = run.collate([run.train_dataset[0]])
    for row, given, mask in zip(rows, batch["rewards"], batch["response_mask"].bool(), strict=True):
        ends = row_step_ends(tokenizer, row, row["completions"], row["step_separator"])
        paid = given[mask].tolist()
        assert sum(paid) == pytest.approx(row["reward"], abs=1e-5)
        assert {token for token, reward in enumerate(paid[:-1]) if reward} == set(ends[:-1])
        kept = [families.nfkc(step) for step in row["completions"]]
        for step, end in enumerate(ends[:-1]):
            assert families.read(tokenizer, encode_text(tokenizer, row["completion"])[: end + 1]) == "".join(
                kept[: step + 1]
            )
    run.train()


def test_additive_rewards_need_whole_groups(base: Path, rows_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="responses_per_prompt to null"):
        trainer("dqo", base, rows_file, tmp_path, process_rewards="additive")
    run = trainer("dqo", base, rows_file, tmp_path, process_rewards="additive", responses_per_prompt=None)
    batch = run.collate([run.train_dataset[0]])
    outcome = torch.tensor([1.0, 0.0, 1.0, 0.0])
    # Centred over the problem's steps, the additions cancel.
    assert batch["rewards"].sum().item() == pytest.approx(outcome.sum().item(), abs=1e-4)


def test_labels_as_each_objective_wants_them() -> None:
    """Soft [1, .5, 0, .25]: hard at threshold 0 is [1, 1, 0, 1], and after the first wrong step all are wrong."""
    row = {"labels": [1.0, 0.5, 0.0, 0.25], "label": True}
    assert hard_labels(row) == [1, 1, 0, 0]
    assert soft_labels(row) == [1.0, 0.5, 0.0, 0.25]
    assert verdict_label(row) == [ABSENT, ABSENT, ABSENT, 1.0]
    assert hard_labels(row, threshold=0.5) == [1, 0, 0, 0]


def test_a_label_of_null_is_no_label() -> None:
    """Nothing is said of it: neither right before the first wrong step nor wrong after it."""
    row = {"labels": [None, True, False, None, True], "label": None}
    assert hard_labels(row) == [ABSENT, 1, 0, ABSENT, 0]
    assert soft_labels(row) == [ABSENT, 1, 0, ABSENT, 1]
    assert soft_labels(row, stop_at_first_error=True) == [ABSENT, 1, 0]
    assert verdict_label(row) == [ABSENT] * 4 + [1]
    assert verdict_label({"labels": [True, None]}) == [ABSENT, ABSENT]


def test_an_orm_learns_from_every_row_it_keeps(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """From a reward where there is no label; a row with neither and no label of its last step is left out."""
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()][:4]
    for row in rows:
        row["labels"][-1] = None
    for row in rows[:3]:
        del row["label"]
    rows[1]["reward"] = 0.5
    del rows[2]["reward"]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    run = trainer("orm", base, tmp_path / "rows.jsonl", tmp_path)
    assert run.train_dataset.rows.tolist() == [0, 1, 3]
    assert run.train_dataset.left_out == {"neither a verdict nor a label of the last step": 1}
    found = run.collate([run.train_dataset[0]])["step_labels"]
    assert [row[row != ABSENT].tolist() for row in found] == [[1], [0], [0]]


def test_the_index_is_asked_for_in_one_order(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set's order follows the hash seed, so processes would disagree whose index is right."""
    asked = []
    indexed = source.index_rows
    monkeypatch.setattr(
        source, "index_rows", lambda *args, forbidden, columns: asked.append(list(forbidden)) or indexed(*args)
    )
    for token in "0123456789":
        trainer("pqm", base, rows_file, tmp_path, separator_token=token)
    assert asked == [["\n", token] for token in "0123456789" for _ in range(2)]


def test_stopping_at_the_first_error(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """A response wrong in its second step is read through that step and no further; a right one to its end."""
    whole = trainer("pqm", base, rows_file, tmp_path, stop_at_first_error=False)
    run = trainer("pqm", base, rows_file, tmp_path)
    item = run.train_dataset[0]
    cut, full = run.data_collator([item]), whole.data_collator([item])
    for i, row in enumerate(item["rows"]):
        kept = len(row["completions"]) if row["label"] else 2
        assert cut["step_labels"][i].tolist()[:kept] == [float(label) for label in row["labels"][:kept]]
        assert (cut["step_labels"][i, kept:] == ABSENT).all()
        assert torch.equal(cut["step_ends"][i, :kept], full["step_ends"][i, :kept])
        assert (cut["step_ends"][i, kept:] == -1).all()
        assert cut["response_mask"][i].sum() == cut["step_ends"][i, kept - 1] + 1
    assert soft_labels({"labels": [1.0, 0.5, 0.0, 0.25]}, stop_at_first_error=True) == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("bce", "margin"),
        ("pqm_ablation", "margin"),
        ("orm", "stop_at_first_error"),
        ("dro", "lam"),
        ("rs", "beta"),
        ("reinforce", "beta"),
        ("dpo", "importance"),
        ("kto", "pairs"),
    ],
)
def test_a_method_has_no_option_it_does_not_read(kind: str, option: str) -> None:
    with pytest.raises(TypeError, match=option):
        METHODS[kind].config("out", **{option: 1})


def test_an_objective_is_trained_with_its_own_options(tmp_path: Path) -> None:
    """Eq. 12 has no margin and PQM has one; BCE takes soft labels as they are, so a threshold would do nothing."""
    options = dict(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    for objective, config in (("bce", RankingConfig(**options)), ("pqm", StepwiseConfig(**options))):
        with pytest.raises(ValueError, match=f"{objective} needs a .* as args, not a {type(config).__name__}"):
            METHODS[objective].objective(config, miniature.tokenizer())
    q_values, of_steps = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    for name, kind, loss in (
        ("pqm", RankingConfig, pqm_loss),
        ("pqm_theoretical", TheoreticalConfig, pqm_theoretical_loss),
    ):
        objective = METHODS[name].objective(kind(**options, margin=2.0), miniature.tokenizer())
        assert objective.contract.objective == name, "the weights say what they were trained by"
        assert torch.equal(objective.loss(q_values, of_steps), loss(q_values, of_steps, margin=2.0))
    with pytest.raises(ValueError, match=r"--threshold is 0\.5, but it has no effect without --stop_at_first_error"):
        ClassificationConfig(**options, threshold=0.5, stop_at_first_error=False)
    METHODS["bce"].objective(ClassificationConfig(**options, threshold=0.5), miniature.tokenizer())


def test_reinforce_compares_a_response_with_all_of_its_problem(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """Rewards 1, 0, 1, 0: each is compared with the mean of the other three, even if batches split the problem."""
    run = trainer("reinforce", base, rows_file, tmp_path, responses_per_prompt=3)
    batch = run.collate([run.train_dataset[0], run.train_dataset[1]])
    assert batch["group_index"].tolist() == [0, 0, 0, 1]
    torch.testing.assert_close(batch["advantages"], torch.tensor([2 / 3, -2 / 3, 2 / 3, -2 / 3]))


def test_a_taper_leaves_right_responses_unweighted(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """The rows say that each token was sampled with probability 1/e, so the weights are far from 1."""
    options = dict(importance="trajectory", importance_clip=1e6, responses_per_prompt=4)
    plain, tapered = (
        trainer("reinforce", base, rows_file, tmp_path, taper=taper, **options) for taper in (False, True)
    )
    batch = plain.collate([plain.train_dataset[0]])
    with torch.no_grad():
        logps = plain.model(batch)
        weights = (logps - batch["behavior_logps"]).sum(1).exp()
        losses = [run.objective.losses(run.model.eval(), batch).per_trajectory for run in (plain, tapered)]
    expected = -batch["advantages"] * logps.sum(1)
    assert (weights - 1).abs().min() > 0.01
    torch.testing.assert_close(losses[0], expected * weights)
    torch.testing.assert_close(losses[1], torch.where(batch["right"], expected, expected * weights))


def test_responses_without_others_to_compare_with_are_counted(
    base: Path, rows_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = list(read_rows(rows_file))
    write_jsonl(tmp_path / "rows.jsonl", [rows[0], rows[2], *rows[4:9]])
    trainer("reinforce", base, tmp_path / "rows.jsonl", tmp_path / "run")
    assert "3 of 7 responses have the same reward as all others of their problem" in caplog.text


def test_a_mean_reward_is_not_one_that_all_have(
    base: Path, rows_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A reward of .5 between 0 and 1 has no advantage, and others have another reward."""
    rows = [{**row, "reward": reward} for row, reward in zip(read_rows(rows_file), (0.0, 0.5, 1.0), strict=False)]
    write_jsonl(tmp_path / "rows.jsonl", [{**row, "label": None} for row in rows])
    trainer("reinforce", base, tmp_path / "rows.jsonl", tmp_path / "run", right_at=1.0)
    assert "have the same reward" not in caplog.text
