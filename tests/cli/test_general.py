"""What every command takes: help, version, suggestions for misspelt names, how much is printed, dry runs."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import qstep
from qstep.cli import KNOWN, main
from qstep.data import read_rows, write_jsonl
from qstep.recipes.command import MINIATURE
from qstep.runs.progress import bar, console

ROOT = Path(__file__).parents[2]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
"""Any control character but the line's end."""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def responses(tmp_path: Path) -> Path:
    path = tmp_path / "responses.jsonl"
    write_jsonl(path, [{"question": "What is 1 + 1?", "answer": "2", "responses": ["It is \\boxed{2}", "\\boxed{3}"]}])
    return path


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    assert capsys.readouterr().out == f"qstep {qstep.__version__}\n"


@pytest.mark.parametrize("command", ["", "grade", "train", "train pqm", "evaluate processbench", "demo"])
def test_help_is_a_command_too(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    expected = capsys.readouterr().out
    assert main(["help", *command.split()]) == 0
    assert capsys.readouterr().out == expected
    if command != "train":
        for option in ("--dry_run", "--quiet", "--log_level", "--debug", "--print_config"):
            assert f"  {option}" in expected


def test_a_closed_pipe_ends_the_output_in_silence() -> None:
    for command in ("--help", "grade --help", "grade --print_config", "env"):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-m", "qstep.cli", *command.split()],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd=ROOT,
        )
        os.close(writer)
        assert done.stderr == "" and done.returncode == 141, command


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("grad", "no command 'grad' (did you mean `qstep grade`?)"),
        ("grad --input a", "no command 'grad' (did you mean `qstep grade`?)"),
        ("bestofn --inputs a", "no command 'bestofn' (did you mean `qstep best-of-n`?)"),
        ("trian pqm", "(did you mean `qstep train pqm`?)"),
        ("train pmq", "no training method 'pmq' (did you mean pqm?)"),
        ("evaluate procesbench", "(did you mean `qstep evaluate processbench`?)"),
        ("en", "(did you mean `qstep env`?)"),
        ("grade --inptu a --output b.jsonl", "no option --inptu (did you mean --input?)"),
        ("grade --inptu=a --output b.jsonl", "no option --inptu (did you mean --input?)"),
        ("grade -input a --output b.jsonl", "no option -input (did you mean --input?)"),
        ("train pqm --output_dir x --learning_rat 1e-3", "no option --learning_rat (did you mean --learning_rate?)"),
        ("audit --train_file a --tset_files.x b", "no option --tset_files.x (did you mean --test_files?)"),
        ("grade --inptu a --ouput b", "--inptu (did you mean --input?), --ouput (did you mean --output?)"),
        ("grade", "missing: --input, --output"),
        ("grade --dry_run=true", "--dry_run takes no value: give --dry_run alone"),
        ("--quiet=1 grade", "--quiet takes no value"),
        ("grade --log_level loud", "--log_level is 'loud'; it must be one of debug, info"),
    ],
)
def test_a_misspelt_name_is_told_with_the_nearest(
    arguments: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    assert says in capsys.readouterr().err


def test_a_name_like_no_other_has_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ("xyzzy", "grade --xyzzy 1", "train xyzzy"):
        assert main(arguments.split()) == 2
        said = capsys.readouterr().err
        assert "xyzzy" in said and "did you mean" not in said


def test_a_misspelt_key_of_a_file_is_told_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "grade.yaml"
    file.write_text("input: a\noutput: b.jsonl\nnum_problem: 3\n")
    assert main(["grade", "--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert "no option 'num_problem' (did you mean num_problems?)" in said and str(file) in said


def test_print_config_is_a_file_of_options(tmp_path: Path) -> None:
    arguments = ["grade", "--input", "a.jsonl", "--output", "b.jsonl", "--deadline_s", "5", "--print_config"]
    done = subprocess.run([sys.executable, "-m", "qstep.cli", *arguments], capture_output=True, text=True, check=True)
    options = yaml.safe_load(done.stdout)
    assert options["input"] == "a.jsonl" and options["deadline_s"] == 5.0 and options["task"] == "math"


def test_quiet_leaves_results_and_errors(responses: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graded, best = tmp_path / "graded.jsonl", tmp_path / "best.json"
    assert main(["grade", "--input", str(responses), "--output", str(graded), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert len(list(read_rows(graded))) == 2
    assert main(["--quiet", "best-of-n", "--inputs", str(graded), "--output", str(best)]) == 0
    said = capsys.readouterr().err
    assert "accuracy of choosing among n responses" in said and "1 problems, 2 responses" in said
    assert main(["grade", "--quiet", "--input", "none.jsonl", "--output", str(graded)]) == 1
    assert "none.jsonl: no such file" in capsys.readouterr().err
    assert not console.quiet, "only that command was quiet"


def test_log_level_reaches_the_libraries(responses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def grade(config: object) -> None:
        seen.update({name: os.environ.get(name) for name in ("TRANSFORMERS_VERBOSITY", "VLLM_LOGGING_LEVEL")})
        seen["root"] = logging.getLogger().level

    monkeypatch.setattr("qstep.stages.grade.grade", grade)
    before = dict(os.environ), logging.getLogger().level
    arguments = ["grade", "--input", str(responses), "--output", str(tmp_path / "g.jsonl")]
    assert main([*arguments, "--log_level", "info"]) == 0
    assert seen == {"TRANSFORMERS_VERBOSITY": "info", "VLLM_LOGGING_LEVEL": "INFO", "root": logging.INFO}
    assert main(["--log_level=debug", *arguments]) == 0
    assert seen["root"] == logging.DEBUG
    assert (dict(os.environ), logging.getLogger().level) == before


def test_a_log_file_has_no_control_characters(responses: Path, tmp_path: Path) -> None:
    """Progress of a stage in a file: a line when it is done, and no colours or cursor movements."""
    command = ["grade", "--input", str(responses), "--output", str(tmp_path / "graded.jsonl")]
    with (tmp_path / "log.txt").open("w") as log:
        subprocess.run([sys.executable, "-m", "qstep.cli", *command], stdout=log, stderr=log, check=True)
    text = (tmp_path / "log.txt").read_text()
    assert "grade graded" in text and "2/2" in text
    assert not CONTROL.search(text)


def test_training_in_a_log_file(base: Path, rows_file: Path, tmp_path: Path) -> None:
    """The lines of the log, without bars, colours or cursor movements; a quiet training prints nothing."""
    training = f"train rs --model_name_or_path {base} --train_file {rows_file} --max_steps 1 --logging_steps 1"
    training += " --per_device_train_batch_size 2 --save_strategy no --report_to none --use_cpu true"
    code = (
        f"import sys; from qstep.cli import main; sys.argv = ['qstep']; line = {training!r}.split();"
        "assert main([*line, '--output_dir', 'loud']) == 0; print('now quiet', flush=True);"
        "assert main([*line, '--output_dir', 'still', '--quiet']) == 0"
    )
    with (tmp_path / "log.txt").open("w") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, stderr=log, check=True, cwd=tmp_path)
    loud, quiet = (tmp_path / "log.txt").read_text().split("now quiet\n")
    assert "'loss'" in loud and not CONTROL.search(loud)
    assert quiet == ""
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("loud", "still")]
    assert weights[0] == weights[1]


def test_a_notebook_without_widgets_gets_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """rich draws in a notebook by ipywidgets; without that it would warn, and show nothing."""
    monkeypatch.setattr(console, "is_jupyter", True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with bar("grade rows", 2) as advance:
        advance(2)
    said = capsys.readouterr().err
    assert "grade rows" in said and "2/2" in said and not CONTROL.search(said)
    assert not recwarn.list


def test_a_dry_run_writes_nothing_and_says_what_would_be(
    responses: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "graded.jsonl"
    arguments = ["grade", "--input", str(responses), "--output", str(output)]
    before = files(tmp_path)
    assert main([*arguments, "--dry_run", "--deadline_s", "5"]) == 0
    said = capsys.readouterr().out
    assert f"{responses}  (1 row, {responses.stat().st_size} B)" in said and f"output: {output} is new" in said
    assert "deadline_s: 5.0" in said and "num_problems" not in said
    assert files(tmp_path) == before
    assert main(arguments) == 0
    before = files(tmp_path)
    assert main(["--dry_run", *arguments]) == 0
    assert "would be complete with 2 rows: left unchanged" in capsys.readouterr().out
    assert main([*arguments, "--dry_run", "--deadline_s", "5"]) == 1
    assert "deadline_s: 3.0 -> 5.0" in capsys.readouterr().err
    assert files(tmp_path) == before
    meta = output.with_suffix(".meta.json")
    meta.write_text(meta.read_text().replace('"complete": true', '"complete": false'))
    output.write_bytes(output.read_bytes().splitlines(keepends=True)[0])
    before = files(tmp_path)
    assert main([*arguments, "--dry_run"]) == 0
    assert "would be resumed after 1 row" in capsys.readouterr().out
    assert files(tmp_path) == before


def test_a_dry_run_finds_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["grade", "--input", str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "out.jsonl"), "--dry_run"]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert "(missing)" in shown.out and "no such file" in shown.err
    assert not files(tmp_path)


DRY_RUNS = {
    "convert": "--dataset_name ROWS --format trl_stepwise --output out.jsonl",
    "sample": "--model_name_or_path MODEL --num_problems 2 --output out.jsonl",
    "grade": "--input ROWS --output out.jsonl",
    "annotate": "--input ROWS --output out.jsonl",
    "pairs": "--input ROWS --output out.jsonl",
    "inspect": "--model_name_or_path MODEL --input ROWS --format jsonl --output out.jsonl",
    "audit": "--train_file ROWS --output out.json",
    "score": "--input ROWS --scorer MODEL --output out.jsonl",
    "serve": "--scorer MODEL",
    "search": "--model_name_or_path MODEL --scorer MODEL --num_problems 2 --output out.jsonl",
    "best-of-n": "--inputs ROWS --output out.json",
    "compare-search": "--inputs.beam ROWS --output out.json",
    "evaluate": "--model_name_or_path MODEL --num_problems 2 --output_dir out",
    "evaluate processbench": "--scorer MODEL --inputs ROWS --output_dir out",
    "report": "--results.a ROWS --output out.html",
    "merge": "--model_name_or_path MODEL --output_dir out",
    "export": "--scorer MODEL --output_dir out",
    "card": "--model MODEL",
    "miniature": "--output_dir out",
    "train": "--model_name_or_path MODEL --train_file ROWS --output_dir out",
}


@pytest.mark.parametrize("command", [name for name in KNOWN if name not in ("run", "demo")])
def test_every_command_has_a_dry_run(
    command: str, base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loads no model and writes nothing."""

    def load(*arguments: object, **options: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", load)
    monkeypatch.setattr("transformers.AutoModelForTokenClassification.from_pretrained", load)
    monkeypatch.chdir(tmp_path)
    line = DRY_RUNS["train" if command.startswith("train ") else command]
    arguments = line.replace("ROWS", str(rows_file)).replace("MODEL", str(base)).split()
    before = {folder: files(folder) for folder in (tmp_path, base, rows_file.parent)}
    assert main([*command.split(), *arguments, "--dry_run"]) == 0
    assert {folder: files(folder) for folder in before} == before


def test_a_dry_run_says_what_becomes_of_every_output(
    base: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of commands that compute their result anew. A file with other content is refused, as without --dry_run."""
    monkeypatch.chdir(tmp_path)
    for command in ("audit", "best-of-n", "compare-search", "report", "miniature"):
        arguments = DRY_RUNS[command].replace("ROWS", str(rows_file)).split()
        output = arguments[-1]
        assert main([command, *arguments, "--dry_run"]) == 0
        assert f"output: {output} is new\n" in capsys.readouterr().out
        if command == "miniature":
            continue
        Path(output).write_text("mine")
        assert main([command, *arguments, "--dry_run"]) == 1
        assert f"--output {output} exists with other content" in capsys.readouterr().err
        Path(output).unlink()


WRONG = {
    **{"convert": "--step_separator split:nothing", "sample": "--num_samples 0", "grade": "--deadline_s -1"},
    **{"annotate": "--method adaptive --model_name_or_path MODEL --threshold 1", "audit": "--max_contradictions -1"},
    **{"score": "--scorer_options.max_lenght 9", "serve": "--port -1", "search": "--width 0", "best-of-n": "--ns 0"},
    **{"compare-search": "--inputs {}", "evaluate": "--unanswerable drop", "evaluate processbench": "--threshold 2"},
    **{
        "report": "--example_problems 0",
        "merge": "--output_dir MODEL",
        "export": "--scorer_kind qstep --scorer_reference x",
    },
    **{"card": "--results ROWS --output ROWS", "miniature": "--textbook_rows 0", "train": "--eval_strategy steps"},
    **{"pairs": "--threshold 2", "inspect": "--ids a --rows 1"},
    **{"run": "--processes 0", "demo": "--seeds a"},
}
"""A setting of each command that it refuses, whatever is in its files."""


@pytest.mark.parametrize("command", [name for name in KNOWN if not name.startswith("train ") or name == "train pqm"])
def test_a_dry_run_checks_the_settings_of_every_command(
    command: str, base: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The wrong option is named, before anything is printed about a run, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    name = "train" if command.startswith("train ") else command
    wrong = WRONG[name].replace("ROWS", str(rows_file)).replace("MODEL", str(base)).split()
    line = DRY_RUNS.get(name, f"--recipe {MINIATURE}" if name == "run" else "")
    given = line.replace("ROWS", str(rows_file)).replace("MODEL", str(base)).split()
    pairs = [pair for pair in zip(given[::2], given[1::2], strict=True) if pair[0] not in wrong]
    arguments = [word for pair in pairs for word in pair]
    assert main([*command.split(), *arguments, *wrong, "--dry_run"]) in (1, 2)
    assert wrong[-2].removeprefix("--").partition(".")[0] in capsys.readouterr().err
    assert not files(tmp_path)
