"""Sampling from every family: what the cache gives is what the model gives without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from model_families import FAMILIES, PADDED, tiny
from qstep.generation import HFEngine, Request, SamplingSettings
from qstep.generation.cached_model import CachedModel
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


def test_a_cache_that_changes_something_is_refused() -> None:
    """RWKV has a state that the cache of others does not know; a model whose cache is off by a little."""
    shape = dict(vocab_size=18, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, intermediate_size=64)
    rwkv = AutoModelForCausalLM.from_config(AutoConfig.for_model("rwkv", **shape, eos_token_id=16)).eval()
    off = tiny("llama")
    off.model.layers[1].self_attn.register_forward_pre_hook(_doubles_cached_values, with_kwargs=True)
    for model in (rwkv, off):
        with pytest.raises(ValueError, match=r"cannot be sampled in this process: its cache .* --engine vllm or http"):
            HFEngine(model, miniature.tokenizer())


def _doubles_cached_values(module: torch.nn.Module, args: object, kwargs: dict[str, object]) -> None:
    cache: Any = kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length(1):
        cache.layers[1].values = cache.layers[1].values * 2


def test_padding_that_enters_a_state_is_left_out() -> None:
    """Prompts of three lengths are three batches, those of one length are one."""
    model = tiny("mamba")
    for layer in model.backbone.layers:
        torch.nn.init.constant_(layer.mixer.conv1d.bias, 0.3)  # so that a padded position changes the state
    assert CachedModel(tiny("llama")).takes_padding
    engine, widths = HFEngine(model, miniature.tokenizer()), []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    prompts = [*PROMPTS.values(), [7, 8, 9]]
    requests = [Request(str(number), prompt, [0]) for number, prompt in enumerate(prompts)]
    assert len([*engine.sample(requests, SamplingSettings(1))]) == 4
    assert widths == [(1, 8), (2, 3), (1, 1)]
