"""A recipe of two stages on four rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from qstep.data import write_jsonl
from qstep.tasks import miniature


def write(folder: Path, **parts: Any) -> Path:
    """A recipe that grades four responses, and labels the steps of some, in `folder`."""
    rows = [
        {
            "id": f"{problem.id}#{sample}",
            "problem_id": problem.id,
            "sample": sample,
            "task": "miniature",
            "prompt": problem.prompt,
            "gold": problem.gold,
            "completion": miniature.solution(problem.prompt),
        }
        for problem in miniature.problems("train", 2)
        for sample in range(2)
    ]
    write_jsonl(folder / "rows.jsonl", rows)
    stages = {
        "labels": {"command": "annotate", "input": "${graded}", "max_per_problem": "${per_problem}"},
        "graded": {"command": "grade", "input": str(folder / "rows.jsonl")},
    }
    recipe = {
        "title": "four rows",
        "about": "a test",
        "output_dir": str(folder / "out"),
        "values": {"per_problem": 1},
        "stages": stages,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **parts}, sort_keys=False))
    return folder / "recipe.yaml"
