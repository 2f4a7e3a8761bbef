"""The accuracy of best-of-n choices, for every way to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any

from qstep.api.responses import responses_of
from qstep.types import Row

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas import DataFrame

    from qstep.evals import ScoredGroup
    from qstep.evals.measures import Accuracy, Difference


@dataclass(frozen=True, repr=False)
class ChoiceAccuracies:
    """The accuracy of choosing one of n responses.

    problems, responses: the numbers that were used. left_out: the number of problems with too few responses.
    curves: `curves["majority"][4]` is the accuracy for n = 4 with its 95 % interval: `mean`, `low`, `high` and `n`, the
    number of problems. `as_wrong` and `as_right` are the accuracies if ungradable responses count as wrong or right.
    differences: `differences["scorer_minus_majority"]` is a paired difference at the largest n. It has the same values,
    and the names `a` and `b` of the two ways to choose. is_short: whether some problems have more responses than the
    largest n, because others have fewer.
    """

    problems: int
    responses: int
    left_out: int
    curves: Mapping[str, Mapping[int, Accuracy]]
    differences: Mapping[str, Difference]
    is_short: bool = False

    @property
    def table(self) -> list[Row]:
        """The accuracies as rows: `method`, `n`, `mean`, `low`, `high`. `pandas.DataFrame(result.table)` takes them."""
        return [
            {"method": method, "n": n, "mean": accuracy.mean, "low": accuracy.low, "high": accuracy.high}
            for method, curve in self.curves.items()
            for n, accuracy in curve.items()
        ]

    def __repr__(self) -> str:
        ns = list(next(iter(self.curves.values())))
        lines = [["", *(f"n = {n}" for n in ns)]]
        lines += [[method, *map(_text, curve.values())] for method, curve in self.curves.items()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
        return "\n".join(
            [
                f"accuracy of choosing among n responses, 95 % intervals, problems: {self.problems}",
                *table,
                *([f"problems left out with fewer responses: {self.left_out}"] if self.left_out else []),
                *([f"some problem has no more than {ns[-1]} responses; give ns for more"] if self.is_short else []),
            ]
        )


def best_of_n(
    rows: list[Row] | Dataset | DataFrame | Mapping[str, list[Row] | Dataset | DataFrame],
    *,
    ns: Sequence[int] | None = None,
    task: str = "math",
    draws: int = 2048,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
) -> ChoiceAccuracies:
    """Compares ways to choose one of n responses: at random, by majority, by the scores, and by a perfect choice.

    `mean` chooses at random, and `majority` chooses the most common answer. `pass` is right if any response is right.
    Scored rows add the best score (`scorer`) and a vote weighted by scores (`scorer_weighted`). Accuracies are exact,
    except for votes with too many subsets, which use `draws` random subsets.

    Args:
        rows: a list of dicts, a `datasets.Dataset` or a pandas `DataFrame` that `grade` returned. To choose by scores,
            it must also have been through `score`. To compare scorers, give a dict of such tables by scorer name.
        ns: numbers of responses to choose from. Problems with fewer responses than the largest are left out. The
            default is 1, 2, 4, ... up to the number that every problem has.
        task: the task of rows that do not name one.
        draws: number of random subsets for votes that have more subsets than this.
        seed: seed of the draws and of the intervals.
        columns: your column for each name that qstep reads, such as `{"answer": "ground_truth"}`.

    Raises:
        TypeError: `rows` is not a table.
        ValueError: a row is bad, not graded or not scored, the tables have different responses, or no problem has
            enough responses.

    Example:
        >>> problem = {"question": "2 + 3?", "answer": "5", "responses": ["#### 5", "#### 6", "#### 5", "#### 7"]}
        >>> result = qstep.best_of_n(qstep.grade([problem]))
        >>> result.curves["majority"][4].mean
        1.0
        >>> [(row["method"], row["mean"]) for row in result.table if row["n"] == 1]
        [('mean', 0.5), ('majority', 0.5), ('pass', 0.5)]
    """
    from qstep.evals import best_of_n_report, numbers_to_compare

    if ns is not None and (isinstance(ns, str) or not isinstance(ns, Sequence) or not all(_counts(n) for n in ns)):
        raise ValueError(f"ns is {ns!r}; give a list of whole numbers of at least 1, such as [1, 8]")
    groups = _groups(rows, task, columns)
    numbers, large = numbers_to_compare(groups, ns)
    kept = [*compress(groups, large)]
    report = best_of_n_report(kept, numbers, draws=draws, seed=seed)
    return ChoiceAccuracies(
        problems=len(kept),
        responses=sum(len(group.correct) for group in kept),
        left_out=len(groups) - len(kept),
        curves={method: {n: curve[str(n)] for n in numbers} for method, curve in report.curves.items()},
        differences=report.differences,
        is_short=ns is None and max(len(group.correct) for group in kept) > max(numbers),
    )


def _counts(n: object) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= 1


def _groups(rows: Any, task: str, columns: Mapping[str, str] | None) -> list[ScoredGroup]:
    """The problems of a table, or of several tables with the same responses and different scorers."""
    from qstep.evals import ScoredTables
    from qstep.tasks import Tasks

    by_name = rows if isinstance(rows, Mapping) else {"": rows}
    for name in rows if isinstance(rows, Mapping) else ():
        if not isinstance(name, str) or not name:
            raise ValueError(f"{name!r} is the name of a table; give each table the name of its scorer, such as 'pqm'")
    tables = {
        name: responses_of(
            table,
            task=task,
            need=("verdict", "score") if name else ("verdict",),
            accept=Tasks(task).of,
            columns=columns,
        )[0]
        for name, table in by_name.items()
    }
    if any("score" in row for row in tables.get("", [])):
        tables = {"scorer": tables[""]}
    scored = ScoredTables({name: repr(name) for name in tables})
    for name, table in tables.items():
        for place, row in enumerate(table):
            where = f"rows[{place}] of {name!r}"
            if name and "score" not in row:
                raise ValueError(f"{where} has no score, but other rows have one: score all of them")
            scored.add(name, row, where)
    if not scored.problems:
        raise ValueError("rows is empty: give at least one row")
    return scored.scored_groups(task)


def _text(accuracy: Accuracy) -> str:
    mean, low, high = accuracy.mean, accuracy.low, accuracy.high
    return "unknown" if mean is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"
