"""Sampling responses: the request, the settings, and the protocol of every engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

from qstep.runs.options import AtLeast1, Bounds, Check, check_options
from qstep.types import Response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Request:
    """The responses wanted for one prompt.

    `samples` are the indices of the responses to draw. So a job that has some responses of a problem can request the
    others only. `key` enters the seeds of the rows: two requests with the same key, prompt, index and settings get the
    same tokens. `max_new_tokens` lowers the settings' limit for this request, since a rollout from the middle of a
    response has only the rest of the limit.

    Raises:
        ValueError: the prompt is empty, no sample is asked for, a sample index occurs twice, or the limit is
            below 1.
    """

    key: str
    prompt_ids: list[int]
    samples: Sequence[int]
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError(f"request {self.key!r}: prompt_ids is empty; give at least one token")
        if not self.samples:
            raise ValueError(f"request {self.key!r}: samples is empty; name at least one sample index")
        if len(set(self.samples)) != len(self.samples):
            raise ValueError(
                f"request {self.key!r}: samples names an index twice: {list(self.samples)}; "
                "the same index would draw the same response"
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"request {self.key!r}: max_new_tokens is {self.max_new_tokens}; it must be at least 1")

    def limit(self, settings: SamplingSettings) -> int:
        """The most tokens a response of this request may have."""
        own = self.max_new_tokens
        return settings.max_new_tokens if own is None else min(own, settings.max_new_tokens)


Temperature = Annotated[float, Bounds(least=0, below=math.inf)]
"""The factor on the logits is its inverse. 0 is greedy."""

TopP = Annotated[float, Bounds(above=0, most=1)]
"""The probability of the nucleus. 1 keeps every token."""


def _not_empty(name: str, stop: str) -> None:
    if not stop:
        raise ValueError(f"{name} is empty; give the string to stop at, or None")


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How a response is drawn.

    A `temperature` of 0 is greedy decoding. `top_p` is the nucleus: the smallest set of likeliest tokens
    whose probability, after temperature, reaches it. `stop` is a string that ends a response, with the
    finish reason `step`. The response ends with the first token that completes `stop` in its new text, wherever in the
    token that is. Only the tokens drawn by then count (vLLM and OpenAI's servers: `stop`, with
    `include_stop_str_in_output`).

    Raises:
        ValueError: a value lies outside its range.
    """

    FORM: ClassVar[str] = "{}"

    max_new_tokens: AtLeast1
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    seed: int = 0
    stop: Annotated[str | None, Check(_not_empty)] = None

    def __post_init__(self) -> None:
        check_options(self)


class Engine(Protocol):
    """Draws responses from a policy, whose `tokenizer` makes its prompts."""

    tokenizer: PreTrainedTokenizerBase

    def decode(self, token_ids: list[int]) -> str:
        """The text of a response's tokens, without the end-of-sequence token."""
        ...

    def sample(
        self, requests: Iterable[Request], settings: SamplingSettings
    ) -> Iterator[tuple[Request, list[Response]]]:
        """Yields every request once, as soon as all its responses are complete, in any order.

        The responses of a request come in the order of its `samples`. `requests` is read as needed, so it may
        be longer than memory.
        """
        ...


def check_length(request: Request, settings: SamplingSettings, positions: int) -> None:
    """Raises ValueError if the prompt and `max_new_tokens` of a request exceed a model's positions."""
    length, wanted = len(request.prompt_ids), request.limit(settings)
    if length + wanted > positions:
        raise ValueError(
            f"request {request.key!r}: a prompt of {length} tokens and max_new_tokens = "
            f"{wanted} exceed the {positions} positions of the model. "
            + (f"Lower max_new_tokens to {positions - length} or less" if length < positions else "Shorten the prompt")
        )
