"""Writes worked solutions of a family of reasoning_gym, to teach a small model how they are worked.

    python examples/data/make_worked_solutions.py --family chain_sum --num_problems 1500 --output runs/chain_sums.jsonl
    python examples/data/make_worked_solutions.py --family leg_counting --output runs/leg_counts.jsonl

`chain_sum` has a line for each sum, from left to right. `leg_counting` ("how many legs are there in total if you have
5 chickens, 5 beetles?") has a line for each kind of animal, with the sum so far. The answer comes after `####`, as in
GSM8K. The problems are the first of the train split: `qstep sample --offset 1500` begins after 1500 of them.

With `--thinking`, the lines are hidden reasoning, which the chat template has opened: `</think>` comes before the
answer. Every second solution checks itself by working the problem a second time, so that the same problem is answered
after a short or a long trace.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reasoning_gym.arithmetic.leg_counting import ANIMALS

from qstep.data import write_jsonl
from qstep.tasks import load_problems
from qstep.types import Problem

OPTIONS: Mapping[str, Mapping[str, int]] = {
    "chain_sum": {"min_digits": 1, "max_digits": 2, "min_terms": 3, "max_terms": 5},
    "leg_counting": {"min_animals": 3, "max_animals": 4, "max_instances": 9},
}


def worked_sum(expression: str) -> str:
    """`78 - 68 + 9`: a line `78 - 68 = 10`, a line `10 + 9 = 19`, and `#### 19`."""
    first, *rest = expression.split()
    total, lines = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        result = total + int(term) if sign == "+" else total - int(term)
        lines.append(f"{total} {sign} {term} = {result}")
        total = result
    return "\n".join([*lines, f"#### {total}"])


def worked_legs(animals: Mapping[str, int]) -> str:
    """`{"chicken": 5, "beetle": 5}`: `5 chickens: 5*2=10`, `5 beetles: 5*6=30, 10+30=40` and `#### 40`."""
    total, lines = None, []
    for animal, number in animals.items():
        legs = number * ANIMALS[animal]
        line = f"{number} {animal}{'s' if number > 1 else ''}: {number}*{ANIMALS[animal]}={legs}"
        lines.append(line if total is None else f"{line}, {total}+{legs}={total + legs}")
        total = legs + (total or 0)
    return "\n".join([*lines, f"#### {total}"])


WORKED: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "chain_sum": lambda metadata: worked_sum(metadata["expression"]),
    "leg_counting": lambda metadata: worked_legs(metadata["animals"]),
}


def thought(solution: str, *, twice: bool) -> str:
    """A solution as the rest of a response whose thinking is open. With `twice`, the problem is worked again."""
    lines, _, answer = solution.rpartition("\n")
    again = f"\n\nWait, let me check.\n{lines}" if twice else ""
    return f"{lines}{again}\n</think>\n\n{answer}"


def row(family: str, number: int, problem: Problem, *, thinking: bool) -> dict[str, Any]:
    """A right response to a problem."""
    solution = WORKED[family](problem.metadata["entry"]["metadata"])
    return {
        "id": f"{problem.id}#worked",
        "problem_id": problem.id,
        "task": problem.task,
        "prompt": problem.prompt,
        "gold": problem.gold,
        "completion": thought(solution, twice=number % 2 == 1) if thinking else solution,
        "label": True,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=[*WORKED], required=True)
    parser.add_argument("--num_problems", type=int, default=1500)
    parser.add_argument("--thinking", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    options = OPTIONS[args.family]
    name = f"reasoning_gym:{args.family}"
    problems = load_problems(name, options=options, split="train", limit=args.num_problems, conversational=True)
    rows = (row(args.family, number, each, thinking=args.thinking) for number, each in enumerate(problems))
    write_jsonl(args.output, rows)


if __name__ == "__main__":
    main()
