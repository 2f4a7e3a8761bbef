"""A contender of `benchmarks/training.py`: TRL 1.13.0's `PRMTrainer`, the last version that has one."""

from __future__ import annotations

from itertools import chain
from typing import Any

from clock import StepClock, arguments, read_rows, trainer_options
from datasets import Dataset
from transformers import AutoModelForTokenClassification, AutoTokenizer
from trl.experimental.prm import PRMConfig, PRMTrainer


def token_labels(row: dict[str, Any]) -> list[int]:
    """-100 save at the token that ends a step, as the trainer's own tokenisation does."""
    labels = [-100] * len(row["response_ids"])
    for end, label in zip(row["step_ends"], row["labels"], strict=True):
        labels[end] = int(label)
    return [*[-100] * len(row["prompt_ids"]), *labels]


def main() -> None:
    args = arguments(__doc__)
    rows = read_rows(args.rows)
    tokens = [
        {"input_ids": list(chain(row["prompt_ids"], row["response_ids"])), "labels": token_labels(row)} for row in rows
    ]
    clock = StepClock()
    trainer = PRMTrainer(
        model=AutoModelForTokenClassification.from_pretrained(args.model, num_labels=2, dtype="float32"),
        args=PRMConfig(max_length=None, **trainer_options(args, args.batch_size)),
        train_dataset=Dataset.from_list(tokens),
        processing_class=AutoTokenizer.from_pretrained(args.model),
        callbacks=[clock],
    )
    trainer.train()
    clock.finish(len(rows), args.batch_size, args.device)


if __name__ == "__main__":
    main()
