"""`qstep compare-search`: graded searches in, their accuracy against the tokens they took out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from qstep.runs.options import OutputFile
from qstep.runs.outputs import refuse_foreign, refuse_overwriting
from qstep.runs.progress import print_result, print_table, say_written
from qstep.runs.provenance import provenance
from qstep.tasks.options import TaskOptions


@dataclass
class CompareSearchConfig(TaskOptions):
    """Compares searches of the same problems: accuracy against tokens drawn.

    Of each: how often its chosen answer is right, a majority of its candidates, a vote weighted by sigmoid(score), and
    any of them; the tokens drawn and scored for a problem. Searches of one `token_budget`, or without one of one
    `width`, are compared in pairs, problem by problem.

    Args:
        inputs: files of `qstep search`, graded by `qstep grade`, by name:
            `--inputs.beam_400 beam.jsonl --inputs.best_of_n_400 best.jsonl`. Name the proposed search first.
        output: the JSON file to write, which `qstep report` draws.
        seed: of the bootstrap.
    """

    inputs: dict[str, Path]
    output: OutputFile
    seed: int = 0


def compare_search(config: CompareSearchConfig) -> Path:
    """Computes the report, writes it, prints a table, and returns the output.

    Raises:
        ValueError: a file is no graded search, or holds other problems than the first.
    """
    from qstep.evals import SearchComparison, compare_searches, holds, write_result
    from qstep.report.tables import search_table

    refuse_overwriting(config)
    refuse_foreign("output", config.output, holds(SearchComparison))
    if not config.inputs:
        raise ValueError("--inputs names no search: give --inputs.NAME FILE")
    made = provenance(asdict(config))
    found = compare_searches(config.inputs, config.task, seed=config.seed, provenance=made)
    write_result(config.output, found)
    print_table(*search_table(found))
    print_result(f"{found.problems} problems")
    say_written(config.output)
    return config.output
