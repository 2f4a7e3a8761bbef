"""How well a scorer separates right steps from first wrong ones, compared with a baseline that reads no text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from qstep.data import NO_ERROR, first_wrong
from qstep.evals.auc import auc_estimate, equal_position_auc, equal_position_within_problem_auc, within_problem_auc
from qstep.evals.measures import Measured


@dataclass(slots=True)
class LabelledSteps:
    """The labelled steps of responses, each up to its first wrong step. Later steps count as wrong anyway."""

    q_values: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    problems: list[Hashable] = field(default_factory=list)
    responses: Counter[Hashable] = field(default_factory=Counter)
    """The number of responses to each problem."""

    def add(self, problem: Hashable, q_values: Sequence[float], labels: Sequence[bool | None]) -> None:
        """Adds the steps of one response. A step without a label (None) is left out, but still counts as a position."""
        self.responses[problem] += 1
        first = first_wrong(labels)
        for position, (q_value, label) in enumerate(zip(q_values, labels, strict=True)):
            if label is not None and (first == NO_ERROR or position <= first):
                self.q_values.append(q_value)
                self.right.append(bool(label))
                self.positions.append(position)
                self.problems.append(problem)

    @property
    def several_responses(self) -> bool:
        """Whether at least half of the problems have several responses."""
        several = sum(count > 1 for count in self.responses.values())
        return 2 * several >= len(self.responses) > 0


def step_auroc(steps: LabelledSteps, *, seed: int = 0) -> dict[str, Measured | None]:
    """The chance that a right step scores above a first wrong one, for the scorer and for position alone.

    `step` is over all pairs. `position` is the same for a baseline that reads no text and falls by 1 with each step.
    `step_at_equal_position` is over pairs of steps with the same index. Each also has a `_within_problem` version (see
    `step_auroc_within_problem`). A value is None if there are no pairs.
    """
    of_steps = steps.right, steps.problems
    return {
        "step": auc_estimate(steps.q_values, *of_steps, seed=seed),
        "position": auc_estimate(_falling(steps), *of_steps, seed=seed),
        "step_at_equal_position": equal_position_auc(
            steps.q_values, steps.right, steps.positions, steps.problems, seed=seed
        ),
        **step_auroc_within_problem(steps),
    }


def step_auroc_within_problem(steps: LabelledSteps) -> dict[str, Measured | None]:
    """`step`, `position` and `step_at_equal_position`, each `_within_problem`: the mean over problems.

    All are None if most problems have one response. The wrong step is then the last one compared, so position alone is
    perfect, and the number would say nothing about the scorer.
    """
    if not steps.several_responses:
        names = ("step_within_problem", "position_within_problem", "step_at_equal_position_within_problem")
        return dict.fromkeys(names)
    return {
        "step_within_problem": within_problem_auc(steps.q_values, steps.right, steps.problems),
        "position_within_problem": within_problem_auc(_falling(steps), steps.right, steps.problems),
        "step_at_equal_position_within_problem": equal_position_within_problem_auc(
            steps.q_values, steps.right, steps.positions, steps.problems
        ),
    }


def _falling(steps: LabelledSteps) -> list[float]:
    """The Qs of a baseline that reads no text: lower for each later step."""
    return [-float(position) for position in steps.positions]
