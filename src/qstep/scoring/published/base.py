"""The base classes of the formats of published process reward models.

A format is a dataclass in a file named after its kind (`qstep.scoring.kinds`). It defines how a prompt and steps become
tokens, at which token each step is read, and which model reads it. Every Q is the logit of the owner's probability. It
is computed from logits, because a probability is rounded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from torch import nn
from transformers import PreTrainedTokenizerBase

from qstep.data import Turn, check_separator, one_token
from qstep.data.parts import base_of
from qstep.data.splitters import joint_of
from qstep.models import ModelOptions, StepContract, WordPairModel
from qstep.models.loading import load_causal_lm
from qstep.runs.near import did_you_mean
from qstep.runs.options import About, Bounds, Check, check_value, options_of
from qstep.scoring.checkpoint import Checkpoint
from qstep.scoring.formats import Encoded
from qstep.types import Aggregation, Dtype, Prompt, PromptKind, Row


@dataclass(kw_only=True)
class Published(ABC):
    """A format. Its fields are the options of its kind of scorer, except for the tokenizer. `check` checks them.

    Args:
        max_length: maximum number of tokens; by default the limit of the model and its tokenizer.
        step_separator: the string at which responses are cut into steps.
        aggregation: how a response's score is computed from its Qs.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: Annotated[int, Bounds(least=1)]
    step_separator: Annotated[str, Check(check_separator)] = "\n\n"
    aggregation: Aggregation = "min"

    kind: ClassVar[str]
    """The format's name in `qstep.scoring.kinds`."""
    sums_over_response: ClassVar[bool] = False
    reads_reference: ClassVar[bool] = False
    """Whether `model` compares with a reference model."""

    @property
    def objective(self) -> str:
        """What the model was trained for."""
        return self.kind

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Raises ValueError for an option that the format does not have, or a value that is not allowed."""
        known = cls.options()
        for option, value in options.items():
            name = f"--scorer_options.{option}"
            if option not in known:
                near = did_you_mean(option, known, "--scorer_options.{}")
                raise ValueError(
                    f"{name} is not read by a scorer of kind {cls.kind}{near}. It reads {', '.join(known)}"
                )
            types, words = _taken(known[option].hint)
            if type(value) not in types:
                raise ValueError(f"{name} is {value!r}; a scorer of kind {cls.kind} takes {words} there")
            choices = get_args(known[option].hint) if get_origin(known[option].hint) is Literal else (value,)
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
            check_value(name, known[option], value)

    @classmethod
    def options(cls) -> dict[str, About]:
        """The options of the kind, in alphabetical order."""
        names = sorted(field.name for field in fields(cls) if field.init and field.name != "tokenizer")
        return {name: options_of(cls)[name] for name in names}

    @property
    def joint(self) -> str:
        """The text between steps. Raises ValueError if `step_separator` names a function of the user's."""
        return joint_of(base_of(self.step_separator))

    @classmethod
    def recognises(cls, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint is certainly of this format. The files of most formats do not show it."""
        return False

    @abstractmethod
    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        """The model that reads the steps. Its `forward(batch)` gives their Qs, `[B, S]`."""

    @abstractmethod
    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        """The sequences in which the steps are read."""

    def fits(self, row: Row) -> bool:
        """Whether none of a row's sequences is longer than `max_length`."""
        return all(
            len(shared) + len(ids) <= self.max_length
            for shared, ids, _ in self.encode(row["prompt"], row["completions"])
        )

    def unlike_training(self, prompt: Prompt, instruction: str | None = None) -> str | None:
        """Always None, because `encode` puts every prompt into the owner's format."""
        return None

    def contract(self) -> StepContract:
        """The step contract that describes the same format, for `qstep export`.

        Raises ValueError if no contract can describe it.
        """
        raise ValueError(f"a scorer of kind {self.kind} has a format that the step contract does not express")

    def contract_with(self, separator: Sequence[int], prompts: PromptKind) -> StepContract:
        """The step contract of this format, whose steps end with `separator`.

        Raises ValueError if `separator` is not one token.
        """
        if len(separator) != 1:
            raise ValueError(
                f"its separator {self.step_separator!r} is {len(separator)} tokens for this tokenizer, and a step "
                "contract has one"
            )
        return StepContract.create(
            self.tokenizer,
            step_separator=self.step_separator,
            separator_token=str(self.tokenizer.decode(list(separator))),
            max_length=self.max_length,
            aggregation=self.aggregation,
            objective=self.objective,
            prompts=prompts,
        )


def _taken(hint: Any) -> tuple[tuple[type, ...], str]:
    """The types that an option accepts, and their name in messages."""
    if hint in (int, bool):
        return (hint,), "a whole number" if hint is int else "true or false"
    return ((int, float, type(None)), "a number") if hint == float | None else ((str,), "a string")


@dataclass(kw_only=True)
class WordVerdicts(Published):
    """A format in which a language model says yes or no after each step.

    The softmax over the logits of the two words; that of the good one is the probability.

    Args:
        good_token: the word that says yes, one token.
        bad_token: the word that says no, one token.
    """

    good_token: str = "+"
    bad_token: str = "-"

    def __post_init__(self) -> None:
        words = {name: getattr(self, name) for name in ("good_token", "bad_token")}
        good, bad = (one_token(self.tokenizer, word, f"--scorer_options.{name}") for name, word in words.items())
        if good == bad:
            raise ValueError("--scorer_options good_token and bad_token are the same token for this tokenizer")
        self.words = good, bad

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        options: Any = ModelOptions(model_name_or_path=name, dtype=dtype)
        return WordPairModel(load_causal_lm(options, use_safetensors=True), *self.words)


def split_shared(shared: Sequence[int], ids: Sequence[int], ends: Sequence[int]) -> Encoded:
    """A sequence cut after the tokens that it has in common with `shared`. Tokens after the last step are left out."""
    common = next((i for i, pair in enumerate(zip(shared, ids, strict=False)) if pair[0] != pair[1]), len(shared))
    common = min(common, ends[0])
    return list(ids[:common]), list(ids[common : ends[-1] + 1]), [end - common for end in ends]


def turns_of(prompt: Prompt) -> list[Turn]:
    """The turns of a prompt; a string is the user's. Raises ValueError if the last is not the user's."""
    turns = [("user", [prompt])] if isinstance(prompt, str) else [(turn["role"], [turn["content"]]) for turn in prompt]
    if not isinstance(prompt, str) and any(turn.keys() != {"role", "content"} for turn in prompt):
        raise ValueError("the prompt has tools or tool calls, which this scorer's format does not read")
    if turns[-1][0] != "user":
        raise ValueError(f"the prompt ends with a turn of {turns[-1][0]!r}; this scorer's format asks for a question")
    return [*turns]


def question_of(prompt: Prompt) -> str:
    """The question of a prompt. Raises ValueError for a conversation of more than the user's one turn."""
    if isinstance(prompt, str):
        return prompt
    if [turn["role"] for turn in prompt] != ["user"]:
        roles = ", ".join(turn["role"] for turn in prompt)
        raise ValueError(f"the prompt has turns of {roles}; this scorer's format has a place for one question only")
    return prompt[0]["content"]
