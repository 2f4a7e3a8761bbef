"""The command line: parse, call, print. Every command's options are the fields of its config dataclasses."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from qstep.stages.commands import COMMANDS, Command

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
    name, rest = _name(arguments)
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
        from qstep.cli.options import short_help

        print(short_help(known[name]))
        return 0
    try:
        return _run(known[name], rest)
    except KeyboardInterrupt:
        print(
            f"\nqstep {name}: interrupted. The same command goes on where it stopped"
            f"{', from the newest checkpoint that save_steps left' if name.startswith('train ') else ''}.",
            file=sys.stderr,
        )
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if debug or not _is_told(error):
            raise
        print(f"qstep {name}: {error}", file=sys.stderr)
        return 1


def _run(command: Command, arguments: list[str]) -> int:
    import jsonargparse

    _keep_freed_memory()
    if "--help-all" in arguments:
        command.parser().print_help()
        return 0
    try:
        configs = command.parse(arguments)
    except jsonargparse.ArgumentError as error:
        print(f"qstep {command.name}: {error}\nqstep {command.name} --help lists its options.", file=sys.stderr)
        return 2
    command.run(configs)
    return 0


def _is_told(error: Exception) -> bool:
    """Whether an error's message says all: what users can cause. Any other keeps its traceback."""
    return isinstance(error, ValueError | OSError) or type(error).__module__.partition(".")[0] == "qstep"


def _name(arguments: list[str]) -> tuple[str, list[str]]:
    """The command, of one word or two, and its arguments."""
    two = " ".join(arguments[:2])
    return (two, arguments[2:]) if two in COMMANDS else (arguments[0], arguments[1:])


def _keep_freed_memory() -> None:
    """Has glibc keep what a training step frees for the next step instead of returning it to the system.

    Faulting the same pages in again at every step takes about a sixth of the time of a small model on a CPU.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:  # glibc alone has it
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        set_option(trim_threshold, 2**31 - 1)
        set_option(top_pad, 2**26)
        set_option(mmap_threshold, 2**25)


def _table(prefix: str = "") -> list[str]:
    """A line for each command, or for each whose name begins with the prefix."""
    names = [name.removeprefix(prefix) for name in COMMANDS if name.startswith(prefix)]
    return [f"  {name:16} {COMMANDS[prefix + name].about}" for name in names if " " not in name]


def _overview() -> str:
    recipes = [f"  {command.name:16} {command.about}" for command in RECIPES.values()]
    return "\n".join(
        [
            "usage: qstep COMMAND [--config FILE.yaml] [--option VALUE ...]",
            "",
            "Q-functions over the reasoning of language models: PQM process reward models and DQO policies.",
            "",
            "commands:",
            *recipes,
            *_table(),
            f"  {'train METHOD':16} train a verifier (pqm, bce, mse, orm) or a policy (dqo, dro, rs)",
            "",
            "qstep COMMAND --help lists a command's options; --debug shows where an error comes from.",
        ]
    )
