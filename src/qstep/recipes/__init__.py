"""Recipes: a YAML of stages, variants and seeds, run as a job graph in which what is shared is computed once."""

from qstep.recipes.graph import OutputBusy, Run, Work, plan, run
from qstep.recipes.reading import read_recipe
from qstep.recipes.recipe import Recipe, RecipeError, Stage
from qstep.recipes.workers import JobFailed

__all__ = ["JobFailed", "OutputBusy", "Recipe", "RecipeError", "Run", "Stage", "Work", "plan", "read_recipe", "run"]
