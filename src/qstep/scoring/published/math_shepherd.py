"""Math-Shepherd (https://huggingface.co/peiyi9979/math-shepherd-mistral-7b-prm)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qstep.data import beginning, encode_joined, encode_text
from qstep.scoring.formats import Encoded
from qstep.scoring.published.base import WordVerdicts, question_of, split_shared
from qstep.types import Prompt


@dataclass(kw_only=True)
class MathShepherd(WordVerdicts):
    """The text is `question Step 1: ... <tag>`. Each further step, `Step 2: ... <tag>`, is on a line of its own. The
    verdict is read at each tag.

    Args:
        step_tag: the word after each step, one token.
        number_steps: put `Step n: ` before a step that does not begin so.
    """

    step_separator: str = "\n"
    step_tag: str = "\u043a\u0438"
    number_steps: bool = True

    kind: ClassVar[str] = "math_shepherd"

    def __post_init__(self) -> None:
        super().__post_init__()
        ids, (before, tag, _) = encode_joined(self.tokenizer, ["1", f" {self.step_tag}", "\n"])
        if tag != before + 1:
            raise ValueError(
                f"--scorer_options.step_tag {self.step_tag!r} is {tag - before} tokens for this tokenizer. Use the "
                "tokenizer saved with the scorer, or give its tag with --scorer_options.step_tag"
            )
        self.tag_id = ids[tag]

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        question = question_of(prompt)
        if not steps:
            return []
        texts = [question]
        for n, step in enumerate(steps, 1):
            numbered = step if not self.number_steps or re.match(r"Step \d+:", step) else f"Step {n}: {step}"
            texts += [(" " if n == 1 else "\n") + numbered, f" {self.step_tag}"]
        first = beginning(self.tokenizer)
        ids, ends = encode_joined(self.tokenizer, texts)
        tags = ends[2::2]
        for step, tag in zip(steps, tags, strict=True):
            if ids[tag] != self.tag_id:
                raise ValueError(f"the tag {self.step_tag!r} is not a separate token after the step {step!r}")
        shared = [*first, *encode_text(self.tokenizer, question)]
        return [split_shared(shared, [*first, *ids], [tag + len(first) for tag in tags])]
