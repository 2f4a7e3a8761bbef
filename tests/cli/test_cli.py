"""The command line: quick help, config files, errors, and the whole chain of commands on a tiny model."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from qstep.cli import RECIPES, main
from qstep.data import read_rows, write_jsonl
from qstep.runs.stage_file import StageBusy
from qstep.stages.commands import COMMANDS
from qstep.tasks import miniature

ROOT = Path(__file__).parents[2]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, qstep.cli; qstep.cli.main(['--help']);"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'jsonargparse', 'rich'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    for command in {name.split()[0] for name in (*RECIPES, *COMMANDS)}:
        assert f"  {command}" in done.stdout


def test_help_is_quick() -> None:
    """The first of twenty processes that is quick enough: others may have the cores meanwhile."""

    def quick(seconds: float, *arguments: str) -> bool:
        for _ in range(20):
            start = time.perf_counter()
            assert python(*arguments).returncode == 0
            if time.perf_counter() - start < seconds:
                return True
        return False

    assert quick(0.3, "-m", "qstep.cli", "--help")
    assert quick(0.2, "-c", "import qstep")
    assert quick(0.3, "-m", "qstep.cli", "train", "dqo", "--help")
    assert quick(0.3, "-m", "qstep.cli", "annotate", "--help")


class Unexpected(RuntimeError):
    """An error that no message of ours explains."""


Unexpected.__module__ = "torch"


@pytest.mark.parametrize(
    ("error", "flags", "raised"),
    [
        (ValueError("told"), [], False),
        (ValueError("told"), ["--debug"], True),
        (StageBusy("told"), [], False),
        (StageBusy("told"), ["--debug"], True),
        (Unexpected("found"), [], True),
    ],
)
def test_errors_are_told_or_traced(
    error: Exception,
    flags: list[str],
    raised: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Errors that say what to do are one line, unless `--debug` asks for more; others keep their traceback."""

    def grade(config: object) -> None:
        raise error

    monkeypatch.setattr("qstep.stages.grade.grade", grade)
    arguments = ["grade", "--input", "a.jsonl", "--output", "b.jsonl", *flags]
    if raised:
        with pytest.raises(type(error)):
            main(arguments)
    else:
        assert main(arguments) == 1
        assert capsys.readouterr().err == "qstep grade: told\n"


@pytest.mark.parametrize("command", ["sample", "annotate", "evaluate", "score", "train pqm"])
def test_a_misspelt_dtype_is_refused_with_the_choices(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--dtype", "flaot32"]) == 2
    assert re.search(r"dtype is .flaot32.; .*float32, bfloat16, float16", capsys.readouterr().err, re.DOTALL)


def test_an_interrupted_command_says_how_to_go_on(tmp_path: Path) -> None:
    """Ctrl-C while the command waits for a pipe that nobody writes. (Of a background job it is ignored, until here.)"""
    os.mkfifo(tmp_path / "rows.jsonl")
    command = [sys.executable, "-m", "qstep.cli", "grade", "--input", str(tmp_path / "rows.jsonl")]
    command += ["--output", str(tmp_path / "graded.jsonl")]
    pipe = tmp_path / "rows.jsonl"
    heeds = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **heeds) as process, pipe.open("w"):
        process.send_signal(signal.SIGINT)  # the pipe opens once the command has opened it for reading
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command resumes" in said


def test_wrong_usage_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-command"]) == 2
    assert "no command 'no-such-command'" in capsys.readouterr().err
    assert main(["train", "ppo"]) == 2
    assert "The methods are pqm" in capsys.readouterr().err
    assert main(["grade", "--input", "no-such-file.jsonl", "--output", "out.jsonl"]) == 1
    assert capsys.readouterr().err == "qstep grade: no-such-file.jsonl: no such file or directory\n"


def test_a_wrong_option_in_a_file_is_told_with_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "grade.yaml"
    given = ("inputt: a.jsonl\n", 2), ("deadline_s: soon\n", 2), ("input: [a\n", 2), ("input: a\noffset: -1\n", 1)
    for text, status in given:
        file.write_text(text)
        for arguments in ([f"--config={file}", "--output=b.jsonl"], ["--output", "b.jsonl", "--config", str(file)]):
            assert main(["grade", *arguments]) == status
            assert f"The options come from {file} and the command line." in capsys.readouterr().err


def test_flags_override_the_config_file_wherever_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "sample.yaml"
    file.write_text(yaml.safe_dump({"model_name_or_path": "m", "output": "o.jsonl", "num_samples": 3, "seed": 1}))
    for arguments in (["--config", str(file), "--seed", "2"], ["--seed", "2", f"--config={file}"]):
        (config,) = COMMANDS["sample"].parse(arguments)
        assert (config.num_samples, config.seed) == (3, 2)


@pytest.fixture(scope="module")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of one layer, taught the form of the miniature's responses for a few seconds."""
    from qstep.data import write_jsonl
    from qstep.models import PolicyModel
    from qstep.objectives.config import PolicyConfig
    from qstep.trainers import RSTrainer

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(tiny_qwen3())
    write_jsonl(folder / "textbook.jsonl", miniature.textbook(2000))
    config = PolicyConfig(
        output_dir=str(folder / "run"),
        use_cpu=True,
        max_steps=150,
        per_device_train_batch_size=16,
        learning_rate=5e-3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    RSTrainer(PolicyModel(model), config, folder / "textbook.jsonl", processing_class=miniature.tokenizer()).train()
    model.save_pretrained(folder / "model")
    miniature.tokenizer().save_pretrained(folder / "model")
    return folder / "model"


def test_the_options_of_a_stage_load_no_model_library() -> None:
    """A recipe, and a command that only reads files, check their options without torch (training reads its own)."""
    code = (
        "import sys; from qstep.stages.commands import COMMANDS;"
        "[COMMANDS[name].parser() for name in COMMANDS if not name.startswith('train')];"
        "sys.exit(f'loaded {loaded}' if (loaded := {'torch', 'transformers', 'datasets'} & set(sys.modules)) else 0)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_a_value_that_an_option_cannot_have_is_told_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        ("sample --output x.jsonl --num_problems two", "--num_problems is 'two'; it must be a whole number\n"),
        ("grade --input a --output b.jsonl --deadline_s soon", "--deadline_s is 'soon'; it must be a number\n"),
        ("audit --train_file a --test_files t.jsonl", "it must be named: --test_files.NAME VALUE\n"),
        (
            "annotate --input a --output b.jsonl --method montecarlo",
            "binary_search, adaptive (did you mean monte_carlo?)",
        ),
        ("train pqm --train_file a --model_name_or_path m", "missing: --output_dir\n"),
        ("train pqm --output_dir x --bf16 perhaps", "--bf16 is 'perhaps'; it must be true or false\n"),
    ):
        assert main(arguments.split()) == 2
        assert says in capsys.readouterr().err


def test_every_option_of_a_stage_has_a_type_that_is_checked() -> None:
    """The parser takes a type that it cannot find for any, in silence: of a whole number it would then take a word."""
    for command in COMMANDS.values():
        found = [a.dest for a in command.parser()._actions if "Unvalidated" in str(getattr(a, "_typehint", None))]
        assert not found, f"{command.name}: {found}"
    for command in (of for name, of in COMMANDS.items() if not name.startswith("train")):
        parser = command.parser()
        numbers = {f.name for config in command.classes() for f in dataclasses.fields(config) if type(f.default) is int}
        for number in numbers:
            with pytest.raises(ArgumentError, match=number):
                parser.parse_args([f"--{number}", "word"])


def by_the_book(row: dict[str, Any]) -> dict[str, Any]:
    text = miniature.solution(row["prompt"])
    ids = [*miniature.tokenizer()(text)["input_ids"], miniature.tokenizer().eos_token_id]
    return row | {"completion": text, "completion_ids": ids, "logps_behavior": [-1.0] * len(ids)}


@pytest.mark.timeout(900)
def test_the_chain_of_commands(tiny_policy: Path, tmp_path: Path) -> None:
    """sample, grade, annotate, train, score, best-of-n, train, evaluate: each reads what the one before wrote."""

    def qstep(*arguments: object) -> None:
        assert main([str(argument) for argument in arguments]) == 0, arguments

    training = [
        "--use_cpu",
        "true",
        "--max_steps",
        "2",
        "--save_strategy",
        "no",
        "--report_to",
        "none",
        "--per_device_train_batch_size",
        "2",
    ]
    rows = tmp_path / "samples.jsonl"
    sampling = ["--model_name_or_path", tiny_policy, "--max_new_tokens", 64]
    qstep("sample", *sampling, "--output", rows, "--num_problems", 6, "--num_samples", 4)
    # A policy taught for seconds may solve nothing: every other response becomes the worked solution.
    solved = tmp_path / "solved.jsonl"
    write_jsonl(solved, [by_the_book(row) if row["sample"] % 2 else row for row in read_rows(rows)])
    qstep("grade", "--input", solved, "--output", tmp_path / "graded.jsonl")
    qstep("annotate", "--input", tmp_path / "graded.jsonl", "--output", tmp_path / "exact.jsonl")
    qstep(
        *("annotate", "--method", "monte_carlo", *sampling, "--rollouts", 2),
        *("--input", tmp_path / "graded.jsonl", "--output", tmp_path / "rollouts.jsonl"),
    )
    for method, labels in (("pqm", "exact"), ("bce", "rollouts"), ("orm", "exact"), ("mse", "rollouts")):
        qstep(
            *(
                "train",
                method,
                "--model_name_or_path",
                tiny_policy,
                "--train_file",
                tmp_path / f"{labels}.jsonl",
            ),
            *("--output_dir", tmp_path / method, *training),
        )
    for method in ("pqm", "bce"):
        qstep(
            *("score", "--input", tmp_path / "exact.jsonl", "--output", tmp_path / f"scored_{method}.jsonl"),
            *("--scorer", tmp_path / method),
        )
    inputs = json.dumps({method: str(tmp_path / f"scored_{method}.jsonl") for method in ("pqm", "bce")})
    qstep("best-of-n", "--inputs", inputs, "--output", tmp_path / "best_of_n.json")
    for method in ("dqo", "dro", "rs"):
        extra = ["--process_rewards", "potential"] if method == "dqo" else []
        qstep(
            *(
                "train",
                method,
                "--model_name_or_path",
                tiny_policy,
                "--train_file",
                tmp_path / "scored_pqm.jsonl",
            ),
            *("--output_dir", tmp_path / method, *training, *extra),
        )
    qstep(
        *("evaluate", "--model_name_or_path", tmp_path / "dqo", "--output_dir", tmp_path / "eval"),
        *("--num_problems", 3, "--num_samples", 2, "--max_new_tokens", 64),
    )
    graded = list(read_rows(tmp_path / "graded.jsonl"))
    assert len(graded) == 24 and {row["verdict"] for row in graded} <= {"right", "wrong"}
    rolled = list(read_rows(tmp_path / "rollouts.jsonl"))
    assert all(len(row["successes"]) == len(row["completions"]) == len(row["trials"]) for row in rolled)
    best = json.loads((tmp_path / "best_of_n.json").read_text())
    assert set(best["curves"]["pqm"]) == {"1", "2", "4"}
    one = {name: best["curves"][name]["1"]["mean"] for name in ("pqm", "bce")}
    assert one["pqm"] == pytest.approx(one["bce"])  # one of one is the mean sample
    results = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert results["sampled"]["samples"] == 6 and results["greedy"]["n"] == 3


@pytest.mark.timeout(600)
def test_a_changed_setting_is_refused(tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sample", "--model_name_or_path", str(tiny_policy), "--output", str(tmp_path / "rows.jsonl")]
    arguments += ["--num_problems", "2", "--num_samples", "2", "--max_new_tokens", "64"]
    assert main(arguments) == 0
    before = (tmp_path / "rows.jsonl").read_bytes()
    assert main([*arguments, "--temperature", "0.5"]) == 1
    error = capsys.readouterr().err
    assert "temperature" in error and "1.0" in error and "0.5" in error
    assert main(arguments) == 0
    assert (tmp_path / "rows.jsonl").read_bytes() == before


def tiny_qwen3(vocabulary: int | None = None) -> Qwen3Config:
    """Two layers of the miniature's model, narrower; with another vocabulary on request."""
    shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    shape |= {"head_dim": 24, "vocab_size": vocabulary or 18, "max_position_embeddings": 1024}
    return Qwen3Config(**{**miniature.base_config().to_dict(), **shape, "layer_types": None})


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, with a chat template: any text can be written with it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    return tokenizer


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["grade", "--dry-run"], "no option --dry-run (did you mean --dry_run?)"),
        (["grade", "--in", "x.jsonl"], "no option --in (did you mean --input?)"),
        (["version"], "no command 'version' (did you mean `qstep --version`?)"),
        (["grade", "--config", "none.yaml"], "none.yaml' is not there\nThe options come from none.yaml"),
    ],
)
def test_first_slips_are_answered(
    arguments: list[str],
    answer: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("", "the file of --config is empty\nThe options come from "),
        ("a: [1", "the file of --config is not YAML\nThe options come from "),
        ("input: a\noutput: c\ninput: b", "input is given 2 times in "),
        ("columns:\n  gold: a\n  gold: b", "columns.gold is given 2 times in "),
        ("task: no", "--task is false. YAML reads no as false: quote it, 'no'\nThe options come from "),
    ],
)
def test_bad_config_files_are_named(
    content: str, answer: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "grade.yaml"
    file.write_text(content)
    assert main(["grade", "--config", str(file)]) == 2
    assert f"{answer}{file}" in capsys.readouterr().err


def test_an_option_called_no_is_quoted_in_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("save_strategy: no")
    assert main(["train", "pqm", "--config", str(file)]) == 2
    assert "--save_strategy is false. YAML reads no as false: quote it, 'no'\n" in capsys.readouterr().err


def test_a_printed_config_holds_no_token(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("hub_token: hf_secret\nseed: 3\n")
    for given in (["--hub_token", "hf_secret", "--seed", "3"], ["--config", str(tmp_path / "train.yaml")]):
        required = ["--model_name_or_path=m", "--train_file=r.jsonl", "--output_dir=o"]
        with pytest.raises(SystemExit):
            main(["train", "pqm", *required, *given, "--print_config"])
        printed = capsys.readouterr().out
        assert "hf_secret" not in printed and "seed: 3\n" in printed
