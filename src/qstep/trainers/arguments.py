"""Checks of the options that transformers' Trainer takes and qstep's trainers cannot follow."""

from __future__ import annotations

import logging

from qstep.models import PretrainedModule
from qstep.objectives.config import GroupConfig
from qstep.objectives.source import RowsFile

_log = logging.getLogger(__name__)


def check_arguments(args: GroupConfig, model: PretrainedModule) -> None:
    """Sets options that the trainer relies on. Raises ValueError if max_length exceeds the model's positions."""
    args.remove_unused_columns = False
    args.logging_nan_inf_filter = False
    limit = model.learned_positions
    if limit is not None and args.max_length > limit:
        raise ValueError(
            f"--max_length is {args.max_length}, but this model has only {limit} positions: set it to {limit} or less"
        )
    if args.n_gpu > 1:
        # Trainer would replicate the model within this process (nn.DataParallel).
        _log.warning("%d GPUs are visible, but only one is used. Start with torchrun to use more", args.n_gpu)
        args._n_gpu = 1


def check_evaluation(args: GroupConfig, eval_rows: RowsFile | None) -> None:
    """Raises ValueError for rows to evaluate on without evaluations, or the reverse, before rows are read."""
    evaluates = args.eval_strategy != "no" or args.eval_on_start
    if evaluates and eval_rows is None:
        raise ValueError("--eval_strategy needs rows to evaluate on. Give --eval_file (in Python, eval_dataset)")
    if eval_rows is not None and not evaluates:
        named = eval_rows.argument or f"--eval_file {eval_rows}"
        raise ValueError(f"{named} has no effect without evaluations: give --eval_strategy steps or epoch")
