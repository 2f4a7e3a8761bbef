"""`qstep report`: reads results, and writes one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from qstep.runs.dry_run import stop_dry_run
from qstep.runs.options import AtLeast1, Bounds, Output
from qstep.runs.outputs import is_page, refuse_foreign
from qstep.runs.progress import say_written
from qstep.runs.provenance import provenance
from qstep.runs.training_log import TRAINING_LOG, metrics_of
from qstep.tasks.options import TaskOptions
from qstep.types import Row

if TYPE_CHECKING:
    from qstep.report import Examples
    from qstep.report.contents import Reported


@dataclass
class ReportConfig(TaskOptions):
    """Renders results as one HTML page, without scripts or other files.

    The first evaluation is compared with each other one, problem by problem. The first scorer of a best-of-n result is
    compared with the majority vote, with one response, and with each other scorer. The most accurate way to choose is
    also compared with the majority vote.

    Args:
        results: results of `qstep evaluate`, `qstep evaluate processbench`, `qstep best-of-n` or `qstep
            compare-search`. Give one file, a list (`--results '[a.json, b.json]'`), or names (`--results.dqo
            dqo/results.json --results.base base/results.json`). The `summary` of another report works too.
        output: the HTML file to write.
        title: the title of the page.
        training: folders written by `qstep train`, each under the name of its run.
        labels: two files of the same rows, named `exact` and `monte_carlo`. The page compares their step labels.
        examples: scored files to show problems from, each under the name of its scorer: `--examples.pqm scored.jsonl`.
        example_problems: number of problems to show from each file.
        example_responses: number of responses to show of each problem, in addition to the chosen ones.
        summary: a JSON file for the numbers of the page.
    """

    results: dict[str, Path] | list[Path] | Path
    output: Annotated[Path, Output("{stage}.html")]
    title: str | None = None
    training: dict[str, Path] = field(default_factory=dict)
    labels: dict[str, Path] = field(default_factory=dict)
    examples: dict[str, Path] | Path | None = None
    example_problems: AtLeast1 = 6
    example_responses: Annotated[int, Bounds(least=0)] = 8
    summary: Annotated[Path, Output("results.json")] | None = None


def report(config: ReportConfig) -> Path:
    """Runs the stage and returns its output.

    Raises:
        ValueError: a file has other content than its option needs. The message names the file.
    """
    from qstep.evals import Page, holds, read_label_agreement, write_result
    from qstep.report import gathered, render_report
    from qstep.report.contents import titled

    refuse_foreign("output", config.output, is_page)
    if config.summary:
        refuse_foreign("summary", config.summary, holds(Page))
    stop_dry_run(config.output)
    found = gathered(_named(config.results))
    page = titled(
        found,
        config.title,
        training={name: list(_training_log(path)) for name, path in config.training.items()} or found.training,
        labels=read_label_agreement(config.labels) if config.labels else found.labels,
        provenance=provenance(asdict(config)) | found.provenance,
    )
    if config.summary:
        write_result(config.summary, page)
        say_written(config.summary)
    render_report(page, list(_examples(config)), config.output)
    say_written(config.output)
    return config.output


def _named(results: dict[str, Path] | list[Path] | Path) -> dict[str, Reported]:
    """The results by name. A result without a name takes the one stored in it, or else the name of its file."""
    from qstep.evals import BestOfN, Page, PolicyEvaluation, SearchComparison, StepJudgement, read_result

    if isinstance(results, Path):
        results = [results]
    pairs = list(results.items() if isinstance(results, dict) else ((None, path) for path in results))
    named: dict[str, Reported] = {}
    paths: dict[str, Path] = {}
    for own_name, path in pairs:
        result = read_result(path, PolicyEvaluation, StepJudgement, BestOfN, SearchComparison, Page)
        name = own_name or getattr(result, "name", None) or path.stem
        if name in named:
            raise ValueError(
                f"{path} and {paths[name]} are both called {name!r}: give each a name with --results.NAME FILE"
            )
        named[name], paths[name] = result, path
    return named


def _training_log(path: Path) -> Iterator[Row]:
    from qstep.data import read_rows

    for line in read_rows(path / TRAINING_LOG if path.is_dir() else path):
        yield {name: line[name] for name in ("step", "epoch") if name in line} | metrics_of(line)


def _examples(config: ReportConfig) -> Iterator[Examples]:
    from qstep.report import choose_examples
    from qstep.tasks import Tasks

    files = {"verifier": config.examples} if isinstance(config.examples, Path) else config.examples or {}
    for name, path in files.items():
        yield choose_examples(
            _scored(path, config.task),
            name,
            problems=config.example_problems,
            responses=config.example_responses,
            tasks=Tasks(config.task),
        )


def _scored(path: Path, task: str) -> Iterator[Row]:
    """The rows of a graded and scored file. Raises RowError for a row that is not."""
    from qstep.data import read_responses

    return read_responses(path, task=task, need=("verdict", "score"))
