"""What the in-process engine does not take: requests, settings and models that cannot be sampled from."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from qstep.generation import HFEngine, Request, SamplingSettings
from tiny_policies import requests, sizes, tiny_llama, word_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny_llama()


def test_over_long_requests_are_refused(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """64 positions: 44 + 20 fit, 45 + 20 do not."""
    engine = HFEngine(llama, tokenizer)
    settings = SamplingSettings(20)
    assert len(list(engine.sample([Request("fits", [3] * 44, [0])], settings))) == 1
    with pytest.raises(ValueError, match=r"'long'.*45 tokens.*exceed the 64 positions.*max_new_tokens to 19 or less"):
        list(engine.sample([Request("long", [3] * 45, [0])], settings))


def test_foreign_tokens_are_refused(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"'x'.*3 to 16.*vocabulary of 16"):
        list(HFEngine(llama, tokenizer).sample([Request("x", [3, 16], [0])], SamplingSettings(1)))


def test_logits_that_are_no_numbers_are_an_error(tokenizer: PreTrainedTokenizerFast) -> None:
    broken = LlamaForCausalLM(LlamaConfig(**sizes()))
    torch.nn.init.constant_(broken.model.norm.weight, torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        list(HFEngine(broken, tokenizer).sample(requests(), SamplingSettings(3)))


def test_an_end_of_sequence_is_required(llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    endless = LlamaForCausalLM(LlamaConfig(**{**sizes(), "eos_token_id": None}))
    endless.generation_config.eos_token_id = None
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        HFEngine(endless, words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 1, "temperature": -0.1}, "temperature is -0.1"),
        ({"max_new_tokens": 1, "temperature": math.nan}, "temperature is nan"),
        ({"max_new_tokens": 1, "top_p": 0.0}, "top_p is 0.0"),
        ({"max_new_tokens": 1, "top_p": 1.1}, "top_p is 1.1"),
    ],
)
def test_settings_outside_their_range(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingSettings(**arguments)  # type: ignore[arg-type]


def test_a_request_without_room_for_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        Request("x", [1], [0], 0)


@pytest.mark.parametrize(
    ("prompt", "samples", "message"),
    [([], [0], "prompt_ids is empty"), ([1], [], "samples is empty"), ([1], [2, 2], "an index twice")],
)
def test_requests_that_ask_for_nothing_or_twice(prompt: list[int], samples: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Request("x", prompt, samples)


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="stop is empty"):
        SamplingSettings(4, stop="")
