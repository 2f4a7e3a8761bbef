"""A study of two policies, and runs of it with given counts of right answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from qstep.evals import PolicyEvaluation, write_result
from qstep.recipes import Recipe, Run, Work, read_recipe
from qstep.recipes.recipe import Stage
from qstep.runs.provenance import provenance
from qstep.stages.commands import COMMANDS

COMPARISONS = {
    "sampled": {"a": "dqo", "b": "base", "measure": "sampled"},
    "any of two": {"a": "dqo", "b": "base", "measure": "pass@2", "decides": False},
    "greedy": {"a": "dqo", "b": "base", "measure": "greedy", "decides": False},
}
STUDY = {
    "claim": "C",
    "paper": "P",
    "settings": "S",
    "results": {"base": "eval_base", "dqo": "eval_dqo"},
    "comparisons": COMPARISONS,
}
EVALUATE = {"command": "evaluate", "model_name_or_path": "./m", "dataset_name": "miniature"}
STAGES = {"eval_base": EVALUATE, "eval_dqo": {"like": "eval_base", "num_samples": 8}}

Counts = list[list[int]]


def recipe(folder: Path, variants: Any = None, **study: Any) -> Recipe:
    written = {"title": "T", "about": "A", "output_dir": str(folder), "stages": STAGES, "study": {**STUDY, **study}}
    (folder / "claim.yaml").write_text(yaml.safe_dump({**written, "variants": variants or {}}, sort_keys=False))
    return read_recipe(folder / "claim.yaml")


def evaluated(
    folder: Path, stage: str, sampled: Counts, first: int = 0, golds: str | None = None, turned: bool = False
) -> Work:
    """An evaluation in which each problem has these counts of right, wrong and ungradable. Greedy is all right.

    If `turned`, the sampled responses were written in the opposite order.
    """
    problems = {str(first + i): counts for i, counts in enumerate(sampled)}
    (folder / stage).mkdir(parents=True)
    write_result(
        folder / stage / "results.json",
        PolicyEvaluation(
            name=stage,
            golds=golds,
            problems={
                "greedy": {problem: [1, 0, 0] for problem in problems},
                "sampled": dict(reversed(problems.items())) if turned else problems,
            },
            provenance=provenance({}),
        ),
    )
    return Work("key", Stage(stage, COMMANDS["evaluate"], {}), folder, {"output_dir": folder / stage}, {}, frozenset())


def of_run(folder: Path, seed: int, base: Counts, dqo: Counts, variant: str | None = None) -> Run:
    where = folder / f"{variant}-{seed}"
    works = {"eval_base": evaluated(where, "eval_base", base), "eval_dqo": evaluated(where, "eval_dqo", dqo)}
    return Run(variant, seed, where, works)


HALF, THREE, ALL = [2, 2, 0], [3, 1, 0], [4, 0, 0]
