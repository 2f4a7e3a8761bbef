"""Step labels without another model: from the outcomes of a problem's responses, and from checks of its steps.

The responses of a problem serve as rollouts of one another. If one passed through a sequence of steps and ended right,
the sequence can lead to the right answer. This is Math-Shepherd's hard label (arXiv 2312.08935, Eq. 3), with the
existing responses as rollouts. A step gets the first label that applies:

    right    if some right response of the problem begins with the same steps up to it;
    wrong    if the task finds an error in it or before it (for math, an equation that does not hold);
    wrong    if it is the last step of a wrong response that ended by itself, and no answer follows it;
    null     otherwise: a wrong response does not show where it went wrong.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from qstep.annotate.labels import with_labels
from qstep.data import group_key, has_turns, steps_of
from qstep.data.messages import identity
from qstep.data.parts import ends_with_step, has_ended
from qstep.tasks import BUILT_IN, Tasks
from qstep.types import Row


@dataclass(slots=True)
class OutcomePool:
    """How many graded responses passed through each sequence of steps, and how many of those ended right.

    `OutcomePool.of(rows)` makes the pool of a list of rows. Each row needs a `prompt`, a `completion` (or its steps in
    `completions`) and a `verdict`: right, wrong or ungradable.
    """

    successes: Counter[int] = field(default_factory=Counter)
    trials: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if not isinstance(self.successes, Counter) or not isinstance(self.trials, Counter):
            raise TypeError("OutcomePool(...) takes counts, not rows: make the pool with OutcomePool.of(rows)")

    @classmethod
    def of(cls, rows: Iterable[Row], separator: str = "\n") -> OutcomePool:
        """The pool of graded rows. Ungradable ones count neither as successes nor as trials.

        Raises ValueError for a row without a verdict, or one that was split at another separator.
        """
        pool = cls()
        for row in rows:
            if "verdict" not in row:
                raise ValueError(f"row {row.get('id')!r} has no verdict: grade the rows first")
            if row["verdict"] != "ungradable":
                for prefix in _prefixes(row, steps_of(row, separator)):
                    pool.trials[prefix] += 1
                    if row["verdict"] == "right":
                        pool.successes[prefix] += 1
        return pool


def label_by_outcome(row: Row, pool: OutcomePool, separator: str = "\n", tasks: Tasks = BUILT_IN) -> Row:
    """The row with `completions`, hard or null `labels` as this module's docstring says, and the pooled counts.

    Args:
        pool: `OutcomePool.of(rows)` of all graded rows of the problem, this one among them.

    Raises:
        ValueError: the row was split at another separator, has no verdict, or its task is unknown.
        TypeError: `pool` is no OutcomePool.
    """
    if not isinstance(pool, OutcomePool):
        raise TypeError(f"pool is a {type(pool).__name__}: make one with OutcomePool.of(rows)")
    if "verdict" not in row:
        raise ValueError(f"row {row.get('id')!r} has no verdict: grade the rows first")
    steps = steps_of(row, separator)
    prefixes = list(_prefixes(row, steps))
    if row["verdict"] == "right":
        known_wrong = [False for _ in steps]  # their prefixes led to a right answer: here at least
    else:
        known_wrong = [label is False for label in tasks.of(row).check_steps(row, steps)]
    if steps and row["verdict"] == "wrong" and has_ended(row) and ends_with_step(row, separator):
        known_wrong[-1] = True
    labels = [
        True if pool.successes[prefix] else False if wrong else None
        for prefix, wrong in zip(prefixes, known_wrong, strict=True)
    ]
    counts = [(pool.successes[prefix], pool.trials[prefix]) for prefix in prefixes]
    return with_labels(row, steps, separator, labels, "outcome", counts)


def _prefixes(row: Row, steps: Sequence[str]) -> Iterator[int]:
    """A hash of each sequence of steps that begins the response, the same for the same sequence."""
    state = hashlib.blake2b(repr(group_key(row)).encode(), digest_size=8)
    for step in _compared(row, steps):
        state.update(f"{len(step)}:{step}".encode(errors="surrogatepass"))
        yield int.from_bytes(state.copy().digest(), "little")


def _compared(row: Row, steps: Sequence[str]) -> Sequence[str]:
    """What makes two steps the same: their text, and in a response of several turns also the messages before it."""
    completion = row.get("completion")
    if not has_turns(completion):
        return steps
    places = [place for place, message in enumerate(completion) if message["role"] == "assistant"]
    turns = list(map(identity, completion))
    return [repr(turns[start:end]) for start, end in pairwise([0, *(place + 1 for place in places)])]
