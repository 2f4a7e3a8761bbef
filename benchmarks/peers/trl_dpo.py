"""A contender of `benchmarks/training.py`: TRL 1.13.0's `DPOTrainer`, reference log-probs computed beforehand.

A pair is two consecutive rows, which answer the same problem: every trajectory is in exactly one pair. (Which of
the two is preferred changes nothing in the cost, so the first is, whatever its verdict.)
"""

from __future__ import annotations

from clock import StepClock, arguments, read_rows, trainer_options
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer


def main() -> None:
    args = arguments(__doc__, adapter=("none", "lora"))
    rows = read_rows(args.rows)
    pairs = [
        {"prompt": first["prompt"], "chosen": first["completion"], "rejected": second["completion"]}
        for first, second in zip(rows[::2], rows[1::2], strict=True)
    ]
    peft_config = None
    if args.adapter == "lora":
        from peft import LoraConfig

        peft_config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    clock = StepClock()
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(args.model, dtype="float32"),
        args=DPOConfig(max_length=None, precompute_ref_log_probs=True, **trainer_options(args, args.batch_size // 2)),
        train_dataset=Dataset.from_list(pairs),
        processing_class=AutoTokenizer.from_pretrained(args.model),
        peft_config=peft_config,
        callbacks=[clock],
    )
    trainer.train()
    clock.finish(len(rows), args.batch_size, args.device)


if __name__ == "__main__":
    main()
