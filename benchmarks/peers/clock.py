"""What the contenders of `benchmarks/training.py` share: the clock, and the line they end with.

Runs under qstep's environment and under TRL's, so it imports neither.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback


def arguments(description: str | None, **variants: tuple[str, ...]) -> argparse.Namespace:
    """The command line of a contender; `variants` are its own options: their choices, the first the default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=Path, required=True, help="the rows of each batch, in the order of the batches")
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output_dir", required=True)
    for name, choices in variants.items():
        parser.add_argument(f"--{name}", choices=choices, default=choices[0])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return args


def read_rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def trainer_options(args: argparse.Namespace, batch_size: int) -> dict[str, Any]:
    """What every `transformers.Trainer` is told: the batches as they lie in the file, nothing saved or reported."""
    return {
        "output_dir": args.output_dir,
        "per_device_train_batch_size": batch_size,
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "learning_rate": 1e-6,
        "bf16": args.dtype == "bfloat16",
        "use_cpu": args.device == "cpu",
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": args.device == "cuda",
    }


class StepClock(TrainerCallback):
    """Notes when each optimizer step ended. The first step is the warm-up: time counts from its end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def finish(self, rows: int, batch_size: int, device: str) -> None:
        """Prints the measurement, once `rows` rows have been trained on.

        Raises:
            RuntimeError: there were not as many steps as the rows make batches.
        """
        if len(self.ends) * batch_size != rows:
            raise RuntimeError(f"{len(self.ends)} steps of {batch_size} rows were made for {rows} rows")
        print(
            json.dumps(
                {
                    "trajectories": rows - batch_size,
                    "seconds": self.ends[-1] - self.ends[0],
                    "step_seconds": [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)],
                    "peak_bytes": peak_memory(device),
                }
            )
        )


def peak_memory(device: str) -> int:
    """The most this process ever held: on a GPU what torch allocated, else resident memory (`VmHWM`)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
