"""Completion by the Tab key: a script for bash, zsh or fish that holds every command, option and choice.

The script is made from the source of the option dataclasses and calls nothing of qstep, so that completing takes no
time. After an update of qstep it is made again.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from qstep.cli.general import ABOUT, LEVELS
from qstep.cli.options import command_options
from qstep.runs.command_line import GENERAL
from qstep.runs.hardware import HARDWARE
from qstep.stages.commands import Command

_SHELLS = ("bash", "zsh", "fish")
_FILE = "<file>"
"""Stands for file names among the values of an option."""

_EVERYWHERE = {**dict.fromkeys(GENERAL, ()), "log_level": LEVELS, "config": (_FILE,)}
_OTHER: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "help": {},
    "plan": {"hardware": tuple(HARDWARE), "num_devices": (), "plan_file": (_FILE,)},
    "env": {"json": ()},
}
_TOP = ("--help", "--version", "--install-completion", "--show-completion")


@dataclass(frozen=True)
class _Words:
    """What may follow a command: words, and options with their values."""

    words: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]


def completion(action: str, shells: Sequence[str], known: Mapping[str, Command]) -> int:
    """`--show-completion [SHELL]` prints the script; `--install-completion [SHELL]` writes it where the shell looks."""
    shell = shells[0] if shells else Path(os.environ.get("SHELL", "")).name
    if shell not in _SHELLS:
        print(f"qstep: no completion for {shell or 'this shell'!r}: give bash, zsh or fish", file=sys.stderr)
        return 2
    script = completion_script(shell, known)
    if action == "--show-completion":
        print(script, end="")
        return 0
    file, hint = _place(shell)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(script, encoding="utf-8")
    print(f"Wrote {file}. {hint}\nRun this command again after an update of qstep.")
    return 0


def completion_script(shell: str, known: Mapping[str, Command]) -> str:
    """The script that defines the completion of `qstep` for a shell."""
    table = _table(known)
    if shell == "fish":
        return _fish(table, known)
    return _ZSH.format(_bash(table)) if shell == "zsh" else _bash(table)


def _place(shell: str) -> tuple[Path, str]:
    """Where a shell looks for completions of a user, and what the user may have to do."""
    data = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    if shell == "bash":
        file = data / "bash-completion/completions/qstep"
        return file, f"New shells find it. If Tab completes nothing, add to ~/.bashrc: source {shlex.quote(str(file))}"
    if shell == "fish":
        return settings / "fish/completions/qstep.fish", "New shells find it."
    line = "fpath=(~/.zfunc $fpath); autoload -Uz compinit; compinit"
    return Path("~/.zfunc/_qstep").expanduser(), f"If Tab completes nothing, add to ~/.zshrc: {line}"


def _table(known: Mapping[str, Command]) -> dict[str, _Words]:
    """Every command by its name, and by the first word of its name if that is not a command."""
    table = {name: _Words((_FILE,) if command.positional else (), _options(command)) for name, command in known.items()}
    seconds: dict[str, list[str]] = defaultdict(list)
    for name in known:
        first, _, second = name.partition(" ")
        seconds[first] += [second] if second else []
    for first, words in seconds.items():
        table[first] = _Words((*table[first].words, *words) if first in table else tuple(words), _of(table, first))
    table |= {name: _Words((), options) for name, options in _OTHER.items()}
    table["help"] = _Words(tuple(first for first in seconds), {})
    return table


def _of(table: Mapping[str, _Words], name: str) -> Mapping[str, tuple[str, ...]]:
    return table[name].options if name in table else {}


def _options(command: Command) -> dict[str, tuple[str, ...]]:
    """The values of each option: its choices, or file names, or nothing to complete."""
    found = command_options(command)
    options = {option.name: _values(option.type) for option in chain(found.own, *found.shared.values())}
    return {**(_trainer_options() if found.foreign else {}), **options, **_EVERYWHERE}


def _values(annotation: str) -> tuple[str, ...]:
    if re.search(r"\bbool\b", annotation):
        return ("true", "false")
    choices = tuple(re.findall(r"'([^']*)'", annotation))
    return choices or ((_FILE,) if re.search(r"\b(str|Path)\b", annotation) else ())


def _trainer_options() -> dict[str, tuple[str, ...]]:
    """The options of transformers' trainer, read from its source: to import it takes seconds."""
    transformers = importlib.util.find_spec("transformers")
    if transformers is None or not transformers.submodule_search_locations:
        return {}
    file = Path(transformers.submodule_search_locations[0]) / "training_args.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "TrainingArguments")
    return {
        field.target.id: _values(ast.unparse(field.annotation))
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id[0] != "_"
        if "ClassVar" not in ast.unparse(field.annotation)
    }


def _bash(table: Mapping[str, _Words]) -> str:
    words = [_arm(name, " ".join(entry.words)) for name, entry in table.items() if entry.words]
    options = [
        _arm(name, " ".join(f"--{option}" for option in entry.options))
        for name, entry in table.items()
        if entry.options
    ]
    first = dict.fromkeys(name.partition(" ")[0] for name in table)
    return (
        _BASH.replace("@TOP@", " ".join([*first, *_TOP]))
        .replace("@WORDS@", "\n".join(words))
        .replace("@OPTIONS@", "\n".join(options))
        .replace("@VALUES@", "\n".join(_value_arms(table)))
        .replace("@PAIRS@", "|".join(shlex.quote(name) for name in table if " " in name))
    )


def _arm(pattern: str, words: str) -> str:
    return f"    {shlex.quote(pattern)}) offered={shlex.quote(words)} ;;"


def _value_arms(table: Mapping[str, _Words]) -> Iterator[str]:
    """An arm of `case "$command --option"` for each option; one for all commands where they agree."""
    by_option: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for name, entry in table.items():
        for option, values in entry.options.items():
            by_option[option][name] = values
    for option, of_commands in by_option.items():
        if len({*of_commands.values()}) == 1:
            values = next(iter(of_commands.values()))
            yield f"    *' --{option}') offered={shlex.quote(' '.join(values))} ;;"
        else:
            yield from (_arm(f"{name} --{option}", " ".join(values)) for name, values in of_commands.items())


def _fish(table: Mapping[str, _Words], known: Mapping[str, Command]) -> str:
    lines = ["# Completion of qstep for fish, made by `qstep --show-completion fish`.", "complete -c qstep -f"]
    abouts = ABOUT | {name: command.about for name, command in known.items()}
    for first in dict.fromkeys(name.partition(" ")[0] for name in table):
        lines.append(f"complete -c qstep -n __fish_use_subcommand -a {first} -d {_quoted(abouts[first])}")
    for name, entry in table.items():
        seen = " ".join(f"; and __fish_seen_subcommand_from {word}" for word in name.split()).removeprefix("; and ")
        for word in entry.words:
            if word != _FILE:
                about = abouts.get(f"{name} {word}", "")
                lines.append(f"complete -c qstep -n {_quoted(seen)} -a {word} -d {_quoted(about)}")
            else:
                lines.append(f"complete -c qstep -n {_quoted(seen)} -F")
        for option, values in entry.options.items():
            flag = option == "json" or _EVERYWHERE.get(option) == ()
            takes = "" if flag else " -r -F" if _FILE in values else f" -x -a {_quoted(' '.join(values))}"
            lines.append(f"complete -c qstep -n {_quoted(seen)} -l {option}{takes}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_ZSH = """#compdef qstep
# Completion of qstep for zsh, made by `qstep --show-completion zsh`: that of bash, through zsh's own bridge.
autoload -U +X bashcompinit && bashcompinit
{}
_bash_complete -F _qstep_words
"""

_BASH = """# Completion of qstep for bash, made by `qstep --show-completion bash`.
_qstep_words() {
  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" command="${COMP_WORDS[1]}" offered=''
  COMPREPLY=()
  # bash splits --option=value into three words.
  if [ "$current" = '=' ]; then current=''; elif [ "$before" = '=' ]; then before="${COMP_WORDS[COMP_CWORD-2]}"; fi
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '@TOP@' -- "$current"))
    return
  fi
  case "$command ${COMP_WORDS[2]}" in
    @PAIRS@) [ "$COMP_CWORD" -gt 2 ] && command="$command ${COMP_WORDS[2]}" ;;
  esac
  case "$command $before" in
    '--install-completion '*|'--show-completion '*) offered='bash zsh fish' ;;
@VALUES@
  esac
  if [ -z "$offered" ] && [ "${current#-}" != "$current" ]; then
    case "$command" in
@OPTIONS@
    esac
  elif [ -z "$offered" ] && [ "${before#--}" = "$before" ]; then
    case "$command" in
@WORDS@
    esac
  fi
  case "$offered" in
    *'<file>'*)
      compopt -o filenames 2>/dev/null
      COMPREPLY=($(compgen -f -- "$current")) ;;
  esac
  COMPREPLY+=($(compgen -W "${offered/<file>/}" -- "$current"))
}
complete -F _qstep_words qstep
"""
