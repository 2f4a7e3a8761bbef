"""Compares `qstep plan` with trainings: peak memory and seconds of a step, at several settings.

    python examples/data/make_smollm2.py --output runs/smollm2-135m-instruct
    python benchmarks/plan.py --model runs/smollm2-135m-instruct --steps 3 --output benchmarks/results/plan.json

Each setting is planned, and then trained for a few steps by the command line in a process of its own. Its peak memory
is that of the process. A step's time is the mean of all but the first, which warms up. On two CPU cores it takes about
a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

SETTINGS: dict[str, str] = {
    "pqm": "train pqm --per_device_train_batch_size 4",
    "pqm, recomputed activations": "train pqm --per_device_train_batch_size 4 --activation_checkpointing true",
    "pqm, LoRA": "train pqm --per_device_train_batch_size 4 --use_peft true",
    "pqm, rows of 4,000 tokens": "train pqm --per_device_train_batch_size 1 --max_length 8192 --train_file {long}",
    "sft": "train sft --per_device_train_batch_size 4",
    "sft, bf16": "train sft --per_device_train_batch_size 4 --bf16 true",
    "dpo": "train dpo --per_device_train_batch_size 1 --learning_rate 1e-6",
    "dqo, head": "train dqo --value head --per_device_train_batch_size 1 --responses_per_prompt 4 --importance none",
    "dqo, separate V": "train dqo --per_device_train_batch_size 1 --responses_per_prompt 4 --importance none",
    "dqo, separate V, LoRA": "train dqo --per_device_train_batch_size 1 --responses_per_prompt 4 --importance none "
    "--use_peft true",
}

# After the last step the process says its peak memory, and when each step ended.
_TRAIN = """
import json, resource, sys, time
from transformers import TrainerCallback
import qstep.trainers.group_trainer as trainers
ends = []
class Watch(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        ends.append(time.perf_counter())
begun = trainers.GroupTrainer.__init__
def begin(self, *args, **options):
    begun(self, *args, **options)
    self.add_callback(Watch())
trainers.GroupTrainer.__init__ = begin
from qstep.cli import main
code = main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print("MEASURED", json.dumps({"code": code, "peak": peak, "ends": ends}))
"""


def rows(problems: int, responses: int, steps: int) -> list[dict[str, Any]]:
    """Problems with right and wrong responses, whose steps are sums."""
    drawn = random.Random(0)
    made = []
    for problem in range(problems):
        numbers = [drawn.randint(10, 999) for _ in range(steps)]
        question = f"Tom counts {', '.join(map(str, numbers[:12]))} and more apples. How many are there?"
        for response in range(responses):
            right = response % 2 == 0
            sums = [sum(numbers[: at + 1]) + (0 if right or at < steps // 2 else 1) for at in range(steps)]
            texts = [
                f"Then there are {number} more, which makes {s} in all."
                for number, s in zip(numbers, sums, strict=True)
            ]
            labels = [right or at < steps // 2 for at in range(steps)]
            made.append(
                {
                    "id": f"{problem}#{response}",
                    "problem_id": str(problem),
                    "prompt": question,
                    "completion": "\n".join(texts),
                    "completions": texts,
                    "labels": labels,
                    "reward": float(right),
                    "label": right,
                }
            )
    return made


def compared(name: str, line: str, model: Path, folder: Path, steps: int) -> dict[str, Any]:
    """The plan of a setting, and what its training took."""
    command = line.format(long=folder / "long.jsonl").split()
    if "--train_file" not in command:
        command += ["--train_file", str(folder / "rows.jsonl")]
    command += ["--model_name_or_path", str(model), "--max_steps", str(steps), "--seed", "1", "--use_cpu", "true"]
    output = folder / name.replace(" ", "_").replace(",", "")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    planned = folder / "plan.json"
    plan = [sys.executable, "-m", "qstep.cli", "plan", *command, "--plan_file", str(planned)]
    subprocess.run(plan, env=environment, check=True, capture_output=True)
    trained = [*command, "--output_dir", str(output), "--save_strategy", "no", "--report_to", "none"]
    done = subprocess.run(
        [sys.executable, "-c", _TRAIN, *trained], env=environment, check=True, capture_output=True, text=True
    )
    line = next(one for one in done.stdout.splitlines() if one.startswith("MEASURED"))
    measured = json.loads(line.removeprefix("MEASURED "))
    found = json.loads(planned.read_text())
    ends = measured["ends"]
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
    memory = measured["peak"] / 2**30
    foreseen = found["hours"] * 3600 / steps
    return {
        "setting": name,
        "command": line,
        "tokens_of_largest_batch": found["tokens_of_largest_batch"],
        "memory_gib": memory,
        "planned_memory_gib": found["total_gib"],
        "memory_ratio": found["total_gib"] / memory,
        "step_seconds": seconds,
        "planned_step_seconds": foreseen,
        "time_ratio": foreseen / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the folder of a model")
    parser.add_argument("--settings", nargs="*", default=[*SETTINGS], help="names of settings; default: all")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "src"))
    from qstep.data import write_jsonl
    from qstep.runs.provenance import provenance

    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jsonl(folder / "rows.jsonl", rows(16, 4, 16))
        write_jsonl(folder / "long.jsonl", rows(8, 2, 210))
        for setting in args.settings:
            found.append(compared(setting, SETTINGS[setting], args.model.resolve(), folder, args.steps))
            print(json.dumps(found[-1]), flush=True)
    if args.output is not None:
        settings = {"model": args.model.name, "steps": args.steps}
        args.output.write_text(
            json.dumps(
                {**provenance(settings), "command": shlex.join(["python", *sys.argv]), "settings": found}, indent=2
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
