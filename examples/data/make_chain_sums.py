"""Writes worked solutions of reasoning_gym's sums, to teach a small model how they are worked before it is sampled.

    python examples/data/make_chain_sums.py --num_problems 1500 --output runs/chain_sums.jsonl

A solution has a line for each sum, from left to right, and the answer after `####`, as GSM8K's have. The problems are
the first of the train split: `qstep sample --offset 1500` begins after them.

With `--thinking`, the lines are hidden reasoning, which the chat template has opened: `</think>` comes before the
answer. Every second solution checks itself by working the sum a second time, so that the same problem is answered
after a short or a long trace.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from qstep.data import write_jsonl
from qstep.tasks import load_problems
from qstep.types import Problem

OPTIONS = {"min_digits": 1, "max_digits": 2, "min_terms": 3, "max_terms": 5}


def worked(expression: str) -> str:
    """`78 - 68 + 9`: a line `78 - 68 = 10`, a line `10 + 9 = 19`, and `#### 19`."""
    first, *rest = expression.split()
    total, lines = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        result = total + int(term) if sign == "+" else total - int(term)
        lines.append(f"{total} {sign} {term} = {result}")
        total = result
    return "\n".join([*lines, f"#### {total}"])


def thought(expression: str, *, twice: bool) -> str:
    """`worked` as the rest of a response whose thinking is open. With `twice`, the sum is worked again."""
    lines, _, answer = worked(expression).rpartition("\n")
    again = f"\n\nWait, let me check.\n{lines}" if twice else ""
    return f"{lines}{again}\n</think>\n\n{answer}"


def row(number: int, problem: Problem, *, thinking: bool) -> dict[str, Any]:
    """A right response to a problem."""
    expression = problem.metadata["entry"]["metadata"]["expression"]
    return {
        "id": f"{problem.id}#worked",
        "problem_id": problem.id,
        "task": problem.task,
        "prompt": problem.prompt,
        "gold": problem.gold,
        "completion": thought(expression, twice=number % 2 == 1) if thinking else worked(expression),
        "label": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_problems", type=int, default=1500)
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    problems = load_problems(
        "reasoning_gym:chain_sum", options=OPTIONS, split="train", limit=args.num_problems, conversational=True
    )
    write_jsonl(args.output, (row(number, each, thinking=args.thinking) for number, each in enumerate(problems)))


if __name__ == "__main__":
    main()
