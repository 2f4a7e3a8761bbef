"""Sampling from every family: what the cache gives is what the model gives without one."""

from __future__ import annotations

import pytest
import torch

from model_families import FAMILIES, PADDED, tiny
from qstep.generation import HFEngine, Request, SamplingSettings
from qstep.models import PolicyModel, collate_groups
from qstep.tasks import miniature

PROMPTS = {"a": [1, 2, 3], "b": [4, 5, 6, 7, 8, 9, 1, 2], "c": [3]}


@pytest.mark.parametrize("family", [*FAMILIES, *PADDED])
def test_sampled_tokens_have_the_log_probs_that_training_gives_them(family: str) -> None:
    """Prompts of three lengths in one batch, responses beyond every sliding window: to 1e-4 of the packed forward."""
    engine = HFEngine(tiny(family), miniature.tokenizer())
    requests = [Request(name, prompt, [0, 1, 2]) for name, prompt in PROMPTS.items()]
    sampled = {request.key: responses for request, responses in engine.sample(requests, SamplingSettings(12, seed=5))}
    policy = PolicyModel(tiny(family))
    with torch.no_grad():
        logps = policy(collate_groups([*PROMPTS.values()], [[r.token_ids for r in sampled[name]] for name in PROMPTS]))
    responses = [response for name in PROMPTS for response in sampled[name]]
    assert len({tuple(response.token_ids) for response in responses}) > 3
    for row, response in zip(logps, responses, strict=True):
        assert response.logps == pytest.approx(row[: len(response.token_ids)].tolist(), abs=1e-4)


@pytest.mark.parametrize("family", [*FAMILIES, *PADDED])
def test_greedy_tokens_are_the_likeliest_without_a_cache(family: str) -> None:
    model = tiny(family)
    engine = HFEngine(model, miniature.tokenizer())
    requests = [Request(name, prompt, [0]) for name, prompt in PROMPTS.items()]
    for request, (response,) in engine.sample(requests, SamplingSettings(8, temperature=0.0)):
        ids = list(request.prompt_ids)
        for token in response.token_ids:
            with torch.no_grad():
                assert model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax() == token
            ids.append(token)
