"""Step labels by rollouts: how often the policy still ends right when it continues from a step.

There are three methods:

    monte_carlo    k rollouts of every prefix (Math-Shepherd, arXiv 2312.08935). The label is successes / trials.
    adaptive       at most k rollouts of every prefix, and only as many as decide it (see `Decision`). The label is
                   successes / trials. With a threshold of 0 one success decides, so a right response decides all of
                   its prefixes.
    binary_search  like adaptive, but only for O(log steps) prefixes of each wrong response, to find its first wrong
                   step (OmegaPRM, arXiv 2406.06592). Labels are hard. All steps after a wrong one are assumed to be
                   wrong. So all steps of a right response are right, and so are the same steps at the beginning of
                   other responses. They need no rollouts.

Rows keep the numbers of successes and trials. A right response may count as one trial. A step without rollouts has
zero trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qstep.annotate.decision import Decision
from qstep.annotate.labels import with_labels
from qstep.annotate.rollouts import Budgets, Prefix, RolloutPool, prefixes_of, total
from qstep.data import encode_completion
from qstep.generation import Engine, SamplingSettings
from qstep.tasks import BUILT_IN, Tasks
from qstep.types import RolloutMethod, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How prefixes are continued. Each gets at most `k` rollouts; `sampling.max_new_tokens` counts from the prompt.

    `decision` stops the rollouts of a prefix earlier, except with the method monte_carlo.
    """

    k: int
    sampling: SamplingSettings
    separator: str = "\n"
    method: RolloutMethod = "monte_carlo"
    decision: Decision = field(default_factory=Decision)

    @property
    def one_success_decides(self) -> bool:
        """Whether a right response decides all of its prefixes."""
        return self.method != "monte_carlo" and not self.decision.threshold

    def draws_for(self, row: Row) -> bool:
        """Whether the prefixes of a response may be continued."""
        return row["verdict"] != "right" or not (self.one_success_decides or self.method == "binary_search")


def check_lengths(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Row], settings: RolloutSettings) -> None:
    """Checks that no response is longer than its rollouts may be.

    Rollouts of right steps would be cut off before the answer, and count as wrong.

    Raises ValueError, naming the row and its length.
    """
    limit = settings.sampling.max_new_tokens
    for row in rows:
        if settings.draws_for(row) and (length := len(encode_completion(tokenizer, row))) > limit:
            raise ValueError(
                f"row {row['id']!r} has a response of {length} tokens, and its rollouts end at {limit}: those of right "
                "steps would be cut off and count as wrong. Give the --max_new_tokens with which the responses were "
                "sampled, or leave the row out"
            )


@dataclass(frozen=True, slots=True)
class _Plan:
    """A response to label, and its prefixes that may be continued: of all steps, or of all but the last."""

    row: Row
    steps: list[str]
    prefixes: list[Prefix]


def label_by_rollouts(
    engine: Engine,
    rows: Sequence[Row],
    settings: RolloutSettings,
    tasks: Tasks = BUILT_IN,
    budgets: Budgets | None = None,
) -> list[Row]:
    """The rows with `completions`, `labels` as the method makes them, and per step `successes` and `trials`.

    Responses of a problem that share a prefix share its rollouts. The last step of a response needs none if the
    response ended by itself, is right, or fills the length limit: its verdict counts as one trial. A rollout that
    cannot be graded is not a trial. A soft label without trials is null.

    `rollouts` counts what was new for this row, after the rows before it: its `prefixes`; how many of them were
    `tried`, `decided` (absent with monte_carlo) and `cut_short` by the budget; the rollouts `drawn`; and their
    `tokens` (null if the engine gives no ids).

    Args:
        budgets: the maximum number of rollouts for each problem. None means no limit but `settings.k` for each prefix.

    Raises:
        ValueError: a row has no verdict, or one of another grader; it is longer than its rollouts may be; its tokens
            do not read as its completion; or it was split at another separator.
    """
    for row in rows:
        _check(row, tasks)
    check_lengths(engine.tokenizer, rows, settings)
    limit = settings.sampling.max_new_tokens
    plans = [_Plan(row, *prefixes_of(engine, row, settings.separator, limit)) for row in rows]
    pool = RolloutPool(engine, settings.sampling, settings.k, tasks, budgets)
    for plan in plans:
        for prefix in plan.prefixes:
            pool.add(prefix, succeeded=settings.one_success_decides and plan.row["verdict"] == "right")
    labels: Sequence[Sequence[bool | float | None]]
    if settings.method == "binary_search":
        labels = _search(plans, pool, settings.decision)
    else:
        if settings.method == "monte_carlo":
            pool.draw(dict.fromkeys(pool.counts, settings.k))
        else:
            _decide_all(pool, settings.decision)
        labels = [_rates(_tried(plan, pool)) for plan in plans]
    seen: set[str] = set()
    labelled: list[Row] = []
    for plan, of_plan in zip(plans, labels, strict=True):
        new = list(dict.fromkeys(prefix.key for prefix in plan.prefixes if prefix.key not in seen))
        seen.update(new)
        counts, spent = _tried(plan, pool), _spent(new, pool, settings)
        labelled.append(with_labels(plan.row, plan.steps, settings.separator, of_plan, settings.method, counts, spent))
    return labelled


def _check(row: Row, tasks: Tasks) -> None:
    if row.get("verdict") not in ("right", "wrong"):
        raise ValueError(f"row {row['id']!r} has verdict {row.get('verdict')!r}: annotate right and wrong rows only")
    grader = tasks.of(row).version
    if row.get("grader", grader) != grader:
        raise ValueError(
            f"row {row['id']!r} was graded by {row['grader']!r}, and its rollouts would be by {grader!r}: "
            "use the same grader, or grade the rows again"
        )


def _decide_all(pool: RolloutPool, decision: Decision) -> None:
    """Draws in rounds, each of the fewest rollouts that could decide a prefix: as few in all as drawn one by one."""
    while pool.draw({key: decision.fewest(*counts.evidence) for key, counts in pool.counts.items()}):
        pass


def _search(plans: Sequence[_Plan], pool: RolloutPool, decision: Decision) -> list[list[bool | None]]:
    """Searches all responses at the same time: each round tries the next prefix of every response still open."""
    right = {prefix.key for plan in plans if plan.row["verdict"] == "right" for prefix in plan.prefixes}
    wrong = [plan for plan in plans if plan.row["verdict"] == "wrong"]

    def next_prefixes() -> list[str]:
        return [key for plan in wrong if (key := _narrowed(plan, right, pool, decision)[2]) is not None]

    while pool.draw({key: decision.fewest(*pool.counts[key].evidence) for key in next_prefixes()}):
        pass
    return [_hard_labels(plan, right, pool, decision) for plan in plans]


def _narrowed(plan: _Plan, right: set[str], pool: RolloutPool, decision: Decision) -> tuple[int, int, str | None]:
    """What the evidence says about a wrong response: `low`, `high` and the prefix to try next.

    The steps before `low` are right, and those from `high` on are wrong. If the last step has no prefix, it is wrong by
    its verdict.
    """
    keys = [prefix.key for prefix in plan.prefixes]
    low = 1 + max((step for step, key in enumerate(keys) if key in right), default=-1)
    high = len(keys)
    while low < high:
        middle = (low + high) // 2
        side = decision.side(*pool.counts[keys[middle]].evidence)
        if side is None:
            return low, high, keys[middle]
        low, high = (middle + 1, high) if side else (low, middle)
    return low, high, None


def _hard_labels(plan: _Plan, right: set[str], pool: RolloutPool, decision: Decision) -> list[bool | None]:
    if plan.row["verdict"] == "right":
        return [True for _ in plan.steps]
    low, high, _ = _narrowed(plan, right, pool, decision)
    return [True if step < low else False if step >= high else None for step in range(len(plan.steps))]


def _tried(plan: _Plan, pool: RolloutPool) -> list[tuple[int, int]]:
    """Successes and trials of each step, with the verdict for the last one if that is known."""
    counts = [pool.counts[prefix.key] for prefix in plan.prefixes]
    tried = [(count.successes, count.trials) for count in counts]
    return tried if len(tried) == len(plan.steps) else [*tried, (int(plan.row["verdict"] == "right"), 1)]


def _rates(tried: Sequence[tuple[int, int]]) -> list[float | None]:
    return [successes / trials if trials else None for successes, trials in tried]


def _spent(keys: Sequence[str], pool: RolloutPool, settings: RolloutSettings) -> dict[str, int | None]:
    counts = [pool.counts[key] for key in keys]
    spent: dict[str, int | None] = {"prefixes": len(keys), "tried": sum(count.drawn > 0 for count in counts)}
    if settings.method != "monte_carlo":
        spent["decided"] = sum(settings.decision.side(*count.evidence) is not None for count in counts)
    return {
        **spent,
        "cut_short": len(pool.cut_short.intersection(keys)),
        "drawn": sum(count.drawn for count in counts),
        "tokens": total([count.tokens for count in counts]),
    }
