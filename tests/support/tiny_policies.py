"""A policy of sixteen words, its tokenizer, and what it is asked: for the tests of the in-process engine."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from qstep.generation import Request

VOCABULARY = ["<pad>", "<eos>", "<end>", *"abcdefghijklm"]
EOS, END = 1, 2
PROMPTS = [[3, 4, 5], [6, 7, 8, 9, 10, 11, 12], [4, 4, 4, 4], [9], [5, 3, 8, 8, 14]]


def sizes(**more: object) -> dict[str, object]:
    return dict(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=[EOS, END],
        pad_token_id=0,
        **more,
    )


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({token: index for index, token in enumerate(VOCABULARY)}))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", pad_token="<pad>")


def tiny_llama() -> PreTrainedModel:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**sizes(num_key_value_heads=4))).eval()


def requests(samples: range | list[int] = range(6)) -> list[Request]:
    return [Request(f"p{index}", prompt, samples) for index, prompt in enumerate(PROMPTS)]
