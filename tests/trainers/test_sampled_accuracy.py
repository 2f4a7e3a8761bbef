"""Accuracy while a policy trains: what is answered, graded, logged and written, and what it decides."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from killed_training import run, same_weights, start, start_two, write_inputs
from qstep.data import RowError, encode_prompt, read_rows, write_jsonl
from qstep.generation import HFEngine, Request, SamplingSettings
from qstep.models.inference import load_for_sampling
from qstep.models.packable import tolerance_of
from qstep.models.packing import PACKED_ATTENTION
from qstep.objectives import METHODS
from qstep.objectives.config import PolicyConfig
from qstep.stages.train import TrainInputs
from qstep.tasks import miniature
from qstep.trainers.early_stopping import evaluations_since_best, stopped_early
from tiny_trainers import trainer, weights

SAMPLED: dict[str, Any] = dict(eval_samples=6, eval_steps=2, eval_max_new_tokens=12, per_device_train_batch_size=4)


def graded_rows(problems: int = 8, split: str = "test") -> list[dict[str, Any]]:
    """A right and a wrong response to each problem, as `qstep grade` writes them."""
    rows = []
    for problem in miniature.problems(split, problems):
        for sample, text in enumerate((miniature.solution(str(problem.prompt)), "#1")):
            row: dict[str, Any] = {"id": f"{problem.id}#{sample}", "problem_id": problem.id, "task": "miniature"}
            rows.append(
                {**row, "prompt": problem.prompt, "gold": problem.gold, "completion": text, "label": not sample}
            )
    return rows


@pytest.fixture
def eval_file(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "validation.jsonl", graded_rows())
    return tmp_path / "validation.jsonl"


@pytest.mark.parametrize(("kind", "options"), [("dqo", {}), ("rs", {"peft": True}), ("dro", {"bf16": True})])
def test_the_answers_are_those_of_the_saved_model(
    kind: str, options: dict[str, Any], base: Path, rows_file: Path, eval_file: Path, tmp_path: Path
) -> None:
    """Those of the engine on the saved weights, and the accuracy is the share that the task calls right."""
    run = trainer(kind, base, rows_file, tmp_path / "run", eval_file, max_steps=2, **SAMPLED, **options)
    run.train()
    run.save_model()
    (line,) = [line for line in run.state.log_history if "eval_accuracy" in line]
    written = list(read_rows(tmp_path / "run" / "eval_samples.jsonl"))
    assert [row["problem_id"] for row in written] == [f"miniature/test/0/{n}" for n in range(4)]
    if options != {"bf16": True}:
        model, tokenizer = load_for_sampling(str(tmp_path / "run"), device="cpu", dtype="float32")
        asked = {row["problem_id"]: row for row in graded_rows(6)}
        requests = [Request(name, encode_prompt(tokenizer, row["prompt"]), [0]) for name, row in asked.items()]
        drawn = HFEngine(model, tokenizer).sample(requests, SamplingSettings(12, temperature=0))
        texts = {request.key: response.text for request, (response,) in drawn}
        assert {row["problem_id"]: row["completion"] for row in written} == {
            row["problem_id"]: texts[row["problem_id"]] for row in written
        }
    assert 0 <= line["eval_accuracy_low"] <= line["eval_accuracy"] <= line["eval_accuracy_high"] <= 1
    assert line["eval_sampled/mean_length"] <= 12 and {"eval_loss", "eval_entropy"} <= line.keys()
    assert run.bare_model.pretrained.config._attn_implementation == PACKED_ATTENTION or options.get("peft")


def test_a_policy_that_knows_the_answers_is_right(base: Path, tmp_path: Path) -> None:
    """Taught the solutions of two problems, it answers these two right, and the accuracy is that of all four."""
    taught = graded_rows(2)
    write_jsonl(tmp_path / "rows.jsonl", taught)
    write_jsonl(tmp_path / "validation.jsonl", graded_rows(4))
    options = {**SAMPLED, "eval_samples": 4, "eval_steps": 150, "eval_max_new_tokens": 64}
    run = trainer(
        *("rs", base, tmp_path / "rows.jsonl", tmp_path / "run", tmp_path / "validation.jsonl"),
        **{**options, "max_steps": 150, "learning_rate": 1e-2},
    )
    run.train()
    (line,) = [line for line in run.state.log_history if "eval_accuracy" in line]
    written = {row["problem_id"]: row for row in read_rows(tmp_path / "run" / "eval_samples.jsonl")}
    for row in taught[::2]:
        assert written[row["problem_id"]]["completion"] == row["completion"]
        assert written[row["problem_id"]]["verdict"] == "right"
    verdicts = [row["verdict"] for row in written.values()]
    assert line["eval_accuracy"] == pytest.approx(verdicts.count("right") / 4) and line["eval_accuracy"] >= 0.5
    assert line["eval_sampled/ungradable"] == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_changes_no_weight_no_random_state_and_no_mode(
    temperature: float, base: Path, rows_file: Path, eval_file: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = dict(max_steps=4, peft=True)
    plain = trainer("dqo", base, rows_file, tmp_path / "plain", per_device_train_batch_size=4, **options)
    plain.train()
    run = trainer(
        *("dqo", base, rows_file, tmp_path / "run", eval_file), **options, **SAMPLED | {"eval_temperature": temperature}
    )
    run.train()
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(plain).items())
    run.bare_model.train()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(1), np.random.random(), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    assert run.sampled is not None
    run.sampled.measure(run, "eval")
    assert (torch.rand(1), np.random.random(), random.random()) == expected
    assert all(module.training for module in run.bare_model.modules())


def test_the_same_seed_gives_the_same_responses_also_after_a_resume(
    base: Path, rows_file: Path, eval_file: Path, tmp_path: Path
) -> None:
    """Sampled at temperature 1: a run resumed in its middle writes the same file and logs the same accuracies."""
    options = {**SAMPLED, "eval_temperature": 1.0, "max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    whole = trainer("rs", base, rows_file, tmp_path / "whole", eval_file, **options)
    whole.train()
    written = (tmp_path / "whole" / "eval_samples.jsonl").read_bytes()
    rows = [json.loads(line) for line in written.splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6] * 4, "the responses to a problem stand beside each other"
    resumed = trainer("rs", base, rows_file, tmp_path / "whole", eval_file, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert (tmp_path / "whole" / "eval_samples.jsonl").read_bytes() == written

    def accuracies(run: Any) -> list[tuple[float, ...]]:
        names = ("eval_accuracy", "eval_accuracy_low", "eval_sampled/mean_length", "eval_entropy")
        return [tuple(line[name] for name in names) for line in run.state.log_history if "eval_accuracy" in line]

    assert accuracies(resumed) == accuracies(whole) and len(accuracies(whole)) == 3
    other = trainer("rs", base, rows_file, tmp_path / "other", eval_file, **{**options, "seed": 7, "max_steps": 2})
    other.train()
    first = [row["completion"] for row in rows if row["step"] == 2]
    assert [row["completion"] for row in read_rows(tmp_path / "other" / "eval_samples.jsonl")] != first


def test_a_new_training_does_not_keep_the_responses_of_an_earlier_one(
    base: Path, rows_file: Path, eval_file: Path, tmp_path: Path
) -> None:
    for every, steps in ((1, [1, 2, 3]), (3, [3])):
        options = {**SAMPLED, "eval_samples": 1, "eval_steps": every, "max_steps": 3}
        trainer("rs", base, rows_file, tmp_path / "run", eval_file, **options).train()
        assert [row["step"] for row in read_rows(tmp_path / "run" / "eval_samples.jsonl")] == steps


def test_what_is_missing_is_said_before_a_model_loads(rows_file: Path, eval_file: Path, tmp_path: Path) -> None:
    def refuse(words: str, rows: list[dict[str, Any]] | None = None, error: type = ValueError, **options: Any) -> None:
        if rows is not None:
            write_jsonl(eval_file, rows)
        with pytest.raises(error, match=words):
            trainer("dqo", Path("no/model"), rows_file, tmp_path / "run", eval_file, **{**SAMPLED, **options})

    rows = graded_rows()
    without = [*rows[:2], *({name: row[name] for name in row if name != "gold"} for row in rows[2:])]
    refuse(
        r"validation\.jsonl, line 3, field 'gold': is missing, but --eval_samples needs the right answer of each "
        r"problem\. Add it, or give a --grader",
        without,
        RowError,
    )
    other = [rows[0], {**rows[1], "gold": f"{rows[1]['gold']}1"}, *rows[2:]]
    refuse(r"line 2, field 'gold': is '\d+', but the same problem has '\d+' on line 1\. Correct one", other, RowError)
    refuse(r"line 1, field 'task': task 'sums' is unknown", [{**row, "task": "sums"} for row in rows], RowError)
    refuse("line 1, field 'task': .* --task my_task:TASK", [{**row, "task": "my_task:TASK"} for row in rows], RowError)
    with pytest.raises(ValueError, match=r"--eval_samples is 8, but it has no effect without --eval_strategy steps"):
        METHODS["dqo"].config(output_dir="out", report_to="none", use_cpu=True, eval_samples=8)
    with pytest.raises(ValueError, match=r"--eval_temperature is 1\.0, but it has no effect without --eval_samples"):
        METHODS["rs"].config(
            output_dir="out", report_to="none", use_cpu=True, eval_temperature=1.0, eval_strategy="steps"
        )
    with pytest.raises(ValueError, match=r"--metric_for_best_model accuracy needs --eval_samples"):
        METHODS["rs"].config(
            output_dir="out", report_to="none", use_cpu=True, eval_steps=2, metric_for_best_model="accuracy"
        )
    for more in ({}, {"eval_on_start": True}):
        with pytest.raises(ValueError, match="early_stopping_patience is 2, but it has no effect without --eval_strat"):
            METHODS["pqm"].config(output_dir="out", report_to="none", use_cpu=True, early_stopping_patience=2, **more)


def test_answers_fit_into_the_model(base: Path, rows_file: Path, eval_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--eval_max_new_tokens 100000 exceed the \d+ positions .* lower"):
        trainer("rs", base, rows_file, tmp_path / "run", eval_file, **{**SAMPLED, "eval_max_new_tokens": 100_000})
    write_jsonl(tmp_path / "run" / "eval_samples.jsonl", [{"id": "mine"}])
    with pytest.raises(ValueError, match=r"eval_samples\.jsonl holds other rows .* move it, or delete it"):
        trainer("rs", base, rows_file, tmp_path / "run", eval_file, **SAMPLED)


def test_problems_without_a_right_response_count_too(
    base: Path, rows_file: Path, eval_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rejection sampling leaves wrong responses out of its evaluation loss, and no problem out of its accuracy."""
    write_jsonl(eval_file, [row for row in graded_rows(4) if not row["label"]] + graded_rows(5)[8:])
    run = trainer("rs", base, rows_file, tmp_path / "run", eval_file, max_steps=1, **{**SAMPLED, "eval_samples": 64})
    assert run.sampled is not None and len(run.sampled.problems) == 5
    assert "has 5 problems, fewer than --eval_samples 64. All are used" in capsys.readouterr().err


def test_a_problem_has_the_right_answer_of_any_of_its_rows(
    base: Path, rows_file: Path, eval_file: Path, tmp_path: Path
) -> None:
    rows = graded_rows(4)
    write_jsonl(eval_file, [{name: row[name] for name in row if name != "gold"} for row in rows[::2]] + rows[1::2])
    run = trainer("rs", base, rows_file, tmp_path / "run", eval_file, max_steps=1, **{**SAMPLED, "eval_samples": 3})
    assert run.sampled is not None
    assert [(row["problem_id"], row["gold"]) for row in run.sampled.problems] == [
        (row["problem_id"], row["gold"]) for row in rows[:6:2]
    ]


def test_a_shared_problem_counts_if_only_its_samples_are_read(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """Rejection sampling leaves its wrong responses out of the loss, but samples it to choose the best weights."""
    shared = {**next(read_rows(rows_file)), "label": False, "task": "miniature", "gold": "1"}
    shared = {name: value for name, value in shared.items() if name not in ("id", "reward")}
    write_jsonl(tmp_path / "eval.jsonl", [*graded_rows(2), shared])
    files = (base, rows_file, tmp_path / "run", tmp_path / "eval.jsonl")
    best = dict(save_strategy="steps", save_steps=2, load_best_model_at_end=True, metric_for_best_model="accuracy")
    with pytest.raises(ValueError, match=r"share 1 problems .* the evaluation decides on the weights"):
        trainer("rs", *files, **SAMPLED, **best)
    trainer("rs", *files, **{**SAMPLED, "eval_samples": 2}, **best)


def test_less_is_better_for_what_is_bad() -> None:
    def greater(measure: str) -> bool:
        options = dict(output_dir="out", report_to="none", use_cpu=True, eval_steps=2, eval_samples=4)
        return METHODS["rs"].config(**options, metric_for_best_model=measure).greater_is_better

    assert not any(map(greater, ("loss", "kl", "logps/rejected", "sampled/cut_off", "eval_sampled/ungradable")))
    assert all(map(greater, ("accuracy", "logps/margins")))


def test_autocast_may_round_as_half_precision_does(base: Path) -> None:
    """A policy in bf16 autocast samples with weights of 32 bits. On a GPU its logits differ with the batch's shape."""
    model, _ = load_for_sampling(str(base), device="cpu", dtype="float32")
    assert tolerance_of(model) == 1e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tolerance_of(model) == 0.1


def test_every_policy_method_can_sample() -> None:
    for method in METHODS.values():
        assert issubclass(method.config, PolicyConfig) == (method.kind == "policy"), method.name


def test_a_grader_of_the_users_own(base: Path, rows_file: Path, eval_file: Path, tmp_path: Path, monkeypatch) -> None:
    """It replaces the task, and needs no right answers."""
    (tmp_path / "short.py").write_text(
        "def reward(prompts, completions, **columns):\n    return [float(len(text) < 1000) for text in completions]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    write_jsonl(eval_file, [{name: row[name] for name in row if name != "gold"} for row in graded_rows()])
    run = trainer(
        *("rs", base, rows_file, tmp_path / "run", eval_file), **{**SAMPLED, "max_steps": 2, "grader": "short:reward"}
    )
    run.train()
    (line,) = [line for line in run.state.log_history if "eval_accuracy" in line]
    assert line["eval_accuracy"] == 1 and line["eval_accuracy_low"] < 1


def test_evaluations_since_the_best() -> None:
    assert evaluations_since_best([0.1, 0.3, 0.2, 0.3], greater_is_better=True) == 2, "an equal one is not better"
    assert evaluations_since_best([3.0, 2.0, 1.0], greater_is_better=False) == 0
    assert evaluations_since_best([1.0, None, 2.0], greater_is_better=False) == 2
    assert evaluations_since_best([], greater_is_better=True) == 0
    args = SimpleNamespace(early_stopping_patience=2, metric_for_best_model="loss", greater_is_better=False)
    lines = [{"step": step, "eval_loss": 1.0 + step} for step in (0, 3, 3)]
    state: Any = SimpleNamespace(log_history=lines)
    assert not stopped_early(args, state), "a resumed run with --eval_on_start evaluates step 3 twice"
    lines.append({"step": 6, "eval_loss": 2.0})
    assert stopped_early(args, state)


@pytest.mark.parametrize("kind", ["rs", "pqm"])
def test_training_ends_early_and_a_resumed_one_too(kind: str, base: Path, rows_file: Path, tmp_path: Path) -> None:
    """At a learning rate of 0 nothing improves: the first evaluation is the best, and the third after it is the end."""
    rows = list(read_rows(rows_file))
    write_jsonl(tmp_path / "train.jsonl", rows[:32])
    write_jsonl(tmp_path / "eval.jsonl", rows[32:])
    options: dict[str, Any] = dict(early_stopping_patience=3, eval_steps=2, save_strategy="steps", save_steps=2)
    options |= dict(per_device_train_batch_size=2, max_steps=30, learning_rate=0.0, load_best_model_at_end=True)
    options |= dict(logging_steps=100)
    run = trainer(kind, base, tmp_path / "train.jsonl", tmp_path / "run", tmp_path / "eval.jsonl", **options)
    run.train()
    assert run.state.global_step == 8
    assert run.state.best_global_step == 2
    assert [line["step"] for line in run.state.log_history if "loss" in line][-1] == 8, "its last steps are logged"
    again = trainer(kind, base, tmp_path / "train.jsonl", tmp_path / "run", tmp_path / "eval.jsonl", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
    assert again.state.global_step == 8
    earlier = trainer(kind, base, tmp_path / "train.jsonl", tmp_path / "run", tmp_path / "eval.jsonl", **options)
    earlier.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert earlier.state.global_step == 8


def test_the_best_checkpoint_is_that_of_the_best_accuracy(
    base: Path, rows_file: Path, eval_file: Path, tmp_path: Path
) -> None:
    """The accuracies are .25, .75, .5: the second checkpoint stays, and patience 1 ends the run at the third."""
    run = trainer(
        *("rs", base, rows_file, tmp_path / "run", eval_file),
        **SAMPLED,
        **dict(max_steps=20, save_strategy="steps", save_steps=2, load_best_model_at_end=True),
        **dict(metric_for_best_model="accuracy", early_stopping_patience=1, learning_rate=1e-2),
    )
    assert run.sampled is not None and run.args.greater_is_better
    found = iter([0.25, 0.75, 0.5])
    run.sampled.measure = lambda trainer, prefix: {f"{prefix}_accuracy": next(found)}
    run.train()
    assert run.state.global_step == 6
    assert run.state.best_model_checkpoint == str(tmp_path / "run" / "checkpoint-4")
    ended = weights(run)
    run.bare_model.restore(tmp_path / "run" / "checkpoint-4")
    assert all(torch.equal(value, weights(run)[name]) for name, value in ended.items())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> TrainInputs:
    folder = tmp_path_factory.mktemp("inputs")
    given = write_inputs(folder)
    write_jsonl(folder / "validation.jsonl", graded_rows())
    given.eval_file = folder / "validation.jsonl"
    return given


DECIDING: dict[str, Any] = dict(
    eval_samples=5,
    eval_steps=1,
    eval_temperature=1.0,
    eval_max_new_tokens=16,
    load_best_model_at_end=True,
    metric_for_best_model="accuracy",
    save_total_limit=3,
)


@pytest.mark.parametrize(
    "at", ["generation.hf/HFEngine:_decode:4", "tasks.task:grade_rows:3:after", "data.jsonl:write_whole:9"]
)
def test_a_kill_in_the_middle_of_an_evaluation(at: str, inputs: TrainInputs, tmp_path: Path) -> None:
    """While it samples, after it has graded, and while it writes: the next run ends with the same weights and rows."""
    whole = run("rs", inputs, tmp_path / "whole", **DECIDING)
    child = start("rs", inputs, tmp_path / "run", tmp_path / "log", at=f"qstep.{at}", **DECIDING)
    child.join()
    assert child.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    run("rs", inputs, tmp_path / "run", **DECIDING)
    assert same_weights(tmp_path / "run", whole)
    for name in ("eval_samples.jsonl", "train_log.jsonl"):
        rows, expected = (list(read_rows(folder / name)) for folder in (tmp_path / "run", whole))
        for row in (*rows, *expected):
            for timing in [key for key in row if "runtime" in key or "per_second" in key]:
                del row[timing]
        assert rows == expected, name


def test_two_processes_share_the_problems(inputs: TrainInputs, tmp_path: Path) -> None:
    options = {**DECIDING, "optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1e-3, "max_steps": 3}
    children = start_two("rs", inputs, tmp_path / "two", tmp_path / "log", per_device_train_batch_size=2, **options)
    for child in children:
        child.join(180)
    assert [child.exitcode for child in children] == [0, 0], (tmp_path / "log.0").read_text()
    one = run("rs", inputs, tmp_path / "one", **options)
    rows, expected = (list(read_rows(folder / "eval_samples.jsonl")) for folder in (tmp_path / "two", one))
    assert [row["completion"] for row in rows] == [row["completion"] for row in expected] and len(rows) == 12
    ours, theirs = (
        [line["eval_accuracy"] for line in read_rows(folder / "train_log.jsonl") if "eval_accuracy" in line]
        for folder in (tmp_path / "two", one)
    )
    assert ours == theirs and len(ours) == 3
    assert (tmp_path / "log.0").read_text().count("Some responses: ") == 3
    assert "Some responses: " not in (tmp_path / "log.1").read_text()
