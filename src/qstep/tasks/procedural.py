"""The tasks of reasoning_gym: procedural problems, each family with a verifier of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urlencode

from qstep.data import checked_steps, final_text
from qstep.grading import Grade, extract_answer, readings
from qstep.tasks.splits import SPLITS, split_of
from qstep.types import Problem, Row

REASONING_GYM = "reasoning_gym:"
"""The prefix of a procedural task's name."""

# Families whose own verifier was reviewed: it parses answers without running them. Some other families call `eval`
# or sympy's `parse_expr` on the answer, which would run what a model wrote.
_REVIEWED = {
    "chain_sum",
    "decimal_chain_sum",
    "dice",
    "family_relationships",
    "gsm_symbolic",
    "knights_knaves",
    "products",
    "spell_backward",
    "word_sorting",
}
_BLOCK = 500
"""Number of problems generated at a time."""


@dataclass(frozen=True, slots=True)
class ReasoningGym:
    """One family with its parameters.

    The name holds all of it, `reasoning_gym:<family>`, or `reasoning_gym:<family>?max_digits=2&min_terms=2` with
    parameters (as JSON, sorted), so that rows of other parameters are rows of another task.
    """

    name: str
    family: str
    generate: Callable[[int, int], Any]
    score_answer: Callable[[str, dict[str, Any]], float]

    @classmethod
    def named(cls, name: str) -> ReasoningGym:
        """The task of that name.

        Raises:
            ValueError: the family does not exist, does not take the parameters, or its verifier is not known to
                leave model text unrun.
        """
        import reasoning_gym
        from reasoning_gym.dataset import ProceduralDataset
        from reasoning_gym.factory import DATASETS

        family, _, query = name.removeprefix(REASONING_GYM).partition("?")
        if family not in DATASETS:
            raise ValueError(f"{name!r} is not a task of reasoning_gym")
        compares_text = DATASETS[family][0].score_answer is ProceduralDataset.score_answer
        if not compares_text and family not in _REVIEWED:
            raise ValueError(
                f"the verifier of {name!r} may run what a model wrote, so it is refused; "
                f"use a family that compares text, or one of {', '.join(sorted(_REVIEWED))}"
            )
        options = {key: json.loads(value) for key, value in parse_qsl(query)}
        if reserved := {"size", "seed"} & set(options):
            raise ValueError(
                f"{name!r}: {' and '.join(sorted(reserved))} cannot be set; say num_problems and data_seed"
            )

        def generate(size: int, seed: int) -> Any:
            return reasoning_gym.create_dataset(family, size=size, seed=seed, **options)

        try:
            score_answer = generate(1, 0).score_answer
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"{name!r}: the family does not take these parameters: {error}") from error
        return cls(name, family, generate, score_answer)

    @property
    def version(self) -> str:
        return f"reasoning-gym {version('reasoning-gym')}"

    def problems(self, split: str, *, seed: int, offset: int, limit: int | None) -> Iterable[Problem]:
        """A question's hash decides its split, so splits are disjoint whatever the seeds."""
        if limit is None:
            raise ValueError(f"{self.name} has no end: say how many problems you want (--num_problems)")
        if split not in SPLITS:
            raise ValueError(f"{self.name} has the splits {', '.join(SPLITS)}, not {split!r}")
        return islice(self._distinct(split, seed), offset, offset + limit)

    def grade(self, rows: Sequence[Row], *, deadline_s: float) -> list[Grade]:
        """Raises ValueError for a row without `metadata.entry`, which the verifier needs."""
        return [self._verdict(row) for row in rows]

    def check_steps(self, row: Row, steps: Sequence[str]) -> list[bool | None]:
        return [None for _ in checked_steps(steps)]

    def same_answer(self, a: str, b: str) -> bool:
        return a == b

    def _distinct(self, split: str, seed: int) -> Iterator[Problem]:
        seen: set[str] = set()
        block = 0
        while True:
            known = len(seen)
            stream = int(_hash(f"{self.name.removeprefix(REASONING_GYM)}/{split}/{seed}/{block}")[:8], 16)
            for entry in self.generate(_BLOCK, stream):
                question = entry["question"]
                if question in seen or split_of(question) != split:
                    continue
                yield Problem(
                    f"{self.name}/{split}/{seed}/{len(seen)}",
                    question,
                    str(entry["answer"]),
                    self.name,
                    {"entry": json.loads(json.dumps(entry, default=_plain))},
                )
                seen.add(question)
            if len(seen) == known:
                raise ValueError(f"{self.name} has only about {known} distinct problems in {split}; ask for fewer")
            block += 1

    def _verdict(self, row: Row) -> Grade:
        entry = row.get("metadata", {}).get("entry")
        if entry is None:
            raise ValueError(f"row {row.get('id')!r}: metadata.entry is missing; the verifier of {self.name} needs it")
        as_text = readings(final_text(row["completion"]))
        if not as_text:
            return Grade("wrong", "no final answer", None)
        as_mathematics = extract_answer(final_text(row["completion"]))
        for answer in (*as_text, *([as_mathematics] if as_mathematics else [])):
            if self.score_answer(answer, entry) == 1.0:
                return Grade("right", "the verifier's full score", answer)
        return Grade("wrong", "less than the verifier's full score", as_mathematics or as_text[-1])


def with_options(name: str, options: Mapping[str, Any]) -> str:
    """The name of a reasoning_gym task with these parameters."""
    return f"{name}?{urlencode([(key, json.dumps(options[key])) for key in sorted(options)])}"


def _plain(value: Any) -> str:
    """Converts values that JSON does not have: exact fractions, which no verifier reads."""
    if isinstance(value, Fraction):
        return str(value)
    raise TypeError(f"{value!r} in a reasoning_gym entry cannot be written as JSON")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
