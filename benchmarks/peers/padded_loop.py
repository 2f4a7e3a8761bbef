"""A contender of `benchmarks/training.py`: the loop anybody would write, with qstep's PQM loss on padded batches."""

from __future__ import annotations

import torch
from clock import StepClock, arguments, read_rows
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForTokenClassification

from qstep.losses import pqm_loss
from qstep.types import ABSENT


def main() -> None:
    args = arguments(__doc__, micro_batch=("12", "4"))
    size = int(args.micro_batch)
    rows = read_rows(args.rows)
    model = AutoModelForTokenClassification.from_pretrained(args.model, num_labels=1, dtype=torch.float32)
    model.to(args.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    clock = StepClock()
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        sequences = [torch.tensor(row["prompt_ids"] + row["response_ids"]) for row in batch]
        ids = pad_sequence(sequences, batch_first=True)
        mask = pad_sequence([torch.ones_like(s) for s in sequences], batch_first=True)
        at = pad_sequence([torch.tensor(row["step_ends"]) + len(row["prompt_ids"]) for row in batch], batch_first=True)
        labels = pad_sequence([torch.tensor(row["labels"]).long() for row in batch], True, padding_value=ABSENT)
        ids, mask, at, labels = (tensor.to(args.device) for tensor in (ids, mask, at, labels))
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.dtype == "bfloat16"):
            logits = model(input_ids=ids, attention_mask=mask).logits.squeeze(-1)
        loss = pqm_loss(logits.gather(1, at).float(), labels, margin=4.0).sum() / args.batch_size
        loss.backward()
        if (start + size) % args.batch_size == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            clock.on_step_end()
    clock.finish(len(rows), args.batch_size, args.device)


if __name__ == "__main__":
    main()
