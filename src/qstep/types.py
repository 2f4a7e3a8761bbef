"""What flows through qstep, and the legend of tensor shapes.

Shape suffixes, used wherever axes meet:
    B  trajectories (responses) in a batch         G  groups (problems) in a batch
    S  steps of a response                         T  tokens of a response
    L  tokens of a packed batch                    M  response tokens of a packed batch
    H  attention heads                             K  key-value heads
    D  hidden size                                 d  size of a head
    V  vocabulary                                  N  responses of one group

A *group* is one problem with its N responses: sampling makes groups, grading and annotation label them,
best-of-N judges them, training learns from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, str]
"""One turn of a conversation, `{"role": ..., "content": ...}`."""

Prompt = str | list[Message]
"""A string that the model reads as it is, or a conversation that goes through the model's chat template."""

PromptKind = Literal["string", "messages", "mixed"]
"""What the prompts of a file are: all strings, all conversations, or some of each."""

Verdict = Literal["right", "wrong", "ungradable"]
"""A grader's decision about an answer. `ungradable` never counts as wrong."""

FinishReason = Literal["stop", "length"]
"""Why a response ended: the end-of-sequence token, or the length limit."""

Ending = FinishReason | Literal["step"]
"""Why an engine stopped: as `FinishReason`, or at the string that ends a step."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""The type of a model's weights; `auto` is the checkpoint's own."""

OverLong = Literal["refuse", "drop"]
"""Whether rows longer than `max_length` tokens are refused or dropped."""

Aggregation = Literal["min", "last", "mean", "product"]
"""How a response's score is computed from its steps' Q-values."""

Row = dict[str, Any]
"""One JSONL record as it lies on disk."""

ABSENT = -100
"""The label of a step, or of a slot, that has none (the convention of torch's cross-entropy)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its gold answer; `task` says who grades it and checks its steps."""

    id: str
    prompt: Prompt
    gold: str
    task: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled continuation.

    `token_ids` are exactly the tokens sampled, the end-of-sequence token included when `finish_reason` is `stop`. Where
    it is `step` the response is not at its end: its last token completed the text to stop at. `logps[t]` is the natural
    log-probability of token t under the distribution it was drawn from (after temperature and nucleus), which is the
    behaviour policy mu of DQO's importance weights. A server may give neither (None).
    """

    sample: int
    text: str
    token_ids: list[int] | None
    logps: list[float] | None
    finish_reason: Ending


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` problems with the limits of its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    n: int
