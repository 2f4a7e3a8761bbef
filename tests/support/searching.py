"""Policies and scorers whose every step is known, to search with.

Run as a script, it is the child that test_search_stage.py kills: `searching.py FOLDER`.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from qstep.generation import Request, SamplingSettings
from qstep.scoring.scorer import Scored
from qstep.tasks import miniature
from qstep.types import Prompt, Response, Row

EOS = 0


class Characters:
    """A token a character, 0 for the end."""

    bos_token_id = None
    chat_template = None
    added_tokens_decoder: ClassVar[dict[int, object]] = {}
    eos_token_id = EOS

    def encode(self, text: str, **options: bool) -> list[int]:
        return [*map(ord, text)]

    def decode(self, ids: list[int], **options: bool) -> str:
        return "".join(chr(i) for i in ids if i != EOS)


@dataclass
class KnownPolicy:
    """Continues text by what `continue_from(prompt and text, draw)` says, to its end; keeps what was asked of it.

    draw: the request's key, the sample, and whether it is greedy.
    """

    continue_from: Callable[[str, tuple[str, int, bool]], str]
    gives_tokens: bool = True
    pause: float = 0.0
    tokenizer: Any = field(default_factory=Characters)
    asked: list[tuple[str, list[int], bool]] = field(default_factory=list)
    calls: int = 0
    tokens: dict[str, int] = field(default_factory=dict)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def sample(
        self, requests: Iterable[Request], settings: SamplingSettings
    ) -> Iterator[tuple[Request, list[Response]]]:
        self.calls += 1
        requests = list(requests)
        for request in reversed(requests):  # whatever the order they are done in
            time.sleep(self.pause)
            begun, greedy = self.decode(request.prompt_ids), settings.temperature == 0
            self.asked.append((begun, [*request.samples], greedy))
            yield request, [self.respond(request, begun, sample, settings) for sample in request.samples]

    def respond(self, request: Request, begun: str, sample: int, settings: SamplingSettings) -> Response:
        text = self.continue_from(begun, (request.key, sample, settings.temperature == 0))
        ids, reason = [*self.tokenizer.encode(text), EOS], "stop"
        if settings.stop is not None and settings.stop in text:
            length = text.index(settings.stop) + len(settings.stop)
            ids, reason = ids[:length], "step"
        if len(ids) > request.limit(settings):
            ids, reason = ids[: request.limit(settings)], "length"
        problem = request.key.partition("@")[0]
        self.tokens[problem] = self.tokens.get(problem, 0) + len(ids)
        text = self.decode(ids)
        if not self.gives_tokens:
            return Response(sample, text, None, None, reason)
        return Response(sample, text, ids, [-0.5] * len(ids), reason)


@dataclass
class KnownScorer:
    """The Qs that `q_values(prompt, steps)` says; keeps what it was asked."""

    q_values: Callable[[Prompt, Sequence[str]], list[float]]
    aggregation: str = "min"
    step_separator: str = "\n"
    max_length: int = 10_000
    objective: str = "pqm"
    scored: list[list[str]] = field(default_factory=list)

    def score(self, prompt: Prompt, steps: Sequence[str]) -> list[float]:
        return self.q_values(prompt, steps)

    def fits(self, row: Row) -> bool:
        return sum(map(len, row["completions"])) <= self.max_length

    def in_windows(self, row: Row) -> bool:
        return False

    def unlike_training(self, prompt: Prompt, instruction: str | None = None) -> str | None:
        return None

    def score_rows(self, rows: Iterable[Row], *, max_tokens: int) -> Iterator[list[Scored]]:
        for row in rows:
            self.scored.append(row["completions"])
            yield [(row, self.score(row["prompt"], row["completions"]))]


def erring_policy(share: float = 0.3, **options: Any) -> KnownPolicy:
    """Works miniature problems, each step wrong with a chance of `share`, and goes on from the digit written."""

    def continue_from(text: str, draw: tuple[str, int, bool]) -> str:
        prompt, _, begun = text.partition("\n")
        operators = prompt[1:-1:2]
        *done, torn = begun.split("\n")
        if len(torn) == 5:  # such as 7+8=5, without its line break
            return "\n" + continue_from(text + "\n", draw)
        value = int(done[-1][-1]) if done else int(prompt[0])
        lines = []
        for t in range(len(done), len(operators)):
            operator, operand = operators[t], int(prompt[2 * t + 2])
            chance = int.from_bytes(hashlib.sha256(repr((draw, t)).encode()).digest()[:4], "big") / 2**32
            result = miniature._calculate(value, operator, operand)
            result = (result + 1) % 10 if chance < share else result
            lines.append(f"{value}{operator}{operand}={result}")
            value = result
        return "\n".join([*lines, f"#{value}"])[len(torn) :]

    return KnownPolicy(continue_from, **options)


def perfect_scorer(**options: Any) -> KnownScorer:
    """Q is 3 for a step that is right, with all before it, and -3 for any other."""
    return KnownScorer(
        lambda prompt, steps: [3.0 if right else -3.0 for right in miniature.check_steps(str(prompt), [*steps])],
        **options,
    )


def run_search(folder: Path, pause: float = 0.0, **options: Any) -> Path:
    from qstep.stages.search import SearchConfig, search

    given = dict(num_problems=40, problems_at_once=4, width=4, expand=2, max_new_tokens=64) | options
    config = SearchConfig(model_name_or_path="known", scorer="known", output=folder / "search.jsonl", **given)
    return search(config, erring_policy(pause=pause), perfect_scorer())


if __name__ == "__main__":
    run_search(Path(sys.argv[1]), pause=0.001)
