"""PQM in one file: a process reward model trained by ranking the steps of each response.

    python examples/pqm.py --model Qwen/Qwen2.5-0.5B --rows labelled.jsonl --output runs/pqm
    qstep score --input responses.jsonl --scorer runs/pqm --output scored.jsonl

The method is "Process Reward Model with Q-value Rankings" (arXiv 2410.11287). A language model reads a question and a
response, and gives every step t of the response one number Q_t. Q_t is the logit of the chance that the response, as
far as step t, still leads to the right answer. The question itself counts as a step with Q = 0. If steps c_1 ... c_m
are correct and steps w_1 ... w_k after them are wrong, the Qs should have this order (Theorem 3.5):

    Q(w_k) < ... < Q(w_1)  <<  0 = Q(question)  <  Q(c_1) < ... < Q(c_m)

The loss asks each correct step to rank above everything that should be below it: the question, the correct steps
before it, and, by a margin, the wrong steps (Eq. 10).

A row of the input is one response. `qstep annotate` writes such rows:

    {"prompt": "What is 2 + 3 * 4?", "completions": ["3 * 4 = 12", "2 + 12 = 15"], "labels": [true, false]}

Suffixes of names say the shape: B responses, S steps of the longest response, T tokens of the longest sequence.
`qstep train pqm` has the same loss. It adds resume, evaluation, several GPUs, and one pass over a shared prompt.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer

from qstep.models import StepContract

ABSENT = -100
"""The label of a step that does not exist, or that nobody has labelled."""


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSONL file that have steps and at least one label."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [row for row in rows if any(label is not None for label in row["labels"])]


def through_first_error(row: dict) -> list[tuple[str, int]]:
    """Each step with its label: 1 correct, 0 wrong, -100 unknown. The first wrong step is the last one read.

    What comes after a wrong step is wrong too, whatever it says, so it teaches nothing.
    """
    steps = []
    for step, label in zip(row["completions"], row["labels"], strict=True):
        steps.append((step, ABSENT if label is None else int(label > 0)))
        if steps[-1][1] == 0:
            break
    return steps


def encode(tokenizer, row: dict, separator: int) -> tuple[list[int], list[int], list[int]]:
    """The tokens of a row, where each step ends, and the labels of the steps.

    Every step is followed by the separator token. The model has read the whole step there, so there its Q is read.
    """
    prompt = row["prompt"]
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
    else:
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    ends, labels = [], []
    for step, label in through_first_error(row):
        ids = [*ids, *tokenizer(step, add_special_tokens=False)["input_ids"], separator]
        ends.append(len(ids) - 1)
        labels.append(label)
    return ids, ends, labels


def collate(tokenizer, rows: list[dict], separator: int) -> dict[str, Tensor]:
    """Rows as one batch, padded on the right."""
    encoded = [encode(tokenizer, row, separator) for row in rows]

    def padded(lists: list[list[int]], value: int) -> Tensor:
        width = max(map(len, lists))
        return torch.tensor([[*items, *[value] * (width - len(items))] for items in lists])

    return {
        "ids_BT": padded([ids for ids, _, _ in encoded], 0),
        "mask_BT": padded([[1] * len(ids) for ids, _, _ in encoded], 0),
        "ends_BS": padded([ends for _, ends, _ in encoded], 0),
        "labels_BS": padded([labels for _, _, labels in encoded], ABSENT),
    }


def q_values(model, batch: dict[str, Tensor]) -> Tensor:
    """Q of every step, [B, S]: the model's output at the token where the step ends."""
    output_BT = model(input_ids=batch["ids_BT"], attention_mask=batch["mask_BT"]).logits.squeeze(-1)
    return output_BT.gather(1, batch["ends_BS"])


def pqm_loss(q_BS: Tensor, labels_BS: Tensor, margin: float) -> Tensor:
    """The loss of each response, [B]: -log of the chance that each correct slot ranks above its rivals (Eq. 10).

    Slot 0 is the question. The rivals of a correct slot are the correct slots before it, and all wrong steps raised
    by the margin. In the exponents, e^Q_t / (sum of e^Q over t and its rivals) is the chance that t ranks first.
    """
    correct, wrong = labels_BS == 1, labels_BS == 0
    q = F.pad(q_BS.float(), (1, 0))  # the question comes first, with Q = 0
    lowest = torch.finfo(q.dtype).min
    up_to_here = torch.logcumsumexp(q.masked_fill(~F.pad(correct, (1, 0), value=True), lowest), dim=1)
    all_wrong = torch.logsumexp((q_BS.float() + margin).masked_fill(~wrong, lowest), dim=1, keepdim=True)
    nll = torch.logaddexp(up_to_here, all_wrong) - q
    ranked = torch.cat([wrong.any(dim=1, keepdim=True), correct], dim=1)  # the question has rivals if a step is wrong
    return nll.masked_fill(~ranked, 0).sum(dim=1) / ranked.sum(dim=1).clamp(min=1)


def load_model(name: str):
    """A causal language model with a fresh head of one output. Dropout is off, so a Q is one number."""
    config = AutoConfig.from_pretrained(name, num_labels=1, problem_type="regression")
    config.classifier_dropout = config.attention_dropout = 0.0
    return AutoModelForTokenClassification.from_pretrained(name, config=config, dtype=torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the causal language model to start from: a folder or a Hub id")
    parser.add_argument("--rows", type=Path, required=True, help="JSONL rows with labelled steps")
    parser.add_argument("--output", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--margin", type=float, default=4.0, help="zeta of Eq. 10")
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    parser.add_argument("--batch_size", type=int, default=16, help="responses in a batch")
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer, model = AutoTokenizer.from_pretrained(args.model), load_model(args.model).to(device)
    contract = StepContract.create(  # what `qstep score` needs to know to read the model as it was trained
        tokenizer, step_separator="\n", separator_token="\n", max_length=2048, aggregation="min", objective="pqm"
    )
    rows = read_rows(args.rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    for epoch in range(args.epochs):
        random.Random(epoch).shuffle(rows)
        for start in range(0, len(rows), args.batch_size):
            batch = collate(tokenizer, rows[start : start + args.batch_size], contract.separator_token_id)
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            loss = pqm_loss(q_values(model, batch), batch["labels_BS"], args.margin).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            print(f"epoch {epoch}, row {start}: loss {loss.item():.4f}")

    contract.attach(model.config)
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
