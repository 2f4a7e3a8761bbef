"""Which of the options of transformers' Trainer cannot be meant here."""

from __future__ import annotations

import logging

from qstep.models import PretrainedModule
from qstep.objectives.config import GroupConfig
from qstep.objectives.source import RowsFile

_log = logging.getLogger(__name__)


def check_arguments(args: GroupConfig, model: PretrainedModule) -> None:
    """Sets what the trainer relies on. Raises ValueError for a length beyond the model's positions."""
    args.remove_unused_columns = False
    args.logging_nan_inf_filter = False
    limit = model.learned_positions
    if limit is not None and args.max_length > limit:
        raise ValueError(f"--max_length is {args.max_length}, and this model has {limit} positions: give {limit}")
    if args.n_gpu > 1:
        # Trainer would replicate the model within this process (nn.DataParallel).
        _log.warning("%d GPUs are visible, and one is used: start with torchrun to use more", args.n_gpu)
        args._n_gpu = 1


def check_evaluation(args: GroupConfig, eval_rows: RowsFile | None) -> None:
    """Raises ValueError, before anything is read, for an order of batches or evaluations that cannot be had."""
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy is {args.train_sampling_strategy!r}: choose random or sequential. Batches "
            "hold no padding, and each process gets about as many tokens: lengths have nothing to gain"
        )
    evaluates = args.eval_strategy != "no" or args.eval_on_start
    if evaluates and eval_rows is None:
        raise ValueError("eval_strategy asks for evaluations: give an eval_file (in Python, an eval_dataset)")
    if eval_rows is not None and not evaluates:
        named = eval_rows.argument or f"--eval_file {eval_rows}"
        raise ValueError(f"nothing reads {named}: give --eval_strategy steps or epoch")
