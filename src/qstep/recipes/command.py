"""`qstep run recipe.yaml` and `qstep demo`, which runs the packaged miniature recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from qstep.recipes.graph import Run
from qstep.recipes.graph import run as run_recipe
from qstep.recipes.recipe import RecipeError, read_recipe
from qstep.recipes.study import Study
from qstep.recipes.summary import summarise

MINIATURE = Path(str(files("qstep.recipes") / "miniature.yaml"))
"""The recipe that `qstep demo` runs."""


@dataclass(kw_only=True)
class DemoConfig:
    """From nothing to a better reasoner, on the embedded miniature: base policy, samples, labels, verifiers, offline
    RL, evaluation, report. Runs the packaged recipe `qstep/recipes/miniature.yaml`.

    Args:
        output_dir: where everything goes; by default the folder that the recipe names.
        seeds: the seeds to run, as `1,2`; by default the recipe's.
        only: run this stage and what it needs, no more.
        processes: commands run side by side, each with a model of its own; by default as many as the recipe says.
        values: the recipe's values to set anew, as `--values.NAME VALUE`.
    """

    output_dir: Path | None = None
    seeds: str | None = None
    only: str | None = None
    processes: int | None = None
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class RunConfig(DemoConfig):
    """Runs what is not yet there of a recipe: `qstep run recipe.yaml`. Killed, or with changed options, it goes on
    with what is missing or concerned.

    Args:
        recipe: the YAML file; as the first argument it needs no flag.
    """

    recipe: Path


def run(config: RunConfig) -> list[Run]:
    """Runs the recipe, prints and writes what came of it, and returns its runs."""
    return _run(config.recipe, config)


def demo(config: DemoConfig) -> list[Run]:
    """Runs the packaged miniature recipe."""
    return _run(MINIATURE, config)


def _run(file: Path, config: DemoConfig) -> list[Run]:
    recipe = read_recipe(file, config.values)
    if recipe.study is not None:
        Study.of(recipe)  # refused now, not when everything has been computed
    try:
        seeds = None if config.seeds is None else [int(seed) for seed in config.seeds.split(",")]
    except ValueError:
        raise RecipeError(f"seeds is {config.seeds!r}: give numbers with commas between, such as 1,2") from None
    if config.processes is not None and config.processes < 1:
        raise RecipeError(f"processes is {config.processes}: give 1 or more")
    output_dir = config.output_dir or recipe.output_dir
    runs = run_recipe(recipe, output_dir, seeds=seeds, only=config.only, processes=config.processes)
    summarise(recipe, runs, output_dir)
    return runs
