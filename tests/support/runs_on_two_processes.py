"""What `trainers/test_processes.py` has two processes do, started by torchrun: `BASE ROWS OUTPUT`.

Each process writes what it saw to `OUTPUT/rank<r>.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.objectives import METHODS
from qstep.trainers import trainer_class
from tiny_trainers import VARIANTS, variant

ADAPTER = {"use_peft": "true", "lora_r": 4}
SHARDED: dict[str, tuple[str, dict[str, Any]]] = {
    "pqm": ("pqm", {"max_tokens_per_batch": 200}),
    "pqm_adapter": ("pqm", ADAPTER),
    "dqo_separate": ("dqo", {"value": "separate"}),
    "dqo_head": ("dqo", {"value": "head"}),
    "dqo_separate_adapter": ("dqo", {"value": "separate", **ADAPTER}),
    "dqo_head_adapter": ("dqo", {"value": "head", **ADAPTER}),
    "dro_group": ("dro", {"value": "group"}),
    "kto": ("kto", {"max_tokens_per_batch": 200}),
    "pqm_bf16": ("pqm", {"bf16": "true"}),
    "dqo_separate_bf16": ("dqo", {"value": "separate", "bf16": "true"}),
}
"""The methods and options of trainings whose weights are divided among the processes."""
METHODS_RUN = ("pqm", "rs", "reinforce", "dpo", "kto", "dqo", "dro", *VARIANTS)


def arguments(method: str, base: Path, rows: Path, output: Path, per_device: int, **more: Any) -> list[str]:
    """A run of 5 steps of 6 items, with an epoch of 16: its third step has 4."""
    options: dict[str, Any] = {
        "model_name_or_path": base,
        "train_file": rows,
        "output_dir": output,
        "per_device_train_batch_size": per_device,
        "max_steps": 5,
        "optim": "sgd",
        "learning_rate": 0.002,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": "true",
        "seed": 3,
        "responses_per_prompt": 4,
    }
    name, own = variant(method)
    options |= own
    if own.get("normalize") == "token":  # the loss is smaller by the length of a response
        options["learning_rate"] = 0.5
    if name in ("dpo", "kto"):
        options["beta"] = 4.0  # their gradients are small otherwise
    if name == "dpo":
        del options["responses_per_prompt"]
    if name in ("dqo", "dro") and more.get("value") != "group" and method != "dro_group":
        options["value_learning_rate"] = 0.002
    options |= more
    return ["train", name, *(str(part) for name, value in options.items() for part in (f"--{name}", value))]


def sharded_arguments(name: str, base: Path, rows: Path, output: Path, per_device: int, **more: Any) -> list[str]:
    """Such a run with Adam, which has a state, and a checkpoint after two steps.

    Adam's epsilon is great, since the gradient of V's bias is rounding alone at first, and would decide its direction.
    """
    method, own = SHARDED[name]
    more |= {"optim": "adamw_torch", "learning_rate": 0.001, "adam_epsilon": 0.01, "max_grad_norm": 0.1}
    return arguments(method, base, rows, output, per_device, save_strategy="steps", save_steps=2, **own, **more)


def trainer_of(method: str, base: Path, rows: Path, output: Path, **options: Any) -> Any:
    chosen = METHODS[method]
    shared = dict(use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, per_device_train_batch_size=2)
    config = chosen.config(output_dir=str(output), responses_per_prompt=4, max_steps=12, **shared, **options)
    return trainer_class(chosen)(str(base), config, rows)


def stopped(run: Any) -> dict[str, Any]:
    """With which error a run stops here, and after how many steps."""
    try:
        run().train()
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": None}


def run(base: Path, rows: Path, output: Path) -> None:
    seen: dict[str, Any] = {}
    plain = output / "plain.jsonl"
    for method in METHODS_RUN:
        parts = {"max_tokens_per_batch": 200} if method in ("pqm", "dqo", "kto") else {}
        seen[method] = main(arguments(method, base, plain, output / method, per_device=3, **parts))
    zero3 = output / "zero3.json"
    if dist.get_rank() == 0:
        zero3.write_text(json.dumps({"zero_optimization": {"stage": 3}, "train_batch_size": "auto"}))
    dist.barrier()
    for name in SHARDED:
        how: dict[str, Any] = {"deepspeed": zero3} if name == "dqo_head" else {"fsdp": "true"}
        command = sharded_arguments(name, base, plain, output / "sharded" / name, per_device=3, **how)
        seen[f"sharded {name}"] = main(command)
    rank = dist.get_rank()

    # A row near the file's end of another tokenizer, found by the process that reaches it.
    bad = list(read_rows(rows))
    bad[-2]["completion_ids"] = [0] + bad[-2]["completion_ids"]
    bad[-2].pop("logps_behavior")
    if rank == 0:
        write_jsonl(output / "bad.jsonl", bad)
    dist.barrier()
    import qstep.objectives.responses as responses

    responses._CHECKED = 1
    seen["bad row"] = stopped(lambda: trainer_of("rs", base, output / "bad.jsonl", output / "bad"))

    def broken_here() -> Any:
        trainer = trainer_of("rs", base, rows, output / "nan")
        if rank == 1:
            losses = trainer.losses
            trainer.losses = lambda model, inputs: losses(model, inputs) * float("nan")
        return trainer

    seen["not finite"] = stopped(broken_here)
    seen["collapse"] = stopped(
        lambda: trainer_of("dqo", base, rows, output / "collapse", min_effective_sample_size=1.1, collapse_patience=2)
    )

    (output / f"rank{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    run(*map(Path, sys.argv[1:]))
