"""`qstep audit`: its limits, exit status and JSON, on small files and real ones; and what training refuses."""

from __future__ import annotations

import json
import logging
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas
import pytest

from pages import commands
from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.evals import Audit, read_result
from qstep.evals.measures import OverLongRows, TwoGolds
from qstep.models import ScorerModel
from qstep.objectives import METHODS
from qstep.objectives.classification import ClassificationConfig
from qstep.objectives.labels import check_labels
from qstep.objectives.source import RowsFile
from qstep.objectives.steps import StepwiseConfig
from qstep.stages.audit import AuditConfig, audit
from qstep.stages.convert import ConvertConfig, convert
from qstep.stages.train import TrainInputs, train
from qstep.tasks import miniature
from qstep.trainers import trainer_class
from real_data import DATA, needs_data

ROWS = [
    {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]},
    {"prompt": "p", "completions": ["a", "c", "d"], "labels": [True, False, True]},
    {"prompt": "q", "completions": ["a"], "labels": [None]},
    {"prompt": "q", "completions": ["a", "b"], "labels": [False, None]},
    {"prompt": "q", "completions": ["a", "b"], "labels": [False, False]},
]
"""3 labels of 8 are right; row 2 rises, row 3 has no label, row 5 repeats row 4."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    ("passes", "fails", "words"),
    [
        ({"rising": "keep"}, {"rising": "refuse"}, r"a right step follows a wrong one in 1 row \(line 2\)"),
        ({"min_right_share": 0.37}, {"min_right_share": 0.38}, r"right labels is 0\.3750, below"),
        ({"max_right_share": 0.38}, {"max_right_share": 0.37}, r"right labels is 0\.3750, above"),
        ({"max_unlabelled_share": 0.2}, {"max_unlabelled_share": 0.19}, "1 of 5 rows have no label"),
        ({"max_duplicate_share": 0.2}, {"max_duplicate_share": 0.0}, "1 of 5 rows repeat an earlier response"),
    ],
)
def test_each_limit(file: Path, passes: dict[str, Any], fails: dict[str, Any], words: str) -> None:
    assert audit(AuditConfig(train_file=file, **passes)).failures == []
    with pytest.raises(ValueError, match=words):
        audit(AuditConfig(train_file=file, **fails))


@pytest.mark.parametrize(("label", "missing"), [(True, "wrong"), (False, "right")])
def test_labels_that_all_say_the_same_fail(tmp_path: Path, label: bool, missing: str) -> None:
    for name, rows in {
        "stepwise": [{"prompt": "p", "completions": ["a"], "labels": [label]}],
        "unpaired": [{"prompt": "p", "completion": "a", "label": label}],
    }.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
        with pytest.raises(ValueError, match=f"is labelled {missing}, so nothing can be learned"):
            audit(AuditConfig(train_file=tmp_path / f"{name}.jsonl"))


def test_contradictions_and_shared_problems(file: Path, tmp_path: Path) -> None:
    write_jsonl(file, [*ROWS, {**ROWS[0], "labels": [True, True]}])
    write_jsonl(tmp_path / "test.jsonl", [{"problem_id": "1", "prompt": "q", "completion": "x"}])
    given: dict[str, Any] = {"train_file": file, "test_files": {"t": tmp_path / "test.jsonl"}}
    with pytest.raises(ValueError) as raised:
        audit(AuditConfig(**given, output=tmp_path / "audit.json"))
    assert "have contradicting labels: 2 rows (line 1, 6)" in str(raised.value)
    assert "1 problems are also in t: 3 rows (line 3, 4, 5)" in str(raised.value)
    written = json.loads((tmp_path / "audit.json").read_text())
    assert len(written["failures"]) == 2 and written["shared"]["t"]["problems"] == 1
    assert written["provenance"]["files"].keys() == {"train_file", "test_files.t"}
    passing = {"max_contradictions": 2, "max_shared_problems": 1}
    found = audit(AuditConfig(**given, **passing, output=tmp_path / "audit.json"))
    assert found.failures == [] and found == read_result(tmp_path / "audit.json", Audit), "an audit may be repeated"


def test_two_gold_answers_to_one_problem_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1/2 and 0.5 are one answer to the task math, and two to a task that audit does not import."""
    given = [("p", "1/2", "math"), ("p", "0.5", "math"), ("q", "4", "math"), ("q", "5", "math")]
    given += [("r", "1/2", "mine:task"), ("r", "0.5", "mine:task")]
    rows = [{**ROWS[0], "prompt": prompt, "gold": gold, "task": task} for prompt, gold, task in given]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ValueError, match=r"problems have two gold answers: 2 rows \(line 4, 6\)"):
        audit(AuditConfig(train_file=tmp_path / "rows.jsonl"))
    assert "gold answers: '5' on line 4, and '4' on line 3" in capsys.readouterr().err
    found = audit(AuditConfig(train_file=tmp_path / "rows.jsonl", max_contradictions=2)).golds
    assert (found.rows, found.lines) == (2, [4, 6])
    assert found.examples[0] == TwoGolds(line=4, gold="5", other_line=3, other_gold="4")


def test_gold_answers_of_a_task_of_your_own_are_compared_by_it(tmp_path: Path) -> None:
    """To `doubling` 8 and 8.0 are one answer. Without --task its code is not run, and they are two."""
    rows = [{**ROWS[0], "prompt": "p", "gold": gold, "task": "my_task:doubling"} for gold in ("8", "8.0", "9")]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    given: dict[str, Any] = {"train_file": tmp_path / "rows.jsonl", "max_contradictions": 2}
    assert audit(AuditConfig(**given)).golds.lines == [2, 3]
    assert audit(AuditConfig(**given, task="my_task:doubling")).golds.lines == [3]


def test_a_conversation_has_a_hint(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": messages}])
    with pytest.raises(ValueError, match=r"'prompt': is missing; give --columns\.messages messages, if the last"):
        audit(AuditConfig(train_file=tmp_path / "rows.jsonl"))
    audit(AuditConfig(train_file=tmp_path / "rows.jsonl", columns={"messages": "messages"}))


def test_lists_of_responses_and_rewards_have_a_hint(tmp_path: Path) -> None:
    """The hint is followed."""
    file = tmp_path / "rows.jsonl"
    table = pandas.DataFrame([{"prompt": "2+2?", "responses": ["4", "5"], "rewards": [1.0, 0.0]}])
    write_jsonl(file, table.to_dict("records"))
    with pytest.raises(ValueError, match=r'as `explode\(\["responses", "rewards"\]\)` of pandas does, and call its'):
        audit(AuditConfig(train_file=file))
    each = table.explode(["responses", "rewards"]).rename(columns={"responses": "response", "rewards": "reward"})
    write_jsonl(file, each.to_dict("records"))
    assert audit(AuditConfig(train_file=file)).rows == 2


def test_prompts_whose_last_token_would_merge_with_the_response(tmp_path: Path) -> None:
    """Of the tokenizer, "ab" is one token. A conversation and sampled tokens have no such border."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"a": 0, "b": 1, "ab": 2, "<eos>": 3}
    bpe = Tokenizer(models.BPE(words, [("a", "b")]))
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", chat_template="a").save_pretrained(tmp_path)
    chat = [{"role": "user", "content": "a"}]
    sampled = {"prompt": "a", "completion": "b", "completion_ids": [1, 3], "finish_reason": "stop"}
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "b", "completion": "b"}, {"prompt": chat, "completion": "b"}]
    write_jsonl(tmp_path / "rows.jsonl", [*rows, sampled, {"prompt": "ba", "completion": "bb"}])
    found = audit(AuditConfig(train_file=tmp_path / "rows.jsonl", model_name_or_path=str(tmp_path)))
    assert found.tokens is not None and found.tokens.merging.lines == [1, 5]
    steps = [{"prompt": "a", "completions": ["b", "a"], "labels": [True, False], "completion_ids": [1]}]
    write_jsonl(tmp_path / "steps.jsonl", steps)
    given: dict[str, Any] = {"train_file": tmp_path / "steps.jsonl", "model_name_or_path": str(tmp_path)}
    found = audit(AuditConfig(**given, step_separator="<eos>", separator_token="<eos>"))
    assert found.tokens is not None and found.tokens.merging.lines == [1]


def test_tokens_are_counted_with_the_chat_template_of_an_option(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE({"a": 0, "b": 1, "<eos>": 2}, []))
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>").save_pretrained(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": [{"role": "user", "content": "a"}], "completion": "b"}])
    options: dict[str, Any] = {"train_file": tmp_path / "rows.jsonl", "model_name_or_path": str(tmp_path)}
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        audit(AuditConfig(**options))
    lengths = []
    for template in ("{{ messages[0].content }}", "aaa{{ messages[0].content }}"):
        (tmp_path / "chat.jinja").write_text(template)
        tokens = audit(AuditConfig(**options, chat_template_path=str(tmp_path / "chat.jinja"))).tokens
        assert tokens is not None
        lengths.append(tokens.most)
    assert lengths[1] == lengths[0] + 3


def test_near_copies_of_test_problems_fail_and_overlaps_are_counted(tmp_path: Path) -> None:
    """The instruction is that of `qstep sample --instruction`, which a benchmark's own file lacks."""
    words = " ".join(f"w{n}" for n in range(15))
    asked = ["what is $2+2$", "What is 3+3?", "Now: " + words]
    rows = [{**ROWS[0], "prompt": f"{text}\n\nReason step by step."} for text in asked]
    write_jsonl(tmp_path / "rows.jsonl", [*rows, rows[0]])
    write_jsonl(tmp_path / "test.jsonl", [{"problem": "What is $2\\,+\\,2$?"}, {"problem": f"Then {words}!"}])
    given: dict[str, Any] = {"train_file": tmp_path / "rows.jsonl", "test_files": {"t": tmp_path / "test.jsonl"}}
    with pytest.raises(ValueError, match=r"1 problems are near copies of problems in t: 2 rows \(line 1, 4\)\. Drop"):
        audit(AuditConfig(**given, output=tmp_path / "audit.json"))
    found = read_result(tmp_path / "audit.json", Audit).shared["t"]
    assert (found.problems, found.near_copies.problems, found.overlaps.problems) == (0, 1, 1)
    [near], [over] = found.near_copies.examples, found.overlaps.examples
    assert (near.line, near.test_line, near.words, near.problem) == (1, 1, None, rows[0]["prompt"])
    assert (over.line, over.test_line, over.words) == (3, 2, " ".join(f"w{n}" for n in range(13)))
    assert audit(AuditConfig(**given, max_shared_problems=1)).failures == []


def test_a_benchmarks_own_file_and_a_set_that_is_not_converted(file: Path, tmp_path: Path) -> None:
    """Problems are compared as prompts; rows of a published format are told from rows of one's own."""
    asked = next(read_rows(file))["prompt"]
    write_jsonl(tmp_path / "problems.jsonl", [{"problem": asked, "answer": "1"}, {"problem": "new", "answer": "2"}])
    (tmp_path / "list.json").write_text(json.dumps([{"question": "other", "answer": "1"}]))
    tests = {"a": tmp_path / "problems.jsonl", "b": tmp_path / "list.json"}
    shared = audit(AuditConfig(train_file=file, test_files=tests, max_shared_problems=1)).shared
    assert shared["a"].problems == 1 and shared["a"].rows > 0 and shared["b"].problems == 0
    write_jsonl(tmp_path / "problems.jsonl", [{"problem": asked}, {"problem": None}])
    with pytest.raises(ValueError, match=r"problems.jsonl, line 2, field 'problem': is None; give the question"):
        audit(AuditConfig(train_file=file, test_files=tests))
    write_jsonl(
        tmp_path / "problems.jsonl", [{"problem": "new", "question": "new"}, {"problem": "a-3", "question": asked}]
    )
    with pytest.raises(ValueError, match=r"line 2, field 'question': is not the same as 'problem', .* Rename the one"):
        audit(AuditConfig(train_file=file, test_files=tests))
    write_jsonl(tmp_path / "shepherd.jsonl", [{"input": "1+1? Step 1: 2 \u043a\u0438", "label": "1+1? Step 1: 2 +"}])
    with pytest.raises(ValueError, match=r"its columns are those of math_shepherd: run `qstep convert` on it first"):
        audit(AuditConfig(train_file=tmp_path / "shepherd.jsonl"))


def test_rows_that_are_too_long_and_the_labels_lost(base: Path, file: Path, tmp_path: Path) -> None:
    """Of the miniature's rows, as its tokenizer has one token a character."""
    from qstep.data import encode_prompt
    from qstep.tasks import miniature

    rows = [{**row, "prompt": "1", "completions": ["1"] * len(row["completions"])} for row in ROWS]
    write_jsonl(file, rows)
    prompt = len(encode_prompt(miniature.tokenizer(), "1"))
    given: dict[str, Any] = {"train_file": file, "model_name_or_path": str(base), "max_length": prompt + 4}
    given["max_contradictions"] = 5
    with pytest.raises(ValueError, match=rf"1 of 5 rows are longer than --max_length {prompt + 4}"):
        audit(AuditConfig(**given))
    tokens = audit(AuditConfig(**given, max_over_long_share=0.2)).tokens
    assert tokens is not None
    assert (tokens.least, tokens.median, tokens.most) == (prompt + 2, prompt + 4, prompt + 6)
    assert tokens.over_long == OverLongRows(rows=1, lines=[2], labelled_steps=3, wrong_labels=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_length": 9}, "it has no effect without --model_name_or_path"),
        ({"max_shared_problems": 1}, "it has no effect without --test_files"),
        ({"max_duplicate_share": 2.0}, "it must be from 0 to 1"),
        ({"max_contradictions": -1}, "at least 0"),
        ({"format": "prompt-completion", "rising": "refuse"}, "it has no effect without stepwise rows"),
    ],
)
def test_options_that_cannot_be_meant(file: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        audit(AuditConfig(train_file=file, **options))


def test_the_pages_commands_run(base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the exit status of a file that fails is 1, with every reason on stderr."""
    monkeypatch.chdir(tmp_path)
    rows = list(read_rows(rows_file))
    write_jsonl(tmp_path / "rows.jsonl", rows)
    write_jsonl(tmp_path / "test.jsonl", [{**row, "prompt": "0+" + row["prompt"]} for row in rows[:4]])
    (tmp_path / "model").symlink_to(base)
    audits = commands("docs/data.md", "## Check a file before you train")
    assert len(audits) == 4
    for command in audits:
        assert main(shlex.split(command)[1:]) == 0, command
    assert json.loads((tmp_path / "audit.json").read_text())["rows"] == len(rows)
    assert main(shlex.split("audit --train_file rows.jsonl --test_files.t rows.jsonl --max_right_share 0.01")) == 1


@needs_data
def test_real_data(tmp_path: Path) -> None:
    """What a conversion counted is what an audit counts."""
    for name in ("math_shepherd_sample.jsonl", "processbench_gsm8k.json"):
        rows = convert(ConvertConfig(str(DATA / name), tmp_path / f"{Path(name).stem}_rows.jsonl"))
        counted = json.loads(rows.with_suffix(".meta.json").read_text())["summary"]["steps"]
        found = audit(AuditConfig(train_file=rows))
        assert found.labels is not None
        assert {name: n for name, n in asdict(found.labels).items() if n and name != "right_share"} == counted
    assert (found.rows, found.problems) == (400, 375)


def scorer_config(**options: Any) -> StepwiseConfig:
    return StepwiseConfig(**{"output_dir": "unused", "report_to": [], "stop_at_first_error": False, **options})


def of(path: Path, *labels: list[Any]) -> Path:
    rows = [{"prompt": f"p{i}", "completions": ["a"] * len(of), "labels": of} for i, of in enumerate(labels)]
    write_jsonl(path, rows)
    return path


def test_training_refuses_labels_that_all_say_the_same(tmp_path: Path) -> None:
    rows = of(tmp_path / "right.jsonl", [True, True], [None, True])
    for objective in ("pqm", "pqm_ablation", "bce", "mse", "orm"):
        config = METHODS[objective].config(output_dir="unused", report_to=[])
        with pytest.raises(ValueError, match=r"all .* are the same \(1; 1 is right, 0 wrong\)"):
            trainer_class(METHODS[objective])("no/model", config, rows, processing_class=miniature.tokenizer())
    soft = of(tmp_path / "soft.jsonl", [0.25, 0.5])
    check_labels(RowsFile(soft), scorer_config(), [], soft=True)
    with pytest.raises(ValueError, match=r"right by --threshold 0\.0"):
        check_labels(RowsFile(soft), scorer_config(), [], soft=False)
    with pytest.raises(ValueError, match=r"wrong by --threshold 0\.5"):
        check_labels(RowsFile(soft), scorer_config(threshold=0.5), [], soft=False)
    check_labels(RowsFile(soft), scorer_config(threshold=0.25), [], soft=False)


def test_training_refuses_labels_that_rise_if_told_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = of(tmp_path / "rows.jsonl", [True, False], [False, True])
    check_labels(RowsFile(rows), scorer_config(), [], soft=True)
    with pytest.raises(ValueError, match="1 rows have a right step after a wrong one, first on line 2"):
        check_labels(RowsFile(rows), scorer_config(rising="refuse"), [], soft=True)
    with pytest.raises(ValueError, match=r"--rising is 'refuse', .* without --stop_at_first_error false"):
        scorer_config(rising="refuse", stop_at_first_error=True)
    write_jsonl(rows, [ROWS[0], {**ROWS[0], "labels": [True, True]}])
    with caplog.at_level(logging.WARNING):
        check_labels(RowsFile(rows), scorer_config(), [], soft=True)
    assert "2 rows contradict another row of the same response, first on line 1" in caplog.text


def test_training_keeps_no_best_by_shared_problems(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before a model is loaded. If no best checkpoint is kept, training only warns."""
    options: dict[str, Any] = dict(report_to=[], max_steps=1, eval_strategy="steps", eval_steps=1, use_cpu=True)
    inputs = TrainInputs(model_name_or_path=str(base), train_file=rows_file, eval_file=rows_file)
    keeping = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}
    shared = r"share 16 problems \(one is on line 1 of the first\), and the evaluation"
    with monkeypatch.context() as no_model, pytest.raises(ValueError, match=shared):
        no_model.delattr(ScorerModel, "new")
        train("bce", inputs, ClassificationConfig(output_dir=str(tmp_path / "a"), **options, **keeping))
    train("bce", inputs, ClassificationConfig(output_dir=str(tmp_path / "b"), save_strategy="no", **options))


def test_a_reward_under_another_name_is_pointed_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "p", "completion": str(n), "score": n / 2} for n in range(2)])
    audit(AuditConfig(train_file=tmp_path / "rows.jsonl"))
    said = " ".join(capsys.readouterr().err.split())
    assert "no column `reward` or `label`. If a column says it, name it: --columns.reward score" in said


def test_rewards_that_do_not_say_what_is_right_are_the_only_reason(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "p", "completion": str(n), "reward": n} for n in (1, 5)])
    with pytest.raises(ValueError, match=r"fails:\n- [^\n]*Give --right_at[^\n]*$"):
        audit(AuditConfig(train_file=tmp_path / "rows.jsonl"))
