"""`qstep plan train METHOD ...`: what a training needs, from the options of the training."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qstep.cli.general import split_general, verbosity
from qstep.runs.hardware import HARDWARE

_ABOUT = """Memory, work and time of a training, before it is started.

Put `plan` in front of the training's command, with all its options. The config of the model, its tokenizer and the rows
are read. Its weights are not, so a training of any size can be planned on any machine."""


def plan(arguments: Sequence[str]) -> int:
    """Plans the training that the arguments are the command of, and prints the plan."""
    from qstep.stages.commands import COMMANDS, command_name

    parser = argparse.ArgumentParser(
        prog="qstep plan",
        usage="qstep plan train METHOD [--option VALUE ...] [--hardware NAME] [--num_devices N] [--plan_file FILE]",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    devices = "the devices; default: the CPUs of this machine"
    parser.add_argument("--hardware", type=str.lower, choices=HARDWARE, help=devices)
    parser.add_argument("--num_devices", type=int, default=1, help="their number; default: 1")
    parser.add_argument("--plan_file", type=Path, help="a file to write the plan to, as JSON")
    try:
        general, arguments = split_general(arguments)
        own, rest = parser.parse_known_args(arguments)
        if not rest or rest[0] != "train" or len(rest) < 2 or " ".join(rest[:2]) not in COMMANDS:
            parser.error("give the command of a training: qstep plan train dqo --train_file ...")
        if own.num_devices < 1:
            parser.error("--num_devices must be at least 1")
        if general.dry_run:
            parser.error("a plan runs nothing: remove --dry_run")
    except ValueError as error:
        print(f"qstep plan: {error}", file=sys.stderr)
        return 2
    except SystemExit as stop:
        return 2 if stop.code else 0
    name, options = command_name(rest)
    if "--output_dir" not in [option.partition("=")[0] for option in options]:
        options += ["--output_dir", "planned"]  # training would write there; planning does not
    command = COMMANDS[name]
    with verbosity(general):
        return command.execute(options, debug=general.debug, run=partial(_plan, command.first[0], own))


def _plan(method: str, own: argparse.Namespace, configs: Sequence[Any]) -> None:
    from qstep.data import write_whole
    from qstep.runs.outputs import refuse_foreign, refuse_overwriting
    from qstep.stages.plan import is_plan, plan, show

    inputs, config = configs
    hardware = None if own.hardware is None else HARDWARE[own.hardware]
    if own.plan_file is not None:
        files = {"train_file": inputs.train_file, "eval_file": inputs.eval_file, "plan_file": own.plan_file}
        refuse_overwriting(files, ["plan_file"])
        refuse_foreign("plan_file", own.plan_file, is_plan)
    found = plan(method, inputs, config, hardware, own.num_devices)
    show(found)
    if own.plan_file is not None:
        write_whole(own.plan_file, [json.dumps(found.as_dict(), indent=2).encode() + b"\n"])
