"""`qstep annotate`: graded responses in, step labels out."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from qstep.annotate import Level
from qstep.data import Part, of_part
from qstep.generation.options import EngineOptions, SamplingOptions
from qstep.runs.cluster import ClusterOptions
from qstep.runs.options import (
    CHANGES_NOTHING,
    GIVEN,
    AtLeast1,
    Bounds,
    NotInSettings,
    OutputFile,
    ReadIf,
    Such,
    Threshold,
    settings_of,
)
from qstep.runs.progress import console
from qstep.runs.runner import Work, write_rows
from qstep.runs.shared_options import ModelName, RowsInput, StepSeparator
from qstep.runs.stage_file import finished
from qstep.tasks.options import ColumnOptions, GradingOptions
from qstep.types import RolloutMethod, Row
from qstep.words import counted

if TYPE_CHECKING:
    from qstep.annotate import Budgets, Chosen, RolloutSettings
    from qstep.generation import Engine

_BY_ROLLOUTS = get_args(RolloutMethod)


def _is_part(config: Any) -> bool:
    return config.steps_of != "both"


@dataclass
class AnnotateConfig(GradingOptions, ColumnOptions, SamplingOptions, EngineOptions, ClusterOptions):
    """Labels the steps of graded responses: exactly, by rollouts of a model, or from the outcomes of responses.

    `exact` needs a task that can check a step. Three methods let a model continue each response after a step, and count
    how often the answer is right. `monte_carlo` draws the same number of rollouts for every step. `adaptive` stops at
    each step as soon as its label is decided. `binary_search` draws only the rollouts that it needs to find the first
    wrong step of a wrong response.

    `outcome` needs no model. A step is right if a right response to the problem begins with the same steps. It is wrong
    if it or an earlier step contains a false equation, or if it ends a wrong response. Otherwise its label is null.

    Rows whose verdict is `ungradable` are skipped. The output's `.meta.json` counts them, the steps by label, and the
    rollouts.

    Args:
        input: rows written by `qstep grade`.
        output: the JSONL file to write.
        method: how to label: `exact` needs a task that can check steps, `outcome` needs no model, the others need one.
        model_name_or_path: the model that draws rollouts: a folder or a Hub id.
        rollouts: k, the maximum number of rollouts of a step.
        rollout_budget: maximum number of rollouts in total. It is divided among problems in proportion to their steps.
            What a problem does not use is not given to others.
        threshold: a step is right if more than this share of its rollouts succeed. With 0, one success is enough.
        level: confidence at which rollouts stop.
        step_separator: the string between steps, or a splitter such as `split:line`. The splitters are `split:line`,
            `split:blank_line`, `split:numbered` (headings `Step 1:`), `split:sentence`, `split:paragraph` (for
            reasoning traces), and `split:module:function` for your own function, which returns the parts of a string.
            If a response has several turns, its steps are the assistant's turns (`split:turn`).
        steps_of: which part of a response has steps: its hidden reasoning (`thinking`), what follows it (`answer`), or
            `both`. The separator in the rows names the part, as in `split:thinking:paragraph`.
        flip_share: probability of flipping each label, to study the effect of noise. The column `flipped` names the
            flipped steps.
        max_per_problem: label only this many responses of each problem, in order of `sample`.
        max_problems: label only this many problems, in order of the hash of their ids.
        rows_at_once: responses whose rollouts are drawn together. Responses to one problem stay together. A resumed
            job repeats at most one such batch.
    """

    MARKS: ClassVar[Mapping[str, tuple[ReadIf, ...]]] = {
        "seed": (ReadIf(method=_BY_ROLLOUTS, flip_share=GIVEN),),
        "grader": (ReadIf(method=_BY_ROLLOUTS),),
        "deadline_s": (ReadIf(method=_BY_ROLLOUTS),),
    }

    input: RowsInput
    output: OutputFile
    method: Literal["exact", "outcome", RolloutMethod] = "exact"
    model_name_or_path: Annotated[ModelName | None, ReadIf(method=_BY_ROLLOUTS)] = None
    rollouts: Annotated[AtLeast1, ReadIf(method=_BY_ROLLOUTS)] = 4
    rollout_budget: Annotated[AtLeast1 | None, ReadIf(method=_BY_ROLLOUTS)] = None
    threshold: Annotated[Threshold, ReadIf(method=("binary_search", "adaptive"))] = 0.0
    level: Annotated[Level, ReadIf(threshold=Such(bool, "a --{name} above 0"))] = 0.95
    step_separator: StepSeparator = "\n"
    steps_of: Annotated[Literal[Part, "both"], NotInSettings(unless=_is_part)] = "both"
    flip_share: Annotated[float, Bounds(least=0, most=1), ReadIf(method=("exact", "outcome"))] = 0.0
    max_per_problem: AtLeast1 | None = None
    max_problems: AtLeast1 | None = None
    rows_at_once: Annotated[AtLeast1, CHANGES_NOTHING] = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method in _BY_ROLLOUTS and self.model_name_or_path is None:
            raise ValueError(f"--method {self.method} needs a model that draws rollouts: give --model_name_or_path")
        if self.steps_of != "both":
            try:
                of_part(self.steps_of, self.step_separator)
            except ValueError as error:
                raise ValueError(f"--steps_of {self.steps_of}: {error}. Give --step_separator") from None

    @property
    def separator(self) -> str:
        """The separator that rows record, with the part that is cut."""
        return self.step_separator if self.steps_of == "both" else of_part(self.steps_of, self.step_separator)

    def rollout_settings(self) -> "RolloutSettings":
        """How rollouts are drawn."""
        from qstep.annotate import Decision, RolloutSettings

        assert self.method != "exact" and self.method != "outcome", "these draw no rollouts"
        decision = Decision(self.threshold, self.level)
        return RolloutSettings(self.rollouts, self.sampling(), self.separator, self.method, decision)


def annotate(config: AnnotateConfig, engine: "Engine | None" = None) -> Path:
    """Runs the stage and returns its output. `engine` replaces the model's own.

    Raises:
        ValueError: the method is `exact` and the task cannot check a step.
    """
    tasks = config.tasks()
    settings = settings_of(
        config,
        input=finished(config.input),
        model=config.model_name_or_path and config.model_setting(config.model_name_or_path, engine),
        version=tasks.named(config.task).version,
    )

    def work(done: Collection[str]) -> Work:
        from qstep.annotate import blocks_of_problems, choose_rows

        chosen, ungradable = choose_rows(_read(config), config.max_problems, config.max_per_problem)
        rows = sum(map(len, chosen.values()))
        if not rows:
            reason = f"no rows to label: {ungradable} rows are ungradable" if ungradable else "no rows"
            raise ValueError(f"{config.input} has {reason}")
        # A row's label depends on the rows of its problem, so a problem is never in two blocks.
        blocks = blocks_of_problems(_read(config), chosen, config.rows_at_once)
        todo = (block for block in blocks if any(row["id"] not in done for row in block))
        labelled = (
            config.spread(partial(_ByRollouts, config, _budgets(config, chosen)), todo)
            if config.executor == "ray" and engine is None
            else map(_labeller(config, chosen, engine), todo)
        )
        return Work(rows, labelled, partial(_summary, config, ungradable))

    write_rows(config.output, "annotate", settings, work)
    return config.output


def _labeller(config: AnnotateConfig, chosen: "Chosen", engine: "Engine | None") -> Callable[[list[Row]], list[Row]]:
    """The function that labels a block of rows."""
    from qstep.annotate import (
        OutcomePool,
        blocks_of_problems,
        check_lengths,
        flip_labels,
        label_by_outcome,
        label_exactly,
    )

    tasks, separator = config.tasks(), config.separator
    if config.method == "exact":
        label = partial(label_exactly, separator=separator, tasks=tasks)
    elif config.method == "outcome":
        label = partial(
            label_by_outcome, pool=OutcomePool.of(_read(config), separator), separator=separator, tasks=tasks
        )
    else:
        by_rollouts = _ByRollouts(config, _budgets(config, chosen), engine)
        for block in blocks_of_problems(_read(config), chosen, config.rows_at_once):
            check_lengths(by_rollouts.engine.tokenizer, block, by_rollouts.settings)
        return by_rollouts
    if not config.flip_share:
        return lambda rows: [label(row) for row in rows]
    return lambda rows: [flip_labels(label(row), config.flip_share, config.seed) for row in rows]


class _ByRollouts:
    """Labels blocks by rollouts, in this process or a cluster's worker. Loads an engine unless it gets one."""

    def __init__(self, config: AnnotateConfig, budgets: "Budgets | None", engine: "Engine | None" = None) -> None:
        self.engine = engine or config.load_engine(config.model_name_or_path or "")
        self.settings, self.tasks, self.budgets = config.rollout_settings(), config.tasks(), budgets

    def __call__(self, rows: list[Row]) -> list[Row]:
        from qstep.annotate import label_by_rollouts

        return label_by_rollouts(self.engine, rows, self.settings, self.tasks, self.budgets)


def _budgets(config: AnnotateConfig, chosen: "Chosen") -> "Budgets | None":
    """The maximum number of rollouts for each problem; None if there is no limit."""
    from qstep.annotate import share_budget

    if config.rollout_budget is None:
        return None
    return share_budget(_read(config), chosen, config.rollout_budget, config.separator)


def _summary(config: AnnotateConfig, ungradable: int, rows: Iterator[Row]) -> dict[str, Any]:
    """Counts steps by label, and rollouts. Warns of signs of a wrong separator.

    The signs are that no response has two steps, or that a mark of thinking is a step.
    """
    from qstep.data import label_kind
    from qstep.grading.thinking import MARK

    labels: Counter[str] = Counter()
    rollouts: dict[str, int | None] = {}
    longest = without = marks = 0
    for row in rows:
        marks += any(MARK.fullmatch(step.strip()) for step in row["completions"])
        without += not row["labels"]
        labels.update(map(label_kind, row["labels"]))
        longest = max(longest, len(row["labels"]))
        for name, count in row.get("rollouts", {}).items():
            before = rollouts.get(name, 0)
            rollouts[name] = None if count is None or before is None else before + count
    if longest < 2:
        console.print(
            f"Warning: no response has more than one step. Check --step_separator, which is {config.separator!r}"
        )
    if marks:
        console.print(
            f"Warning: in {counted(marks, 'response')} a mark such as <think> is a step of its own, with a label. Give "
            "--step_separator split:paragraph, and --steps_of thinking, answer or both"
        )
    if without:
        console.print(f"{counted(without, 'response')} without steps: empty, or without the part for steps")
    summary = {"left_out_ungradable": ungradable, "steps": dict(sorted(labels.items()))}
    summary |= {"without_steps": without} if without else {}
    return {**summary, **({"rollouts": rollouts} if rollouts else {})}


def _read(config: AnnotateConfig) -> Iterator[Row]:
    from qstep.data import read_responses

    rows = read_responses(
        config.input, task=config.task, need=("gold", "verdict"), accept=config.tasks().of, columns=config.columns
    )
    return rows if config.steps_of == "both" else map(partial(_of_one_turn, config), rows)


def _of_one_turn(config: AnnotateConfig, row: Row) -> Row:
    from qstep.data.messages import refuse_turns

    refuse_turns(row, f"--steps_of {config.steps_of} reads responses of one turn. Leave the row out, or give both")
    return row
