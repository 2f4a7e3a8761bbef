"""The types that all of qstep shares, and the legend of tensor shapes.

Shape suffixes:
    B  trajectories (responses) in a batch         G  groups (problems) in a batch
    S  steps of a response                         T  tokens of a response
    L  tokens of a packed batch                    M  response tokens of a packed batch
    H  attention heads                             K  key-value heads
    D  hidden size                                 d  size of a head
    V  vocabulary                                  N  responses of one group

A *group* is one problem with its N responses. Sampling makes groups, grading and annotation label them, best-of-n
chooses from them, and training learns from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, Any]
"""One turn of a conversation, `{"role": ..., "content": ...}`, perhaps with `tool_calls` (`qstep.data.messages`)."""

Prompt = str | list[Message]
"""A string that the model reads unchanged, or a conversation for the model's chat template."""

PromptKind = Literal["string", "messages", "mixed"]
"""The kind of a file's prompts: all strings, all conversations, or both."""

Verdict = Literal["right", "wrong", "ungradable"]
"""A grader's verdict on a response. `ungradable` never counts as wrong."""

FinishReason = Literal["stop", "length"]
"""Why a response ended: at the end-of-sequence token, or at the length limit."""

Ending = FinishReason | Literal["step"]
"""Why an engine stopped: a `FinishReason`, or the string that ends a step."""

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""The type of a model's weights. `auto` is the type in the checkpoint."""

Truncated = Literal["keep", "drop", "mask"]
"""What training does with responses that were cut off and are not right."""

OverLong = Literal["refuse", "drop"]
"""Whether rows longer than `max_length` tokens are refused or dropped."""

OverLongScored = Literal[OverLong, "window"]
"""What a scorer does with rows longer than its `max_length`."""

OverLongSearched = Literal["unscored", "window"]
"""What a search does with partial responses longer than the scorer's `max_length`."""

Aggregation = Literal["min", "last", "mean", "product"]
"""How a response's score is computed from its steps' Q-values."""

RolloutMethod = Literal["monte_carlo", "binary_search", "adaptive"]
"""How the steps of responses are labelled by rollouts of a model."""

Pairs = Literal["all", "one", "best_worst"]
"""The pairs of a problem's responses. `all`: every pair with different rewards. `one`: one of these, drawn by the seed.
`best_worst`: the first response in the file with the highest reward, and the first with the lowest."""

TRLFormat = Literal["preference", "unpaired", "prompt-completion", "stepwise"]
"""A dataset format of TRL."""

Row = dict[str, Any]
"""One row of a JSONL file."""

ABSENT = -100
"""The label of a step or slot without a label (the convention of torch's cross-entropy)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its gold answer. `task` decides who grades it and checks its steps."""

    id: str
    prompt: Prompt
    gold: str
    task: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled continuation.

    `token_ids` are exactly the sampled tokens. They include the end-of-sequence token if `finish_reason` is `stop`. If
    it is `step`, the response is unfinished, and its last token completed the string at which to stop. `logps[t]` is
    the log-probability of token t in nats under the sampling distribution, after temperature and nucleus. That is the
    behaviour policy mu of DQO's importance weights. A server may return neither (None).
    """

    sample: int
    text: str
    token_ids: list[int] | None
    logps: list[float] | None
    finish_reason: Ending


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` problems, with the limits of its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    n: int
