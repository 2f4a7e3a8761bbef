"""Reward functions with TRL's signature in the form that other libraries call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_OWN = ("prompts", "completions", "completion_ids", "ended", "log_metric")
"""The arguments of a reward that are no columns of the data set."""


def verl_reward(
    reward: Callable[..., Sequence[float | None]],
    *,
    question: str | None = "question",
    gold: str = "answer",
    ungradable: float = 0.0,
) -> Callable[..., dict[str, float]]:
    """A reward as verl's `compute_score(data_source, solution_str, ground_truth, extra_info)`.

    The dict that it returns has the `score`, which verl trains on, and whether the completion was `ungradable`, which
    verl logs.

    Args:
        reward: an `OutcomeReward`, a `StepReward`, or any reward function with TRL's signature.
        question: the entry of `extra_info` with the question. verl does not pass the prompt. None is for a reward that
            does not read it.
        gold: the name under which `reward` gets the ground truth. It gets the entries of `extra_info` by name too.
        ungradable: the score of a completion for which `reward` returns None.

    Example:
        >>> compute_score = qstep.verl_reward(qstep.OutcomeReward("math"), question=None)
        >>> compute_score("gsm8k", "So it is 5.", "5", {"index": 0})
        {'score': 1.0, 'ungradable': 0.0}
    """

    def compute_score(
        data_source: str,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, float]:
        known = dict(extra_info or {})
        if question is not None and question not in known:
            raise ValueError(
                f"extra_info has no {question!r}: add the question when you write the data, or name its entry with "
                f"verl_reward(..., question=...). It has {', '.join(known) or 'no entries'}"
            )
        columns = {name: [value] for name, value in (known | {gold: ground_truth}).items() if name not in _OWN}
        prompt = "" if question is None else known[question]
        [found] = reward(prompts=[prompt], completions=[solution_str], **columns)
        return {"score": ungradable if found is None else float(found), "ungradable": float(found is None)}

    return compute_score


def openrlhf_reward(
    reward: Callable[..., Sequence[float | None]],
    *,
    end: str,
    question: Callable[[str], Any] | None = None,
    gold: str = "answer",
    ungradable: float = 0.0,
) -> Callable[..., dict[str, Any]]:
    """A reward as OpenRLHF's `reward_func(queries, prompts, labels)`, for the file that `--reward.remote_url` names.

    A query is the text of prompt and response. The response is what follows the prompt. Without `end` it was cut off.

    Args:
        reward: an `OutcomeReward`, a `StepReward`, or any reward function with TRL's signature.
        end: the text of the token that ends a response, such as `<|im_end|>`.
        question: makes the question that a scorer reads from a prompt in the chat template. The default is the prompt.
        gold: the name under which `reward` gets the labels.
        ungradable: the reward of a completion for which `reward` returns None.

    Example:
        >>> reward_func = qstep.openrlhf_reward(qstep.OutcomeReward("math"), end="</s>")
        >>> reward_func(["2 + 3? It is 5.</s>"], ["2 + 3?"], ["5"])["rewards"]
        tensor([1.])
    """
    if not end:
        raise ValueError("end is empty: give the text of the token that ends a response, such as <|im_end|>")

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **options: Any
    ) -> dict[str, Any]:
        import torch

        texts = [_after(index, *both) for index, both in enumerate(zip(queries, prompts, strict=True))]
        found = reward(
            prompts=list(prompts) if question is None else [question(prompt) for prompt in prompts],
            completions=[text.removesuffix(end) for text in texts],
            ended=[text.endswith(end) for text in texts],
            **{gold: list(labels)},
        )
        rewards = torch.tensor([ungradable if value is None else float(value) for value in found])
        unknown = torch.tensor([float(value is None) for value in found])
        return {"rewards": rewards, "scores": rewards, "extra_logs": {"ungradable": unknown}}

    return reward_func


def _after(index: int, query: str, prompt: str) -> str:
    if not query.startswith(prompt):
        raise ValueError(
            f"queries[{index}] does not begin with prompts[{index}]: {query[:60]!r} and {prompt[:60]!r}. The tokenizer "
            "does not give the prompt back, so the response cannot be found"
        )
    return query[len(prompt) :]
