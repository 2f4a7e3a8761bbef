"""Responses to problems of the miniature, half of them right, with the labels of their steps."""

from __future__ import annotations

from qstep.tasks import miniature
from qstep.types import Row


def labelled_rows(problems: int) -> list[Row]:
    """Four responses to each problem. Every other one is wrong in its second step."""
    rows = []
    for problem in miniature.problems("train", problems):
        for sample in range(4):
            steps = miniature.solution(str(problem.prompt)).split("\n")
            if sample % 2:
                steps[1] = steps[1][:-1] + str((int(steps[1][-1]) + sample) % 10)
            rows.append(
                {
                    "id": f"{problem.id}#{sample}",
                    "problem_id": problem.id,
                    "prompt": problem.prompt,
                    "completion": "\n".join(steps),
                    "completions": steps,
                    "labels": miniature.check_steps(str(problem.prompt), steps),
                    "label": sample % 2 == 0,
                }
            )
    return rows
