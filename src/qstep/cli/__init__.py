"""The command line: parse, call, print. Every command's options are the fields of its config dataclasses."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from types import MappingProxyType

from qstep.cli.general import ABOUT, HELP, split_general, verbosity
from qstep.runs.near import did_you_mean
from qstep.stages.commands import COMMANDS, Command, command_name

RECIPES: Mapping[str, Command] = MappingProxyType(
    {
        name: Command(name, "qstep.recipes.command", (f"qstep.recipes.command:{config}",), about, positional=positional)
        for name, config, positional, about in (
            ("run", "RunConfig", "recipe", "run a recipe: stages, variants and seeds in one YAML file"),
            ("demo", "DemoConfig", None, "run the packaged miniature recipe: from nothing to a better reasoner"),
        )
    }
)
"""The commands that run others."""

KNOWN: Mapping[str, Command] = MappingProxyType({**RECIPES, **COMMANDS})
"""Every command by its name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status.

    It is 0 after success, 1 after an error, 2 for wrong usage, 130 after Ctrl-C, and 141 if the reader of the output
    has closed it.
    """
    try:
        try:
            return _main(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `qstep --help | head`
        if not _is_stdout_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
        return 141


def _is_stdout_closed() -> bool:
    """Whether the reader of the output has closed it."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are reported always
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _main(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help"):
        print(_overview())
        return 0
    if first in ("-V", "--version"):
        from qstep import __version__

        print(f"qstep {__version__}")
        return 0
    if first == "env":
        from qstep.cli.environment import env

        return env(arguments[1:])
    if first == "plan":
        from qstep.cli.plan import plan

        return plan(arguments[1:])
    if first in ("--install-completion", "--show-completion"):
        from qstep.cli.completion import completion

        return completion(first, arguments[1:], KNOWN)
    return _command(arguments)


def _command(arguments: list[str]) -> int:
    """Runs one of the commands that have option dataclasses, or shows its help."""
    try:
        general, arguments = split_general(arguments)
    except ValueError as error:
        return _refuse(str(error))
    if not arguments:
        return _refuse("no command. Try `qstep --help`.")
    name, rest = command_name(arguments)
    if name == "train" and rest[:1] in ([], ["-h"], ["--help"]):
        print("usage: qstep train METHOD [--config FILE.yaml] [--option VALUE ...]\n\nmethods:")
        print("\n".join(_table("train ")))
        print("\nqstep train METHOD --help lists a method's options.")
        return 0
    if name not in KNOWN:
        return _refuse(_unknown(arguments))
    command = KNOWN[name]
    if {"-h", "--help"} & set(rest):
        from qstep.cli.help import short_help

        print(f"{short_help(command)}\n\n{HELP}")
        return 0
    if "--help-all" in rest:
        from qstep.cli.help import full_help

        print(f"{full_help(command)}\n\n{HELP}")
        return 0
    with verbosity(general):
        if not general.dry_run:
            return command.execute(rest, debug=general.debug)
        from qstep.cli.dry_run import describe

        return command.execute(rest, debug=general.debug, run=partial(describe, command))


def _refuse(problem: str) -> int:
    print(f"qstep: {problem}", file=sys.stderr)
    return 2


def _unknown(arguments: Sequence[str]) -> str:
    """What is wrong with the words before the first option, and the command that they probably stand for."""
    words = list(takewhile(lambda argument: not argument.startswith("-"), arguments))[:2] or arguments[:1]
    if words[0] == "train":
        methods = [name.removeprefix("train ") for name in COMMANDS if name.startswith("train ")]
        near = did_you_mean(words[1], methods) if len(words) > 1 else ""
        return f"no training method {arguments[1]!r}{near}. The methods are {', '.join(methods)}."
    names = [*KNOWN, *{name.split()[0] for name in KNOWN}, "plan", "env", "help", "--version"]
    near = did_you_mean(" ".join(words), names, "`qstep {}`") or did_you_mean(words[0], names, "`qstep {}`")
    return f"no command {words[0]!r}{near}. Try `qstep --help`."


def _table(prefix: str = "") -> list[str]:
    """A line for each command, or for each whose name begins with the prefix."""
    names = [name.removeprefix(prefix) for name in COMMANDS if name.startswith(prefix)]
    return [f"  {name:21} {COMMANDS[prefix + name].about}" for name in names if not name.startswith("train ")]


def _overview() -> str:
    recipes = [f"  {command.name:21} {command.about}" for command in RECIPES.values()]
    methods = ", ".join(name.removeprefix("train ") for name in COMMANDS if name.startswith("train "))
    return "\n".join(
        [
            "usage: qstep COMMAND [--config FILE.yaml] [--option VALUE ...]",
            "",
            "Q-functions over the reasoning of language models: PQM process reward models and DQO policies.",
            "",
            "commands:",
            *recipes,
            *_table(),
            f"  {'train METHOD':21} {ABOUT['train']}: {methods}",
            f"  {'plan train METHOD':21} {ABOUT['plan']}",
            f"  {'env':21} {ABOUT['env']}",
            f"  {'help COMMAND':21} {ABOUT['help']}",
            "",
            HELP,
            "",
            "qstep --version, or -V, prints the version.",
            "qstep --install-completion bash, zsh or fish makes the Tab key complete commands, options and choices.",
            "qstep --show-completion prints that script instead.",
        ]
    )
