"""How policies of a study learned, and what they answer: tables for the study's page.

python benchmarks/learning.py --runs runs/policies_smollm2 --methods sft rs reinforce dpo kto dro dqo \
    --shown taught reinforce dqo --output benchmarks/results/policies_smollm2_learning.json

The curves are the log-probabilities of right and of wrong responses in the batches of each fifth of the updates, means
over the seeds. The answers are greedy ones to the first three problems of the first seed, whatever they are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from qstep.data import read_rows, write_json
from qstep.runs.provenance import provenance

PARTS = 5
MEASURES = {"right": "logps/chosen", "wrong": "logps/rejected"}


def curve(log: Path, measure: str) -> list[float | None]:
    """The mean of a measure in each part of a training's updates; None for a part in which it was not logged."""
    rows = [row for row in read_rows(log) if row.get("loss") is not None]
    parts = np.array_split(np.arange(len(rows)), PARTS)
    values = [[rows[i][measure] for i in part if rows[i].get(measure) is not None] for part in parts]
    return [float(np.mean(part)) if part else None for part in values]


def curves(seeds: list[Path], method: str) -> dict[str, list[float | None]]:
    """The curves of a method, means over the seeds."""

    def mean(measure: str) -> list[float | None]:
        by_seed = [curve(seed / method / "train_log.jsonl", measure) for seed in seeds]
        return [None if None in part else float(np.mean(part)) for part in zip(*by_seed, strict=True)]

    return {name: mean(measure) for name, measure in MEASURES.items()}


def answers(seed: Path, policies: list[str], count: int = 3) -> list[dict[str, Any]]:
    """The greedy answers of some policies to the first problems."""
    rows = {name: list(read_rows(seed / f"eval_{name}" / "greedy_graded.jsonl")) for name in policies}
    found = []
    for first in next(iter(rows.values()))[:count]:
        same = {
            name: next(row for row in held if row["problem_id"] == first["problem_id"]) for name, held in rows.items()
        }
        given = {name: {"completion": row["completion"], "verdict": row["verdict"]} for name, row in same.items()}
        found.append({"prompt": first["prompt"], "gold": first["gold"], "answers": given})
    return found


def shown(found: dict[str, Any]) -> str:
    """Both as Markdown."""

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    head = "| method | responses | " + " | ".join(f"fifth {number}" for number in range(1, PARTS + 1)) + " |"
    lines = [head, "|---" * (PARTS + 2) + "|"]
    for method, measures in found["curves"].items():
        lines += [f"| {method} | {name} | {' | '.join(map(cell, part))} |" for name, part in measures.items()]
    for problem in found["answers"]:
        prompt = problem["prompt"] if isinstance(problem["prompt"], str) else problem["prompt"][-1]["content"]
        lines += ["", f"**{' '.join(prompt.split())}** ({problem['gold']})", ""]
        for name, given in problem["answers"].items():
            lines += [f"`{name}`, {given['verdict']}:", "", "```text", given["completion"], "```", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="the study's output_dir")
    parser.add_argument("--methods", nargs="+", required=True, help="stages that train a policy")
    parser.add_argument("--shown", nargs="+", required=True, help="policies whose answers are shown")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    seeds = sorted(args.runs.glob("seed-*"))
    found = {
        "curves": {method: curves(seeds, method) for method in args.methods},
        "answers": answers(seeds[0], args.shown),
    }
    about = provenance(vars(args)) | {"command": f"python {' '.join(sys.argv)}"}
    write_json(args.output, {**found, "provenance": about})
    print(shown(found))


if __name__ == "__main__":
    main()
