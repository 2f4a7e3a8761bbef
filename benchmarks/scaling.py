"""How long the first step of a large file takes, and how much memory, from 10,000 rows to a million.

    python benchmarks/scaling.py --output benchmarks/results/scaling.json

Rows are generated in a temporary folder (about 1 GB for a million; deleted at the end). For each size, `qstep train
pqm` of a model of 0.3 M parameters takes one step in a fresh process, twice: without an index and with it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qstep.cores import cores

SIZES = (10_000, 100_000, 1_000_000)
RESPONSES = 8


def write_rows(path: Path, rows: int) -> None:
    """Problems with eight responses of four labelled steps of the miniature, some 800 bytes a row."""
    from qstep.tasks import miniature

    pool = [(str(p.prompt), miniature.solution(str(p.prompt)).split("\n")) for p in miniature.problems("train", 5000)]
    rng = random.Random(0)
    with path.open("w") as file:
        for i in range(rows):
            problem, sample = divmod(i, RESPONSES)
            prompt, steps = pool[problem % len(pool)]
            first_wrong = rng.randrange(len(steps) + 1)
            row = {
                "id": f"p{problem}#{sample}",
                "problem_id": f"p{problem}",
                "sample": sample,
                "task": "miniature",
                "prompt": prompt,
                "gold": steps[-1][1:],
                "completion": "\n".join(steps),
                "completion_ids": list(range(1, 40)),
                "logps_behavior": [-0.0123456] * 39,
                "finish_reason": "stop",
                "label": first_wrong == len(steps),
                "completions": steps,
                "labels": [t < first_wrong for t in range(len(steps))],
            }
            file.write(json.dumps(row) + "\n")


def write_model(folder: Path) -> None:
    """The miniature's untrained model and its tokenizer."""
    from transformers import AutoModelForCausalLM

    from qstep.tasks import miniature

    AutoModelForCausalLM.from_config(miniature.base_config()).save_pretrained(folder)
    miniature.tokenizer().save_pretrained(folder)


def first_step(model: Path, rows: Path, output: Path) -> dict[str, float]:
    """Seconds from calling the command to the end of its first step, imports apart, and the process's peak memory."""
    from transformers import TrainerCallback

    import qstep.stages.train as stage
    from qstep.data import index_rows
    from qstep.objectives import METHODS
    from qstep.trainers import trainer_class

    marks = {"begin": time.monotonic()}

    class Mark(TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            marks["step"] = time.monotonic()

    index_rows(rows, "stepwise", forbidden=("\n",))
    marks["index"] = time.monotonic()
    options = dict(use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True, max_steps=1)
    method = METHODS["pqm"]
    config = method.config(output_dir=str(output), per_device_train_batch_size=8, stop_at_first_error=False, **options)
    inputs = stage.TrainInputs(model_name_or_path=str(model), train_file=rows)
    marked = trainer_class(method)
    stage.trainer_class = lambda _: lambda *given, callbacks: marked(*given, callbacks=[*callbacks, Mark()])
    stage.train("pqm", inputs, config)
    return {
        "index_s": round(marks["index"] - marks["begin"], 2),
        "index_to_first_step_s": round(marks["step"] - marks["index"], 2),
        "command_to_first_step_s": round(marks["step"] - marks["begin"], 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def measure(rows: int, folder: Path) -> dict[str, object]:
    """Both runs of one size."""
    path = folder / f"{rows}.jsonl"
    write_rows(path, rows)
    result: dict[str, object] = {"rows": rows, "file_mb": round(path.stat().st_size / 1e6)}
    for name in ("new", "indexed"):
        command = [sys.executable, __file__, "--step", str(folder / "model"), str(path), str(folder / f"{rows}-{name}")]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result[name] = json.loads(printed.splitlines()[-1])
    path.unlink()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=SIZES)
    parser.add_argument("--step", type=Path, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(first_step(*arguments.step)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model")
        sizes = []
        for rows in arguments.rows:
            sizes.append(measure(rows, folder))
            print(json.dumps(sizes[-1]), flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    result = {
        "command": "python benchmarks/scaling.py --output benchmarks/results/scaling.json",
        "commit": commit,
        "machine": f"{platform.machine()}, {cores()} cores",
        "load_at_end": os.getloadavg()[0],
        "sizes": sizes,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
