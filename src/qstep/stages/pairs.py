"""`qstep pairs`: writes what a training method learns from, in TRL's dataset formats."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from qstep.data import check_separator
from qstep.runs.options import GIVEN, AtLeast1, Check, OutputFile, ReadIf, Seed, Threshold, settings_of
from qstep.runs.runner import Work, in_blocks, write_rows
from qstep.runs.shared_options import ModelName, RightAt, RowsInput, StepSeparator
from qstep.runs.stage_file import finished
from qstep.tasks.options import ColumnOptions
from qstep.types import OverLong, Pairs, TRLFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS_AT_ONCE = 1024

_PREFERENCE = ReadIf(format="preference")
_STEPWISE = ReadIf(format="stepwise")
_ASKS_RIGHT = ReadIf(format=("unpaired", "stepwise"), responses="right", truncated="drop")
_WITH_TOKENIZER = ReadIf(model_name_or_path=GIVEN)


@dataclass(kw_only=True)
class PairsConfig(ColumnOptions):
    """Writes what a training method learns from, in one of TRL's dataset formats.

    The rows are chosen by the code of `qstep train`, so the same options give the same examples. Rows that are left out
    are counted by reason, on the terminal and in the output's `.meta.json`.

    Args:
        input: graded rows; for `stepwise`, labelled rows, as `qstep train` reads them.
        output: the JSONL file to write.
        format: `preference` for DPO, `unpaired` for KTO, `prompt-completion` for SFT and rejection sampling, or
            `stepwise` for process reward models.
        pairs: the pairs of a problem's responses, as in `qstep train dpo`: `all`, `one` or `best_worst`.
        seed: the seed of `--pairs one`. The default is that of training.
        responses: the `right` responses and those without a grade, as `qstep train rs` reads, or `every` response, as
            `qstep train sft` reads.
        step_separator: the string that separates steps, or the `split:<name>` that cut them, as in training.
        separator_token: the single token that follows each step, as in training. Steps may not contain it.
        threshold: a soft label above this counts as right. TRL's labels are true or false.
        stop_at_first_error: write each response only up to and including its first wrong step, as training reads it.
        right_at: the reward from which a response without a label is right, as in training. The default is 1.
        truncated: what happens to responses that were cut off and are not right: `keep` or `drop`. Those that are kept
            are counted, because TRL ends each response as if it were complete.
        model_name_or_path: the model whose tokenizer counts tokens: a folder or a Hub id. Without it, rows of any
            length are written, and no tokens are counted.
        model_revision: branch, tag or commit of a Hub id.
        max_length: greatest length of a prompt with its response, in tokens.
        over_long: `refuse` stops at rows longer than max_length and names them; `drop` leaves them out and counts them.
    """

    responses_per_prompt: ClassVar[None] = None

    input: RowsInput
    output: OutputFile
    format: TRLFormat = "preference"
    pairs: Annotated[Pairs, _PREFERENCE] = "all"
    seed: Annotated[Seed, ReadIf(pairs="one")] = 42
    responses: Annotated[Literal["right", "every"], ReadIf(format="prompt-completion")] = "right"
    step_separator: Annotated[StepSeparator, _STEPWISE] = "\n"
    separator_token: Annotated[str, Check(check_separator), _STEPWISE] = "\n"
    threshold: Annotated[Threshold, _STEPWISE] = 0.0
    stop_at_first_error: Annotated[bool, _STEPWISE] = True
    right_at: Annotated[RightAt, _ASKS_RIGHT] = None
    truncated: Literal["keep", "drop"] = "keep"
    model_name_or_path: ModelName | None = None
    model_revision: Annotated[str | None, _WITH_TOKENIZER] = None
    max_length: Annotated[AtLeast1, _WITH_TOKENIZER] = 2048
    over_long: Annotated[OverLong, _WITH_TOKENIZER] = "refuse"

    @property
    def forbidden(self) -> list[str]:
        """The strings that no step may contain."""
        return sorted({self.step_separator, self.separator_token})

    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer of the model, if one is given."""
        from qstep.models.loading import load_tokenizer

        if self.model_name_or_path is None:
            return None
        return load_tokenizer(self.model_name_or_path, revision=self.model_revision)


def pairs(config: PairsConfig) -> Path:
    """Runs the stage and returns its output.

    Raises:
        RowError: a row is bad.
        ValueError: no row can be used, or the prompts have a form that the format cannot hold.
    """
    from qstep.data import tokenizer_fingerprint
    from qstep.objectives.exports import export_of
    from qstep.objectives.source import RowsFile

    tokenizer = config.tokenizer()
    read_by = {} if tokenizer is None else {"tokenizer": tokenizer_fingerprint(tokenizer)}
    settings = settings_of(config, input=finished(config.input), **read_by)

    def work(done: Collection[str]) -> Work:
        export = export_of(config, RowsFile(config.input, columns=config.columns), tokenizer)
        return Work(len(export.numbers), in_blocks(export.rows(), _ROWS_AT_ONCE), lambda _: export.summary())

    write_rows(config.output, "pairs", settings, work)
    return config.output
