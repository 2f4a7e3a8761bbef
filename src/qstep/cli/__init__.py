"""The command line: parse, call, print. Every command's options are the fields of its config dataclass."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

COMMANDS = {
    "demo": (
        "qstep.demo",
        "DemoConfig",
        "the whole job from nothing, on the miniature or on your model and problems",
    ),
    "sample": ("qstep.stages.sample", "SampleConfig", "sample groups of responses to problems"),
    "grade": ("qstep.stages.grade", "GradeConfig", "grade responses: right, wrong, ungradable"),
    "annotate": (
        "qstep.stages.annotate",
        "AnnotateConfig",
        "label steps, exactly or by Monte-Carlo rollouts",
    ),
    "train": ("qstep.stages.train", "", "train a verifier (pqm, bce, mse, orm) or a policy (dqo, dro, rs)"),
    "score": ("qstep.stages.score", "ScoreConfig", "score the steps of responses with a verifier"),
    "best-of-n": ("qstep.stages.best_of_n", "BestOfNConfig", "accuracy of choosing among n responses"),
    "evaluate": ("qstep.stages.evaluate", "EvaluateConfig", "greedy and sampled accuracy of a policy"),
    "report": ("qstep.stages.report", "ReportConfig", "render results as one HTML page"),
}

TRAIN = {
    "pqm": "PQM's practical ranking loss (Eq. 10)",
    "pqm_theoretical": "PQM's theoretical loss (Eq. 9)",
    "pqm_ablation": "PQM's ablation (Eq. 12)",
    "bce": "step classification",
    "mse": "step regression",
    "orm": "classification of the last step only",
    "dqo": "direct Q-function optimization",
    "dro": "DQO's bandit baseline",
    "rs": "rejection sampling: supervised learning on right responses",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 failed as the message says, 2 wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        from qstep import __version__

        print(f"qstep {__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"qstep: no command {command!r}. Try `qstep --help`.", file=sys.stderr)
        return 2
    _keep_freed_memory()
    try:
        if command == "train":
            return _train(rest)
        module_name, config_name, _ = COMMANDS[command]
        module = import_module(module_name)
        config = _parse(f"qstep {command}", [getattr(module, config_name)], rest)[0]
        getattr(module, command.replace("-", "_"))(config)
    except (ValueError, OSError, RuntimeError) as error:
        if "--debug" in sys.argv:
            raise
        print(f"qstep {command}: {error}", file=sys.stderr)
        return 1
    return 0


def _keep_freed_memory() -> None:
    """Has glibc keep what a training step frees for the next step instead of returning it to the system.

    Faulting the same pages in again at every step takes about a sixth of the time of a small model on a CPU.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:  # glibc alone has it
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        set_option(trim_threshold, 2**31 - 1)
        set_option(top_pad, 2**26)
        set_option(mmap_threshold, 2**25)


def _train(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: qstep train METHOD [--config FILE.yaml] [--option VALUE ...]\n\nmethods:")
        print("\n".join(f"  {name:16} {text}" for name, text in TRAIN.items()))
        print("\nqstep train METHOD --help lists a method's options.")
        return 0
    method, *rest = arguments
    if method not in TRAIN:
        print(f"qstep train: no method {method!r}: choose one of {', '.join(TRAIN)}", file=sys.stderr)
        return 2
    from qstep.stages.train import SCORERS, TrainInputs, config_class, train

    fixed = {"objective": method} if method in SCORERS else {}
    inputs, config = _parse(f"qstep train {method}", [TrainInputs, config_class(method)], rest, fixed)
    train(method, inputs, config)
    return 0


def _parse(program: str, classes: list[type], arguments: list[str], fixed: dict[str, Any] | None = None) -> list[Any]:
    """Instances of the config classes from `--config file.yaml` and flags, which override it."""
    import jsonargparse

    parser = jsonargparse.ArgumentParser(prog=program, description=classes[-1].__doc__)
    parser.add_argument("--config", action="config", help="a YAML file of options; flags override it")
    names = []
    for config in classes:
        names.append(parser.add_class_arguments(config, skip=set(fixed or {})))
    parsed = parser.parse_args(_config_first(arguments)).as_dict()
    parsed.pop("config")
    options = [{name: parsed[name] for name in owned if name in parsed} for owned in names]
    if fixed:
        options[-1].update(fixed)
    return [config(**values) for config, values in zip(classes, options, strict=True)]


def _config_first(arguments: list[str]) -> list[str]:
    """Moves `--config FILE` to the front, so that flags override it wherever it stands."""
    for i, argument in enumerate(arguments):
        if argument == "--config" and i + 1 < len(arguments):
            return [argument, arguments[i + 1], *arguments[:i], *arguments[i + 2 :]]
        if argument.startswith("--config="):
            return [argument, *arguments[:i], *arguments[i + 1 :]]
    return arguments


def _overview() -> str:
    lines = [f"  {name:10} {text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: qstep COMMAND [--config FILE.yaml] [--option VALUE ...]",
            "",
            "Q-functions over the reasoning of language models: PQM process reward models and DQO policies.",
            "",
            "commands:",
            *lines,
            "",
            "qstep COMMAND --help lists a command's options.",
        ]
    )
