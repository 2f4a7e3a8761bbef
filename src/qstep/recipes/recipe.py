"""A recipe: stages with their options, shared values, variants and seeds, read from YAML and checked.

Each stage is a qstep command; its options have the names of the command's flags. In an option, `${name}` stands for
the output of the stage `name` or for one of the recipe's `values`, and `${seed}` for the seed. A value may refer to
other values, to stages and to the seed. A stage runs after the stages that it refers to. A stage with `like: other`
starts from the options of that stage. A recipe with `extends: file.yaml` starts from that recipe; its own entries
replace those or are added. A variant overrides options of stages, and values. Each variant is run with each seed. The
stages of `each_round` are repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from qstep.recipes.references import fill, references
from qstep.recipes.rounds import Rounds
from qstep.runs.near import did_you_mean
from qstep.stages.commands import COMMANDS, Command


class RecipeError(ValueError):
    """A recipe that cannot be run. The message names the file, the stage and the option."""


@dataclass(frozen=True)
class Stage:
    """One command of a recipe.

    seconds: its time on the recipe's hardware, which orders the jobs. devices: the processes of a training, one for
    each GPU.
    """

    name: str
    command: Command
    options: Mapping[str, Any]
    seconds: float = 1.0
    devices: int = 1


@dataclass(frozen=True)
class Recipe:
    """The content of a recipe's file.

    Args:
        file: the file it was read from.
        title: a description in one line.
        about: what the recipe does, its command, the hardware, and where its results are.
        stages: the stages as written: `command`, options, `seconds` if known, and `devices`.
        values: named values that several stages share or that a user may want to set.
        variants: for each variant, the changed options by stage, and changed `values`. Without variants the stages run
            as they are.
        seeds: the values of `${seed}`, one run each.
        processes: how many commands run side by side.
        threads: threads of each command; by default an equal share of the cores.
        output_dir: the folder for all output, unless the command line names another.
        study: for a recipe that tests a claim, the claim and its comparisons (see `qstep.recipes.study`).
        rounds: how often the stages of `each_round` are repeated (see `qstep.recipes.rounds`).
        start: for a repeated stage, the stage that comes before its first round.
        each_round: the repeated stages as written.
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
    rounds: int | str = 1
    start: Mapping[str, str] = field(default_factory=dict)
    each_round: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shared: Any = None

    @property
    def written(self) -> dict[str, Mapping[str, Any]]:
        """The stages as written, also those of the rounds."""
        return {**self.stages, **self.each_round}

    def last(self, name: str, variant: str | None) -> str:
        """The stage of that name in a variant's runs. Of a repeated one it is that of the last round."""
        return self._rounds(self._values(variant)).last(name)

    def resolved(self, variant: str | None, seed: int) -> dict[str, Stage]:
        """The stages of one variant and seed, in an order that can be run.

        Rounds are unrolled. Values and the seed are filled in. References to stages are left.

        Raises:
            RecipeError: an unknown stage, command or name, a round that cannot be made, or a cycle.
        """
        changes = self._changes(variant)
        names = self._values(variant, seed)
        rounds = self._rounds(names)
        stages: dict[str, Stage] = {}
        for name in self.written:
            for stage in self._unrolled(name, self._options(name, changes), names, rounds):
                if stage.name in stages:
                    raise self.error(f"{stage.name}: the name of a stage and of one in a round; rename one of them")
                stages[stage.name] = stage
        self._check_references(stages, names)
        needed = {name: sorted(references(stage.options)) for name, stage in stages.items()}
        try:
            return {name: stages[name] for name in TopologicalSorter(needed).static_order()}
        except CycleError as error:
            circle = " -> ".join(reversed(error.args[1]))  # each refers to the next
            raise self.error(f"stages refer to each other in a circle: {circle}") from None

    def _unrolled(
        self, name: str, options: dict[str, Any], names: Mapping[str, Any], rounds: Rounds
    ) -> Iterator[Stage]:
        """The stages that a written stage becomes, with the `names` filled in."""
        command = options.pop("command", None)
        seconds = options.pop("seconds", 1.0)
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
        devices = filled.pop("devices", 1)
        if type(devices) is not int or devices < 1:
            raise self.error(f"stage {name!r}: devices is {devices!r}: give a whole number from 1")
        if devices > 1 and not command.startswith("train "):
            raise self.error(f"stage {name!r}: `qstep {command}` runs in one process; remove devices")
        try:
            unrolled = dict(rounds.unrolled(name, filled))
        except ValueError as error:
            raise self.error(f"stage {name!r}, {error}") from None
        for own, of_round in unrolled.items():
            yield Stage(own, COMMANDS[command], of_round, float(seconds), devices)

    def _changes(self, variant: str | None) -> dict[str, Mapping[str, Any]]:
        """The changed options of a variant by stage."""
        changes = (
            {}
            if variant is None
            else {stage: options for stage, options in self.variants[variant].items() if stage != "values"}
        )
        for name in changes:
            if name not in self.written:
                raise self.error(f"variant {variant!r} changes an unknown stage {name!r}", name, self.written)
        return changes

    def _values(self, variant: str | None, seed: int | None = None) -> dict[str, Any]:
        """The values of a variant, with their references to each other filled in, and the seed, if it is given."""
        changed = {} if variant is None else self.variants[variant].get("values", {})
        for name in changed:
            if name not in self.values:
                raise self.error(f"variant {variant!r} changes an unknown value {name!r}", name, self.values)
        values = {**self.values, **changed}
        needed = {name: references(value) & values.keys() for name, value in values.items()}
        filled: dict[str, Any] = {} if seed is None else {"seed": seed}
        try:
            for name in TopologicalSorter(needed).static_order():
                filled[name] = fill(values[name], filled)
        except CycleError as error:
            circle = " -> ".join(reversed(error.args[1]))
            raise self.error(f"values refer to each other in a circle: {circle}") from None
        return filled

    def _rounds(self, values: Mapping[str, Any]) -> Rounds:
        number = fill(self.rounds, values)
        if type(number) is not int or number < 1:
            raise self.error(f"rounds is {number!r}; it must be a whole number from 1")
        for stage, before in self.start.items():
            if stage not in self.each_round:
                raise self.error(f"start: {stage!r} is no stage of `each_round`", stage, self.each_round)
            if before not in self.stages:
                raise self.error(
                    f"start: {stage} is {before!r}, which is no stage of `stages`", str(before), self.stages
                )
        return Rounds(frozenset(self.each_round), number, self.start)

    def _check_references(self, stages: Mapping[str, Stage], names: Mapping[str, Any]) -> None:
        """Raises RecipeError for a reference to nothing."""
        for name, stage in stages.items():
            for option, value in stage.options.items():
                for reference in references(value):
                    if reference not in stages:
                        problem = f"stage {name!r}, option {option!r}: nothing is called {reference!r}"
                        raise self.error(problem, reference, [*self.written, *stages, *names])

    def _options(
        self, name: str, changes: Mapping[str, Mapping[str, Any]], after: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The options of a stage: those of the stage it is like, its own, and the variant's changes to both."""
        own = {**self.written[name], **changes.get(name, {})}
        model = own.pop("like", None)
        if model is None:
            return own
        if not isinstance(model, str):
            raise self.error(f"stage {name!r} is like {model!r}: give the name of one stage")
        if model not in self.written:
            raise self.error(f"stage {name!r} is like an unknown stage {model!r}", str(model), self.written)
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


def _argument_error() -> type[Exception]:
    import jsonargparse

    return jsonargparse.ArgumentError
