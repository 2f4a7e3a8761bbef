r"""What each method makes of responses that other models wrote, without their log-probabilities.

    python examples/data/make_smollm2.py --output runs/smollm2-135m-instruct
    OMP_NUM_THREADS=1 python benchmarks/foreign_rows.py --model runs/smollm2-135m-instruct --samples 1 --processes 2 \
        --output benchmarks/results/foreign_rows.json

The rows are the responses of twelve models to GSM8K problems in `gsm8k_responses.jsonl` of `QSTEP_DATA`. Problems are
divided into those to train on, and held-out ones. Each method trains with its defaults. The number of updates, the
learning rate, the number of responses in a batch and the seed are the same for all. A batch of DPO has all responses to
its problems. The options of a variant follow its method, as in `dqo --importance=prefix`.

Measured on the held-out problems, before and after: the mean log-probability of right and of wrong responses, the mean
of their difference over problems with 95 % intervals of the changes, and with `--samples` the accuracy of sampled
responses. The result has the loss of the first update, the median and the largest. `seconds` is the time of a training
next to others.

The settings were fixed before a held-out problem was read.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from qstep.data import encode_prompt, encode_response, read_rows, write_json, write_jsonl
from qstep.models import PolicyModel, collate_groups, moved
from qstep.models.inference import load_for_sampling
from qstep.runs.provenance import provenance
from qstep.types import Row

VARIANTS = (
    "sft",
    "rs",
    "dpo",
    "kto",
    "reinforce",
    "reinforce --behavior=reference",
    "dro --value=head",
    "dqo --value=head",
    "dqo --value=head --behavior=reference",
    "dqo --value=head --behavior=reference --importance=token",
    "dqo --value=head --behavior=reference --importance=prefix",
)
"""The methods with their options. If a training fails, the last line of its error is recorded."""
RESPONSES = 12
"""The number of responses to each problem. DPO counts problems in a batch, and the others responses."""
INSTRUCTION = "Think step by step, one step a line. End with #### and the number."

_LOADING = threading.Lock()
"""While transformers loads a model, it replaces functions that all threads use."""


def problems(path: Path, most_characters: int) -> Iterator[dict[str, Any]]:
    """The problems with right and wrong responses, all of them short."""
    for problem in read_rows(path):
        verdicts = {response["correct"] for response in problem["responses"]}
        if len(verdicts) == 2 and max(len(response["text"]) for response in problem["responses"]) <= most_characters:
            yield problem


def rows_of(problem: dict[str, Any]) -> Iterator[Row]:
    prompt = [{"role": "user", "content": f"{problem['question']}\n\n{INSTRUCTION}"}]
    shared = {"problem_id": problem["problem_id"], "prompt": prompt, "gold": problem["answer"]}
    for number, response in enumerate(problem["responses"]):
        verdict = {"label": response["correct"], "reward": float(response["correct"])}
        yield {"id": f"{problem['problem_id']}#{number}", **shared, "completion": response["text"], **verdict}


@torch.no_grad()
def log_probabilities(folder: str, held_out: list[dict[str, Any]], device: str) -> dict[str, dict[str, float]]:
    """The mean log-probability of right and of wrong responses, by problem."""
    with _LOADING:
        model, tokenizer = load_for_sampling(folder, device=device, dtype="float32")
    policy = PolicyModel(model)
    found = {}
    for problem in held_out:
        rows = [*rows_of(problem)]
        prompt = encode_prompt(tokenizer, rows[0]["prompt"])
        batch = collate_groups([prompt], [[encode_response(tokenizer, row).ids for row in rows]])
        logps = policy(moved(batch, policy.device)).sum(dim=1).cpu().numpy()
        right = np.array([row["label"] for row in rows], dtype=bool)
        found[problem["problem_id"]] = {"right": float(logps[right].mean()), "wrong": float(logps[~right].mean())}
    return found


def change(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The means before and after, and the mean change with its interval over problems (Student's)."""
    result: dict[str, Any] = {}
    for name in ("right", "wrong", "margin"):
        old, new = (np.array([_value(logps, name) for logps in part.values()]) for part in (before, after))
        changed = new - old
        half = float(student.ppf(0.975, len(changed) - 1) * changed.std(ddof=1) / math.sqrt(len(changed)))
        result[name] = {
            "before": float(old.mean()),
            "after": float(new.mean()),
            "change": {"mean": float(changed.mean()), "low": changed.mean() - half, "high": changed.mean() + half},
        }
    return result


def _value(logps: dict[str, float], name: str) -> float:
    return logps["right"] - logps["wrong"] if name == "margin" else logps[name]


def run(variant: str, args: argparse.Namespace, work: Path) -> tuple[Path | None, dict[str, Any]]:
    """Trains one variant. Returns its folder, and what its log says; without a folder, why it failed."""
    method, *options = variant.split()
    size = args.batch // args.accumulation // (RESPONSES if method == "dpo" else 1)
    output = work / variant.replace(" ", "").replace("--", "-").replace("=", "-")
    command = [sys.executable, "-m", "qstep.cli", "train", method]
    command += [f"--model_name_or_path={args.model}", f"--train_file={work / 'train.jsonl'}"]
    command += [f"--output_dir={output}", f"--max_steps={args.updates}", f"--learning_rate={args.learning_rate}"]
    command += ["--lr_scheduler_type=constant_with_warmup", "--warmup_steps=4", f"--seed={args.seed}"]
    command += [f"--per_device_train_batch_size={size}"]
    command += [f"--gradient_accumulation_steps={args.accumulation}", "--logging_steps=1", "--save_strategy=no"]
    command += ["--report_to=none", "--disable_tqdm=true", *options]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line.replace(f"{work}/", "") for line in done.stderr.splitlines() if "logps_behavior" in line]
    if done.returncode:
        return None, {"failed": done.stderr.strip().splitlines()[-1:], "said": said}
    losses = [row["loss"] for row in read_rows(output / "train_log.jsonl") if row.get("loss") is not None]
    summary = {"first": losses[0], "median": statistics.median(losses), "largest": max(losses)}
    return output, {"seconds": time.perf_counter() - start, "loss": summary, "said": said}


def accuracy(folder: str, args: argparse.Namespace, work: Path) -> dict[str, Any] | None:
    """The greedy and the sampled accuracy on the held-out problems, by `qstep evaluate`."""
    if not args.samples:
        return None
    output = Path(tempfile.mkdtemp(dir=work)) / "evaluation"
    command = [sys.executable, "-m", "qstep.cli", "evaluate", f"--model_name_or_path={folder}", "--task=math"]
    command += [f"--dataset_name={work / 'problems.jsonl'}", f"--num_samples={args.samples}"]
    command += [f"--max_new_tokens={args.max_new_tokens}", f"--output_dir={output}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    found: dict[str, Any] = json.loads((output / "results.json").read_text())
    return {name: found[name] for name in ("greedy", "sampled")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QSTEP_DATA", "../shared/data")))
    parser.add_argument("--variants", nargs="*", default=VARIANTS)
    parser.add_argument("--problems", type=int, default=60, help="problems to train on")
    parser.add_argument("--held_out", type=int, default=40)
    parser.add_argument(
        "--most_characters", type=int, default=1000, help="of a response; problems with a longer one are left out"
    )
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--batch", type=int, default=24, help="responses in an update")
    parser.add_argument("--accumulation", type=int, default=2)
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--samples", type=int, default=0, help="sampled responses to a held-out problem")
    parser.add_argument("--max_new_tokens", type=int, default=256)
    parser.add_argument("--processes", type=int, default=1, help="variants at the same time")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    chosen = list(problems(args.data / "gsm8k_responses.jsonl", args.most_characters))
    if len(chosen) < args.problems + args.held_out:
        raise SystemExit(
            f"only {len(chosen)} problems have right and wrong responses of at most {args.most_characters} characters: "
            "give a larger --most_characters, or fewer --problems and --held_out"
        )
    if args.batch % (args.accumulation * RESPONSES) and any(variant.startswith("dpo") for variant in args.variants):
        raise SystemExit(f"dpo needs a --batch that is a multiple of --accumulation times {RESPONSES}")
    random.Random(args.seed).shuffle(chosen)
    trained, held_out = chosen[: args.problems], chosen[args.problems : args.problems + args.held_out]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_jsonl(work / "train.jsonl", (row for problem in trained for row in rows_of(problem)))
        questions = ({"prompt": next(rows_of(problem))["prompt"], "answer": problem["answer"]} for problem in held_out)
        write_jsonl(work / "problems.jsonl", questions)
        before = log_probabilities(args.model, held_out, args.device)
        base = accuracy(args.model, args, work)

        def measured(variant: str) -> dict[str, Any]:
            output, found = run(variant, args, work)
            if output is not None:
                found["logps"] = change(before, log_probabilities(str(output), held_out, args.device))
                found["accuracy"] = accuracy(str(output), args, work)
                shutil.rmtree(output)
            print(variant, json.dumps(found), flush=True)
            return found

        with ThreadPoolExecutor(args.processes) as pool:
            results = dict(zip(args.variants, pool.map(measured, args.variants), strict=True))
    about = provenance(vars(args)) | {"command": f"python {' '.join(sys.argv)}"}
    parts = {"trained": trained, "held_out": held_out}
    counts = {name: sum(len(problem["responses"]) for problem in part) for name, part in parts.items()}
    result = {"rows": counts, "accuracy_before": base, "results": results, "provenance": about}
    write_json(args.output, result)


if __name__ == "__main__":
    main()
