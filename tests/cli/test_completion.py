"""Completion by the Tab key, asked of the shells themselves."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from qstep.cli import KNOWN, main
from qstep.cli.completion import completion_script
from qstep.stages.commands import COMMANDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "fish"):
        (folder / shell).write_text(completion_script(shell, KNOWN))
    (folder / "rows.jsonl").touch()
    (folder / "recipe.yaml").touch()
    return folder


def bash(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    asked = f"""
        source ./bash
        COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}
        $(complete -p qstep | sed 's/.*-F \\([^ ]*\\) .*/\\1/') qstep
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    # The function has to run in this shell, not in one of a command substitution: COMPREPLY is its result.
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], cwd=folder, capture_output=True, text=True, check=True, timeout=30
    )
    assert not done.stderr
    return sorted(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["qstep", "gr"], ["grade"]),
        (["qstep", "--ver"], ["--version"]),
        (["qstep", "train", "pq"], ["pqm", "pqm_ablation", "pqm_theoretical"]),
        (["qstep", "evaluate", "pro"], ["processbench"]),
        (["qstep", "help", "gra"], ["grade"]),
        (["qstep", "train", "pqm", "--margi"], ["--margin"]),
        (["qstep", "train", "pqm", "--adam_beta"], ["--adam_beta1", "--adam_beta2"]),
        (["qstep", "evaluate", "processbench", "--threshold_s"], ["--threshold_split"]),
        (["qstep", "grade", "--input", "rows.jsonl", "--qui"], ["--quiet"]),
        (["qstep", "annotate", "--method", "mon"], ["monte_carlo"]),
        (["qstep", "search", "--method", "be"], ["beam", "best_of_n"]),
        (["qstep", "sample", "--dtype", "=", "bf"], ["bfloat16"]),
        (["qstep", "sample", "--dtype", "bf"], ["bfloat16"]),
        (["qstep", "sample", "--conversational", ""], ["false", "true"]),
        (["qstep", "grade", "--log_level", "w"], ["warning"]),
        (["qstep", "grade", "--input", "ro"], ["rows.jsonl"]),
        (["qstep", "run", "rec"], ["recipe.yaml"]),
        (["qstep", "grade", "--num_problems", ""], []),
        (["qstep", "env", "--"], ["--json"]),
        (["qstep", "plan", "--hardware", "h"], ["h100", "h200"]),
        (["qstep", "--install-completion", "z"], ["zsh"]),
    ],
)
def test_bash_completes(folder: Path, words: list[str], offered: list[str]) -> None:
    found = bash(folder, *words)
    if words[1:2] == ["search"]:
        assert set(offered) <= set(found)
    else:
        assert found == offered


def test_bash_offers_every_command_and_method(folder: Path) -> None:
    offered = set(bash(folder, "qstep", ""))
    assert {name.split()[0] for name in KNOWN} | {"plan", "env", "help"} <= offered
    methods = {name.removeprefix("train ") for name in COMMANDS if name.startswith("train ")}
    assert set(bash(folder, "qstep", "train", "")) == methods


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("qstep gr", ["grade"]),
        ("qstep train pqm --margi", ["--margin"]),
        ("qstep sample --dtype bf", ["bfloat16"]),
        ("qstep grade --input ro", ["rows.jsonl"]),
    ],
)
def test_fish_completes(folder: Path, line: str, offered: list[str]) -> None:
    asked = f"source ./fish; complete -C {shlex.quote(line)}"
    environment = os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    done = subprocess.run(
        ["fish", "-c", asked], cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=30
    )
    assert [shown.split("\t")[0] for shown in done.stdout.splitlines()] == offered


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_reads_the_script(tmp_path: Path) -> None:
    (tmp_path / "_qstep").write_text(completion_script("zsh", KNOWN))
    asked = "fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; print ${_comps[qstep]}; zsh -n _qstep"
    done = subprocess.run(
        ["zsh", "-f", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "_qstep" and not done.stderr


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", "data/bash-completion/completions/qstep"),
        ("fish", "settings/fish/completions/qstep.fish"),
        ("zsh", ".zfunc/_qstep"),
    ],
)
def test_it_is_written_where_the_shell_looks(
    shell: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    assert main(["--install-completion"]) == 0
    assert f"Wrote {tmp_path / file}." in capsys.readouterr().out
    assert (tmp_path / file).read_text() == completion_script(shell, KNOWN)
    assert main(["--show-completion", shell]) == 0
    assert capsys.readouterr().out == completion_script(shell, KNOWN)


def test_an_unknown_shell_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert main(["--install-completion"]) == 2
    assert "give bash, zsh or fish" in capsys.readouterr().err
