"""Accuracy during training: the policy answers validation problems, and the answers are graded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from qstep.data import encode_prompt, group_key, prompt_id, read_rows, write_jsonl
from qstep.models.loading import bare
from qstep.models.packable import unpacked
from qstep.objectives.config import PolicyConfig
from qstep.objectives.dataset import GroupDataset
from qstep.objectives.verdicts import refuse_two_golds
from qstep.processes import gathered, here, together
from qstep.runs.progress import say
from qstep.types import Row

if TYPE_CHECKING:
    from qstep.evals.accuracy import Outcomes
    from qstep.evals.measures import Accuracy
    from qstep.trainers.group_trainer import GroupTrainer

SAMPLES_FILE = "eval_samples.jsonl"
"""The file in the output folder with the responses to some problems at each evaluation."""

_WRITTEN = 4
"""The number of problems whose responses are written."""


class SampledAccuracy:
    """The accuracy of a policy in training on the first problems of the evaluation rows.

    Each process answers a part of the problems. A response is drawn from numbers that depend on the seed and the
    problem only. So equal weights give equal responses, and evaluations draw with the same numbers.

    Raises ValueError, naming the row, for a problem without a right answer or of an unknown task.
    """

    def __init__(self, config: PolicyConfig, tokenizer: PreTrainedTokenizerBase, dataset: GroupDataset) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.tasks = config.tasks()
        self.numbers = _first_problems(dataset, config.eval_samples)
        self.problems = [self._problem(dataset, number) for number in self.numbers]
        refuse_two_golds(dataset.source, dataset.index, self.tasks.of)
        self.file = Path(str(config.output_dir)) / SAMPLES_FILE
        self._has_written = False

    def _problem(self, dataset: GroupDataset, number: int) -> Row:
        row = dataset.index.row(number)
        if row.get("gold") is None and self.config.grader is None:
            raise dataset.source.error(
                dataset.index.line(number),
                "gold",
                "is missing, but --eval_samples needs the right answer of each problem. Add it, or give a --grader",
            )
        try:
            self.tasks.of(row)
        except ValueError as error:
            raise dataset.source.error(dataset.index.line(number), "task", str(error)) from None
        kept: Row = {name: row[name] for name in ("task", "prompt", "gold", "metadata") if name in row}
        return {"problem_id": row.get("problem_id") or prompt_id(row), **kept}

    def check(self, positions: int | None) -> None:
        """Raises ValueError if an answer may exceed the model's positions, or the file is not one of these."""
        longest = max(len(encode_prompt(self.tokenizer, row["prompt"])) for row in self.problems)
        if positions is not None and longest + self.config.eval_max_new_tokens > positions:
            raise ValueError(
                f"a validation prompt of {longest} tokens and --eval_max_new_tokens {self.config.eval_max_new_tokens} "
                f"exceed the {positions} positions of the model: lower --eval_max_new_tokens"
            )
        if self.file.exists() and any("step" not in row for row in read_rows(self.file)):
            raise ValueError(f"{self.file} holds other rows than --eval_samples writes: move it, or delete it")

    def measure(self, trainer: GroupTrainer, prefix: str) -> dict[str, float]:
        """Answers and grades the problems, writes some of the rows, and returns the metrics. All processes call it."""
        position, processes = here()
        own = self.problems[position::processes]
        shares = gathered(together(lambda: self._graded(trainer, own)))
        rows = [shares[number % processes][number // processes] for number in range(len(self.problems))]
        if position == 0:
            self._write(trainer.state.global_step, rows, adds=self._has_written or trainer.resumed_from is not None)
        return self._metrics(trainer.state.global_step, rows, prefix)

    def _graded(self, trainer: GroupTrainer, problems: Sequence[Row]) -> list[Row]:
        """The problems with the policy's answers and their grades, in their order."""
        from qstep.generation import HFEngine, Request, SamplingSettings
        from qstep.tasks import graded_rows, opened_thinking

        config, tokenizer = self.config, self.tokenizer
        model: Any = bare(trainer.bare_model.pretrained)
        settings = SamplingSettings(config.eval_max_new_tokens, config.eval_temperature, seed=config.seed)
        requests = [Request(row["problem_id"], encode_prompt(tokenizer, row["prompt"]), [0]) for row in problems]
        with unpacked(model), trainer.accelerator.autocast():
            found = {id(request): drawn for request, (drawn,) in HFEngine(model, tokenizer).sample(requests, settings)}
        rows = [
            {
                **row,
                **opened_thinking(tokenizer, row["prompt"], request.prompt_ids),
                "completion": found[id(request)].text,
                "completion_tokens": len(found[id(request)].token_ids or ()),
                "finish_reason": found[id(request)].finish_reason,
            }
            for row, request in zip(problems, requests, strict=True)
        ]
        return graded_rows(rows, self.tasks)

    def _write(self, step: int, rows: Sequence[Row], *, adds: bool) -> None:
        """Writes the responses to the first problems. With `adds`, those of earlier steps stay in the file.

        A run that begins replaces all responses, and a resumed one those of later steps.
        """
        shown = rows[:_WRITTEN]
        places = {group_key(row): place for place, row in enumerate(shown)}
        kept = [row for row in read_rows(self.file) if row["step"] < step] if adds and self.file.exists() else []
        kept += [{"id": f"{row['problem_id']}@{step}", "step": step, **row} for row in shown]
        write_jsonl(self.file, sorted(kept, key=lambda row: (places.get(group_key(row), _WRITTEN), row["step"])))
        self._has_written = True

    def _metrics(self, step: int, rows: Sequence[Row], prefix: str) -> dict[str, float]:
        from qstep.evals.accuracy import accuracy

        found = accuracy(_outcomes(rows))
        if here()[0] == 0:
            temperature = self.config.eval_temperature
            how = "greedy" if temperature == 0 else f"sampled at temperature {temperature:g}"
            say(f"step {step}: {_words(found)} on {len(rows)} problems ({how}). Some responses: {self.file}")
        estimate = {"": found.mean, "_low": found.low, "_high": found.high}
        return {
            **{f"{prefix}_accuracy{part}": math.nan if value is None else value for part, value in estimate.items()},
            f"{prefix}_sampled/ungradable": found.ungradable_share or 0.0,
            f"{prefix}_sampled/cut_off": sum(row["finish_reason"] == "length" for row in rows) / len(rows),
            f"{prefix}_sampled/mean_length": sum(row["completion_tokens"] for row in rows) / len(rows),
        }


def _words(found: Accuracy) -> str:
    if found.mean is None:
        return "no response could be graded"
    return f"accuracy {found.mean:.1%} [{found.low:.1%}, {found.high:.1%}]"


def _outcomes(rows: Sequence[Row]) -> Outcomes:
    from qstep.evals.accuracy import Outcomes

    verdicts = np.array([row["verdict"] for row in rows])
    return Outcomes((verdicts == "right").astype(float), (verdicts != "ungradable").astype(float))


def _first_problems(dataset: GroupDataset, count: int) -> list[int]:
    """A row of each of the first problems of a file, in its order: the first one with a right answer, if any has one.

    Also problems whose responses are left out of the evaluation loss.
    """
    table = dataset.index.table
    problems, first = np.unique(table["problem"], return_index=True)
    answered = np.flatnonzero(table["gold"])
    of_answered, first_answered = np.unique(table["problem"][answered], return_index=True)
    row_of = dict(zip(problems.tolist(), first.tolist(), strict=True))
    row_of |= dict(zip(of_answered.tolist(), answered[first_answered].tolist(), strict=True))
    chosen = [row_of[problem] for problem in problems[np.argsort(first)].tolist()][:count]
    if len(chosen) < count and here()[0] == 0:
        say(f"{dataset.source} has {len(chosen)} problems, fewer than --eval_samples {count}. All are used")
    return chosen
