"""DQO in one file: a policy trained on graded responses, as its own Q-function.

    python examples/dqo.py --model runs/policy --rows graded.jsonl --output runs/dqo

The method is "Enhancing Multi-Step Reasoning Abilities of Language Models through Direct Q-Function Optimization"
(arXiv 2410.09302). Writing a response is a sequence of decisions: in state s_h (the question and the tokens so far) the
policy pi chooses token a_h. The reward r_h is 0 except at the last token, where it is 1 for a right answer. The goal is
reward, less beta times the distance from a reference policy:

    maximise  E[ sum_h  r_h - beta log(pi / pi_ref)(a_h | s_h) ]

For the optimal policy the soft Q-function is Q(s, a) = beta log(pi / pi_ref)(a | s) + V(s), and it obeys
Q(s_h, a_h) = r_h + V(s_{h+1}). So the policy and a value network V together *are* a Q-function, and both can be fitted
by regression. With the lambda-return

    G_h = r_h - beta log(pi / pi_ref)(a_h | s_h) + (1 - lam) V(s_{h+1}) + lam G_{h+1}        G after the end = 0

the two losses of a response are (targets carry no gradient):

    value loss    w * sum_h ( V(s_h) - G_h )^2
    Q loss        w * sum_h ( beta log(pi / pi_ref)(a_h | s_h) + V(s_h) - (r_h + G_{h+1}) )^2

The weight w = min(1, product of pi / mu over the response) corrects for responses that another policy mu wrote.

A row of the input is one response. `qstep sample` and `qstep grade` write such rows:

    {"prompt": "What is 2 + 3?", "completion": "2 + 3 = 5\\n#### 5", "reward": 1.0, "logps_behavior": [-0.1, ...]}

Suffixes of names say the shape: B responses, T tokens of the longest sequence but one (each is predicted from those
before it). `qstep train dqo` has the same loss. It adds process rewards, resume, evaluation and several GPUs.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSONL file whose reward is known."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row for row in rows if row["reward"] is not None]


def encode(tokenizer, row: dict) -> tuple[list[int], list[int]]:
    """The tokens of the prompt and of the response; the tokens that were sampled, where the row has them."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        prompt_ids = tokenizer(prompt)["input_ids"]
    else:
        prompt_ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    response_ids = row.get("completion_ids")
    if response_ids is None:
        response_ids = [*tokenizer(row["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return prompt_ids, response_ids


def collate(tokenizer, rows: list[dict]) -> dict[str, Tensor]:
    """Rows as one batch, padded on the right. Column h of the [B, T] tensors is about the choice of token h + 1."""
    encoded = [encode(tokenizer, row) for row in rows]
    length = max(len(prompt) + len(response) for prompt, response in encoded)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    attention_mask = torch.zeros(len(rows), length, dtype=torch.long)
    response_BT = torch.zeros(len(rows), length - 1, dtype=torch.bool)
    rewards_BT = torch.zeros(len(rows), length - 1)
    behavior_BT = torch.full((len(rows), length - 1), math.nan)  # NaN where nobody wrote it down
    for b, (row, (prompt, response)) in enumerate(zip(rows, encoded, strict=True)):
        end = len(prompt) + len(response)
        ids[b, :end] = torch.tensor([*prompt, *response])
        attention_mask[b, :end] = 1
        response_BT[b, len(prompt) - 1 : end - 1] = True
        rewards_BT[b, end - 2] = row["reward"]
        if row.get("logps_behavior") is not None:
            behavior_BT[b, len(prompt) - 1 : end - 1] = torch.tensor(row["logps_behavior"])
    return {
        "input_ids": ids,
        "attention_mask": attention_mask,
        "response_BT": response_BT,
        "rewards_BT": rewards_BT,
        "behavior_BT": behavior_BT,
    }


class Value(nn.Module):
    """V(s): a network of its own that starts from the policy's weights, under a head that gives `start` everywhere."""

    def __init__(self, policy, start: float) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(policy.base_model)
        self.head = nn.Linear(policy.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, start)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = self.trunk(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        return self.head(hidden[:, :-1].float()).squeeze(-1)


def token_logps(policy, batch: dict[str, Tensor]) -> Tensor:
    """log pi(a_h | s_h) of the tokens in the batch, [B, T]."""
    logits = policy(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    return logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)


def dqo_loss(
    logps_BT: Tensor,
    reference_BT: Tensor,
    behavior_BT: Tensor,
    values_BT: Tensor,
    rewards_BT: Tensor,
    response_BT: Tensor,
    beta: float,
    lam: float,
) -> Tensor:
    """The sum of value loss and Q loss of each response, [B]. Only the columns of `response_BT` count."""
    log_ratios = (logps_BT - reference_BT).masked_fill(~response_BT, 0)
    values = values_BT.masked_fill(~response_BT, 0)
    with torch.no_grad():
        soft_rewards = rewards_BT - beta * log_ratios
        returns, next_returns = torch.zeros_like(values), torch.zeros_like(values)
        next_return = next_value = values.new_zeros(len(values))
        for h in reversed(range(values.shape[1])):  # columns after the response are 0, so they change nothing
            next_returns[:, h] = next_return
            next_return = soft_rewards[:, h] + (1 - lam) * next_value + lam * next_return
            next_value = values[:, h]
            returns[:, h] = next_return
        behavior_BT = torch.where(behavior_BT.isnan(), reference_BT, behavior_BT)
        weights = (logps_BT - behavior_BT).masked_fill(~response_BT, 0).sum(1).clamp(max=0).exp()
    value_errors = values - returns
    q_errors = beta * log_ratios + values.detach() - (rewards_BT + next_returns)
    return weights * (value_errors.square() + q_errors.square()).masked_fill(~response_BT, 0).sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the policy to start from: a folder or a Hub id")
    parser.add_argument("--rows", type=Path, required=True, help="JSONL rows with a prompt, a completion and a reward")
    parser.add_argument("--output", type=Path, required=True, help="folder for the trained policy")
    parser.add_argument("--beta", type=float, default=0.2, help="weight of the distance from the reference")
    parser.add_argument("--lam", type=float, default=1.0, help="lambda of the return")
    parser.add_argument("--learning_rate", type=float, default=5e-7)
    parser.add_argument("--value_learning_rate", type=float, default=1e-5)
    parser.add_argument("--batch_size", type=int, default=16, help="responses in a batch")
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = read_rows(args.rows)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    policy = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(device)
    reference = copy.deepcopy(policy).eval().requires_grad_(False)
    value = Value(policy, sum(row["reward"] for row in rows) / len(rows)).to(device)
    optimizer = torch.optim.AdamW(
        [
            {"params": policy.parameters(), "lr": args.learning_rate},
            {"params": value.parameters(), "lr": args.value_learning_rate},
        ]
    )
    for epoch in range(args.epochs):
        random.Random(epoch).shuffle(rows)
        for start in range(0, len(rows), args.batch_size):
            batch = collate(tokenizer, rows[start : start + args.batch_size])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            logps, reference_logps, values = token_logps(policy, batch), token_logps(reference, batch), value(batch)
            known = (batch[name] for name in ("rewards_BT", "response_BT"))
            losses = dqo_loss(logps, reference_logps, batch["behavior_BT"], values, *known, args.beta, args.lam)
            losses.mean().backward()
            torch.nn.utils.clip_grad_norm_([*policy.parameters(), *value.parameters()], 1.0)
            optimizer.step()
            optimizer.zero_grad()
            print(f"epoch {epoch}, row {start}: loss {losses.mean().item():.4f}")

    policy.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
