"""Published process reward models: each one's template, where it is read, and what is read there.

Every Q is the logit of the owner's probability, computed from logits and never from a rounded probability.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from qstep.data import (
    Placed,
    Turn,
    beginning,
    check_separator,
    encode_chat,
    encode_ended,
    encode_joined,
    encode_text,
    one_token,
)
from qstep.models import ModelOptions, ScorerModel, WordPairModel
from qstep.models.loading import load_causal_lm
from qstep.scoring.formats import Encoded
from qstep.types import Aggregation, Dtype, Prompt, Row


@dataclass(kw_only=True)
class Published(ABC):
    """What all kinds have; the fields but the tokenizer are a kind's options.

    Args:
        max_length: in tokens; that of the model and its tokenizer by default.
        step_separator: at which text responses are cut into steps.
        aggregation: how a response's score is made of its Qs.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    step_separator: str = "\n\n"
    aggregation: Aggregation = "min"

    objective: ClassVar[str]

    def __post_init__(self) -> None:
        check_separator("scorer_options.step_separator", self.step_separator)
        if self.aggregation not in get_args(Aggregation):
            raise ValueError(
                f"--scorer_options.aggregation is {self.aggregation!r}; choose one of "
                f"{', '.join(get_args(Aggregation))}"
            )

    @abstractmethod
    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        """The model, which reads the steps."""

    @abstractmethod
    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        """The sequences in which the steps are read."""

    def fits(self, row: Row) -> bool:
        """Whether none of a row's sequences is longer than `max_length`."""
        return all(
            len(shared) + len(ids) <= self.max_length
            for shared, ids, _ in self.encode(row["prompt"], row["completions"])
        )


def _behind(shared: Sequence[int], ids: Sequence[int], ends: Sequence[int]) -> Encoded:
    """A sequence cut behind what it has in common with `shared`; what lies behind its last step is left out."""
    common = next((i for i, pair in enumerate(zip(shared, ids, strict=False)) if pair[0] != pair[1]), len(shared))
    common = min(common, ends[0])
    return list(ids[:common]), list(ids[common : ends[-1] + 1]), [end - common for end in ends]


def _turns(prompt: Prompt) -> list[Turn]:
    """The turns of a prompt; a text is the user's. Raises ValueError where the last is not the user's."""
    turns = [("user", [prompt])] if isinstance(prompt, str) else [(turn["role"], [turn["content"]]) for turn in prompt]
    if turns[-1][0] != "user":
        raise ValueError(f"the prompt ends with a turn of {turns[-1][0]!r}; this scorer's format asks for a question")
    return [*turns]


def _question(prompt: Prompt) -> str:
    """The question of a prompt. Raises ValueError for a conversation of more than the user's one turn."""
    if isinstance(prompt, str):
        return prompt
    if [turn["role"] for turn in prompt] != ["user"]:
        roles = ", ".join(turn["role"] for turn in prompt)
        raise ValueError(f"the prompt has turns of {roles}; this scorer's format has a place for one question only")
    return prompt[0]["content"]


@dataclass(kw_only=True)
class QwenPRM(Published):
    """Qwen2.5-Math-PRM (https://huggingface.co/Qwen/Qwen2.5-Math-PRM-7B).

    The chat template with a system prompt, the question, and as the assistant's turn the steps, each followed by
    `<extra_0>`. At that token a head of two layers (`score.0`, ReLU, `score.2`) has two outputs, of whose softmax the
    second is the probability that the step is right.

    Args:
        system_prompt: where the prompt has no system turn of its own.
    """

    system_prompt: str = "Please reason step by step, and put your final answer within \\boxed{}."

    objective: ClassVar[str] = "qwen_prm"
    tag: ClassVar[str] = "<extra_0>"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tag not in self.tokenizer.added_tokens_encoder:
            raise ValueError(f"the tokenizer has no token {self.tag}: use the one saved with the scorer")
        self.tokenizer.add_special_tokens({"extra_special_tokens": [self.tag]})  # so that no text becomes it
        self.tag_id = self.tokenizer.added_tokens_encoder[self.tag]

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        def head(config: PretrainedConfig) -> nn.Module:
            size = config.get_text_config().hidden_size
            return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 2))

        return ScorerModel.published(name, dtype, labels=2, head=head)

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        turns = _turns(prompt)
        if turns[0][0] != "system":
            turns.insert(0, ("system", [self.system_prompt]))
        if not steps:
            return []
        shared, _ = encode_chat(self.tokenizer, turns, add_generation_prompt=True)
        marked = [part for step in steps for part in (step, self.tag_id)]
        return [_behind(shared, *encode_chat(self.tokenizer, [*turns, ("assistant", marked)]))]


@dataclass(kw_only=True)
class MathShepherd(Published):
    """Math-Shepherd (https://huggingface.co/peiyi9979/math-shepherd-mistral-7b-prm).

    The text `question Step 1: ... <tag>`, then on lines of their own `Step 2: ... <tag>` and so on. At each tag the
    softmax over the logits of the good and the bad word; that of the good one is the probability.

    Args:
        step_tag: the word behind each step, one token.
        good_token: the word that says yes, one token.
        bad_token: the word that says no, one token.
        number_steps: put `Step n: ` before a step that does not begin so.
    """

    step_separator: str = "\n"
    step_tag: str = "\u043a\u0438"
    good_token: str = "+"
    bad_token: str = "-"
    number_steps: bool = True

    objective: ClassVar[str] = "math_shepherd"

    def __post_init__(self) -> None:
        super().__post_init__()
        ids, (before, tag, _) = encode_joined(self.tokenizer, ["1", f" {self.step_tag}", "\n"])
        if tag != before + 1:
            raise ValueError(
                f"--scorer_options.step_tag {self.step_tag!r} is {tag - before} tokens for this tokenizer. It is not "
                "the one this scorer was trained with, or the option has to be changed"
            )
        self.tag_id = ids[tag]
        self.words = _words(self.tokenizer, good_token=self.good_token, bad_token=self.bad_token)

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        return _word_pair(name, dtype, self.words)

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        question = _question(prompt)
        if not steps:
            return []
        texts = [question]
        for n, step in enumerate(steps, 1):
            numbered = step if not self.number_steps or re.match(r"Step \d+:", step) else f"Step {n}: {step}"
            texts += [(" " if n == 1 else "\n") + numbered, f" {self.step_tag}"]
        first = beginning(self.tokenizer)
        ids, ends = encode_joined(self.tokenizer, texts)
        tags = ends[2::2]
        for step, tag in zip(steps, tags, strict=True):
            if ids[tag] != self.tag_id:
                raise ValueError(f"the tag {self.step_tag!r} is not a token of its own behind the step {step!r}")
        shared = [*first, *encode_text(self.tokenizer, question)]
        return [_behind(shared, [*first, *ids], [tag + len(first) for tag in tags])]


@dataclass(kw_only=True)
class RLHFlow(Published):
    """RLHFlow's PRMs (https://huggingface.co/RLHFlow/Llama3.1-8B-PRM-Deepseek-Data, `math-rm/prm_evaluate.py` of
    github.com/RLHFlow/RLHF-Reward-Modeling).

    A conversation: the question, a blank and the first step are the user's first turn, each further step is a turn,
    and to each the assistant answers `+`. Where it does, the softmax over the logits of `+` and `-`; that of `+` is
    the probability.

    Args:
        good_token: the word that says yes, one token.
        bad_token: the word that says no, one token.
    """

    good_token: str = "+"
    bad_token: str = "-"

    objective: ClassVar[str] = "rlhflow"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.words = _words(self.tokenizer, good_token=self.good_token, bad_token=self.bad_token)

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        return _word_pair(name, dtype, self.words)

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        *before, (_, question) = _turns(prompt)
        if not steps:
            return []
        turns: list[Turn] = [*before]
        for n, step in enumerate(steps):
            turns += [("user", [step] if n else [*question, " ", step]), ("assistant", [Placed(self.good_token)])]
        shared, _ = encode_chat(self.tokenizer, [*before, ("user", question)])
        ids, answers = encode_chat(self.tokenizer, turns)
        if any(ids[answer] != self.words[0] for answer in answers):
            raise ValueError(
                f"the answer {self.good_token!r} is not a token of its own in this tokenizer's conversations"
            )
        return [_behind(shared, ids, [answer - 1 for answer in answers])]


@dataclass(kw_only=True)
class Skywork(Published):
    """Skywork-o1-Open-PRM (https://huggingface.co/Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B,
    github.com/SkyworkAI/skywork-o1-prm-inference).

    The beginning-of-sequence token, the question and a line break; then the steps, each with a line break behind it. At
    the latter the value head `v_head.summary`, one linear layer, whose sigmoid is the step's reward.
    """

    step_separator: str = "\n"

    objective: ClassVar[str] = "skywork"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.end_id = one_token(self.tokenizer, "\n", "the line break")
        if self.tokenizer.bos_token_id is None:
            raise ValueError("the tokenizer has no beginning-of-sequence token: use the one saved with the scorer")

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        return ScorerModel.published(name, dtype, labels=1, renamed={r"^v_head\.summary\.": "score."})

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        shared = [self.tokenizer.bos_token_id, *encode_text(self.tokenizer, _question(prompt) + "\n")]
        return [(shared, *encode_ended(self.tokenizer, steps, [self.end_id]))]


@dataclass(kw_only=True)
class TRLClassifier(Published):
    """A token classifier with two labels that TRL's PRMTrainer made (https://huggingface.co/docs/trl/v0.24.0/prm_trainer).

    The beginning-of-sequence token, if the tokenizer knows one, the prompt's text, and the steps' tokens, each followed
    by those of the separator. At the last of these the softmax over the two labels; label 1 is a right step.
    """

    step_separator: str = "\n"

    objective: ClassVar[str] = "trl"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.separator_ids = encode_text(self.tokenizer, self.step_separator)

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        return ScorerModel.published(name, dtype, labels=2)

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        bos = self.tokenizer.bos_token_id
        shared = [*([] if bos is None else [bos]), *encode_text(self.tokenizer, _question(prompt))]
        return [(shared, *encode_ended(self.tokenizer, steps, self.separator_ids))]


@dataclass(kw_only=True)
class Generative(Published):
    """A verifier that answers in words (arXiv 2408.15240, without a chain of thought).

    For each step, a prompt with the question and the solution up to that step; the softmax over the logits of the next
    token being `good_token` or `bad_token` is the probability. It is the user's turn of the tokenizer's chat template,
    if there is one, else the text as it is. What the prompts have in common before the solution is computed once; a
    response of n steps is read in n prompts.

    Args:
        template: the critique prompt, with `{question}` and `{solution}` where these stand.
        good_token: the word that says yes, one token.
        bad_token: the word that says no, one token.
    """

    template: str = (
        "Question:\n{question}\n\nSolution so far:\n{solution}\n\n"
        "Is every step of this solution correct? Answer with Yes or No."
    )
    good_token: str = "Yes"
    bad_token: str = "No"

    objective: ClassVar[str] = "generative"
    parts: list[str] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.words = _words(self.tokenizer, good_token=self.good_token, bad_token=self.bad_token)
        self.parts = re.split(r"(\{question\}|\{solution\})", self.template)
        if [part for part in self.parts if part in ("{question}", "{solution}")] != ["{question}", "{solution}"]:
            raise ValueError("--scorer_options.template has to hold {question} and then {solution}, each once")

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        return _word_pair(name, dtype, self.words)

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        question = _question(prompt)
        shared = self._critique(question, "")
        critiques = [self._critique(question, self.step_separator.join(steps[:n])) for n in range(1, len(steps) + 1)]
        return [_behind(shared, ids, [len(ids) - 1]) for ids in critiques]

    def _critique(self, question: str, solution: str) -> list[int]:
        filled = {"{question}": question, "{solution}": solution}
        text = "".join(filled.get(part, part) for part in self.parts)
        if self.tokenizer.chat_template is None:
            return [*beginning(self.tokenizer), *encode_text(self.tokenizer, text)]
        return encode_chat(self.tokenizer, [("user", [text])], add_generation_prompt=True)[0]


def _words(tokenizer: PreTrainedTokenizerBase, **words: str) -> tuple[int, int]:
    good, bad = (one_token(tokenizer, word, f"--scorer_options.{name}") for name, word in words.items())
    if good == bad:
        raise ValueError(f"--scorer_options {' and '.join(words)} are the same token for this tokenizer")
    return good, bad


def _word_pair(name: str, dtype: Dtype, words: tuple[int, int]) -> nn.Module:
    options: Any = ModelOptions(model_name_or_path=name, dtype=dtype)
    return WordPairModel(load_causal_lm(options, use_safetensors=True), *words)
