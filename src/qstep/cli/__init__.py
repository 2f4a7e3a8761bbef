"""The command line: parse, call, print. Every command's options are the fields of its config dataclasses."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 failed as the message says, 2 wrong usage, 130 Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        from qstep import __version__

        print(f"qstep {__version__}")
        return 0
    name, rest = command_name(arguments)
    if name == "train" and rest[:1] in ([], ["-h"], ["--help"]):
        print("usage: qstep train METHOD [--config FILE.yaml] [--option VALUE ...]\n\nmethods:")
        print("\n".join(_table("train ")))
        print("\nqstep train METHOD --help lists a method's options.")
        return 0
    known = {**RECIPES, **COMMANDS}
    if name not in known:
        if name == "train":
            methods = ", ".join(known_name[6:] for known_name in known if known_name.startswith("train "))
            print(f"qstep train: no method {rest[0]!r}: choose one of {methods}", file=sys.stderr)
        else:
            print(f"qstep: no command {name!r}. Try `qstep --help`.", file=sys.stderr)
        return 2
    if {"-h", "--help"} & set(rest):
        from qstep.cli.help import short_help

        print(short_help(known[name]))
        return 0
    if "--help-all" in rest:
        from qstep.cli.help import full_help

        print(full_help(known[name]))
        return 0
    return known[name].execute(rest, debug=debug)


def _table(prefix: str = "") -> list[str]:
    """A line for each command, or for each whose name begins with the prefix."""
    names = [name.removeprefix(prefix) for name in COMMANDS if name.startswith(prefix)]
    return [f"  {name:21} {COMMANDS[prefix + name].about}" for name in names if not name.startswith("train ")]


def _overview() -> str:
    recipes = [f"  {command.name:21} {command.about}" for command in RECIPES.values()]
    return "\n".join(
        [
            "usage: qstep COMMAND [--config FILE.yaml] [--option VALUE ...]",
            "",
            "Q-functions over the reasoning of language models: PQM process reward models and DQO policies.",
            "",
            "commands:",
            *recipes,
            *_table(),
            f"  {'train METHOD':21} train a verifier (pqm, bce, mse, orm) or a policy (dqo, dro, rs)",
            "",
            "qstep COMMAND --help lists a command's options; --debug shows where an error comes from.",
        ]
    )
