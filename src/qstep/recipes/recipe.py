"""A recipe: stages with their options, shared values, variants and seeds, read from YAML and checked.

Each stage is a qstep command; its options have the names of the command's flags. In an option, `${name}` stands for
the output of the stage `name` or for one of the recipe's `values`, and `${seed}` for the seed. A stage runs after the
stages that it refers to. A stage with `like: other` starts from the options of that stage. A recipe with
`extends: file.yaml` starts from that recipe; its own entries replace those or are added. A variant overrides options
of stages. Each variant is run with each seed.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from qstep.runs.near import did_you_mean
from qstep.stages.commands import COMMANDS, Command

_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_NAME = re.compile(r"\w+")


class RecipeError(ValueError):
    """A recipe that cannot be run. The message names the file, the stage and the option."""


@dataclass(frozen=True)
class Stage:
    """One command of a recipe. `seconds` is its time on the recipe's hardware, which orders the jobs."""

    name: str
    command: Command
    options: Mapping[str, Any]
    seconds: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """A recipe as its file has it.

    Args:
        file: the file it was read from.
        title: what it is, in one line.
        about: what it does, the command, the hardware, and where its results are.
        stages: the stages as written: `command`, options, and `seconds` if known.
        values: named values that several stages share or that a user may want to set.
        variants: for each variant, the changed options by stage. Without variants the stages run as they are.
        seeds: the values of `${seed}`, one run each.
        processes: how many commands run side by side.
        threads: threads of each command; by default an equal share of the cores.
        output_dir: the folder for all output, unless the command line names another.
        study: for a recipe that tests a claim, the claim and its comparisons (see `qstep.recipes.study`).
        shared: for YAML anchors; it is not read.
    """

    file: Path
    title: str
    about: str
    stages: Mapping[str, Mapping[str, Any]]
    output_dir: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)
    processes: int = 1
    threads: int | None = None
    study: Mapping[str, Any] | None = None
    shared: Any = None

    def resolved(self, variant: str | None, seed: int) -> dict[str, Stage]:
        """The stages of one variant and seed, in an order that can be run.

        Values and the seed are filled in. References to stages are left.

        Raises:
            RecipeError: an unknown stage, command or name, or a cycle.
        """
        changes = self.variants[variant] if variant is not None else {}
        for name in changes:
            if name not in self.stages:
                raise self.error(f"variant {variant!r} changes an unknown stage {name!r}", name, self.stages)
        names = {**self.values, "seed": seed}
        stages = {}
        for name in self.stages:
            options = self._options(name, changes)
            command, seconds = options.pop("command", None), options.pop("seconds", 1.0)
            if command not in COMMANDS:
                raise self.error(f"stage {name!r}: no command {command!r}", str(command), COMMANDS)
            if not COMMANDS[command].outputs:
                raise self.error(f"stage {name!r}: `qstep {command}` writes nothing and does not end; remove it")
            if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds <= 0:
                raise self.error(f"stage {name!r}: seconds is {seconds!r}: give a number above 0")
            filled = {
                option: fill(value, {known: names[known] for known in references(value) if known in names})
                for option, value in options.items()
            }
            for option, value in filled.items():
                for reference in references(value):
                    if reference not in self.stages:
                        problem = f"stage {name!r}, option {option!r}: nothing is called {reference!r}"
                        raise self.error(problem, reference, [*self.stages, *names])
            stages[name] = Stage(name, COMMANDS[command], filled, float(seconds))
        needed = {name: sorted(references(stage.options)) for name, stage in stages.items()}
        try:
            return {name: stages[name] for name in TopologicalSorter(needed).static_order()}
        except CycleError as error:
            circle = " -> ".join(reversed(error.args[1]))  # each refers to the next
            raise self.error(f"stages refer to each other in a circle: {circle}") from None

    def _options(
        self, name: str, changes: Mapping[str, Mapping[str, Any]], after: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The options of a stage: those of the stage it is like, its own, and the variant's changes of both."""
        own = {**self.stages[name], **changes.get(name, {})}
        model = own.pop("like", None)
        if model is None:
            return own
        if not isinstance(model, str):
            raise self.error(f"stage {name!r} is like {model!r}: give the name of one stage")
        if model not in self.stages:
            raise self.error(f"stage {name!r} is like an unknown stage {model!r}", str(model), self.stages)
        if model in (*after, name):
            raise self.error(f"stages are like each other in a circle: {' -> '.join((*after, name, model))}")
        return {**self._options(model, changes, (*after, name)), **own}

    def check(self, stage: Stage) -> list[Any]:
        """Checks the options of a stage, and returns them as its command's dataclasses.

        Raises:
            RecipeError: an option is unknown, missing or has a wrong value. The message names the stage and the option.
        """
        own = {f.name for config in stage.command.classes() for f in fields(config)}
        for option in stage.options:
            if option in stage.command.outputs:
                raise self.error(f"stage {stage.name!r}: {option} is set by the recipe's output folder; remove it")
            if option not in own:
                problem = f"stage {stage.name!r}: `qstep {stage.command.name}` has no option {option!r}"
                raise self.error(problem, option, own)
        folder = self.output_dir
        outputs = {name: str(folder / file.format(stage=stage.name)) for name, file in stage.command.outputs.items()}
        try:
            return stage.command.check({**stage.options, **outputs})
        except (ValueError, TypeError, _argument_error()) as error:
            raise self.error(f"stage {stage.name!r}, `qstep {stage.command.name}`: {error}") from None

    def error(self, problem: str, name: str = "", known: Iterable[str] = ()) -> RecipeError:
        """The error with the file's name, and with the name in `known` that is nearest to the wrong `name`."""
        return RecipeError(f"{self.file}: {problem}" + did_you_mean(name, known, "'{}'"))


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
    for name, stage in written["stages"].items():
        _check_mapping(bare, stage, f"stage {name!r}")
    for name, variant in written.get("variants", {}).items():
        for stage, changed in _check_mapping(bare, variant, f"variant {name!r}").items():
            _check_mapping(bare, changed, f"variant {name!r}, stage {stage!r}")
    recipe = replace(bare, **{**written, "output_dir": Path(written["output_dir"])})
    if twice := {"seed", *recipe.values} & set(recipe.stages):
        raise bare.error(f"{', '.join(sorted(twice))}: the name of a stage and of a value; rename one of them")
    seeds = recipe.seeds if isinstance(recipe.seeds, list | tuple) else []
    if not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise bare.error(f"seeds is {recipe.seeds!r}: give a list of numbers")
    for name in values or {}:
        if name not in recipe.values:
            raise bare.error(f"no value {name!r} to set", name, recipe.values)
    return replace(recipe, values={**recipe.values, **(values or {})})


_JOINED = ("stages", "values", "variants")
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


def references(value: Any) -> set[str]:
    """The names that a value refers to."""
    return {name for text in _texts(value) for name in _REFERENCE.findall(text)}


def fill(value: Any, names: Mapping[str, Any]) -> Any:
    """Replaces the references to these names. A value that is only a reference becomes the named value itself."""
    if isinstance(value, Mapping):
        return {key: fill(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, names) for item in value]
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole and whole[1] in names:
        return names[whole[1]]
    return _REFERENCE.sub(lambda match: str(names.get(match[1], match[0])), value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _check_mapping(recipe: Recipe, value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise recipe.error(f"{where} is {value!r}, not a mapping")
    for name in value:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise recipe.error(f"{where}: {name!r} is not a name: use letters, digits and _ only")
    return value


def _argument_error() -> type[Exception]:
    import jsonargparse

    return jsonargparse.ArgumentError


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a repeated key is an error and 1e-4 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)
