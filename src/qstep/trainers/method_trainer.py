"""The trainer of each method in the table: rows and a model in, as the command and Python users give them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, set_seed

from qstep.models import ModelOptions, PretrainedModule
from qstep.models.loading import load_tokenizer
from qstep.objectives import Method
from qstep.objectives.config import GroupConfig
from qstep.trainers.arguments import check_evaluation
from qstep.trainers.group_trainer import GroupTrainer


class MethodTrainer(GroupTrainer):
    """A GroupTrainer that reads its rows and makes its model, in this order: bad rows are refused before a model loads.

    Args:
        model: the model to start from, as options, a folder or a Hub id; or a model that is ready to be trained.
        args: the options of the method.
        train_dataset: the file of the rows to learn from.
        eval_dataset: the file of the rows to evaluate on.
        processing_class: the tokenizer; that of the model by default.

    Raises:
        RowError: a row is bad.
        ValueError: options contradict each other, nothing can be learned from the rows, or the model cannot be used.
    """

    method: Method

    def __init__(
        self,
        model: ModelOptions | PretrainedModule | str | Path,
        args: GroupConfig,
        train_dataset: Path,
        eval_dataset: Path | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        check_evaluation(args, eval_dataset)
        if isinstance(model, str | Path):
            model = ModelOptions(model_name_or_path=str(model))
        if processing_class is None:
            if isinstance(model, PretrainedModule):
                raise ValueError("processing_class is missing: give the tokenizer of the model")
            processing_class = load_tokenizer(model.model_name_or_path, **model.load_arguments())
        objective = self.method.objective(args, processing_class)
        objective.check(train_dataset)
        train = objective.rows(train_dataset)
        evaluated = None if eval_dataset is None else objective.rows(eval_dataset)
        if isinstance(model, ModelOptions):
            set_seed(args.seed)
            model = objective.new_model(model)
        super().__init__(
            objective, model, args, train, evaluated, processing_class=processing_class, callbacks=[*callbacks]
        )


@cache
def trainer_class(method: Method) -> type[MethodTrainer]:
    """The trainer of a method, called after it: `PQMTrainer` for `pqm`."""
    return type(trainer_name(method), (MethodTrainer,), {"method": method, "__doc__": MethodTrainer.__doc__})


def trainer_name(method: Method) -> str:
    """`PQMTheoreticalTrainer` for `pqm_theoretical`."""
    first, *rest = method.name.split("_")
    return f"{first.upper()}{''.join(word.capitalize() for word in rest)}Trainer"
