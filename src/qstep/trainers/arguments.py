"""Checks of the options that transformers' Trainer takes and qstep's trainers cannot follow."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from qstep.models import PretrainedModule
from qstep.objectives.arguments import EVALUATES
from qstep.objectives.config import GroupConfig
from qstep.objectives.dataset import GroupDataset
from qstep.objectives.source import RowsFile
from qstep.processes import here
from qstep.runs.progress import say

_log = logging.getLogger(__name__)


def check_arguments(args: GroupConfig, model: PretrainedModule) -> None:
    """Sets options that the trainer relies on, and says which loss of the model is off.

    Raises ValueError if max_length exceeds the model's positions.
    """
    args.remove_unused_columns = False
    args.logging_nan_inf_filter = False
    check_positions(args, model)
    loss = getattr(model.config.get_text_config(), "router_aux_loss_coef", 0)
    if loss and here()[0] == 0:
        say(f"The auxiliary loss of the model's router (router_aux_loss_coef {loss}) is off in training")
    if args.n_gpu > 1:
        # Trainer would replicate the model within this process (nn.DataParallel).
        _log.warning("%d GPUs are visible, but only one is used. Start with torchrun to use more", args.n_gpu)
        args._n_gpu = 1


def check_positions(args: GroupConfig, model: PretrainedModule) -> None:
    """Raises ValueError if rows of max_length tokens would exceed the model's positions."""
    limit = model.learned_positions
    if limit is not None and args.max_length > limit:
        raise ValueError(
            f"--max_length is {args.max_length}, but this model has only {limit} positions: set it to {limit} or less"
        )
    trunk: Any = model.trunk
    if trunk.rope_limit is not None and args.max_length > trunk.rope_limit:
        raise ValueError(
            f"--max_length is {args.max_length}, but beyond {trunk.rope_limit} tokens this model's rotary positions "
            "(longrope or dynamic) depend on the longest row of a batch. Set it to that number, or less"
        )


def check_evaluation(args: GroupConfig, eval_rows: RowsFile | None) -> None:
    """Raises ValueError for rows to evaluate on without evaluations, or the reverse, before rows are read."""
    evaluates = EVALUATES.why_not(args, deep=False) is None
    if evaluates and eval_rows is None:
        raise ValueError(
            "Evaluations (--eval_strategy, --eval_steps) need rows to evaluate on. Give --eval_file (in Python, "
            "eval_dataset)"
        )
    if eval_rows is not None and not evaluates:
        named = eval_rows.argument or f"--eval_file {eval_rows}"
        raise ValueError(f"{named} has no effect without evaluations: give --eval_strategy steps or epoch")


def check_shared(train: GroupDataset, evaluated: GroupDataset, asked: Sequence[int] = (), *, decides: bool) -> None:
    """Warns of problems in both files. Raises ValueError if the evaluation decides on the weights.

    asked: numbers of rows whose problems are sampled in an evaluation, also if its loss leaves them out.
    """
    trained = train.index.table["prompt"][train.rows]
    rows = np.union1d(evaluated.rows, np.asarray(asked, dtype=np.int64))
    shared = np.intersect1d(trained, evaluated.index.table["prompt"][rows])
    if not len(shared):
        return
    place = train.source.line(train.index.line(int(train.rows[np.isin(trained, shared)].min())))
    overlap = f"{train.source} and {evaluated.source} share {len(shared)} problems (one is on {place} of the first)"
    if decides:
        raise ValueError(
            f"{overlap}, and the evaluation decides on the weights (--load_best_model_at_end, --lr_scheduler_type, "
            "--early_stopping_patience). It would prefer weights that memorise. Drop these rows from one of the files; "
            "`qstep audit` counts them"
        )
    say(f"Warning: {overlap}. The evaluation does not measure generalisation")
