"""`qstep compare-search`: reads graded searches, and compares their accuracy and the tokens they used."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from qstep.runs.dry_run import stop_dry_run
from qstep.runs.options import Check, Output, Seed
from qstep.runs.outputs import refuse_foreign
from qstep.runs.progress import print_result, print_table, say_written
from qstep.runs.provenance import provenance
from qstep.tasks.options import TaskOptions


def _not_empty(option: str, inputs: dict[str, Path]) -> None:
    if not inputs:
        raise ValueError(f"--{option} is empty: name a file of each search with --{option}.NAME FILE")


@dataclass
class CompareSearchConfig(TaskOptions):
    """Compares searches on the same problems by their accuracy and the tokens they drew.

    Each search gets four accuracies: of its chosen answer, of a majority of its candidates, of a vote weighted by
    sigmoid(score), and of any candidate. Candidates that were cut off vote only if none that ended has an answer. The
    result also has the tokens drawn and scored per problem. Searches with the same `token_budget` are compared in
    pairs, problem by problem. Searches without a budget are paired by `width`.

    Args:
        inputs: files of `qstep search` that `qstep grade` has graded, each under a name: `--inputs.beam_400 beam.jsonl
            --inputs.best_of_n_400 best.jsonl`. Name the proposed search first.
        output: the JSON file to write, which `qstep report` reads.
        seed: seed of the bootstrap. Means over problems have an interval in closed form, which needs no seed.
    """

    inputs: Annotated[dict[str, Path], Check(_not_empty)]
    output: Annotated[Path, Output("{stage}.json")]
    seed: Seed = 0


def compare_search(config: CompareSearchConfig) -> Path:
    """Computes the report, writes it, prints a table, and returns the output.

    Raises:
        ValueError: a file is not a graded search, or its problems differ from those of the first file.
    """
    from qstep.evals import SearchComparison, compare_searches, holds, write_result
    from qstep.report.tables import search_notes, search_table

    refuse_foreign("output", config.output, holds(SearchComparison))
    stop_dry_run(config.output)
    made = provenance(asdict(config))
    found = compare_searches(config.inputs, config.task, seed=config.seed, provenance=made)
    write_result(config.output, found)
    print_table(*search_table(found))
    for note in search_notes(found):
        print_result(note)
    say_written(config.output)
    return config.output
