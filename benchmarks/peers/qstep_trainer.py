"""A contender of `benchmarks/training.py`: qstep's own trainers, a problem's responses a batch."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from clock import StepClock, arguments, read_rows, trainer_options
from step_profile import StepProfiler
from transformers import AutoTokenizer

from qstep.models import load_policy, new_scorer
from qstep.trainers import DQOConfig, DQOTrainer, GroupTrainer, ScorerConfig, ScorerTrainer


def build(args: Namespace, callbacks: list[Any]) -> GroupTrainer:
    """The trainer of one variant, over the rows as they lie in the file."""
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    options = {**trainer_options(args, 1), "responses_per_prompt": args.batch_size}
    if args.method == "pqm":
        return ScorerTrainer(new_scorer(args.model), ScorerConfig(**options), args.rows, tokenizer, callbacks)
    config = DQOConfig(value="head" if args.method == "dqo_head" else "separate", value_learning_rate=1e-6, **options)
    return DQOTrainer(load_policy(args.model), config, args.rows, tokenizer, callbacks)


def main() -> None:
    args = arguments(__doc__, method=("pqm", "dqo_separate", "dqo_head"), profile=("yes", "no"))
    clock = StepClock()
    if args.profile == "yes":
        profiler = StepProfiler()
        build(args, [profiler]).train()
        print(json.dumps(profiler.table()))
        return
    build(args, [clock]).train()
    clock.finish(len(read_rows(args.rows)), args.batch_size, args.device)


if __name__ == "__main__":
    main()
