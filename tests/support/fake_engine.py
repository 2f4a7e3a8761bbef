"""A policy that answers miniature problems in 2 ms, right or wrong by a hash: fast enough to be killed often."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from qstep.generation import Request, SamplingSettings
from qstep.tasks import miniature
from qstep.types import Response

CHARACTERS = "0123456789+-*=#\n"
EOS = len(CHARACTERS)


class CharacterTokenizer:
    """The part of a tokenizer's interface that sampling and annotation use."""

    bos_token_id = None
    chat_template = None
    added_tokens_decoder: ClassVar[dict[int, object]] = {}
    eos_token_id = EOS

    def encode(self, text: str, **options: bool) -> list[int]:
        return [CHARACTERS.index(character) for character in text]

    def decode(self, ids: list[int], **options: bool) -> str:
        return "".join(CHARACTERS[i] for i in ids if i != EOS)


class FakeEngine:
    """Continues whatever of a solution is there, with the last digit wrong in half of the cases."""

    tokenizer = CharacterTokenizer()

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def sample(
        self, requests: Iterable[Request], settings: SamplingSettings
    ) -> Iterator[tuple[Request, list[Response]]]:
        for request in requests:
            time.sleep(0.002)
            yield request, [self.respond(request, sample) for sample in request.samples]

    def respond(self, request: Request, sample: int) -> Response:
        prompt, _, begun = self.decode(request.prompt_ids).partition("\n")
        solution = miniature.solution(prompt + "\n")
        rest = solution[len(begun) :]
        digit = hashlib.sha256(f"{request.key}/{sample}".encode()).digest()[0]
        if digit % 2:
            rest = rest[:-1] + str(digit % 10)
        ids = [*self.tokenizer.encode(rest), EOS]
        return Response(sample, rest, ids, [-0.5] * len(ids), "stop")


def run(stage: str, folder: Path, begins: Callable[[], None] = lambda: None) -> Path:
    """Samples, and labels the steps if `stage` is a method of `annotate`. `begins` is called before the last stage."""
    from qstep.stages.annotate import AnnotateConfig, annotate
    from qstep.stages.grade import GradeConfig, grade
    from qstep.stages.sample import SampleConfig, sample

    sampling = SampleConfig(
        model_name_or_path="fake", output=folder / "samples.jsonl", num_problems=300, num_samples=4, max_new_tokens=64
    )
    if stage == "sample":
        begins()
        return sample(sampling, FakeEngine())
    graded = grade(GradeConfig(sample(sampling, FakeEngine()), folder / "graded.jsonl"))
    labels = AnnotateConfig(
        graded,
        folder / "labels.jsonl",
        stage,
        "fake",
        rollouts=2,
        rollout_budget=None if stage == "monte_carlo" else 250,
        max_new_tokens=64,
        rows_at_once=8,
        max_problems=60,
    )
    begins()
    return annotate(labels, FakeEngine())
