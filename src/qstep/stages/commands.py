"""The table of commands: the function that runs each, the dataclasses of its options, and their parser.

The table imports no command. `qstep --help` prints it, and recipes find their stages in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from qstep.objectives import METHODS
from qstep.runs.command_line import (
    GENERAL,
    explains_itself,
    new_parser,
    plainly,
    refuse_repeated,
    refuse_repeated_keys,
    split_config,
    with_infinity,
    words,
)
from qstep.runs.memory import keep_freed_memory
from qstep.runs.near import did_you_mean

if TYPE_CHECKING:
    import jsonargparse


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        name: the command as it is typed: `sample`, `train pqm`.
        module: the module of the function that runs the command. The function is named after the command's first word.
        configs: `module:class` of each dataclass of options. The function takes an instance of each.
        about: a phrase for the overview.
        first: arguments of the function before the dataclasses.
        positional: an option that can be the first argument without its name.
    """

    name: str
    module: str
    configs: tuple[str, ...]
    about: str
    first: tuple[str, ...] = ()
    positional: str | None = None

    def classes(self) -> list[type]:
        """The dataclasses of options, imported."""
        return [getattr(import_module(module), name) for module, name in (c.split(":") for c in self.configs)]

    @property
    def outputs(self) -> dict[str, str]:
        """The options that name outputs, and the file or folder that a recipe gives them."""
        from qstep.runs.options import outputs_of

        return {name: mark.name for config in self.classes() for name, mark in outputs_of(config).items()}

    def parser(self) -> jsonargparse.ArgumentParser:
        """The parser of the command's options and `--config`. It raises ArgumentError for a wrong option."""
        from qstep.runs.options import options_of

        classes = self.classes()
        parser = new_parser(
            prog=f"qstep {self.name}", description=classes[-1].__doc__, exit_on_error=False, allow_abbrev=False
        )
        parser.add_argument("--config", action="config", help="read options from a YAML file; flags override it")
        for config in classes:
            # The parser resolves types in the module of a class, but not in the modules of its bases.
            types = {name: about.written for name, about in options_of(config).items()}
            config.__init__.__annotations__.update(types)  # type: ignore[misc]
            parser.add_class_arguments(config)
        return parser

    def instances(self, options: Mapping[str, Any]) -> list[Any]:
        """The dataclasses filled with parsed options."""
        import jsonargparse

        if self.name.startswith("train ") and options.get("output_dir") is None:  # transformers would choose one
            raise jsonargparse.ArgumentError(None, "the following arguments are required: output_dir")
        filled = []
        for config in self.classes():
            names = {f.name for f in fields(config) if f.init}
            own = {name: value for name, value in options.items() if name in names}
            filled.append(config(**own))
        return filled

    def parse(self, arguments: Sequence[str]) -> list[Any]:
        """The dataclasses, filled from `--config file.yaml` and from flags, which override it."""
        import jsonargparse

        from qstep.runs.options import options_of

        numbers = {n for config in self.classes() for n, about in options_of(config).items() if about.hint is float}
        named = with_infinity(arguments, numbers)
        refuse_repeated(named)
        if self.positional and named and not named[0].startswith("-"):
            named.insert(0, f"--{self.positional}")
        config, flags = split_config(named)
        for file in config[1:]:
            refuse_repeated_keys(file)
        try:
            return self.instances(self.parser().parse_args([*config, *flags]).as_dict())
        except (jsonargparse.ArgumentError, ValueError) as error:
            if not config:
                raise
            message = f"{error}\nThe options come from {config[1]} and the command line."
            if isinstance(error, ValueError):
                raise ValueError(message) from None
            raise jsonargparse.ArgumentError(None, message) from None

    def check(self, options: Mapping[str, Any]) -> list[Any]:
        """The dataclasses, filled from a recipe's mapping of options."""
        # The parser changes its argument.
        return self.instances(_kept_parser(self).parse_object(deepcopy(dict(options))).as_dict())

    def run(self, configs: Sequence[Any]) -> Any:
        """Runs the command."""
        return getattr(import_module(self.module), self.name.split()[0].replace("-", "_"))(*self.first, *configs)

    def execute(
        self, arguments: Sequence[str], *, debug: bool = False, run: Callable[[Sequence[Any]], Any] | None = None
    ) -> int:
        """Parses and runs the command, or calls `run` with the parsed options instead. Prints errors to stderr.

        Returns the exit status: 0 for success, 1 for an error that the message explains, 2 for wrong usage, 130 for
        Ctrl-C. Other errors are raised. With `debug`, every error is raised.
        """
        try:
            import jsonargparse

            keep_freed_memory()
            try:
                configs = self.parse(arguments)
            except jsonargparse.ArgumentError as error:
                known = {f.name for config in self.classes() for f in fields(config)} | {*GENERAL}
                problem = plainly(str(error), known, self._near)
                print(f"qstep {self.name}: {problem}\nqstep {self.name} --help lists its options.", file=sys.stderr)
                return 2
            (run or self.run)(configs)
            return 0
        except KeyboardInterrupt:
            where = " from the newest checkpoint (see --save_steps)" if self.name.startswith("train ") else ""
            print(f"\nqstep {self.name}: interrupted. The same command resumes{where}.", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the caller handles a closed standard output
            raise
        except (ValueError, OSError, RuntimeError) as error:
            if debug or not explains_itself(error):
                raise
            print(f"qstep {self.name}: {words(error)}", file=sys.stderr)
            return 1

    def _near(self, word: str) -> str:
        """The suggestion of a longer command, for a word after this one's name."""
        longer = [name for name in COMMANDS if name.startswith(f"{self.name} ")]
        return did_you_mean(f"{self.name} {word}", longer, "`qstep {}`")


@cache
def _kept_parser(command: Command) -> jsonargparse.ArgumentParser:
    """One parser for all stages of a recipe that have the command, since it takes longer to make than to use."""
    return command.parser()


def _stage(name: str, config: str, about: str) -> Command:
    module = f"qstep.stages.{name.replace('-', '_')}"
    return Command(name, module, (f"{module}:{config}",), about)


_STAGES = (
    _stage("convert", "ConvertConfig", "convert published step-labelled data to rows"),
    _stage("sample", "SampleConfig", "sample groups of responses to problems"),
    _stage("grade", "GradeConfig", "grade responses: right, wrong, ungradable"),
    _stage("annotate", "AnnotateConfig", "label steps: exactly, by Monte-Carlo rollouts, or from outcomes"),
    _stage("audit", "AuditConfig", "check a file of training rows, and print its statistics"),
    _stage("pairs", "PairsConfig", "write what a training method learns from, in TRL's formats"),
    _stage("score", "ScoreConfig", "score the steps of responses"),
    _stage("serve", "ServeConfig", "serve a scorer over HTTP, with the schema of vLLM's /pooling"),
    _stage("search", "SearchConfig", "answer problems with a search that a step scorer guides"),
    _stage("best-of-n", "BestOfNConfig", "measure the accuracy of choosing among n responses"),
    _stage("compare-search", "CompareSearchConfig", "compare the accuracy and the tokens of searches"),
    _stage("evaluate", "EvaluateConfig", "measure the greedy and sampled accuracy of a policy"),
    Command(
        "evaluate processbench",
        "qstep.stages.evaluate_steps",
        ("qstep.stages.evaluate_steps:EvaluateStepsConfig",),
        "measure how well a scorer finds the first wrong step",
    ),
    _stage("inspect", "InspectConfig", "show Q, V, advantage and log-ratio of every token of responses"),
    _stage("report", "ReportConfig", "render results as one HTML page"),
    _stage("merge", "MergeConfig", "merge an adapter into its base model"),
    _stage("export", "ExportConfig", "export a scorer as a plain token classifier for vLLM"),
    _stage("card", "CardConfig", "write the model card of a trained model"),
    _stage("miniature", "MiniatureConfig", "write the textbook and the untrained model of the built-in task"),
)

COMMANDS: Mapping[str, Command] = {
    **{command.name: command for command in _STAGES},
    **{
        f"train {method.name}": Command(
            f"train {method.name}",
            "qstep.stages.train",
            ("qstep.stages.train:TrainInputs", method.config_path),
            method.about,
            (method.name,),
        )
        for method in METHODS.values()
    },
}
"""Every command by its name."""


def command_name(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command's name, which has one or two words, and the arguments after it."""
    two = " ".join(arguments[:2])
    return (two, [*arguments[2:]]) if two in COMMANDS else (arguments[0], [*arguments[1:]])
