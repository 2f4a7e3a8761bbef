r"""Keeps what one seed of a study of policies found, and writes the study's page from the seeds that were kept.

    qstep run studies/policies_smollm2.yaml --seeds 601
    python benchmarks/study_seeds.py keep studies/policies_smollm2.yaml --seed 601 \\
        --output benchmarks/results/policies_smollm2
    python benchmarks/study_seeds.py page studies/policies_smollm2.yaml --input benchmarks/results/policies_smollm2 \\
        --output_dir runs/policies_smollm2_page

So the seeds of a study may be run on different days and machines. `keep` writes `601.jsonl`, which has the
`results.json` of each policy. `page` writes what `qstep run` writes after the last seed, and prints where each seed was
run. The last line of the page names the commit and the hardware of the first seed only, and this command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from qstep.data import read_rows, write_json, write_jsonl
from qstep.evals import PolicyEvaluation, read_result
from qstep.recipes import Recipe, Run, Work, read_recipe
from qstep.recipes.graph import plan
from qstep.recipes.study import Study
from qstep.recipes.summary import summarise
from qstep.types import Row


def stages_of(recipe: Recipe) -> list[str]:
    """The `evaluate` stages that the study compares. Raises SystemExit for a study of scorers."""
    results = Study.of(recipe).results
    if isinstance(results, str):
        raise SystemExit("give a study of policies")
    return [*results.values()]


def kept(recipe: Recipe, runs: Sequence[Run]) -> Iterator[Row]:
    """What the runs of one seed found: a row for each variant and policy. Raises SystemExit if it is not complete."""
    for run in runs:
        for stage in stages_of(recipe):
            work = run.stages[recipe.last(stage, run.variant)]
            if not work.done:
                raise SystemExit(f"{work.folder} is not done: run `qstep run {recipe.file} --seeds {run.seed}` first")
            read_result(work.output / "results.json", PolicyEvaluation)  # refuses another kind of file
            result = json.loads((work.output / "results.json").read_text())
            yield {
                "id": f"{run.seed}/{run.variant or ''}/{stage}",
                "seed": run.seed,
                "variant": run.variant,
                "stage": stage,
                "result": result,
            }


def restored(recipe: Recipe, rows: Iterable[Row], folder: Path) -> list[Run]:
    """The runs of kept seeds, with their results below `folder`. No job is computed."""
    stages: dict[tuple[str | None, int], dict[str, Work]] = {}
    for row in rows:
        variant, seed, output = row["variant"], row["seed"], folder / row["id"]
        write_json(output / "results.json", row["result"])
        name = recipe.last(row["stage"], variant)
        stage = recipe.resolved(variant, seed)[name]
        work = Work(name, stage, output, {"output_dir": output}, {}, frozenset())
        stages.setdefault((variant, seed), {})[name] = work
    return [
        Run(variant, seed, folder / str(seed) / (variant or ""), works) for (variant, seed), works in stages.items()
    ]


def origins(rows: Iterable[Row]) -> Mapping[int, str]:
    """The commit and the hardware of each seed."""
    found: dict[int, str] = {}
    for row in rows:
        made = row["result"]["provenance"]
        found.setdefault(row["seed"], f"commit {made['git_commit']}, {made['hardware']}")
    return found


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
        write_jsonl(args.output / f"{args.seed}.jsonl", kept(recipe, plan(recipe, recipe.output_dir, [args.seed])))
        return
    rows = [row for file in sorted(args.input.glob("*.jsonl")) for row in read_rows(file)]
    if not rows:
        raise SystemExit(f"{args.input} has no seeds: give the folder that `keep` writes")
    summarise(recipe, restored(recipe, rows, args.output_dir / "seeds"), args.output_dir)
    for seed, origin in origins(rows).items():
        print(f"seed {seed}: {origin}")


if __name__ == "__main__":
    main()
