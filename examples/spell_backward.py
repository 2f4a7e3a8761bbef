r"""A task of your own, without arithmetic: words are spelled backward.

    python -m examples.spell_backward --seeds 801 802 --output runs/spell_backward
    qstep sample --task examples.spell_backward:TASK --dataset_name examples.spell_backward:TASK ...

The problems and the verifier are those of reasoning_gym's `spell_backward`. A response adds one letter a line, and ends
with the answer. So an error stays in all lines after it:

    prompt      Spell this word backward (example: sun -> nus): gnat\n
    completion  t\nta\ntan\ntang\n#tang

A tiny model learns it from a textbook with errors, like the miniature's. A fifth of all pairs of letters is *hard*:
after the first letter of such a pair, the textbook writes the second one correctly only part of the time, and otherwise
always the same wrong letter. The seed decides which pairs. `TASK` is what `--task` names. It checks each line exactly.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING

from qstep.data import checked_steps, write_jsonl
from qstep.grading import Grade
from qstep.tasks.miniature import base_config
from qstep.tasks.procedural import REASONING_GYM, ReasoningGym, with_options
from qstep.types import Problem, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME = "examples.spell_backward:TASK"
HARD_SHARE = 0.2
_FAMILY = with_options(f"{REASONING_GYM}spell_backward", {"min_word_len": 5, "max_word_len": 8})
_QUESTION = "Spell this word backward (example: sun -> nus): "
_EOS, _PAD = "<eos>", "<pad>"
_OTHERS = sorted({*_QUESTION} - {*ascii_lowercase})  # a response may hold a part of the question
_TOKENS = (*ascii_lowercase, *_OTHERS, "#", "\n", _QUESTION, _EOS, _PAD)


class SpellBackward:
    """The problems of the family with small letters only; their answers are judged by its verifier."""

    version = "spell_backward 1"

    @cached_property
    def family(self) -> ReasoningGym:
        return ReasoningGym.named(_FAMILY)

    def problems(self, split: str, *, seed: int, offset: int, limit: int | None) -> Iterable[Problem]:
        if limit is None:
            raise ValueError(f"{NAME} asks how many problems you want: --num_problems")
        return islice(self._plain(split, seed), offset, offset + limit)

    def _plain(self, split: str, seed: int) -> Iterator[Problem]:
        drawn = self.family.problems(split, seed=seed, offset=0, limit=100_000)
        for number, problem in enumerate(each for each in drawn if set(each.gold) <= set(ascii_lowercase)):
            prompt = f"{problem.prompt}\n"
            yield replace(problem, id=f"spell_backward/{split}/{seed}/{number}", prompt=prompt, task=NAME)

    def grade(self, rows: Sequence[Row], *, deadline_s: float) -> list[Grade]:
        return [self._verdict(row) for row in rows]

    def _verdict(self, row: Row) -> Grade:
        stated = re.fullmatch(r"#([a-z]+)\n?", row["completion"].rpartition("\n")[2])
        if not stated:
            return Grade("wrong", "no final answer", None)
        full = self.family.score_answer(stated[1], row["metadata"]["entry"]) == 1.0
        return Grade("right" if full else "wrong", "the verifier's score", stated[1])

    def check_steps(self, row: Row, steps: Sequence[str]) -> list[bool | None]:
        expected = [*worked(row["gold"], lambda _, letter: letter).split("\n")]
        right = [step.removesuffix("\n") == line for step, line in zip(checked_steps(steps), expected, strict=False)]
        right += [False] * (len(steps) - len(right))
        return [all(right[: t + 1]) for t in range(len(steps))]

    def same_answer(self, a: str, b: str) -> bool:
        return a == b


TASK = SpellBackward()


def worked(answer: str, reads: Callable[[str, str], str]) -> str:
    """The response that ends with `answer` if each letter is read right; `reads(before, letter)` is what is written."""
    written, lines = "", []
    for letter in answer:
        written += reads(written[-1:], letter)
        lines.append(written)
    return "\n".join([*lines, f"#{written}"])


def textbook(rows: int, seed: int) -> Iterator[Row]:
    """Worked problems of the train split. Each occurrence of a hard pair is drawn anew."""
    variant = random.Random(f"letters/{seed}")
    pairs = [(a, b) for a in ascii_lowercase for b in ascii_lowercase]
    hard = {
        pair: (_other(variant, pair[1]), variant.uniform(0.25, 0.75))
        for pair in variant.sample(pairs, round(HARD_SHARE * len(pairs)))
    }
    drawn = random.Random(f"textbook/{seed}")

    def reads(before: str, letter: str) -> str:
        wrong, reliability = hard.get((before, letter), (letter, 1.0))
        return letter if drawn.random() < reliability else wrong

    for problem in TASK.problems("train", seed=10_000 + seed, offset=0, limit=rows):
        yield {"id": problem.id, "prompt": problem.prompt, "completion": worked(problem.gold, reads)}


def _other(variant: random.Random, letter: str) -> str:
    return variant.choice(ascii_lowercase.replace(letter, ""))


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter, and one for the question's words."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = Tokenizer(models.WordLevel({token: index for index, token in enumerate(_TOKENS)}))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex(rf"{re.escape(_QUESTION)}|[\s\S]"), "isolated")
    letters.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=letters, eos_token=_EOS, pad_token=_PAD, clean_up_tokenization_spaces=False
    )


def write(folder: Path, seed: int, rows: int) -> None:
    """Writes `textbook.jsonl` and the untrained `model`, which has the miniature's shape."""
    import torch
    from transformers import Qwen3ForCausalLM

    shape = base_config()
    shape.max_position_embeddings = 256  # a response may repeat the question, letter by letter
    shape.vocab_size, shape.eos_token_id, shape.pad_token_id = len(_TOKENS), _TOKENS.index(_EOS), _TOKENS.index(_PAD)
    torch.manual_seed(seed)
    Qwen3ForCausalLM(shape).save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    write_jsonl(folder / "textbook.jsonl", textbook(rows, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[801])
    parser.add_argument("--textbook_rows", type=int, default=16_000)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    for seed in args.seeds:
        write(args.output / str(seed), seed, args.textbook_rows)


if __name__ == "__main__":
    main()
