"""Writes worked solutions of reasoning_gym's counts of legs, to teach a small model how they are worked.

    python examples/data/make_leg_counts.py --num_problems 1600 --output runs/leg_counts.jsonl

"How many legs are there in total if you have 5 chickens, 5 beetles?" A solution has a line for each kind of animal,
with the sum so far, and the answer after `####`, as GSM8K's have. The problems are the first of the train split:
`qstep sample --offset 1600` begins after them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reasoning_gym.arithmetic.leg_counting import ANIMALS

from qstep.data import write_jsonl
from qstep.tasks import load_problems
from qstep.types import Problem

OPTIONS = {"min_animals": 3, "max_animals": 4, "max_instances": 9}


def worked(animals: dict[str, int]) -> str:
    """`{"chicken": 5, "beetle": 5}`: `5 chickens: 5*2=10`, `5 beetles: 5*6=30, 10+30=40` and `#### 40`."""
    total, lines = None, []
    for animal, number in animals.items():
        legs = number * ANIMALS[animal]
        line = f"{number} {animal}{'s' if number > 1 else ''}: {number}*{ANIMALS[animal]}={legs}"
        lines.append(line if total is None else f"{line}, {total}+{legs}={total + legs}")
        total = legs + (total or 0)
    return "\n".join([*lines, f"#### {total}"])


def row(problem: Problem) -> dict[str, Any]:
    """A right response to a problem."""
    return {
        "id": f"{problem.id}#worked",
        "problem_id": problem.id,
        "task": problem.task,
        "prompt": problem.prompt,
        "gold": problem.gold,
        "completion": worked(problem.metadata["entry"]["metadata"]["animals"]),
        "label": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_problems", type=int, default=1600)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    name = "reasoning_gym:leg_counting"
    problems = load_problems(name, options=OPTIONS, split="train", limit=args.num_problems, conversational=True)
    write_jsonl(args.output, map(row, problems))


if __name__ == "__main__":
    main()
