"""`qstep best-of-n`: graded responses in, the accuracy of choosing among n of them out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, get_args

from qstep.runs.options import Bounds, OutputFile
from qstep.runs.outputs import refuse_foreign, refuse_overwriting
from qstep.runs.progress import print_result, print_table, say_written
from qstep.runs.provenance import provenance
from qstep.tasks.options import TaskOptions
from qstep.types import Aggregation


@dataclass
class BestOfNConfig(TaskOptions):
    """Compares best-of-n by scorers, majority and weighted votes, and pass@n, exactly or seeded.

    An answer that cannot be graded is not counted as wrong: accuracies are over what can be graded, with the share
    that cannot and both bounds beside them. Of each scorer also: how well it tells right responses (AUC) and, where
    labels are exact, right steps from wrong ones; how far its accuracy falls as n grows (over-optimisation); and what
    its score has to do with the length of a response and the number of its steps.

    Args:
        inputs: a file of graded responses (majority and pass@n need no scorer), or graded and scored files of the
            same rows by name of the scorer: `--inputs.pqm pqm.jsonl --inputs.bce bce.jsonl`. Name the proposed scorer
            first.
        output: the JSON file to write.
        ns: the numbers of responses to choose among, as `1,4,12` or a list. Problems with fewer responses than the
            largest are left out, and counted. By default 1, 2, 4, ... up to what every problem has.
        aggregations: ways to make one score of a response's Qs to compare with each other, such as
            `min,last,mean,product`; their rows need `q_values`.
        draws: subsets drawn where a vote over all of them would be too many.
        seed: of the drawing and of the bootstrap.
    """

    inputs: dict[str, Path] | Path
    output: OutputFile
    ns: list[int] | str | None = None
    aggregations: list[str] | str | None = None
    draws: Annotated[int, Bounds(least=1)] = 2048
    seed: int = 0


def best_of_n(config: BestOfNConfig) -> Path:
    """Computes the report, writes it, prints a table, and returns the output."""
    from qstep.evals import BestOfN, holds, judge_choices, read_choices, write_result
    from qstep.report.tables import best_of_n_notes, best_of_n_tables

    refuse_overwriting(config)
    refuse_foreign("output", config.output, holds(BestOfN))
    hows = _aggregations(config.aggregations)
    choices = read_choices(config.inputs, config.task)
    ns = _numbers(config.ns) if config.ns else None
    made = provenance(asdict(config))
    found = judge_choices(choices, ns, hows, draws=config.draws, seed=config.seed, provenance=made)
    write_result(config.output, found)
    for table in best_of_n_tables(found):
        print_table(*table)
    for note in best_of_n_notes(found):
        print_result(note)
    if not config.ns and max(choices.sizes) > max(found.ns):
        print_result(
            f"n goes up to {max(found.ns)}, as a problem has no more; --ns goes further and leaves such problems out"
        )
    say_written(config.output)
    return config.output


def _aggregations(given: list[str] | str | None) -> list[Aggregation]:
    """Raises ValueError for one that is unknown, or given twice."""
    hows = [how.strip() for how in given.split(",")] if isinstance(given, str) else list(given or [])
    known = get_args(Aggregation)
    if len({*hows} & {*known}) < len(hows):
        raise ValueError(f"--aggregations is {given!r}: give each of {', '.join(known)} at most once, with commas")
    return [how for how in known if how in hows]


def _numbers(ns: list[int] | str) -> list[int]:
    try:
        numbers = [int(n) for n in (ns.split(",") if isinstance(ns, str) else ns)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ValueError(f"--ns is {ns!r}: give whole numbers from 1, such as 1,4,12")
    return numbers
