"""The trainer of each method in the table. It takes rows and a model from the command or from Python users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from qstep.models import LoadedModel, ModelOptions, PretrainedModule
from qstep.models.loading import load_tokenizer
from qstep.models.packable import pack, unpack
from qstep.objectives import Method
from qstep.objectives.arguments import follows_evaluation
from qstep.objectives.config import GroupConfig, PolicyConfig
from qstep.objectives.source import RowsFile
from qstep.runs.fsdp_settings import check_processes
from qstep.trainers.arguments import check_evaluation, check_shared
from qstep.trainers.given_rows import rows_file
from qstep.trainers.group_trainer import GroupTrainer
from qstep.trainers.sampled_accuracy import SampledAccuracy

if TYPE_CHECKING:
    from qstep.trainers.given_rows import Rows


class MethodTrainer(GroupTrainer):
    """Trains a model by one method. It reads the rows first, so bad rows are refused before a model loads.

    Args:
        model: the model to start from: a folder or Hub id, `ModelOptions`, or a transformers model, which is trained
            in place. A scorer made from a causal language model in memory is `trainer.bare_model.pretrained`.
        args: the options of the method.
        train_dataset: the rows to learn from: a JSONL file, a list of dicts, a `datasets.Dataset` or a pandas frame.
            Errors name a row in memory as `train_dataset[12]`. None, in a column that cannot be null, means that the
            row does not have the column.
        eval_dataset: the rows to evaluate on, in the same forms. `args.eval_strategy` decides when.
        processing_class: the tokenizer. The default is the model's, if the model is a folder or a Hub id.
        callbacks: callbacks of transformers' Trainer.

    Raises:
        RowError: a row of a file is bad.
        TypeError: the rows in memory are no table.
        ValueError: a row in memory is bad, options contradict each other, the rows teach nothing, both data sets share
            a problem and the evaluation decides on the weights, or the model cannot be used.

    After `train()`, `save_model()` writes a transformers folder to `args.output_dir`. `qstep train` also writes a log
    and a model card, and resumes after a kill.
    """

    method: Method

    def __init__(
        self,
        model: ModelOptions | PretrainedModule | PreTrainedModel | str | Path,
        args: GroupConfig,
        train_dataset: Rows | RowsFile,
        eval_dataset: Rows | RowsFile | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        train_rows = rows_file(train_dataset, "train_dataset")
        eval_rows = None if eval_dataset is None else rows_file(eval_dataset, "eval_dataset")
        check_processes(args)
        check_evaluation(args, eval_rows)
        options = _options(model)
        tokenizer = processing_class or _tokenizer(options)
        if isinstance(options, ModelOptions):
            tokenizer = options.with_chat(tokenizer)
        objective = self.method.objective(args, tokenizer)
        objective.check(train_rows)
        train = objective.rows(train_rows)
        evaluated = None if eval_rows is None else objective.rows(eval_rows)
        sampled = None
        if evaluated is not None:
            if isinstance(args, PolicyConfig) and args.eval_samples:
                sampled = SampledAccuracy(args, tokenizer, evaluated)
            asked = [] if sampled is None else sampled.numbers
            check_shared(train, evaluated, asked, decides=follows_evaluation(args))
        if isinstance(options, ModelOptions):
            set_seed(args.seed)
            options = objective.new_model(options)
        super().__init__(
            objective,
            options,
            args,
            train,
            evaluated,
            processing_class=tokenizer,
            callbacks=[*callbacks],
            sampled=sampled,
        )
        is_trained_itself = isinstance(model, PreTrainedModel) and hasattr(model, "unpacked_attention")
        self._given: Any = model if is_trained_itself else None

    def train(self, *args: Any, **options: Any) -> Any:
        with self._packed():
            return super().train(*args, **options)

    def evaluate(self, *args: Any, **options: Any) -> dict[str, float]:
        with self._packed():
            return super().evaluate(*args, **options)

    @contextmanager
    def _packed(self) -> Iterator[None]:
        """Lets a model in memory compute packed batches. After them, also after an interrupt, it may generate."""
        if self._given is None or self.is_in_train:
            yield
            return
        pack(self._given)
        try:
            yield
        finally:
            self.is_in_train = False  # an interrupted training leaves it true
            unpack(self._given)


def _options(model: ModelOptions | PretrainedModule | PreTrainedModel | str | Path) -> ModelOptions | PretrainedModule:
    if not isinstance(model, ModelOptions | PretrainedModule | PreTrainedModel | str | Path):
        adapters = ". For adapters, give ModelOptions(model_name_or_path=..., use_peft=True)"
        raise TypeError(
            f"model is a {type(model).__name__}: give a folder, a Hub id, a model of transformers or a ModelOptions"
            f"{adapters if hasattr(model, 'peft_config') else ''}"
        )
    if isinstance(model, PreTrainedModel):
        return LoadedModel(model=model)
    return ModelOptions(model_name_or_path=str(model)) if isinstance(model, str | Path) else model


def _tokenizer(model: ModelOptions | PretrainedModule) -> PreTrainedTokenizerBase:
    if isinstance(model, PretrainedModule | LoadedModel):
        raise ValueError("processing_class is missing: give the tokenizer of the model in memory")
    return load_tokenizer(model.model_name_or_path, **model.load_arguments())


@cache
def trainer_class(method: Method) -> type[MethodTrainer]:
    """The trainer class of a method, such as `PQMTrainer` for `pqm`."""
    members = {"method": method, "__doc__": f"{method.label}: {method.about}.\n\n{MethodTrainer.__doc__}"}
    return type(trainer_name(method), (MethodTrainer,), members)


def trainer_name(method: Method) -> str:
    """The name of a method's trainer, such as `PQMTheoreticalTrainer` for `pqm_theoretical`."""
    first, *rest = method.name.split("_")
    return f"{first.upper()}{''.join(word.capitalize() for word in rest)}Trainer"
