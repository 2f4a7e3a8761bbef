"""What commands refuse before they read or write, and in which words."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from qstep.cli import main
from qstep.data import RowError, check_row, read_rows, write_jsonl
from qstep.models.inference import choose_device, load_for_sampling
from qstep.objectives import METHODS
from qstep.runs.fingerprints import model_fingerprint
from qstep.stages.annotate import AnnotateConfig, annotate
from qstep.stages.best_of_n import BestOfNConfig, best_of_n
from qstep.stages.commands import COMMANDS
from qstep.stages.grade import GradeConfig, grade
from qstep.stages.report import ReportConfig, report
from qstep.stages.score import ScoreConfig
from qstep.stages.train import TrainInputs, train
from qstep.tasks.options import ProblemOptions

ROW = {"question": "1+1?", "answer": "2", "text": "So 2.\n#### 2"}


@pytest.fixture
def responses(tmp_path: Path) -> Path:
    path = tmp_path / "responses.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return path


def test_an_input_is_never_written_over(tmp_path: Path, responses: Path) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(responses)
    before = responses.read_bytes()
    for output in (responses, link):
        with pytest.raises(ValueError, match=r"--output .* is also the file of --input"):
            grade(GradeConfig(responses, output))
    graded = grade(GradeConfig(responses, tmp_path / "graded.jsonl"))
    with pytest.raises(ValueError, match="is also the file of --inputs"):
        best_of_n(BestOfNConfig({"pqm": graded}, graded))
    result = best_of_n(BestOfNConfig(graded, tmp_path / "result.json"))
    for options in ({"output": result}, {"output": tmp_path / "page.html", "summary": result}):
        with pytest.raises(ValueError, match="is also the file of --results"):
            report(ReportConfig(results=[result], **options))
    with pytest.raises(ValueError, match="is also the file of --summary"):
        report(ReportConfig(results=result, output=tmp_path / "a.html", summary=tmp_path / "a.html"))
    assert responses.read_bytes() == before and "curves" in json.loads(result.read_text())


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (GradeConfig, {"num_problems": -1}),
        (GradeConfig, {"offset": -1}),
        (GradeConfig, {"deadline_s": 0}),
        (AnnotateConfig, {"max_problems": 0}),
        (AnnotateConfig, {"max_per_problem": 0}),
        (AnnotateConfig, {"rollouts": 0}),
        (AnnotateConfig, {"rollout_budget": 0}),
        (AnnotateConfig, {"rows_at_once": 0}),
        (AnnotateConfig, {"step_separator": ""}),
        (AnnotateConfig, {"step_separator": "\\n\\n"}),
        (AnnotateConfig, {"step_separator": "split:sentences"}),
        (AnnotateConfig, {"step_separator": "split:no_such_module:f"}),
        (ScoreConfig, {"scorer": "m", "score_tokens": 0}),
    ],
)
def test_counts_and_separators_that_cannot_be_meant_are_named(config: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"--{list(options)[-1]}[ :]"):
        config(input=Path("in.jsonl"), output=Path("out.jsonl"), **options)


def test_a_latex_separator_may_hold_a_backslash() -> None:
    options: dict[str, Any] = {"input": Path("in.jsonl"), "output": Path("out.jsonl")}
    assert AnnotateConfig(**options, step_separator="\\newline").step_separator == "\\newline"
    assert ProblemOptions(num_problems=1, offset=0).offset == 0


def test_nothing_to_do_is_no_success(tmp_path: Path, responses: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    output = tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match=r"empty\.jsonl has no rows"):
        grade(GradeConfig(empty, output))
    with pytest.raises(ValueError, match=r"responses\.jsonl has 1 problems: give an --offset below that, not 5"):
        grade(GradeConfig(responses, output, offset=5))
    with pytest.raises(ValueError, match=r"empty\.jsonl has no rows"):
        annotate(AnnotateConfig(empty, output, method="outcome"))
    assert not output.exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"text": 5}, r"line 1, field 'text'"),
        ({"question": 5}, r"line 1, field 'question'"),
        ({"answer": " "}, r"line 1, field 'answer'"),
        ({"task": "poetry"}, r"line 1, field 'task': task 'poetry' is unknown.* something else, rename or drop it"),
    ],
)
def test_a_bad_row_is_told_in_its_own_columns(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW | changed) + "\n")
    with pytest.raises(RowError, match=words):
        grade(GradeConfig(path, tmp_path / "out.jsonl"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": 1e999}\n', "line 1: a number too large to be finite"),
        (b'{"a": 1' + b"0" * 320 + b".5}\n", "too large"),
        (b'{"a": 1\n', r"not JSON .* Correct or delete this line"),
        (b'{"a": 1', r"The last line is incomplete"),
    ],
)
def test_a_broken_line_is_told_by_what_is_wrong_with_it(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text)
    with pytest.raises(RowError, match=words):
        list(read_rows(path))


def test_large_finite_numbers_stay(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1e300, "text": "1e999"}\n')
    assert list(read_rows(path)) == [{"a": 1e300, "text": "1e999"}]


def test_examples_of_unscored_rows_say_what_to_run(tmp_path: Path, responses: Path) -> None:
    graded = grade(GradeConfig(responses, tmp_path / "graded.jsonl"))
    result = best_of_n(BestOfNConfig(graded, tmp_path / "result.json"))
    with pytest.raises(ValueError, match=r"graded\.jsonl, line 1, field .score.: is missing; run `qstep score`"):
        report(ReportConfig(results=result, output=tmp_path / "page.html", examples=graded))


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="device foo cannot be used"):
        choose_device("foo")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device cuda cannot be used"):
            choose_device("cuda")
    for device in ("meta", "hpu", ""):  # holds nothing; needs a module that is not there; is none
        with pytest.raises(ValueError, match=f"device {device} cannot be used here: .*Give cpu, cuda or auto"):
            choose_device(device)
    assert choose_device("cpu").type == "cpu"


def test_each_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before torchrun's process has chosen it. With one GPU that a process sees, it is that one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *size, device: torch.zeros(*size))
    for rank, visible, chosen in [
        *(("3", 4, "cuda:3"), ("0", 4, "cuda"), ("3", 1, "cuda")),
        *(("-1", 4, "cuda"), ("", 4, "cuda")),
    ]:
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.setattr(torch.cuda, "device_count", lambda visible=visible: visible)
        assert str(choose_device("auto")) == chosen
    assert str(choose_device("cuda:1")) == "cuda:1"


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no model: it needs \*\.safetensors and config\.json"):
        model_fingerprint(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "qstep": {"version": 1}}))
    with pytest.raises(ValueError, match="is a step scorer and writes no text"):
        load_for_sampling(str(tmp_path), device="cpu", dtype="float32")
    with pytest.raises(OSError, match="no/such-model is not a folder here"):
        model_fingerprint("no/such-model")


def test_a_base_model_is_no_scorer(tmp_path: Path) -> None:
    from qstep.scoring import StepScorer

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    with pytest.raises(ValueError, match=r"is not a scorer: its config\.json has no step contract"):
        StepScorer.load(tmp_path)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--output_dir=out --margin=-1", "--margin is -1.0"),
        ("--output_dir=out --step_separator=\\\\n", "--step_separator .* has the two characters"),
        ("--output_dir=out --max_length=0", "--max_length is 0; it must be at least 1"),
        ("--output_dir=out --max_steps=0", "the run has no steps"),
        ("--output_dir=out --num_train_epochs=0", "the run has no steps"),
        (
            "--output_dir=out --per_device_train_batch_size=0",
            "--per_device_train_batch_size is 0; it must be at least 1",
        ),
        (
            "--output_dir=out --gradient_accumulation_steps=0",
            "--gradient_accumulation_steps is 0; it must be at least 1",
        ),
        ("--output_dir=out --threshold=1.5", "--threshold is 1.5; it must be at least 0 and below 1"),
        (
            "--output_dir=out --label_smoothing_factor=0.1",
            "--label_smoothing_factor is 0.1, but qstep's trainers do not",
        ),
        ("--output_dir=out --neftune_noise_alpha=5", "--neftune_noise_alpha is 5.*, but qstep's trainers do not"),
        ("--output_dir=out --responses_per_prompt=0", "--responses_per_prompt is 0; it must be at least 1"),
    ],
)
def test_training_options_that_cannot_be_meant_are_named(option: str, words: str) -> None:
    command = COMMANDS["train pqm"]
    with pytest.raises(ValueError, match=words):
        command.parse(["--train_file=rows.jsonl", "--model_name_or_path=m", *option.split()])


@pytest.mark.parametrize(
    "option",
    ["--beta=0", "--lam=1.5", "--importance_clip=-1", "--min_effective_sample_size=-1", "--collapse_patience=0"],
)
def test_options_of_dqo_out_of_range_are_named(option: str) -> None:
    given = ["--train_file=rows.jsonl", "--model_name_or_path=m", "--output_dir=out", option]
    with pytest.raises(ValueError, match=f"{option.partition('=')[0]} is .*; it must be"):
        COMMANDS["train dqo"].parse(given)


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train rs", "--lora_r=8"),
        ("train dqo", "--importance=none --importance_clip=2"),
        ("train dqo", "--process_reward_weight=2"),
    ],
)
def test_options_that_nothing_would_read_are_refused(command: str, option: str) -> None:
    given = ["--train_file=rows.jsonl", "--model_name_or_path=m", "--output_dir=out", *option.split()]
    with pytest.raises(ValueError, match=r"--\w+ is \d.*, but it has no effect without --\w+"):
        COMMANDS[command].parse(given)


def test_commands_and_trainers_agree_on_the_options_of_a_method() -> None:
    assert {name for name in COMMANDS if name.startswith("train ")} == {f"train {method}" for method in METHODS}
    for name, method in METHODS.items():
        assert COMMANDS[f"train {name}"].classes()[1] is method.config


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grade", "--inp", "a.jsonl", "--output=b.jsonl"]) == 2
    assert "--inp" in capsys.readouterr().err


def test_results_replace_only_their_like(tmp_path: Path, responses: Path) -> None:
    graded = grade(GradeConfig(responses, tmp_path / "graded.jsonl"))
    for place in (responses, tmp_path / "rows.jsonl"):
        write_jsonl(tmp_path / "rows.jsonl", [ROW])
        with pytest.raises(ValueError, match=r"--output .* exists with other content|is also the file of"):
            best_of_n(BestOfNConfig(graded, place))
    result = best_of_n(BestOfNConfig(graded, tmp_path / "result.json"))
    best_of_n(BestOfNConfig(graded, result, seed=1))
    with pytest.raises(ValueError, match=r"--output .* exists with other content"):
        report(ReportConfig({"best_of_n": result}, result.with_name("graded.jsonl")))
    page = report(ReportConfig({"best_of_n": result}, tmp_path / "page.html"))
    assert report(ReportConfig({"best_of_n": result}, page)) == page
    with pytest.raises(ValueError, match=r"--output .* is a folder"):
        best_of_n(BestOfNConfig(graded, tmp_path))


def test_a_number_too_large_for_a_float_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "q", "completion": "x", "reward": ' + "9" * 400 + "}\n")
    with pytest.raises(RowError, match=r"line 1, field 'reward': .* give a finite number that float32 holds, or null"):
        check_row(path, 1, next(read_rows(path)), "unpaired")


def test_an_option_appended_twice_is_a_list() -> None:
    given = ["--train_file=r", "--model_name_or_path=m", "--output_dir=out", "--use_peft=true"]
    inputs, _ = COMMANDS["train rs"].parse([*given, "--lora_target_modules+=up", "--lora_target_modules+=down"])
    assert inputs.lora_target_modules == ["up", "down"]


def test_a_separator_of_a_policy_that_cannot_be_meant_is_named() -> None:
    given = ["--train_file=rows.jsonl", "--model_name_or_path=m", "--output_dir=out", "--step_separator=\\n"]
    with pytest.raises(ValueError, match=r"--step_separator .* has the two characters"):
        COMMANDS["train dqo"].parse(given)


def test_an_option_given_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["grade", "--input", "a.jsonl", "--output=b.jsonl", "--input", "c.jsonl"]
    assert main(given) == 2
    assert "--input is given 2 times: give it once" in capsys.readouterr().err


def test_a_model_is_not_trained_into_its_own_folder(tmp_path: Path) -> None:
    inputs = TrainInputs(model_name_or_path=f"{tmp_path}/.", train_file=tmp_path / "rows.jsonl")
    config = METHODS["rs"].config(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match=r"--output_dir .* is the model to start from: give another folder"):
        train("rs", inputs, config)
    assert not list(tmp_path.iterdir())
