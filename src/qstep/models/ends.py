"""The tokens that end a model's responses."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qstep.data.chat import end_of_turn


def declared_ends(model: PreTrainedModel) -> set[int]:
    """The end-of-text tokens in a model's generation config."""
    declared = None if model.generation_config is None else model.generation_config.eos_token_id
    return {*(declared if isinstance(declared, list) else [declared])} - {None}


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that may end a response: those that the model declares, and the tokenizer's ends of text and turn."""
    return sorted({*declared_ends(model), tokenizer.eos_token_id, end_of_turn(tokenizer)} - {None})
