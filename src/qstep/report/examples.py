"""The example problems of a report, chosen by a rule that the page states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from qstep.data import NO_ERROR, labels_until, read_groups
from qstep.evals import predicted_first_error
from qstep.evals.verifiers import votes_of_finished
from qstep.report.findings import label
from qstep.report.response import Problem, view_problem
from qstep.search import best_of_n_index, vote
from qstep.tasks import BUILT_IN, Tasks, answer_classes_of
from qstep.types import Row

Cell = tuple[bool, bool]
"""Whether the scorer's choice is right, and whether the choice of the majority is right."""

_WIN, _LOSS = (True, False), (False, True)
_VERDICTS = {"True": "right", "False": "wrong"}


@dataclass(frozen=True, slots=True)
class Examples:
    """Problems to show, the rule by which they were chosen, and the number of problems in each `Cell`.

    `cells` is None if there is no scorer to compare. `ungradable` counts the problems outside all cells.
    """

    rule: str
    problems: list[Problem]
    verifier: str | None = None
    cells: dict[Cell, int] | None = None
    ungradable: int = 0

    @property
    def checked(self) -> bool:
        """Whether some step has an exact label."""
        steps = [step for problem in self.problems for response in problem.responses for step in response.steps]
        return any(step.label is not None for step in steps)


def choose_examples(
    scored: Iterable[Row], verifier: str = "verifier", *, problems: int = 6, responses: int = 8, tasks: Tasks = BUILT_IN
) -> Examples:
    """Some problems of a scored file, each with its first `responses` and the choices of the scorer and the majority.

    Up to a third are problems where only the scorer is right, and equally many where only the majority is. The others
    are the first problems on which both agree, or where a choice is ungradable. If these are too few, more of the first
    two kinds follow.
    """
    wins, losses, others = list[Problem](), list[Problem](), list[Problem]()
    counts: Counter[Cell | None] = Counter()
    for rows in read_groups(scored):
        ended = [row.get("finish_reason") != "length" for row in rows]
        counted = ended if any(ended) else [True] * len(rows)  # what was cut off counts if nothing else is there
        scores = [
            row["score"] if is_counted and row["score"] is not None else -inf
            for row, is_counted in zip(rows, counted, strict=True)
        ]
        best = best_of_n_index(scores)
        classes = votes_of_finished(answer_classes_of(rows, tasks), ended)
        winner = vote(classes)
        majority = classes.index(winner) if winner in classes else 0
        verdicts = [rows[place]["verdict"] for place in (best, majority)]
        cell = None if "ungradable" in verdicts else (verdicts[0] == "right", verdicts[1] == "right")
        counts[cell] += 1
        pool = wins if cell == _WIN else losses if cell == _LOSS else others
        if len(pool) < problems:
            pool.append(view_problem(rows, {verifier: best, "majority": majority}, shown=responses))
    each = min(len(wins), len(losses), max(1, problems // 3))
    chosen = [*wins[:each], *losses[:each], *others][:problems]
    chosen += [*wins[each:], *losses[each:]][: problems - len(chosen)]
    shown = [sum(problem in pool for problem in chosen) for pool in (wins, losses)]
    name = label(verifier)
    rule = (
        f"This page shows {len(chosen)} of {counts.total()} problems. A rule chose them: {shown[0]} where {name} is "
        f"right and the majority wrong, {shown[1]} where it is the other way round, and the first of the others."
    )
    cells = {(ours, theirs): counts[ours, theirs] for ours in (True, False) for theirs in (True, False)}
    return Examples(rule, chosen, verifier, cells, counts[None])


def choose_judged(rows: Iterable[Row], threshold: float, *, problems: int = 6) -> Examples:
    """Some scored rows of step benchmarks: equally many missed and found errors, if there are enough."""
    missed, found = list[Row](), list[Row]()
    for row in rows:
        if row["first_error"] != NO_ERROR:
            hit = predicted_first_error(row["q_values"], threshold) == row["first_error"]
            (found if hit else missed).append(row)
    half = problems // 2
    chosen = [*missed[:half], *found[:half]]
    rule = (
        f"This page shows {len(chosen)} of {len(missed) + len(found)} responses with an error: the first {half} whose "
        f"error is missed (of {len(missed)}), and the first {half} whose error is found (of {len(found)})."
    )
    return Examples(rule, [view_problem([_judged(row)]) for row in chosen])


def _judged(row: Row) -> Row:
    labels = labels_until(row["first_error"], len(row["completions"]))
    verdict = _VERDICTS.get(str(row.get("final_answer_correct")))
    return {**row, "problem_id": row["id"], "labels": labels, "verdict": verdict}
