r"""The miniature task: chained arithmetic modulo 10, learned from an unreliable textbook.

A problem chains 5 to 9 operations, which are done from left to right, modulo 10. A response does one operation
on each line and ends with the final answer:

    prompt      7+8*3-9+1*2=\n
    completion  7+8=5\n5*3=5\n5-9=6\n6+1=7\n7*2=4\n#4

Every step can be checked exactly. The textbook from which a base model learns has errors. A fifth of the facts
`a op b` are *hard*: the textbook states such a fact correctly only part of the time, and otherwise always with the
same wrong digit. So a model that has learned the textbook samples right and wrong steps. A scorer or a policy that
learned from final answers can do better. The seed of the textbook decides which facts are hard.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

from qstep.data import checked_steps, final_text
from qstep.grading import Grade
from qstep.tasks.splits import SPLITS, split_of
from qstep.types import Problem, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3Config

HARD_SHARE = 0.2

_DIGITS = "0123456789"
_OPERATORS = "+-*"
_EOS, _PAD = "<eos>", "<pad>"
_TOKENS = (*_DIGITS, *_OPERATORS, "=", "#", "\n", _EOS, _PAD)
_PROMPT = re.compile(r"[0-9](?:[-+*][0-9])+=\n")
_ANSWER = re.compile(r"#[0-9]")


class Miniature:
    """The task `miniature`: graded and checked exactly."""

    version = "miniature 1"

    def problems(self, split: str, *, seed: int, offset: int, limit: int | None) -> Iterable[Problem]:
        if limit is None:
            raise ValueError("miniature has no end: say how many problems you want (--num_problems)")
        return problems(split, limit, seed, offset)

    def grade(self, rows: Sequence[Row], *, deadline_s: float) -> list[Grade]:
        return [grade(row["gold"], final_text(row["completion"])) for row in rows]

    def check_steps(self, row: Row, steps: Sequence[str]) -> list[bool | None]:
        return [*check_steps(row["prompt"], checked_steps(steps))]

    def same_answer(self, a: str, b: str) -> bool:
        return a == b


@dataclass(frozen=True, slots=True)
class HardFact:
    """A fact that the textbook states rightly with probability `reliability`, otherwise as `distractor`."""

    distractor: int
    reliability: float


def problems(split: str, n: int, seed: int = 0, offset: int = 0) -> list[Problem]:
    """Problems `offset` to `offset + n` of the endless sequence that `split` and `seed` name.

    The first k of n problems are the first k of any other n, and no two of one sequence are alike. A problem
    belongs to one split by the hash of its text, so the splits are disjoint whatever the seeds.

    Raises ValueError for an unknown split and for a negative `n` or `offset`.
    """
    return [
        Problem(f"miniature/{split}/{seed}/{index}", prompt, solution(prompt)[-1], "miniature")
        for index, prompt in enumerate(_prompts(split, f"{split}/{seed}", n, offset), offset)
    ]


def solution(prompt: str) -> str:
    """The one correct response: a line for each operation, from left to right, and the final answer `#d`.

    Raises ValueError if `prompt` is not a miniature problem.
    """
    return _work(prompt, _calculate)


def grade(gold: str, completion: str) -> Grade:
    """Right if the last line of `completion` is `#d` with the digit d of `gold`; the steps are not looked at.

    Raises ValueError if `gold` is not one digit.
    """
    if len(gold) != 1 or gold not in _DIGITS:
        raise ValueError(f"gold is {gold!r}: a miniature problem's gold answer is one digit")
    last_line = completion.removesuffix("\n").rpartition("\n")[2]
    if not _ANSWER.fullmatch(last_line):
        return Grade("wrong", "no final answer", None)
    answer = last_line[1]
    if answer != gold:
        return Grade("wrong", "another digit", answer)
    return Grade("right", "same digit", answer)


def check_steps(prompt: str, steps: list[str]) -> list[bool]:
    """Exact labels: step t is true if it and every step before it are the lines of the solution.

    A step is one line, with or without its newline. All steps after the first error are false. A line after the
    final answer is an error. Missing lines have no label.

    Raises ValueError if `prompt` is not a miniature problem.
    """
    expected = solution(prompt).split("\n")
    labels: list[bool] = []
    for t, step in enumerate(checked_steps(steps)):
        right_so_far = all(labels[-1:])
        labels.append(right_so_far and t < len(expected) and step.removesuffix("\n") == expected[t])
    return labels


@cache
def hard_facts(seed: int = 0) -> Mapping[tuple[int, str, int], HardFact]:
    """The facts `(a, op, b)` that the textbook of this seed gets wrong at times: a fifth of all 300.

    Reliabilities are drawn from U(.25, .75), distractors from the nine wrong digits.
    """
    rng = random.Random(f"miniature world/{seed}")
    facts = [(a, op, b) for a in range(10) for op in _OPERATORS for b in range(10)]
    hard = {}
    for fact in rng.sample(facts, round(HARD_SHARE * len(facts))):
        distractor = (_calculate(*fact) + rng.randrange(1, 10)) % 10
        hard[fact] = HardFact(distractor, rng.uniform(0.25, 0.75))
    return MappingProxyType(hard)


def textbook(n: int, seed: int = 0) -> list[Row]:
    """`n` worked problems of the train split, by the textbook of `seed`: rows `id`, `prompt`, `completion`.

    Each occurrence of a hard fact is drawn independently; it is right with the fact's reliability. The chain
    continues from the digit written. So a row never contradicts itself, but its final answer may be wrong.

    Raises ValueError for a negative `n`.
    """
    hard = hard_facts(seed)
    rng = random.Random(f"textbook facts/{seed}")

    def state(a: int, op: str, b: int) -> int:
        fact = hard.get((a, op, b))
        if fact is not None and rng.random() >= fact.reliability:
            return fact.distractor
        return _calculate(a, op, b)

    return [
        {"id": f"miniature/textbook/{seed}/{index}", "prompt": prompt, "completion": _work(prompt, state)}
        for index, prompt in enumerate(_prompts("train", f"textbook/{seed}", n))
    ]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and the two that no text contains: 18 in all, digit d having id d.

    Text round-trips exactly. A character outside the vocabulary raises an exception, nothing is dropped.
    The newline closes a step, so it also serves as the step separator of a scorer.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = Tokenizer(models.WordLevel({token: index for index, token in enumerate(_TOKENS)}))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    characters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=characters, eos_token=_EOS, pad_token=_PAD, clean_up_tokenization_spaces=False
    )


HIDDEN_SIZE, NUM_HIDDEN_LAYERS = 96, 3


def base_config(hidden_size: int = HIDDEN_SIZE, num_hidden_layers: int = NUM_HIDDEN_LAYERS) -> Qwen3Config:
    """A Qwen3, of 0.33 M parameters by default, that learns the textbook in two and a half minutes on one CPU thread.

    Three choices make it learn soon for most seeds: normalised queries and keys, six small heads instead of three,
    and a wide initialisation (with the usual 0.02, a model of this size learns far more slowly). The longest problem
    has 78 tokens: 21 of the prompt and 57 of the response. The other positions are for separators.

    hidden_size: a multiple of 48.
    """
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=len(_TOKENS),
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=hidden_size // 16,
        num_key_value_heads=hidden_size // 16,
        head_dim=16,
        intermediate_size=8 * hidden_size // 3,
        max_position_embeddings=128,
        initializer_range=0.06,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=_TOKENS.index(_EOS),
        pad_token_id=_TOKENS.index(_PAD),
    )


def _prompts(split: str, stream: str, n: int, offset: int = 0) -> list[str]:
    """Texts `offset` to `offset + n` of the distinct problems of `split` in the named random stream."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: choose one of {', '.join(SPLITS)}")
    if n < 0 or offset < 0:
        raise ValueError(f"n is {n} and offset is {offset}: give numbers that are 0 or more")

    def drawn() -> Iterator[str]:
        rng = random.Random(f"miniature problems/{stream}")
        seen = set()
        while True:
            operations = 5 + int(5 * rng.random())
            operands = rng.choices(_DIGITS, k=operations + 1)
            operators = rng.choices(_OPERATORS, k=operations)
            prompt = "".join(map("".join, zip(operands, [*operators, "=\n"], strict=True)))
            if prompt not in seen and split_of(prompt) == split:
                seen.add(prompt)
                yield prompt

    return list(islice(drawn(), offset, offset + n))


def _calculate(a: int, op: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[op] % 10


def _work(prompt: str, result: Callable[[int, str, int], int]) -> str:
    """The response to `prompt` if each `a op b` is computed as `result(a, op, b)`."""
    if not _PROMPT.fullmatch(prompt):
        raise ValueError(f"{prompt!r} is not a miniature problem, such as '7+8*3=\\n'")
    value = int(prompt[0])
    lines = []
    for op, digit in zip(prompt[1:-2:2], prompt[2:-2:2], strict=True):
        after = result(value, op, int(digit))
        lines.append(f"{value}{op}{digit}={after}")
        value = after
    return "\n".join([*lines, f"#{value}"])
