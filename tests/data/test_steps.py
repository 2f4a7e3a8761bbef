"""Steps and their tokens, with tokenizers that merge over the separator, split characters, or do neither."""

from __future__ import annotations

import random
from functools import cache

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from qstep.data import check_separator, encode_text, split_steps, step_token_ends
from qstep.tasks import miniature

WORDS = [
    "x",
    "=",
    "12",
    "2/3",
    "∑",
    "é",
    "日本語",
    "😀",
    "so",
    "thus",
    "\\frac{1}{2}",
    "<|end|>",
    "a\tb",
    "1.5",
]


@cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges over everything (`merging`) or within words (`words`), or byte fallback,
    where the newline, too, is a byte."""
    corpus = ["so x = 12.\n\nthus 2/3.\n\n", "x = 1.\nso 12\nthus\n\nx\n"] * 20
    if kind == "miniature":
        return miniature.tokenizer()
    if kind == "fallback":
        vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
        for text in ("▁", "x", "▁x", ".", "▁so", "s", "o", "▁s"):
            vocab[text] = len(vocab)
        merges = [("▁", "x"), ("▁", "s"), ("▁s", "o")]
        raw = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True))
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        raw.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(content=" ", left=1),
            ]
        )
    else:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "words")
        raw.decoder = decoders.ByteLevel()
        raw.train_from_iterator(
            corpus, trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        )
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", clean_up_tokenization_spaces=False)


def test_split_steps_by_hand() -> None:
    assert split_steps("a\n\n b \n \nc\n") == ["a", "b", "c"]
    assert split_steps("a\nb\n\nc\n\n\n\nd", "\n\n") == ["a\nb", "c", "d"]
    assert split_steps("") == split_steps(" \n\n\t") == []
    assert split_steps("one ки two ки", "ки") == ["one", "two"]
    with pytest.raises(ValueError, match="empty separator"):
        split_steps("a", "")


def test_the_name_of_a_splitter_alone_is_no_separator() -> None:
    with pytest.raises(ValueError, match=r"'sentence' is the name of a splitter\. Give split:sentence"):
        split_steps("He buys 3. He eats 1.", "sentence")
    with pytest.raises(ValueError, match="--step_separator: 'line' is the name of a splitter"):
        check_separator("step_separator", "line")


@pytest.mark.parametrize("separator", ["\n", "\n\n", "ки"])
def test_split_steps_loses_no_text(separator: str) -> None:
    rng = random.Random(1)
    for _ in range(300):
        text = "".join(rng.choices([*WORDS, " ", "\n", "\n\n", "ки", "."], k=30))
        steps = split_steps(text, separator)
        assert "".join("".join(steps).split()) == "".join(text.replace(separator, "").split())
        assert all(step and step == step.strip() and separator not in step for step in steps)


def test_ends_by_hand() -> None:
    """Characters are tokens: `7+8=5` and its newline are tokens 0-5, `5*3=5` with two newlines 6-12, `#5` and
    the end-of-sequence token 13-15."""
    tokens = miniature.tokenizer()
    ids = [*tokens.encode("7+8=5\n5*3=5\n\n#5"), tokens.eos_token_id]
    assert step_token_ends(tokens, ids, ["7+8=5", "5*3=5", "#5"], "\n") == [5, 12, 15]
    assert step_token_ends(tokens, ids[:14], ["7+8=5", "5*3=5", "#"], "\n") == [5, 12, 13]
    assert step_token_ends(tokens, [tokens.eos_token_id], [], "\n") == []
    with pytest.raises(ValueError, match="not those of the tokens"):
        step_token_ends(tokens, ids, ["7+8=5", "#5"], "\n")


def test_a_token_over_the_border_ends_the_earlier_step() -> None:
    """One token holds `.`, the separator and the next step's first letter; another holds two whole steps."""
    raw = Tokenizer(models.WordLevel({"ab": 0, ".\nc": 1, "d\ne\nf": 2, "g": 3, "\n": 4}))
    raw.decoder = decoders.Fuse()
    tokens = PreTrainedTokenizerFast(tokenizer_object=raw)
    assert step_token_ends(tokens, [0, 1, 4, 3], ["ab.", "c", "g"], "\n") == [1, 2, 3]
    assert step_token_ends(tokens, [2, 4, 3], ["d", "e", "f", "g"], "\n") == [0, 0, 1, 2]


def check_ends(tokens: PreTrainedTokenizerFast, ids: list[int], separator: str, *, strict: bool) -> tuple[int, int]:
    """The tokens up to a step's end decode to the steps so far; one token fewer do not complete them."""

    def decode(count: int) -> str:
        return tokens.decode(ids[:count], skip_special_tokens=True)

    steps = split_steps(decode(len(ids)), separator)
    ends = step_token_ends(tokens, ids, steps, separator)
    assert len(ends) == len(steps) and ends == sorted(ends)
    assert not ends or ends[-1] == len(ids) - 1
    for index, end in enumerate(ends[:-1]):
        prefix = split_steps(decode(end + 1).rstrip("�"), separator)
        assert prefix[: index + 1] == steps[: index + 1]
        if strict:
            assert prefix == steps[: index + 1]
        shorter = decode(end)
        # The token at `end` is needed: without it a step, or one of its separators, is incomplete.
        owned = shorter.count(separator) < decode(end + 1).count(separator)
        assert owned or split_steps(shorter, separator)[: index + 1] != steps[: index + 1]
    return len(ends), len(steps)


@pytest.mark.parametrize("separator", ["\n", "\n\n"])
@pytest.mark.parametrize("kind", ["merging", "words", "fallback"])
def test_no_end_is_misplaced(kind: str, separator: str) -> None:
    tokens = tokenizer(kind)
    rng = random.Random(2)
    count = 0
    while count < 1500:
        parts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 4))) + rng.choice(["", "."]) for _ in range(8)]
        text = "".join(part + separator * rng.choice([1, 1, 1, 2]) for part in parts)
        ids = [*encode_text(tokens, text), tokens.eos_token_id]
        if rng.random() < 0.3:
            ids = ids[: rng.randint(1, len(ids))]  # cut off, perhaps within a character
        ends, steps = check_ends(tokens, ids, separator, strict=kind != "merging")
        assert ends == steps
        count += steps


def test_the_miniature_has_one_end_a_line() -> None:
    tokens = tokenizer("miniature")
    for problem in miniature.problems("train", 50, 0):
        ids = [*tokens.encode(miniature.solution(problem.prompt)), tokens.eos_token_id]
        steps, _ = check_ends(tokens, ids, "\n", strict=True)
        assert steps == tokens.decode(ids).count("\n") + 1
