"""Tiny policies that are sure of some tokens and unsure of others, and rows that they sample."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from byte_tokenizer import byte_tokenizer
from qstep.data import encode_prompt
from qstep.data.tokens import decode_text
from qstep.types import Row

TOKENS = 24


def tiny_policy(seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    more = dict(vocab_size=260, initializer_range=0.7, bos_token_id=None, eos_token_id=0, pad_token_id=0)
    return LlamaForCausalLM(LlamaConfig(**shape, **more, max_position_embeddings=256)).eval()


def saved_policy(folder: Path, seed: int) -> Path:
    tiny_policy(seed).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def drawn(
    model: PreTrainedModel, prompts: torch.Tensor, temperature: float, generator: torch.Generator
) -> torch.Tensor:
    """`TOKENS` sampled tokens after each prompt `[B, L]`."""
    ids, cache = prompts, None
    tokens: list[torch.Tensor] = []
    for _ in range(TOKENS):
        output = model(ids, past_key_values=cache, use_cache=True)
        probabilities = (output.logits[:, -1] / temperature).softmax(-1)
        ids, cache = torch.multinomial(probabilities, 1, generator=generator), output.past_key_values
        tokens.append(ids)
    return torch.cat(tokens, dim=1)


def samples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, *, temperature: float = 1.0, seed: int = 0
) -> list[Row]:
    """Rows of `count` responses, four to a problem, which end at the end of text or after `TOKENS` tokens."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[Row] = []
    for number in range(0, count, 4):
        prompt = [{"role": "user", "content": f"How much is {number}?"}]
        ids = torch.tensor([encode_prompt(tokenizer, prompt)] * 4)
        for sample, sampled in enumerate(drawn(model, ids, temperature, generator).tolist()):
            ended = 0 in sampled
            kept = sampled[: sampled.index(0) + 1] if ended else sampled
            rows.append(
                {
                    "id": f"{number}#{sample}",
                    "problem_id": str(number),
                    "prompt": prompt,
                    "completion": decode_text(tokenizer, kept),
                    "completion_ids": kept,
                    "finish_reason": "stop" if ended else "length",
                    "reward": float(sample % 2),
                }
            )
    return rows[:count]
