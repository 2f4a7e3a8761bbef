"""`qstep annotate`: graded responses in, step labels out."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qstep.data import refuse_unread
from qstep.stages.inputs import finished, in_blocks, model_fingerprint, refuse_overwriting, settings_of
from qstep.stages.options import NO_EFFECT, EngineOptions, GradingOptions, SamplingOptions
from qstep.stages.progress import bar, console
from qstep.types import Row

if TYPE_CHECKING:
    from qstep.generation import Engine


@dataclass
class AnnotateConfig(GradingOptions, SamplingOptions, EngineOptions):
    """Labels each step: exactly, where the task can check one, by Monte-Carlo rollouts of a model, or from outcomes.

    `outcome` needs no model: a step is right if some right response of the problem begins with the same steps up to
    it, wrong if an equation in it or before it is false or if it ends a wrong response, and unlabelled (null)
    otherwise. Rows whose verdict is `ungradable` are left out, and counted in the output's `.meta.json`, as are the
    steps by label.

    Args:
        input: rows written by `qstep grade`.
        output: the JSONL file to write.
        method: exact (tasks that can check a step), monte_carlo (needs a model) or outcome (needs neither).
        model_name_or_path: the model to continue from each step (monte_carlo).
        rollouts: k, continuations per step (monte_carlo).
        step_separator: the text between steps, or what cuts a response into them: `split:line`, `split:blank_line`,
            `split:numbered` (headings `Step 1:`), `split:sentence`, or `split:module:function`, a function of your own
            that returns the parts of a text.
        max_per_problem: label only the first responses of each problem (by their `sample`).
        max_problems: label only as many problems (by the hash of their ids).
        rows_at_once: responses whose rollouts are drawn together; as much is redone after a kill.
    """

    input: Path
    output: Path
    method: Literal["exact", "monte_carlo", "outcome"] = "exact"
    model_name_or_path: str | None = None
    rollouts: int = 4
    step_separator: str = "\n"
    max_per_problem: int | None = None
    max_problems: int | None = None
    rows_at_once: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method == "monte_carlo":
            if self.model_name_or_path is None:
                raise ValueError("method monte_carlo needs --model_name_or_path, the model to continue from each step")
            return
        of_engine = {field.name for options in (SamplingOptions, EngineOptions) for field in fields(options)}
        unread = of_engine - {*NO_EFFECT, "seed"}  # which a recipe may give to every stage
        refuse_unread(self, ["rollouts", "model_name_or_path", *sorted(unread)], "--method monte_carlo")


def annotate(config: AnnotateConfig, engine: "Engine | None" = None) -> Path:
    """Runs the stage and returns its output. `engine` replaces the model's own.

    Raises:
        ValueError: exact labels are asked for of a task that cannot check a step.
    """
    from qstep.annotate import OutcomePool, RolloutSettings, label_by_outcome, label_by_rollouts, label_exactly
    from qstep.data import StageFile, read_rows

    refuse_overwriting(config)
    monte_carlo = config.method == "monte_carlo"
    tasks = config.tasks()
    settings = settings_of(
        config,
        *(*NO_EFFECT, "rows_at_once"),
        input=finished(config.input),
        model=model_fingerprint(config.model_name_or_path, config.model_revision)
        if config.model_name_or_path and engine is None
        else config.model_name_or_path,
        version=tasks.named(config.task).version,
    )
    with StageFile.open(config.output, stage="annotate", settings=settings) as file:
        if file.complete:
            return config.output
        chosen, ungradable = _choose(config)
        if not chosen:
            reason = f"no row to label; {ungradable} rows are ungradable" if ungradable else "no rows"
            raise ValueError(f"{config.input} has {reason}")
        if monte_carlo and engine is None:
            engine = config.engine(config.model_name_or_path or "")
        rollouts = RolloutSettings(config.rollouts, config.sampling(), config.step_separator)
        separator = config.step_separator
        pool = OutcomePool.of(_read(config), separator) if config.method == "outcome" else None
        with bar(f"annotate {config.output.stem}", len(chosen), len(file.done)) as advance:
            todo = chosen - file.done
            for rows in in_blocks((row for row in _read(config) if row["id"] in todo), config.rows_at_once):
                if pool is not None:
                    file.append([label_by_outcome(row, pool, separator, tasks) for row in rows])
                elif monte_carlo and engine is not None:
                    file.append(label_by_rollouts(engine, rows, rollouts, tasks))
                else:
                    file.append([label_exactly(row, separator, tasks) for row in rows])
                advance(len(rows))
        labels: Counter[str] = Counter()
        longest = 0
        for row in read_rows(config.output, allow_torn=True):
            labels.update(map(_kind, row["labels"]))
            longest = max(longest, len(row["labels"]))
        summary = {"left_out_ungradable": ungradable, "steps": dict(sorted(labels.items()))}
        file.finish(summary)
        console.print(f"annotate {config.output.stem}: {summary}")
        if longest < 2:
            console.print(f"no response has more than one step: are they separated by step_separator {separator!r}?")
    return config.output


def _kind(label: bool | float | None) -> str:
    if label is None:
        return "unlabelled"
    if isinstance(label, bool):
        return "right" if label else "wrong"
    return "soft"


def _read(config: AnnotateConfig) -> Iterator[Row]:
    from qstep.data import read_responses

    return read_responses(config.input, task=config.task, need=("gold", "verdict"), accept=config.tasks().of)


def _choose(config: AnnotateConfig) -> tuple[set[str], int]:
    """The ids of the rows to label, whatever the order of the file, and how many others cannot be graded."""
    from qstep.data import group_key

    ids: dict[tuple[str, str], list[str]] = {}
    ungradable: Counter[tuple[str, str]] = Counter()
    for row in _read(config):
        problem = group_key(row)
        of_problem = ids.setdefault(problem, [])
        if config.max_per_problem is None or row["sample"] < config.max_per_problem:
            if row["verdict"] == "ungradable":
                ungradable[problem] += 1
            else:
                of_problem.append(row["id"])
    problems = sorted(ids, key=_shuffled)[: config.max_problems]
    return {row_id for problem in problems for row_id in ids[problem]}, sum(ungradable[problem] for problem in problems)


def _shuffled(problem: tuple[str, str]) -> tuple[bytes, str]:
    problem_id, prompt = problem
    return hashlib.sha256(problem_id.encode()).digest(), prompt
