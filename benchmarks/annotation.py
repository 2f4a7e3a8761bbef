"""Step labels by rollouts: their speed beside naive prefixes, and what each method's labels are worth for its rollouts.

    python examples/data/make_smollm2.py --output runs/smollm2-135m-instruct
    python benchmarks/annotation.py --model runs/smollm2-135m-instruct --data ../shared/data \
        --output benchmarks/results/annotation.json

Two parts:

    speed    `label_by_rollouts`, monte_carlo with k rollouts, beside what anybody would write: for each prefix of each
             response one `model.generate` call with `num_return_sequences=k`. Same model, same responses (real ones of
             12 models to GSM8K problems), same prefixes in tokens, same room for each rollout, same grading. They take
             turns, `--pairs` times on different problems; the figure is the median of the pairs' ratios of labelled
             steps per second. `cpu_ratio`, of this process's processor time, is disturbed less by other work, and
             leaves out the graders' processes. What a response shares with another of its problem the naive loop
             continues twice; `prefixes` and `distinct` say how much that is. That both draw from the same distribution
             is checked by the rollouts' mean length and successes, whose difference is given in standard errors.
    quality  On the miniature, where every step's exact label is known. For each seed a policy is trained as the
             miniature's recipe trains its base, on the textbook of the seed's world, and answers problems of the test
             split; each method labels the steps of its answers by rollouts of the policy itself. `steps` is the share
             of steps labelled as they are (null is not), `first_error` the share of responses whose first wrong step is
             found (or that there is none), and `rollouts` what was drawn, as a share of monte_carlo's too; a rate above
             0 counts as right. Intervals are 95 %, over problems of all seeds; `difference` is paired with monte_carlo.
             Thresholds were tried on problems of the validation split in the world of seed 0; any other seed is fresh.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qstep.annotate import RolloutSettings, label_by_rollouts
from qstep.annotate.rollouts import prefixes_of
from qstep.cli import main as qstep
from qstep.data import encode_prompt, read_responses, write_json
from qstep.evals import ratio_estimate
from qstep.evals.intervals import ratio_difference
from qstep.generation import HFEngine, Request, SamplingSettings
from qstep.models.inference import load_for_sampling
from qstep.runs.provenance import provenance
from qstep.tasks import grade_rows, miniature
from qstep.types import RolloutMethod

Row = dict[str, Any]
METHODS = get_args(RolloutMethod)
RESPONSES = 4
LIMIT = 64


def naive_labels(engine: HFEngine, rows: Sequence[Row], settings: RolloutSettings) -> tuple[int, list[int], list[int]]:
    """Labelled steps, the lengths of the rollouts and their successes (1 or 0), prefix after prefix by `generate`."""
    tokenizer, sampling = engine.tokenizer, settings.sampling
    lengths: list[int] = []
    rollouts: list[Row] = []
    steps = 0
    for row in rows:
        row_steps, prefixes = prefixes_of(engine, row, settings.separator, sampling.max_new_tokens)
        steps += len(row_steps)
        prompt = encode_prompt(tokenizer, row["prompt"])
        for prefix in prefixes:
            room = sampling.max_new_tokens - len(prefix.ids)
            if room < 1:
                continue
            ids = torch.tensor([[*prompt, *prefix.ids]], device=engine.model.device)
            output = engine.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=sampling.temperature,
                top_k=0,
                top_p=1.0,
                num_return_sequences=settings.k,
                max_new_tokens=room,
                pad_token_id=engine.eos_ids[0],
            )
            for continued in output[:, ids.shape[1] :].tolist():
                ended = next((i + 1 for i, token in enumerate(continued) if token in engine.eos_ids), len(continued))
                lengths.append(ended)
                text = engine.decode([*prefix.ids, *continued[:ended]])
                rollouts.append({**row, "completion": text})
    successes = [int(grade.verdict == "right") for grade in grade_rows(rollouts)]
    return steps, lengths, successes


def real_rows(data: Path, problems: int, responses: int, skip: int) -> list[Row]:
    """The first responses to some GSM8K problems, with their published verdicts."""
    per_problem: dict[str, list[Row]] = {}
    for row in read_responses(data / "gsm8k_responses.jsonl", limit=skip + problems):
        of_problem = per_problem.setdefault(row["problem_id"], [])
        if len(of_problem) < responses:
            of_problem.append({**row, "verdict": "right" if row["correct"] else "wrong"})
    return [row for rows in list(per_problem.values())[skip:] for row in rows]


def speed(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Alternating pairs of qstep and the naive loop; what all so far say, after each."""
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype).eval().to(args.device)
    engine = HFEngine(model, tokenizer, max_tokens=args.max_tokens)
    runs = []
    lengths: dict[str, list[float]] = {"qstep": [], "naive": []}
    successes: dict[str, list[float]] = {"qstep": [], "naive": []}
    first = real_rows(args.data, 1, 1, 0)
    warm_up = RolloutSettings(1, SamplingSettings(args.max_new_tokens))
    naive_labels(engine, first, warm_up)  # the graders of both are started here
    label_by_rollouts(engine, first, warm_up)
    for pair in range(args.pairs):
        rows = real_rows(args.data, args.problems, args.responses, pair * args.problems)
        settings = RolloutSettings(args.k, SamplingSettings(args.max_new_tokens, seed=args.seed + pair))
        seconds: dict[str, float] = {}
        cpu_seconds: dict[str, float] = {}
        for side in ("qstep", "naive") if pair % 2 == 0 else ("naive", "qstep"):
            torch.manual_seed(args.seed + pair)
            start, start_cpu = time.perf_counter(), time.process_time()
            if side == "naive":
                steps, of_naive, right = naive_labels(engine, rows, settings)
            else:
                labelled = label_by_rollouts(engine, rows, settings)
            seconds[side], cpu_seconds[side] = time.perf_counter() - start, time.process_time() - start_cpu
        drawn = [row["rollouts"] for row in labelled]
        # Each prefix as often as the naive loop continued it, so that the means compare.
        tried = [
            (s, n) for row in labelled for s, n in list(zip(row["successes"], row["trials"], strict=True))[:-1] if n
        ]
        successes["qstep"] += [s / n for s, n in tried for _ in range(n)]
        successes["naive"] += right
        lengths["naive"] += of_naive
        lengths["qstep"].append(sum(of["tokens"] for of in drawn) / max(sum(of["drawn"] for of in drawn), 1))
        runs.append(
            {
                "steps": steps,
                "prefixes": len(of_naive) // args.k,
                "distinct": sum(of["tried"] for of in drawn),
                "rollout_tokens": {"qstep": sum(of["tokens"] for of in drawn), "naive": sum(of_naive)},
                "successes": {"qstep": sum(s for s, _ in tried), "naive": sum(right)},
                "seconds": seconds,
                "labels_per_second": {side: steps / took for side, took in seconds.items()},
                "ratio": seconds["naive"] / seconds["qstep"],
                "cpu_seconds": cpu_seconds,
                "cpu_ratio": cpu_seconds["naive"] / cpu_seconds["qstep"],
            }
        )
        print(runs[-1], flush=True)
        rate = {side: statistics.fmean(of) for side, of in successes.items()}
        error = (sum(p * (1 - p) / len(successes[side]) for side, p in rate.items())) ** 0.5
        yield {
            "ratio": statistics.median(run["ratio"] for run in runs),
            "cpu_ratio": statistics.median(run["cpu_ratio"] for run in runs),
            "labels_per_second": {
                side: statistics.median(run["labels_per_second"][side] for run in runs) for side in ("qstep", "naive")
            },
            "k": args.k,
            "success_rate": rate,
            "success_difference_in_standard_errors": (rate["qstep"] - rate["naive"]) / error if error else 0.0,
            "mean_length": {side: statistics.fmean(of) for side, of in lengths.items()},
            "runs": runs,
        }


def base_policy(seed: int, pages: int, device: str) -> HFEngine:
    """A policy trained on the textbook of the seed's world with the options of the miniature recipe's stage `base`."""
    options = ["--per_device_train_batch_size", "32", "--responses_per_prompt", "1", "--num_train_epochs", "1"]
    options += ["--learning_rate", "4e-3", "--lr_scheduler_type", "linear", "--warmup_steps", "50"]
    options += ["--weight_decay", "0", "--adam_beta2", "0.98", "--max_length", "128", "--save_strategy", "no"]
    options += ["--report_to", "none", "--disable_tqdm", "true", "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        world = ["--output_dir", f"{folder}/world", "--seed", str(seed), "--textbook_rows", str(pages)]
        inputs = ["--model_name_or_path", f"{folder}/world/model", "--train_file", f"{folder}/world/textbook.jsonl"]
        for command in (["miniature", *world], ["train", "rs", *inputs, "--output_dir", f"{folder}/policy", *options]):
            if qstep(command):
                raise RuntimeError(f"qstep {' '.join(command)} failed")
        model, tokenizer = load_for_sampling(f"{folder}/policy", device=device, dtype="float32")
    return HFEngine(model, tokenizer)


def answers(engine: HFEngine, problems: int, seed: int) -> list[Row]:
    """The policy's own graded answers to problems of the test split."""
    asked = {problem.id: problem for problem in miniature.problems("test", problems, seed)}
    requests = [
        Request(problem.id, engine.tokenizer(problem.prompt)["input_ids"], range(RESPONSES))
        for problem in asked.values()
    ]
    rows = []
    for request, responses in engine.sample(requests, SamplingSettings(LIMIT, seed=seed)):
        problem = asked[request.key]
        for response in responses:
            rows.append(
                {
                    "id": f"{problem.id}#{response.sample}",
                    "problem_id": problem.id,
                    "task": "miniature",
                    "prompt": problem.prompt,
                    "gold": problem.gold,
                    "completion": response.text,
                    "completion_ids": response.token_ids,
                    "finish_reason": response.finish_reason,
                    "verdict": miniature.grade(problem.gold, response.text).verdict,
                }
            )
    return rows


def hard(labels: Sequence[bool | float | None]) -> list[bool | None]:
    return [None if label is None else label > 0 for label in labels]


def agreement(rows: Sequence[Row]) -> dict[str, tuple[list[int], list[int]]]:
    """Of each problem: steps labelled as they are, and responses whose first error is found, of how many."""
    counts: dict[str, dict[str, list[int]]] = {"steps": {}, "first_error": {}}
    for row in rows:
        exact, found = miniature.check_steps(row["prompt"], row["completions"]), hard(row["labels"])
        for name, right, of in (
            ("steps", sum(a == b for a, b in zip(exact, found, strict=True)), len(exact)),
            ("first_error", first_error(exact) == first_error(found), 1),
        ):
            problem = counts[name].setdefault(row["problem_id"], [0, 0])
            problem[0] += right
            problem[1] += of
    return {name: tuple(map(list, zip(*of.values(), strict=True))) for name, of in counts.items()}  # type: ignore


def first_error(labels: Sequence[bool | None]) -> int:
    """The index of the first step that is not right, the number of steps where all are."""
    return next((step for step, label in enumerate(labels) if not label), len(labels))


def quality(args: argparse.Namespace) -> dict[str, Any]:
    """Agreement and rollouts of each method, over the seeds."""
    labelled: dict[str, list[Row]] = {method: [] for method in METHODS}
    accuracy = {}
    for seed in args.seeds:
        engine = base_policy(seed, args.pages, args.device)
        rows = answers(engine, args.quality_problems, seed)
        accuracy[str(seed)] = statistics.fmean(row["verdict"] == "right" for row in rows)
        for method in METHODS:
            settings = RolloutSettings(8, SamplingSettings(LIMIT, seed=seed + 1), method=method)
            labelled[method] += label_by_rollouts(engine, rows, settings)
        print(f"seed {seed}: accuracy {accuracy[str(seed)]:.3f}")
    drawn = {method: sum(row["rollouts"]["drawn"] for row in rows) for method, rows in labelled.items()}
    agreed = {method: agreement(rows) for method, rows in labelled.items()}
    methods = {
        method: {
            "rollouts": drawn[method],
            "share_of_rollouts": drawn[method] / drawn["monte_carlo"],
            **{name: asdict(ratio_estimate(*of)) for name, of in agreed[method].items()},
            "difference": {
                name: asdict(ratio_difference(of, agreed["monte_carlo"][name])) for name, of in agreed[method].items()
            },
        }
        for method in METHODS
    }
    return {"k": 8, "responses": RESPONSES, "policy_accuracy": accuracy, "methods": methods}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of SmolLM2-135M-Instruct, or another model; no speed part without it")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of gsm8k_responses.jsonl")
    parser.add_argument("--output", type=Path, help="where to write the result as JSON")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--problems", type=int, default=2, help="problems of a pair")
    parser.add_argument("--responses", type=int, default=12, help="responses to each of them")
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=131_072, help="positions in the engine's cache")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, nargs="*", default=[100, 101, 102], help="of the quality part; none: skip")
    parser.add_argument("--quality-problems", type=int, default=100)
    parser.add_argument("--pages", type=int, default=16_000, help="of the textbook that a policy learns from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    result: dict[str, Any] = {"provenance": provenance({**vars(args), "threads": torch.get_num_threads()})}
    result["provenance"]["command"] = f"python {' '.join(sys.argv)}"
    if args.seeds:
        result["quality"] = quality(args)
        print(json.dumps(result["quality"]["methods"], indent=2))
        save(args.output, result)
    if args.model:
        for result["speed"] in speed(args):
            save(args.output, result)
        print({name: value for name, value in result["speed"].items() if name != "runs"})


def save(output: Path | None, result: dict[str, Any]) -> None:
    if output:
        write_json(output, result)


if __name__ == "__main__":
    main()
