"""Reads a recipe from its YAML file and from the recipes that it extends."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from qstep.recipes.recipe import Recipe, RecipeError

_NAME = re.compile(r"\w+")


def read_recipe(file: Path, values: Mapping[str, Any] | None = None) -> Recipe:
    """Reads a recipe from a YAML file and replaces some of its values.

    Raises:
        RecipeError: it is not a recipe, or has no value of a name in `values`.
    """
    file = Path(file)
    bare = Recipe(file, "", "", {}, Path())
    written = _written(file)
    for key in ("title", "about", "stages", "output_dir"):
        if not written.get(key):
            raise bare.error(f"{key!r} is missing")
    for key in ("title", "about", "output_dir"):
        if not isinstance(written[key], str):
            raise bare.error(f"{key} is {written[key]!r}; it must be text")
    for key in ("processes", "threads"):
        if written.get(key) is not None and (type(written[key]) is not int or written[key] < 1):
            raise bare.error(f"{key} is {written[key]!r}; it must be a whole number from 1")
    repeated = written.get("each_round", {})
    if ("rounds" in written) != bool(repeated):
        raise bare.error("`rounds` and `each_round` need each other: give both, or neither")
    for name, stage in [*written["stages"].items(), *repeated.items()]:
        _check_mapping(bare, stage, f"stage {name!r}")
    for name, variant in written.get("variants", {}).items():
        for stage, changed in _check_mapping(bare, variant, f"variant {name!r}").items():
            _check_mapping(bare, changed, f"variant {name!r}, stage {stage!r}")
    recipe = replace(bare, **{**written, "output_dir": Path(written["output_dir"])})
    if taken := {"seed", "round"} & {*recipe.values}:
        raise bare.error(f"{', '.join(sorted(taken))}: a value cannot have this name, which qstep fills in; rename it")
    if "jobs" in recipe.written:
        raise bare.error("jobs: a stage cannot have this name, which is that of the folder of all jobs; rename it")
    if twice := {"seed", "round", "values", *recipe.values} & set(recipe.written):
        raise bare.error(f"{', '.join(sorted(twice))}: the name of a stage and of a value; rename one of them")
    if twice := {*recipe.stages} & {*recipe.each_round}:
        raise bare.error(f"{', '.join(sorted(twice))}: a stage of `stages` and of `each_round`; rename one of them")
    seeds = recipe.seeds if isinstance(recipe.seeds, list | tuple) else []
    if not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise bare.error(f"seeds is {recipe.seeds!r}: give a list of numbers")
    for name in values or {}:
        if name not in recipe.values:
            raise bare.error(f"no value {name!r} to set", name, recipe.values)
    return replace(recipe, values={**recipe.values, **(values or {})})


_JOINED = ("stages", "values", "variants", "start", "each_round")
"""The mappings whose entries are added to those of the recipe that is extended."""


def _written(file: Path, after: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The entries of a recipe's file and of the recipe that it extends."""
    bare = Recipe(file, "", "", {}, Path())
    try:
        written = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{file}: not YAML: {error}") from None
    if not isinstance(written, dict):
        raise bare.error(f"a {type(written).__name__}, not a mapping with `title`, `about`, `output_dir` and `stages`")
    try:
        json.dumps(written, allow_nan=False, default=str)
    except ValueError:
        raise bare.error("a number is infinite or NaN; write a large number, such as 1.0e+9") from None
    known = {f.name for f in fields(Recipe)} - {"file"} | {"extends"}
    for key in written:
        if key not in known:
            raise bare.error(f"a recipe has no {key!r}", str(key), known)
    for key in _JOINED:
        _check_mapping(bare, written.get(key, {}), f"{key!r}")
    extended = written.pop("extends", None)
    if extended is None:
        return written
    if not isinstance(extended, str) or not (parent := file.parent / extended).is_file():
        raise bare.error(f"extends is {extended!r}; it must be the file of a recipe, relative to this one")
    if parent.resolve() in (*after, file.resolve()):
        raise bare.error(f"extends {extended}, which extends this one")
    base = _written(parent, (*after, file.resolve()))
    return {**base, **written, **{key: {**base.get(key, {}), **written.get(key, {})} for key in _JOINED}}


def _check_mapping(recipe: Recipe, value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise recipe.error(f"{where} is {value!r}, not a mapping")
    for name in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise recipe.error(f"{where}: {name!r} is not a name: use letters, digits and _ only")
    return value


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a repeated key is an error, 1e-4 is a number, and a date is text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != "tag:yaml.org,2002:timestamp"]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)
