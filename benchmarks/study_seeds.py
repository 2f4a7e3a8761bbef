r"""Keeps what one seed of a study of policies found, and writes the study's page from the seeds that were kept.

    python benchmarks/study_seeds.py keep studies/policies_smollm2.yaml --seed 601 \
        --output benchmarks/results/policies_smollm2
    python benchmarks/study_seeds.py page studies/policies_smollm2.yaml --input benchmarks/results/policies_smollm2 \
        --output_dir runs/policies_smollm2_page

So the seeds of a study may be run on different days and machines. `keep` writes `601.json`: for each policy and problem
the numbers of right, wrong and ungradable answers, `6/2/0`. `page` writes what `qstep run` writes after the last seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qstep.data import write_json
from qstep.evals import PolicyEvaluation, read_result
from qstep.recipes import Recipe, Run, Work, read_recipe
from qstep.recipes.graph import plan
from qstep.recipes.study import Study
from qstep.recipes.summary import summarise


def stages_of(recipe: Recipe) -> list[str]:
    """The `evaluate` stages that the study compares. Raises SystemExit for a study of scorers."""
    results = Study.of(recipe).results
    if isinstance(results, str):
        raise SystemExit("give a study of policies")
    return [*results.values()]


def kept(recipe: Recipe, runs: Sequence[Run]) -> dict[str, Any]:
    """What the runs of one seed found, by variant and stage."""
    return {"seed": runs[0].seed, "variants": {run.variant or "": kept_run(recipe, run) for run in runs}}


def kept_run(recipe: Recipe, run: Run) -> dict[str, Any]:
    """What one run found, by stage. The names of the problems are written once."""
    problems: list[str] = []
    stages = {}
    for stage in stages_of(recipe):
        file = run.stages[recipe.last(stage, run.variant)].output / "results.json"
        by_mode = read_result(file, PolicyEvaluation).problems
        problems = problems or sorted(next(iter(by_mode.values())))
        counts = {
            mode: " ".join("/".join(map(str, by_problem[problem])) for problem in problems)
            for mode, by_problem in by_mode.items()
        }
        stages[stage] = json.loads(file.read_text()) | {"problems": counts}
    return {"problems": problems, "stages": stages}


def restored(recipe: Recipe, content: dict[str, Any], folder: Path) -> list[Run]:
    """The runs of a kept seed, with their results below `folder`. No job is computed."""
    seed, runs = content["seed"], []
    for variant in recipe.variants or (None,):
        found = content["variants"][variant or ""]
        where = folder / (variant or "") / str(seed)
        written = recipe.resolved(variant, seed)
        stages = {}
        for stage in stages_of(recipe):
            result = found["stages"][stage]
            problems = {
                mode: dict(zip(found["problems"], map(numbers, counts.split()), strict=True))
                for mode, counts in result["problems"].items()
            }
            write_json(where / stage / "results.json", result | {"problems": problems})
            name = recipe.last(stage, variant)
            stages[name] = Work(name, written[name], where, {"output_dir": where / stage}, {}, frozenset())
        runs.append(Run(variant, seed, where, stages))
    return runs


def numbers(counts: str) -> list[int]:
    return [int(count) for count in counts.split("/")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    keep = commands.add_parser("keep")
    keep.add_argument("--seed", type=int, required=True)
    keep.add_argument("--output", type=Path, required=True)
    page = commands.add_parser("page")
    page.add_argument("--input", type=Path, required=True)
    page.add_argument("--output_dir", type=Path, required=True)
    for command in (keep, page):
        command.add_argument("recipe", type=Path)
    args = parser.parse_args()
    recipe = read_recipe(args.recipe)
    if args.command == "keep":
        write_json(args.output / f"{args.seed}.json", kept(recipe, plan(recipe, recipe.output_dir, [args.seed])))
        return
    contents = [json.loads(file.read_text()) for file in sorted(args.input.glob("*.json"))]
    folder = args.output_dir / "seeds"
    summarise(recipe, [run for content in contents for run in restored(recipe, content, folder)], args.output_dir)


if __name__ == "__main__":
    main()
