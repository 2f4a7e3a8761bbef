"""The links to the outputs of a recipe, named after its stages, and the check that they replace nothing of the user."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qstep.recipes.recipe import Recipe

if TYPE_CHECKING:
    from qstep.recipes.graph import Run

SUMMARY = "results.json"
"""The results of one run, to which there is a link, or those of several runs."""


def link_outputs(of_run: Run) -> None:
    """Puts links to the outputs, named after their stages, into the run's folder."""
    of_run.folder.mkdir(parents=True, exist_ok=True)
    for output in _outputs(of_run):
        link, new = of_run.folder / output.name, of_run.folder / f".{output.name}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(os.path.relpath(output, of_run.folder))
        os.replace(new, link)


def refuse_replacing(recipe: Recipe, runs: Sequence[Run], output_dir: Path) -> None:
    """Raises RecipeError if a link, a run's folder or a result is to take the place of something else."""
    for of_run in runs:
        for folder in (of_run.folder, of_run.folder.parent):
            if output_dir in folder.parents and (folder.is_symlink() or folder.is_file()):
                raise recipe.error(f"{folder} is not a folder: move it, or choose another output_dir")
    links = [of_run.folder / output.name for of_run in runs for output in _outputs(of_run)]
    written = [output_dir / SUMMARY] if SUMMARY in {link.name for link in links} and len(runs) > 1 else []
    if recipe.study is not None:
        written.append(output_dir / f"{recipe.file.stem}.json")
        if not written[-1].exists():
            written.append(output_dir / f"{recipe.file.stem}.md")
    for path in (*links, *written):
        if not _may_be_replaced(path, output_dir):
            raise recipe.error(f"{path} was not written by `qstep run`: move it, or choose another output_dir")


def _may_be_replaced(path: Path, output_dir: Path) -> bool:
    """Whether a path is free, a link to a job's output, or a result that `qstep run` wrote."""
    from qstep.evals import RecipeResult, StudyAnswer, holds

    if path.is_symlink():
        target = os.path.abspath(path.parent / path.readlink())
        return Path(os.path.abspath(output_dir / "jobs")) in Path(target).parents
    return not path.exists() or (path.is_file() and holds(StudyAnswer, RecipeResult)(path))


def _outputs(of_run: Run) -> Iterator[Path]:
    return (output for work in of_run.stages.values() for output in work.outputs.values())
