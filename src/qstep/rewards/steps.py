"""The reward that a scorer gives the steps of a response, for the response or for each of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, get_args

from qstep.data import checked_prompt, final_text, has_turns, last_text, row_step_ends, spread_scores, with_steps
from qstep.rewards.reading import Reading, column
from qstep.runs.progress import say
from qstep.tasks.task import unanswered
from qstep.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from qstep.scoring import Scorer

Form = Literal["min", "sum", "last", "potential"]
"""How the rewards of steps become those of a response or of its tokens."""

_TURN = Lock()
"""Held while a scorer works. verl and OpenRLHF call from several threads, and a tokenizer serves one at a time."""


@dataclass(kw_only=True)
class StepReward(Reading):
    """The reward that a scorer gives the steps of a response, as TRL, verl and OpenRLHF take it.

    A step is worth the sigmoid of its Q, between 0 and 1. A completion without steps gets 0, the lowest reward. So does
    one without a final answer: its thinking is never closed, or it was cut off before it stated its answer.
    `on_tokens` places the rewards on the policy's tokens.

    Args:
        scorer: a scorer of `load_scorer`, or the folder or Hub id of one.
        form: `min` is the lowest step, the limit of PURE's min-form (arXiv 2504.15275). `sum` adds all steps, so it
            rewards more of them. `last` is the last step. `potential` is for `on_tokens` alone: the differences between
            steps, taken back at the last token, which keep the optimal policy.
        endpoint: address of a server that holds the scorer's weights (`qstep serve` or vLLM). `scorer` is then the
            folder. Only its config.json and its tokenizer are read.
        question: the column of the data set with the question as the scorer reads it. The default is the prompt.
        max_tokens: maximum number of tokens scored at once.
        tokenizer: the policy's tokenizer. With it, `completion_ids` show which completions were cut off, and where the
            thinking begins and ends if its marks are special tokens.
        thinking_opened: the mark with which the policy's chat template opens the thinking, such as `<think>`.

    Raises:
        ValueError: a completion is longer than the scorer's `max_length`. The message names its index.

    Example:
        >>> reward = qstep.StepReward("runs/pqm", "min")
        >>> found = reward(prompts=["1+2*3="], completions=["1+2=3\\n3*3=9\\n#9"])
        >>> [scored] = qstep.score([{"prompt": "1+2*3=", "completion": "1+2=3\\n3*3=9\\n#9"}], "runs/pqm")
        >>> found == [min(scored["step_rewards"])]
        True
    """

    scorer: Scorer | str | Path = field(kw_only=False)
    form: Form = field(default="min", kw_only=False)
    endpoint: str | None = None
    question: str | None = None
    max_tokens: int = 8192
    _scorer: Scorer = field(init=False, repr=False)
    _has_warned: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in get_args(Form):
            raise ValueError(f"form is {self.form!r}: choose {', '.join(get_args(Form))}")
        self._scorer = _loaded(self.scorer, self.endpoint)
        self.__name__ = f"{self._scorer.objective}_{self.form}"

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        ended: Sequence[bool] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """The reward of each completion.

        TRL gives `log_metric`. It then logs the number of steps, the share of steps that repeat an earlier one, and the
        shares of completions with one step and without an answer. A policy that exploits the scorer changes these.

        Raises ValueError for the form `potential`, which says nothing about a complete response.
        """
        if self.form == "potential":
            raise ValueError(
                "form is 'potential', whose rewards add up to 0 in every response. They mean something only on "
                "tokens: call on_tokens, or choose last"
            )
        rows = self._scored(self.rows(prompts, completions, completion_ids, ended), columns)
        if log_metric is not None and rows:
            for name, value in _facts(rows).items():
                log_metric(f"{self.__name__}/{name}", value)
        return [sum(_paid(row["step_rewards"], self.form)) for row in rows]

    def on_tokens(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        *,
        ended: Sequence[bool] | None = None,
        **columns: Any,
    ) -> list[list[float]]:
        """A reward for each of the policy's tokens: that of a step at the token that ends it, and 0 elsewhere.

        `min` rewards the first of the lowest steps, and `last` the last one. `potential` has the rewards of
        `qstep.losses.potential_based_rewards`. A list of completion i has one number for each of `completion_ids[i]`.

        Raises ValueError without `tokenizer`, for a response of several turns, and if the tokens are not those of the
        completion.
        """
        if self.tokenizer is None:
            raise ValueError("on_tokens needs the policy's tokenizer: StepReward(..., tokenizer=tokenizer)")
        rows = self._scored(self.rows(prompts, completions, completion_ids, ended), columns)
        return [self._placed(self.tokenizer, row) for row in rows]

    def _scored(self, rows: list[Row], columns: Mapping[str, Any]) -> list[Row]:
        """The rows with their steps and `step_rewards`, which are empty without a final answer."""
        name = self.question or "prompts"
        if self.question is not None:
            asked = column(self.question, columns, len(rows), "question")
            questions = [checked_prompt(value, f"{name}[{index}]") for index, value in enumerate(asked)]
        else:
            questions = [row["prompt"] for row in rows]
        for index, question in enumerate(questions):
            if not last_text(question).strip():
                raise ValueError(f"{name}[{index}] is blank: a scorer needs the question")
        with _TURN:
            if not self._has_warned:
                self._warn(questions, name)
            split = [with_steps(row, self._scorer.step_separator) for row in rows]
            complete = [
                row["completions"] != [] and final_text(row["completion"]).strip() != "" and unanswered(row) is None
                for row in split
            ]
            read = [row | {"prompt": question} for row, question in zip(split, questions, strict=True)]
            found = iter(
                self._step_rewards([row for row, is_complete in zip(read, complete, strict=True) if is_complete])
            )
        return [
            row | {"step_rewards": next(found) if is_complete else []}
            for row, is_complete in zip(split, complete, strict=True)
        ]

    def _step_rewards(self, rows: list[Row]) -> list[list[float]]:
        from qstep.scoring.aggregation import with_scores

        batches = self._scorer.score_rows(rows, max_tokens=self.max_tokens)
        return [with_scores(scored, self._scorer)["step_rewards"] for batch in batches for scored in batch]

    def _warn(self, questions: Sequence[Any], name: str) -> None:
        from qstep.scoring.options import warn_of_prompts

        warn_of_prompts(questions, self._scorer, name)
        if self._scorer.objective == "dqo":
            say(
                "Warning: the Q of a DQO policy is an expected reward, so its sigmoid is no probability that a step is "
                "right. It only ranks steps"
            )
        self._has_warned = True

    def _placed(self, tokenizer: PreTrainedTokenizerBase, row: Row) -> list[float]:
        rewards, length = row["step_rewards"], len(row["completion_ids"])
        if has_turns(row["completion"]):
            raise ValueError(f"{row['id']} has several turns, whose tokens are not all the policy's")
        if not rewards:
            return [0.0] * length
        try:
            ends = row_step_ends(tokenizer, row, row["completions"], self._scorer.step_separator)
        except ValueError as error:
            raise ValueError(f"{row['id']}: {error}") from None
        if self.form == "potential":
            return _potential(rewards, ends, length)
        return spread_scores(_paid(rewards, self.form), ends, length)


def _loaded(scorer: Any, endpoint: str | None) -> Scorer:
    if isinstance(scorer, str | Path):
        from qstep.scoring.options import ScorerOptions

        return ScorerOptions(scorer=str(scorer), endpoint=endpoint).load_scorer()
    if endpoint is not None:
        raise ValueError("endpoint has no effect with a loaded scorer: give the folder of the scorer instead")
    if not hasattr(scorer, "score_rows"):
        raise TypeError(f"scorer is {scorer!r}: give a scorer of load_scorer, a folder or a Hub id")
    return scorer


def _paid(rewards: Sequence[float], form: Form) -> list[float]:
    """The rewards of the steps that the form counts, and 0 for the others. Their sum is the response's reward."""
    if form == "sum" or not rewards:
        return [*rewards]
    counted = rewards.index(min(rewards)) if form == "min" else len(rewards) - 1
    return [reward if step == counted else 0.0 for step, reward in enumerate(rewards)]


def _potential(rewards: Sequence[float], ends: Sequence[int], length: int) -> list[float]:
    import torch

    from qstep.losses import potential_based_rewards

    mask = torch.ones(1, length, dtype=torch.bool)
    return potential_based_rewards(torch.tensor([rewards]), torch.tensor([ends]), mask)[0].tolist()


def _facts(rows: Sequence[Row]) -> dict[str, float]:
    """What a policy that exploits a scorer changes."""
    steps = [row["completions"] for row in rows]
    total = sum(map(len, steps))
    return {
        "steps": total / len(rows),
        "repeated_steps": sum(len(of_row) - len({*of_row}) for of_row in steps) / max(total, 1),
        "single_step": sum(len(of_row) == 1 for of_row in steps) / len(rows),
        "unanswered": sum(not row["step_rewards"] for row in rows) / len(rows),
    }
