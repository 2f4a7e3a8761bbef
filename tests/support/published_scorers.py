"""Tiny random models in the layouts of published scorers, with tokenizers that have the tokens they need."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from qstep.models import ModelOptions, PolicyWithValue

CORPUS = [
    "Question: Tom has 3 apples and buys 12 more. How many apples does he have in all? Yes No yes no + - + - ки ки",
    "Step 1: He starts with 3 apples. ки\nStep 2: 3 + 12 = 15, so he has 15 apples. ки\nStep 3: The answer is 15 ки",
    "Is every step of this solution correct? Answer with Yes or No. Solution so far:\n\nWhat is 12 * 30 - 7 ?\n\n",
] * 40
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


@cache
def _bytes(bos: str | None, special: tuple[str, ...], template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(token, special=token != "<extra_0>", normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token="<eos>", chat_template=template)


def chatml_tokenizer() -> PreTrainedTokenizerFast:
    return _bytes(None, ("<|im_start|>", "<|im_end|>", "<extra_0>"), CHATML)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    return _bytes("<|begin_of_text|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), LLAMA)


def plain_tokenizer() -> PreTrainedTokenizerFast:
    """With a beginning-of-sequence token that it does not put there by itself."""
    return _bytes("<bos>", (), None)


@cache
def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """As Mistral's: a blank before each text, bytes for unknown characters, the beginning marked."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    lines = [line for text in CORPUS for line in text.split("\n")]
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=600, special_tokens=special))
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = state["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _config(made_by: type[PretrainedConfig], tokenizer: PreTrainedTokenizerFast, **others: object) -> PretrainedConfig:
    return made_by(
        vocab_size=len(tokenizer) + 5,  # published models have rows to spare
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=4096,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **others,
    )


def _causal(made_by: type[PretrainedConfig], tokenizer: PreTrainedTokenizerFast, folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(_config(made_by, tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _rewritten(folder: Path, config: dict[str, object], weights: dict[str, torch.Tensor]) -> Path:
    """The layout of a class that transformers does not have: other names in the config, other weights beside."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    held = {name: value for name, value in load_file(folder / "model.safetensors").items() if "lm_head" not in name}
    save_file(held | weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def qwen_prm(folder: Path) -> Path:
    _causal(Qwen2Config, chatml_tokenizer(), folder)
    score = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    maps = {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"}
    return _rewritten(
        folder,
        {"architectures": ["Qwen2ForProcessRewardModel"], "auto_map": maps},
        {f"score.{name}": value for name, value in score.state_dict().items()},
    )


def skywork(folder: Path) -> Path:
    tokenizer = _bytes("<|endoftext|>", (), None)
    _causal(Qwen2Config, tokenizer, folder)
    head = nn.Linear(32, 1)
    return _rewritten(
        folder,
        {"architectures": ["Qwen2ForPrmModel"]},
        {f"v_head.summary.{name}": value for name, value in head.state_dict().items()},
    )


def trl(folder: Path) -> Path:
    torch.manual_seed(0)
    config = _config(LlamaConfig, plain_tokenizer(), num_labels=2)
    AutoModelForTokenClassification.from_config(config).save_pretrained(folder)
    plain_tokenizer().save_pretrained(folder)
    return folder


def math_shepherd(folder: Path) -> Path:
    return _causal(MistralConfig, sentencepiece_tokenizer(), folder)


def rlhflow(folder: Path) -> Path:
    return _causal(LlamaConfig, llama_tokenizer(), folder)


def generative(folder: Path) -> Path:
    return _causal(Qwen2Config, chatml_tokenizer(), folder)


def implicit(folder: Path) -> Path:
    """Beside it, as `<name>_reference`, the model it was trained from."""
    _causal(LlamaConfig, llama_tokenizer(), folder.with_name(f"{folder.name}_reference"), seed=1)
    return _causal(LlamaConfig, llama_tokenizer(), folder)


def policy(folder: Path, lora: bool = False) -> Path:
    """As `qstep train dqo` writes it, with a beta of 0.3; beside it, as `<name>_reference`, where training began."""
    base = _causal(Qwen2Config, chatml_tokenizer(), folder.with_name(f"{folder.name}_reference"), seed=1)
    torch.manual_seed(0)
    model = PolicyWithValue.new_with_value(ModelOptions(model_name_or_path=str(base), use_peft=lora), "separate")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # under an adapter the base stays as it was
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save(folder)
    chatml_tokenizer().save_pretrained(folder)
    (folder / "qstep_checkpoint.json").write_text(json.dumps({"settings": {"method": "dqo", "beta": 0.3}}))
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "qwen_prm": qwen_prm,
    "math_shepherd": math_shepherd,
    "rlhflow": rlhflow,
    "skywork": skywork,
    "trl": trl,
    "implicit": implicit,
    "generative": generative,
    "policy": policy,
}
