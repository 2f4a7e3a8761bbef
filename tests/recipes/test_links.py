"""The links of a recipe to its outputs, and the files of the user that they may not replace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from qstep.recipes import RecipeError, plan, read_recipe, run
from small_recipe import write


@pytest.mark.parametrize("variants", [{}, {"few": {}, "more": {}}])
def test_files_of_the_user_in_the_output_folder_are_refused(tmp_path: Path, variants: dict[str, Any]) -> None:
    """Links, run folders and results of earlier runs are replaced; everything else ends the run before its jobs."""
    out = tmp_path / "out"
    folder = out / "few" if variants else out
    recipe = read_recipe(write(tmp_path, variants=variants, study={"claim": "C"}))
    (folder / "labels.jsonl").mkdir(parents=True)
    with pytest.raises(RecipeError, match=r"labels\.jsonl was not written by `qstep run`: move it, or choose another"):
        run(recipe)
    (folder / "labels.jsonl").rmdir()
    (out / "jobs" / "labels-1").mkdir(parents=True)
    (folder / "labels.jsonl").symlink_to(os.path.relpath(out / "jobs" / "labels-1" / "labels.jsonl", folder))
    plan(recipe, out, [0])
    for name in ("recipe.json", "recipe.md"):
        (out / name).write_text("mine")
        with pytest.raises(RecipeError, match=rf"{name} was not written by `qstep run`"):
            plan(recipe, out, [0])
        (out / name).unlink()
    (out / "recipe.json").write_text('{\n "kind": "study"}')
    (out / "recipe.md").write_text("# P")
    plan(recipe, out, [0])
    (folder / "labels.jsonl").unlink()
    (folder / "labels.jsonl").symlink_to(tmp_path / "rows.jsonl")
    with pytest.raises(RecipeError, match=r"labels\.jsonl was not written"):
        plan(recipe, out, [0])


def test_a_link_is_no_folder_of_a_run(tmp_path: Path) -> None:
    """An earlier run without variants left a link with the name of a variant. Links in it would change a job."""
    (tmp_path / "out" / "jobs" / "few-1").mkdir(parents=True)
    (tmp_path / "out" / "few").symlink_to("jobs/few-1")
    recipe = read_recipe(write(tmp_path, variants={"few": {}}))
    for seeds in ([0], [0, 1]):
        with pytest.raises(RecipeError, match="out/few is not a folder: move it"):
            plan(recipe, tmp_path / "out", seeds)
