"""What each owner's card or code computes of a published scorer, plainly: one sequence at a time.

In double precision from the logits on, so that it does not round.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)


def causal_logits(folder: Path, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits[0]


def by_qwen(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [
        {"role": "system", "content": "Please reason step by step, and put your final answer within \\boxed{}."},
        {"role": "user", "content": question},
        {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
    ]
    ids = torch.tensor([tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False))])
    weights = load_file(folder / "model.safetensors")
    head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    head.load_state_dict({name[6:]: value for name, value in weights.items() if name.startswith("score.")})
    with torch.no_grad():
        logits = head(AutoModel.from_pretrained(folder)(ids).last_hidden_state)
    mask = ids == tokenizer.encode("<extra_0>")[0]
    return logits.double().softmax(-1)[mask][:, 1].tolist()


def by_math_shepherd(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    output = "\n".join(f"Step {n}: {step} ки" for n, step in enumerate(steps, 1))
    ids = tokenizer.encode(f"{question} {output}")
    candidates, tag = tokenizer.encode("+ -")[1:], tokenizer.encode("ки")[-1]
    scores = causal_logits(folder, ids)[:, candidates].double().softmax(-1)[:, 0]
    return scores[torch.tensor(ids) == tag].tolist()


def by_rlhflow(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    candidates = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]
    conversation, probabilities = [], []
    for n, step in enumerate(steps):
        conversation.append({"role": "user", "content": step if n else question + " " + step})
        conversation.append({"role": "assistant", "content": "+"})
        ids = tokenizer.apply_chat_template(conversation, return_dict=False)
        probabilities.append(causal_logits(folder, ids)[-3, candidates].double().softmax(-1)[0].item())
    return probabilities


def by_skywork(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(tokenizer.bos_token + question + "\n")
    flags = []
    for step in steps:
        ids += [*tokenizer.encode(step), tokenizer.encode("\n")[-1]]
        flags.append(len(ids) - 1)
    weights = load_file(folder / "model.safetensors")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state[0]
    rewards = states @ weights["v_head.summary.weight"][0] + weights["v_head.summary.bias"]
    return rewards[flags].double().sigmoid().tolist()


def by_trl(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.bos_token_id, *tokenizer(question, add_special_tokens=False)["input_ids"]]
    separator = tokenizer.encode("\n", add_special_tokens=False)
    places = []
    for step in steps:
        ids += tokenizer(step, add_special_tokens=False)["input_ids"] + separator
        places.append(len(ids) - 1)
    with torch.no_grad():
        logits = AutoModelForTokenClassification.from_pretrained(folder)(torch.tensor([ids])).logits[0]
    return logits[places].double().softmax(-1)[:, 1].tolist()


def by_generative(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = [tokenizer.encode("Yes")[0], tokenizer.encode("No")[0]]
    probabilities = []
    for n in range(1, len(steps) + 1):
        solution = "\n\n".join(steps[:n])
        text = (
            f"Question:\n{question}\n\nSolution so far:\n{solution}\n\n"
            "Is every step of this solution correct? Answer with Yes or No."
        )
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        probabilities.append(causal_logits(folder, ids)[-1, words].double().softmax(-1)[0].item())
    return probabilities


def response_logps(folder: Path, prompt: list[int], response: list[int]) -> torch.Tensor:
    logps = causal_logits(folder, prompt + response).double().log_softmax(-1)
    return logps[len(prompt) - 1 : -1].gather(1, torch.tensor(response)[:, None])[:, 0]


def last_tokens(tokenizer: PreTrainedTokenizerBase, steps: list[str], separator: str) -> list[int]:
    """As the implicit PRM's card counts them: how many tokens the steps so far have."""
    joined = [separator.join(steps[:n]) for n in range(1, len(steps) + 1)]
    return [len(tokenizer.encode(text, add_special_tokens=False)) - 1 for text in joined]


def by_implicit(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.encode(question)
    response = tokenizer.encode("\n\n".join(steps), add_special_tokens=False)
    reference = folder.with_name("implicit_reference")
    ratios = response_logps(folder, prompt, response) - response_logps(reference, prompt, response)
    return (0.05 * ratios).cumsum(0)[last_tokens(tokenizer, steps, "\n\n")].tolist()


def by_policy(folder: Path, question: str, steps: list[str]) -> list[float]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt, response = tokenizer.encode(question), tokenizer.encode("\n".join(steps), add_special_tokens=False)
    reference = folder.with_name("policy_reference")
    ratios = response_logps(folder, prompt, response) - response_logps(reference, prompt, response)
    saved = load_file(folder / "value.safetensors")
    trunk = AutoModel.from_pretrained(reference)
    trunk.load_state_dict({name[12:]: value for name, value in saved.items() if name.startswith("value_trunk.")})
    with torch.no_grad():
        states = trunk(torch.tensor([prompt + response])).last_hidden_state[0, len(prompt) - 1 : -1]
    values = states @ saved["value_head.weight"][0] + saved["value_head.bias"]
    return (0.3 * ratios + values)[last_tokens(tokenizer, steps, "\n")].tolist()


OWNERS = {
    "qwen_prm": by_qwen,
    "math_shepherd": by_math_shepherd,
    "rlhflow": by_rlhflow,
    "skywork": by_skywork,
    "trl": by_trl,
    "generative": by_generative,
    "implicit": by_implicit,
    "policy": by_policy,
}
