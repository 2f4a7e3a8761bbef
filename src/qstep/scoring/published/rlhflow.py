"""RLHFlow's PRMs (https://huggingface.co/RLHFlow/Llama3.1-8B-PRM-Deepseek-Data).

The owners' code is `math-rm/prm_evaluate.py` of github.com/RLHFlow/RLHF-Reward-Modeling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qstep.data import Placed, Turn, encode_chat
from qstep.scoring.formats import Encoded
from qstep.scoring.published.base import WordVerdicts, split_shared, turns_of
from qstep.types import Prompt


@dataclass(kw_only=True)
class RLHFlow(WordVerdicts):
    """The text is a conversation. The user's first turn is the question, a blank and the first step. Each further step
    is a turn. The assistant answers each turn with `+`. The verdict is read at the token before this answer.
    """

    kind: ClassVar[str] = "rlhflow"

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        *before, (_, question) = turns_of(prompt)
        if not steps:
            return []
        turns: list[Turn] = [*before]
        for n, step in enumerate(steps):
            turns += [("user", [step] if n else [*question, " ", step]), ("assistant", [Placed(self.good_token)])]
        shared, _ = encode_chat(self.tokenizer, [*before, ("user", question)])
        ids, answers = encode_chat(self.tokenizer, turns)
        if any(ids[answer] != self.words[0] for answer in answers):
            raise ValueError(
                f"the answer {self.good_token!r} is not a separate token in this tokenizer's conversations"
            )
        return [split_shared(shared, ids, [answer - 1 for answer in answers])]
