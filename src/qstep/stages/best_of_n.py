"""`qstep best-of-n`: reads graded responses, and measures the accuracy of choosing among n of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, get_args

from qstep.runs.dry_run import stop_dry_run
from qstep.runs.options import AtLeast1, Check, Output, Seed
from qstep.runs.outputs import refuse_foreign
from qstep.runs.progress import print_result, print_table, say_written
from qstep.runs.provenance import provenance
from qstep.tasks.options import TaskOptions
from qstep.types import Aggregation


def _aggregations(option: str, names: list[str] | str) -> list[Aggregation]:
    """The aggregations in a fixed order. Raises ValueError if one is unknown or repeated."""
    hows = [how.strip() for how in names.split(",")] if isinstance(names, str) else names
    known = get_args(Aggregation)
    if len({*hows} & {*known}) < len(hows):
        raise ValueError(f"--{option} is {names!r}; give some of {', '.join(known)}, each once, separated by commas")
    return [how for how in known if how in hows]


def _numbers(option: str, ns: list[int] | str) -> list[int]:
    """The numbers. Raises ValueError if one is not a whole number from 1."""
    try:
        numbers = [int(n) for n in (ns.split(",") if isinstance(ns, str) else ns)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ValueError(f"--{option} is {ns!r}; give whole numbers from 1, such as 1,4,12")
    return numbers


@dataclass
class BestOfNConfig(TaskOptions):
    """Compares ways to choose among n responses: scorers, majority and weighted votes, and pass@n as the upper limit.

    Ungradable answers do not count as wrong. Accuracies cover the gradable answers. The ungradable share and both
    bounds are reported too.

    For each scorer, the result also says how well it separates right responses from wrong ones (AUC). If labels are
    exact, it says the same of steps. It also reports how far the accuracy falls as n grows (over-optimisation), and how
    the score correlates with the length of a response and its number of steps.

    Args:
        inputs: scored and graded files of the same rows, each under the name of its scorer: `--inputs.pqm pqm.jsonl
            --inputs.bce bce.jsonl`. Name the proposed scorer first. One graded file without scores gives majority and
            pass@n.
        output: the JSON file to write.
        chosen: a file for the chosen responses. Each row has the ways that chose it in `chosen_by`: a scorer, the
            majority, or a weighted vote. They choose among all responses to a problem.
        ns: numbers of responses to choose among, such as `1,4,12`; 1, 2, 4, ... up to what every problem has by
            default. Problems with fewer responses than the largest are left out and counted.
        aggregations: ways to combine the Qs of a response into one score, to compare: `min,last,mean,product`. Rows
            then need `q_values`.
        draws: subsets drawn at random if a vote has too many subsets to enumerate.
        seed: seed of these draws and of the bootstrap. Means over problems have an interval in closed form, which needs
            no seed.
    """

    inputs: dict[str, Path] | Path
    output: Annotated[Path, Output("{stage}.json")]
    chosen: Annotated[Path, Output("{stage}.jsonl")] | None = None
    ns: Annotated[list[int] | str | None, Check(_numbers)] = None
    aggregations: Annotated[list[str] | str | None, Check(_aggregations)] = None
    draws: AtLeast1 = 2048
    seed: Seed = 0


def best_of_n(config: BestOfNConfig) -> Path:
    """Computes the report, writes it, prints a table, and returns the output."""
    from qstep.data import write_jsonl
    from qstep.evals import BestOfN, holds, judge_choices, read_choices, write_result
    from qstep.evals.chosen import chosen_rows
    from qstep.report.tables import best_of_n_notes, best_of_n_tables

    refuse_foreign("output", config.output, holds(BestOfN))
    if config.chosen is not None:
        refuse_foreign("chosen", config.chosen, _has_chosen_rows)
    stop_dry_run(config.output)
    hows = _aggregations("aggregations", config.aggregations or [])
    choices = read_choices(config.inputs, config.task)
    ns = None if config.ns is None else _numbers("ns", config.ns)
    made = provenance(asdict(config))
    found = judge_choices(choices, ns, hows, draws=config.draws, seed=config.seed, provenance=made)
    write_result(config.output, found)
    for table in best_of_n_tables(found):
        print_table(*table)
    for note in best_of_n_notes(found):
        print_result(note)
    if ns is None and max(choices.sizes) > max(found.ns):
        print_result(
            f"The largest n is {max(found.ns)}: some problem has no more responses. A larger --ns leaves it out"
        )
    say_written(config.output)
    if config.chosen is not None:
        first = config.inputs if isinstance(config.inputs, Path) else next(iter(config.inputs.values()))
        write_jsonl(config.chosen, chosen_rows(choices, first, config.task))
        say_written(config.chosen)
    return config.output


def _has_chosen_rows(path: Path) -> bool:
    from qstep.data import RowError, read_rows
    from qstep.evals.chosen import CHOSEN_BY

    try:
        return CHOSEN_BY in next(read_rows(path))
    except RowError:
        return False
