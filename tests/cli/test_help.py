"""`--help` of every command: its own options first, on one screen; `--help-all`: every option once, by group."""

from __future__ import annotations

import dataclasses
import re
from typing import get_args

import pytest
from transformers import TrainingArguments

from qstep.cli import RECIPES, main
from qstep.cli.general import HELP
from qstep.cli.options import command_options
from qstep.data import PublishedFormat
from qstep.runs.options import ReadIf, options_of
from qstep.stages.commands import COMMANDS

KNOWN = {**RECIPES, **COMMANDS}
FOREIGN = {field.name for field in dataclasses.fields(TrainingArguments)}
EVERYWHERE = {"debug", "log_level"}
"""Options of transformers' trainer that the command line takes itself."""


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 0
    return capsys.readouterr().out


def explained(text: str) -> list[str]:
    """The options that have a line of their own, but those that every command takes."""
    return [
        name for name in re.findall(r"^  --(\w+)", text.removesuffix(f"{HELP}\n"), re.MULTILINE) if name != "config"
    ]


@pytest.mark.parametrize("command", KNOWN)
def test_help_is_one_screen_with_the_commands_own_options_first(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """At most 60 lines. Every option that must be given is explained first; every other one is at least named."""
    text = shown(capsys, *command.split(), "--help")
    assert len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) <= 120
    found = command_options(KNOWN[command])
    required = [option.name for option in found.own if option.default is None]
    lines = explained(text)
    assert lines[: len(required)] == required
    assert set(lines) == {option.name for option in found.own}
    own = {f.name for config in KNOWN[command].classes() for f in dataclasses.fields(config)}
    named = set(re.findall(r"--(\w+)", text))
    assert own - (FOREIGN if found.foreign else set()) <= named
    assert named >= {"config", "print_config", "debug"}
    assert "--help-all" in text or not found.shared


@pytest.mark.parametrize("command", KNOWN)
def test_help_all_explains_each_option_once(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exactly the options that the parser takes, whatever their group."""
    lines = explained(shown(capsys, *command.split(), "--help-all"))
    own = {f.name for config in KNOWN[command].classes() for f in dataclasses.fields(config) if f.init}
    assert sorted(lines) == sorted(own - EVERYWHERE)


def test_shared_options_are_named_by_group(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "annotate", "--help")
    assert text.index("--method") < text.index("--rows_at_once") < text.index("shared with other commands")
    assert "  sampling options (4): --max_new_tokens, --temperature, --top_p, --seed\n" in text
    assert "length limit of a complete response" not in text
    whole = shown(capsys, "annotate", "--help-all")
    assert re.search(
        r"^sampling options:\n  --max_new_tokens INT +length limit of a complete response", whole, re.MULTILINE
    )


def test_long_texts_are_for_help_all(capsys: pytest.CaptureFixture[str]) -> None:
    """The first paragraph of the command and the first sentence of an option are in `--help`."""
    short, whole = shown(capsys, "annotate", "--help"), shown(capsys, "annotate", "--help-all")
    assert "Three methods let a model continue" not in short and "Three methods let a model continue" in whole
    short, whole = shown(capsys, "train", "dqo", "--help"), shown(capsys, "train", "dqo", "--help-all")
    assert "makes right responses less likely" not in short and "makes right responses less likely" in " ".join(
        whole.split()
    )
    assert "--adam_beta2" not in short and "--adam_beta2" in whole


def test_choices_defaults_and_types_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "train", "dqo", "--help")
    assert "--importance {trajectory,prefix,token,none}" in text and "(default: 1.0)" in text
    assert re.search(r"--train_file PATH .*\(required\)", text)
    text = shown(capsys, "grade", "--help")
    assert re.search(r"--num_problems INT +maximum number of problems to grade; all by default\.\n", text), (
        "no default to show"
    )
    assert re.search(r"--output PATH ", text), "a name for a type is replaced by the type"
    choices = ",".join(("auto", *get_args(PublishedFormat)))
    in_lines = "".join(shown(capsys, "convert", "--help").split())  # they are more than fit into a line
    assert f"--format{{{choices}}}" in in_lines, "choices of another module are among them"


@pytest.mark.parametrize("command", KNOWN)
def test_the_help_says_when_an_option_is_read(command: str) -> None:
    """The source that the help reads, and the classes that the command checks, have the same conditions."""
    found = command_options(KNOWN[command])
    explained = {option.name: option for options in (found.own, *found.shared.values()) for option in options}
    must = {name: option.default is None for name, option in explained.items()}
    for config in KNOWN[command].classes():
        for name, about in options_of(config).items():
            words = {condition.words(must) for condition in about.of(ReadIf)} - {""}
            said = explained[name].only if name in explained else ""
            assert {part for part in said.split(", and ") if part} == words, f"{command} --{name}"


@pytest.mark.parametrize("command", KNOWN)
def test_no_text_repeats_when_an_option_is_read(command: str) -> None:
    """No parenthesis of a help text lists values of a condition: the marks say that, once."""
    found = command_options(KNOWN[command])
    for option in (option for options in (found.own, *found.shared.values()) for option in options):
        values = {str(value) for condition in option.read_if for of in condition.options.values() for value in of}
        for listed in re.findall(r"\(([^()]*)\)", option.about):
            assert not {*re.split(r", | and | or ", listed)} & values, f"{command} --{option.name}: ({listed})"


def test_a_condition_is_in_the_help_of_the_commands_that_can_miss_it(capsys: pytest.CaptureFixture[str]) -> None:
    """`annotate` may have no model, `sample` always has one. `search` shares --device between engine and scorer."""
    texts = {name: " ".join(shown(capsys, name, "--help-all").split()) for name in ("annotate", "sample", "search")}
    assert "1.0; only with --model_name_or_path)" in texts["annotate"]
    assert "0 is greedy. (default: 1.0)" in texts["sample"]
    assert "(default: 4; only with --method beam, dvts or lookahead)" in texts["search"]
    assert "(default: auto; only with --engine hf or without --endpoint)" in texts["search"]
    assert "(only with --engine http)" in texts["search"], "an option without a default"
