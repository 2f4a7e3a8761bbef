"""What every command takes: how much it prints, whether it runs at all, and where an error comes from."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from qstep.runs.command_line import FLAGS

LEVELS = ("debug", "info", "warning", "error", "critical")

ABOUT = {
    "train": "train a scorer or a policy",
    "plan": "memory, work and time of a training, before it is started",
    "env": "versions, devices and folders, for a bug report",
    "help": "a command's options; so does qstep COMMAND --help",
}
"""What the words do that are not in the table of commands."""

HELP = """Every command but env also takes:
  --dry_run                      show what would be read and written, and check the settings; run nothing
  --quiet                        show results and errors only: no progress bars, no notices
  --log_level LEVEL              debug, info, warning, error or critical: what qstep and its libraries log
  --debug                        show where an error comes from
  --print_config                 print all options as YAML for --config, and run nothing"""

_LEVEL_VARIABLES = ("TRANSFORMERS_VERBOSITY", "DATASETS_VERBOSITY", "HF_HUB_VERBOSITY")
_UPPERCASE_LEVEL_VARIABLES = ("ACCELERATE_LOG_LEVEL", "VLLM_LOGGING_LEVEL")
_NO_BARS = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


@dataclass(frozen=True)
class General:
    """The options of every command."""

    dry_run: bool = False
    quiet: bool = False
    debug: bool = False
    log_level: str | None = None


def split_general(arguments: Sequence[str]) -> tuple[General, list[str]]:
    """The options of every command, wherever they stand, and the other arguments.

    The trainer of transformers has a `log_level` of its own, so `train` keeps it.

    Raises:
        ValueError: the log level is not one, or an option that takes no value has one.
    """
    for flag in FLAGS:
        if any(argument.startswith(f"--{flag}=") for argument in arguments):
            raise ValueError(f"--{flag} takes no value: give --{flag} alone, or leave it out")
    names = {f"--{flag}" for flag in FLAGS}
    rest = [argument for argument in arguments if argument not in names]
    level: str | None = None
    for place, argument in enumerate(rest):
        if argument == "--log_level" or argument.startswith("--log_level="):
            end = place + (1 if "=" in argument else 2)
            level = "=".join(rest[place:end]).partition("=")[2]
            if rest[0] != "train":
                del rest[place:end]
                _check_level(level)
            break
    flags = {flag: f"--{flag}" in arguments for flag in FLAGS}
    return General(**flags, log_level=level if level in LEVELS else None), rest


@contextmanager
def verbosity(general: General) -> Iterator[None]:
    """Sets how much is printed. Libraries show progress bars only on a terminal."""
    level = general.log_level or ("error" if general.quiet else None)
    variables = {} if level is None else dict.fromkeys(_LEVEL_VARIABLES, level)
    variables |= {} if level is None else dict.fromkeys(_UPPERCASE_LEVEL_VARIABLES, level.upper())
    variables |= dict.fromkeys(_NO_BARS, "1") if general.quiet or not sys.stderr.isatty() else {}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)  # libraries read them when they are imported, and worker processes inherit them
    root = logging.getLogger()
    level_before = root.level
    if level is not None:
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
        root.setLevel(level.upper())
    try:
        with _quiet() if general.quiet else warnings.catch_warnings():
            yield
    finally:
        root.setLevel(level_before)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    from qstep.runs.progress import console

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        console.quiet = True
        try:
            yield
        finally:
            console.quiet = False


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise ValueError(f"--log_level is {level!r}; it must be one of {', '.join(LEVELS)}")
