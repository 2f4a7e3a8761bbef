"""`qstep run recipe.yaml` and `qstep demo`, which runs the packaged miniature recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from qstep.recipes.graph import Run, jobs_in_order, plan
from qstep.recipes.graph import run as run_recipe
from qstep.recipes.reading import read_recipe
from qstep.recipes.recipe import Recipe
from qstep.recipes.study import Study
from qstep.recipes.summary import summarise
from qstep.runs.options import AtLeast1, Check, Options, OutputFolder

MINIATURE = Path(str(files("qstep.recipes") / "miniature.yaml"))
"""The file of the recipe that `qstep demo` runs."""


def _seeds(option: str, seeds: str) -> list[int]:
    """The seeds. Raises ValueError if one is not a whole number."""
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ValueError(f"--{option} is {seeds!r}; give whole numbers with commas between, such as 1,2") from None


@dataclass(kw_only=True)
class DemoConfig(Options):
    """Runs all of qstep on a toy task: base policy, samples, labels, scorers, offline RL, evaluation, report. The
    packaged recipe is `qstep/recipes/miniature.yaml`.

    Args:
        output_dir: the folder for all output; by default the folder that the recipe names.
        seeds: the seeds to run, such as `1,2`; by default those of the recipe.
        only: run this stage and what it needs, no more.
        processes: how many commands run side by side, each with its own model; by default the recipe's number.
        values: replaces values of the recipe, as `--values.NAME VALUE`.
    """

    output_dir: OutputFolder | None = None
    seeds: Annotated[str | None, Check(_seeds)] = None
    only: str | None = None
    processes: AtLeast1 | None = None
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class RunConfig(DemoConfig):
    """Runs the jobs of a recipe whose output is not there yet: `qstep run recipe.yaml`.

    After a kill the same command resumes. After a change of options it runs only the jobs that the change concerns.

    Args:
        recipe: the YAML file. It may stand first, without the flag.
    """

    recipe: Path


def run(config: RunConfig) -> list[Run]:
    """Runs the recipe, prints and writes its results, and returns its runs."""
    return _run(config.recipe, config)


def demo(config: DemoConfig) -> list[Run]:
    """Runs the packaged miniature recipe."""
    return _run(MINIATURE, config)


def show_plan(command: str, config: DemoConfig) -> None:
    """Prints the jobs of a recipe in the order in which they start, and which are done. Nothing is started or written.

    Raises RecipeError where something in the recipe cannot be run.
    """
    recipe, output_dir, seeds = _prepared(config.recipe if isinstance(config, RunConfig) else MINIATURE, config)
    jobs = jobs_in_order(plan(recipe, output_dir, seeds, config.only))
    done = sum(work.done for work in jobs.values())
    print(f"Dry run of qstep {command}: {recipe.file}")
    print(f"{done} of {len(jobs)} jobs are done. Nothing is started or written. Outputs go to {output_dir}.")
    width = max(map(len, jobs))
    for number, (name, work) in enumerate(jobs.items(), start=1):
        state = "done" if work.done else "to run"
        print(f"{number:4}  {state:6}  {name:{width}}  qstep {work.stage.command.name:22} {work.output}")


def _run(file: Path, config: DemoConfig) -> list[Run]:
    recipe, output_dir, seeds = _prepared(file, config)
    runs = run_recipe(recipe, output_dir, seeds=seeds, only=config.only, processes=config.processes)
    summarise(recipe, runs, output_dir)
    return runs


def _prepared(file: Path, config: DemoConfig) -> tuple[Recipe, Path, list[int]]:
    """The recipe with the values that were set, the output folder and the seeds."""
    recipe = read_recipe(file, config.values)
    if recipe.study is not None:
        Study.of(recipe)  # refused now, not when everything has been computed
    seeds = list(recipe.seeds) if config.seeds is None else _seeds("seeds", config.seeds)
    return recipe, config.output_dir or recipe.output_dir, seeds
