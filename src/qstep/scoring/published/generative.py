"""A scorer that answers in words, without a chain of thought (arXiv 2408.15240)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from qstep.data import beginning, encode_chat, encode_text
from qstep.data.chat import opening_of
from qstep.runs.options import Check
from qstep.scoring.formats import Encoded
from qstep.scoring.published.base import WordVerdicts, question_of, split_shared
from qstep.types import Prompt

_PLACES = ["{question}", "{solution}"]


def _parts(template: str) -> list[str]:
    """A template cut before and after its places."""
    return re.split(r"(\{question\}|\{solution\})", template)


def _check_template(option: str, template: str) -> None:
    if [part for part in _parts(template) if part in _PLACES] != _PLACES:
        raise ValueError(f"--{option} has to hold {{question}} and then {{solution}}, each once")


@dataclass(kw_only=True)
class Generative(WordVerdicts):
    """For each step, a prompt with the question and the solution up to that step. The verdict is the next token.

    The prompt is the user's turn of the tokenizer's chat template, if there is one, else the text as it is. What the
    prompts have in common before the solution is computed once. A response of n steps is read in n prompts.

    Args:
        template: the critique prompt, with `{question}` and `{solution}` where these stand.
    """

    template: Annotated[str, Check(_check_template)] = (
        "Question:\n{question}\n\nSolution so far:\n{solution}\n\n"
        "Is every step of this solution correct? Answer with Yes or No."
    )
    good_token: str = "Yes"
    bad_token: str = "No"

    kind: ClassVar[str] = "generative"
    parts: list[str] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.parts = _parts(self.template)
        if opening := opening_of(self.tokenizer, [{"role": "user", "content": self.template}]).strip():
            raise ValueError(
                f"its chat template opens the thinking ({opening}), so the first token is no verdict. A scorer of kind "
                "generative needs a model that answers at once"
            )

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        question = question_of(prompt)
        shared = self._critique(question, "")
        joint = self.joint
        critiques = [self._critique(question, joint.join(steps[:n])) for n in range(1, len(steps) + 1)]
        return [split_shared(shared, ids, [len(ids) - 1]) for ids in critiques]

    def _critique(self, question: str, solution: str) -> list[int]:
        filled = {"{question}": question, "{solution}": solution}
        text = "".join(filled.get(part, part) for part in self.parts)
        if self.tokenizer.chat_template is None:
            return [*beginning(self.tokenizer), *encode_text(self.tokenizer, text)]
        return encode_chat(self.tokenizer, [("user", [text])], add_generation_prompt=True)[0]
