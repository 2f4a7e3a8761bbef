"""Writes worked solutions of reasoning_gym's word problems, to teach a small model how they are worked.

    python examples/data/make_word_problems.py --num_problems 1600 --output runs/word_problems.jsonl

The solutions are those of `gsm_symbolic`: a line for each step, and the answer after `####`, as GSM8K's have. The
problems are the first of the train split: `qstep sample --offset 1600` begins after them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from qstep.data import write_jsonl
from qstep.tasks import load_problems
from qstep.types import Problem


def row(problem: Problem) -> dict[str, Any]:
    """A right response to a problem."""
    return {
        "id": f"{problem.id}#worked",
        "problem_id": problem.id,
        "task": problem.task,
        "prompt": problem.prompt,
        "gold": problem.gold,
        "completion": problem.metadata["entry"]["metadata"]["answer_cot"],
        "label": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_problems", type=int, default=1600)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    problems = load_problems("reasoning_gym:gsm_symbolic", split="train", limit=args.num_problems, conversational=True)
    write_jsonl(args.output, map(row, problems))


if __name__ == "__main__":
    main()
