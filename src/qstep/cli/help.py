"""The help of a command. `--help` explains its own options and lists shared ones; `--help-all` explains all."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable

from qstep.cli.options import Option, command_options
from qstep.runs.command_line import GENERAL
from qstep.stages.commands import Command

_WIDTH = 116
_INDENT = 33

_COMMON = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "save_steps")
"""The most used options of transformers."""

_CONFIG = "  --config FILE.yaml             read options from a YAML file; flags override it"


def short_help(command: Command) -> str:
    """The help with the command's own options, required ones first, and the names of shared options by group."""
    found = command_options(command)
    lines = [_usage(command), "", *_paragraphs(_paragraph(found.about)), "", _CONFIG]
    for option in _ordered(found.own):
        lines += _entry(option, _first_sentence(option.about))
    names = {title: [option.name for option in options] for title, options in found.shared.items()}
    lines += ["", *(["shared with other commands (--help-all explains them):"] if names or found.foreign else [])]
    for title, grouped in names.items():
        lines += _wrapped(f"{title} ({len(grouped)}): {', '.join(f'--{name}' for name in grouped)}")
    if found.foreign:
        lines += _wrapped(f"those of transformers' {_join(found.foreign)}: {_join(f'--{n}' for n in _COMMON)}, ...")
    return "\n".join(lines).rstrip()


def full_help(command: Command) -> str:
    """The help with every option of the command, by group."""
    found = command_options(command)
    lines = [_usage(command), "", *_paragraphs(found.about), "", _CONFIG, ""]
    groups = {"options": _ordered(found.own), **found.shared}
    if found.foreign:
        known = {option.name for options in groups.values() for option in options}
        groups[f"options of transformers' {_join(found.foreign)}"] = _foreign(command, known)
    for title, options in groups.items():
        lines += [f"{title}:", *(line for option in options for line in _entry(option, option.about)), ""]
    return "\n".join(lines).rstrip()


def _usage(command: Command) -> str:
    first = f" {command.positional.upper()}" if command.positional else ""
    return f"usage: qstep {command.name}{first} [--config FILE.yaml] [--option VALUE ...]"


def _ordered(options: Iterable[Option]) -> list[Option]:
    """The required options, and then the others."""
    return sorted(options, key=lambda option: option.default is not None)


def _foreign(command: Command, known: set[str]) -> list[Option]:
    """The options of the parser that no class of qstep declares."""
    parser = command.parser()
    return [
        Option(action.dest, "VALUE", repr(action.default), action.help or "")
        for action in parser._actions
        if action.dest not in {*known, *GENERAL} and "." not in action.dest
    ]


def _entry(option: Option, about: str) -> list[str]:
    """An option with its type on the left and its description on the right."""
    left = f"--{option.name} {_metavar(option.type)}"
    notes = [
        *([] if option.default == "None" else [_default(option.default)]),
        *([f"only {option.only}"] if option.only else []),
    ]
    note = f" ({'; '.join(notes)})" if notes else ""
    wrapped = textwrap.wrap(about + note, _WIDTH - _INDENT) or [""]
    if len(left) < _INDENT - 3:
        return [f"  {left:{_INDENT - 3}} {wrapped[0]}", *(f"{'':{_INDENT}}{line}" for line in wrapped[1:])]
    spaced = left if len(left) + 2 <= _WIDTH else left.replace(",", ", ")
    return [*_wrapped(spaced), *(f"{'':{_INDENT}}{line}" for line in wrapped)]


def _default(source: str | None) -> str:
    if source is None:
        return "required"
    value = source
    if re.fullmatch(r"'[\w.-]+'", source):
        value = str(ast.literal_eval(source))
    return f"default: {value}"


def _metavar(annotation: str) -> str:
    choices = re.findall(r"'([^']*)'", annotation)
    return "{" + ",".join(choices) + "}" if choices else annotation.replace(" | None", "").upper()


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[^.]\.) (?=[A-Z`])", text, maxsplit=1)[0]


def _paragraph(text: str) -> str:
    """The first paragraph."""
    return text.split("\n\n")[0]


def _paragraphs(text: str) -> list[str]:
    return [line for part in text.split("\n\n") for line in [*textwrap.wrap(part, _WIDTH), ""]][:-1]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _join(names: Iterable[str]) -> str:
    return ", ".join(names)
