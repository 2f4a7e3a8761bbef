"""A contender of `benchmarks/training.py`: qstep's own trainers, the responses to one or more problems a batch."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from clock import StepClock, arguments, read_rows, trainer_options
from step_profile import StepProfiler

from qstep.models import ModelOptions
from qstep.objectives import METHODS
from qstep.runs.memory import keep_freed_memory
from qstep.trainers import GroupTrainer, trainer_class

PROBLEMS = ("1", "2", "8", "16", "24")
"""How many problems a batch may have, as in `benchmarks/training.py`."""


def build(args: Namespace, callbacks: list[Any]) -> GroupTrainer:
    """The trainer of one variant, over the rows as they lie in the file."""
    settings = {**trainer_options(args, int(args.problems)), "max_length": 8192}
    method = METHODS[args.method.partition("_")[0]]
    if args.method != "dpo":  # which always has all responses of a problem in a batch
        settings |= {"responses_per_prompt": args.batch_size}
    if args.method == "pqm":
        settings |= {"stop_at_first_error": False}  # as its peers, which read every step
    elif method.name == "dqo":
        settings |= {"value": "head" if args.method == "dqo_head" else "separate", "value_learning_rate": 1e-6}
    config = method.config(**settings)
    options = ModelOptions(model_name_or_path=args.model, use_peft=args.adapter == "lora", lora_r=16)
    return trainer_class(method)(options, config, args.rows, callbacks=callbacks)


def main() -> None:
    args = arguments(
        __doc__,
        method=("pqm", "dqo_separate", "dqo_head", "reinforce", "dpo"),
        adapter=("none", "lora"),
        profile=("no", "yes"),
        problems=PROBLEMS,
    )
    keep_freed_memory()  # as `qstep train` does
    clock = StepClock()
    if args.profile == "yes":
        profiler = StepProfiler()
        build(args, [profiler]).train()
        print(json.dumps(profiler.table()))
        return
    build(args, [clock]).train()
    clock.finish(len(read_rows(args.rows)), args.batch_size * int(args.problems), args.device)


if __name__ == "__main__":
    main()
