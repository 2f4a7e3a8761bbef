"""Tokenizers that treat text differently, and what each keeps of it, known apart from them."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

HOSTILE = [
    *("so", "x", "Thus", "12", "3.5", "$1.50", "=", "<<3+4=7>>7", "\\frac{1}{2}", "\\boxed{5}", "a\tb", "e.g.", "Mr."),
    *(
        "é",
        "e\u0301",
        "A\u030a",
        "q\u0307\u0323",
        "İ",
        "ß",
        "ﬁ",
        "½",
        "…",
        "x²",
        "①",
        "Å",
        "㎏",
        "ﷺ",
        "가",
        "\u1100\u1161",
    ),
    *(
        "😀",
        "👩‍🚀",
        "🇫🇷",
        "👍🏽",
        "日本語",
        "答案是5",
        "الجواب",
        "א",
        "हिन्दी",
        "\u200bx",
        "x\u200b",
        "\u200d",
        "\ufeffx",
        "\u00a0y",
        "\u00ad",
    ),
    *("<|im_end|>", "<|im_start|>", "</s>", "<s>", "[SEP]", "[UNK]", "<0x0A>", "▁", "Ġ", "Ċ", "##a", "�", "'s", "``"),
]
ENDS = ["5.", "x.", "!", "。", "...", "5", "z", ")", "😀", "e\u0301", "\u200b.", "½", "<|im_end|>"]
GAPS = ["\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", " \n\t\n ", "\n  ", "\r", " \n"]


def hostile_text(rng: random.Random, steps: int = 6, gaps: Sequence[str] = GAPS) -> str:
    """Steps of hostile words, divided by line breaks of all kinds."""
    parts = [" ".join([*rng.choices(HOSTILE, k=rng.randint(1, 5)), rng.choice(ENDS)]) for _ in range(steps)]
    return "so " + "".join(part + rng.choice(gaps) for part in parts)


@cache
def unigram(more: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """As SentencePiece makes them: NFKC, a blank before the text, pieces of any characters but blanks; learned of
    `more` texts, too."""
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.NFKC()
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    raw.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = sorted({*unicodedata.normalize("NFKC", "".join([*CORPUS, *more]))} - {" "})
    trainer = trainers.UnigramTrainer(
        vocab_size=len(alphabet) + 300 + 10 * len(more),
        initial_alphabet=alphabet,
        special_tokens=["<unk>", "</s>"],
        unk_token="<unk>",
    )
    raw.train_from_iterator([*CORPUS, *more], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>")


@cache
def wordpiece(more: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """As BERT's: letters lowered, accents, controls and blanks dropped, words cut with ##; of `more` texts, too."""
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=10_000))
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece(cleanup=False)
    characters = sorted({*bert("".join([*CORPUS, *more]))})
    trainer = trainers.WordPieceTrainer(
        vocab_size=2 * len(characters) + 300 + 10 * len(more),
        initial_alphabet=characters,
        special_tokens=["[UNK]", "[SEP]"],
    )
    raw.train_from_iterator([*CORPUS, *more, *("a" + character for character in characters)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]", eos_token="[SEP]")


def bert(text: str) -> str:
    """What BERT's normaliser keeps, blanks aside."""
    kept = (c for c in text if c in "\t\n\r" or (unicodedata.category(c)[0] != "C" and c != "\ufffd"))
    marked = (c for c in unicodedata.normalize("NFD", "".join(kept)) if unicodedata.category(c) != "Mn")
    return "".join("".join(marked).lower().split())


def nfkc(text: str) -> str:
    """What NFKC keeps, blanks aside (a blank is written as U+2581, so that is one, too)."""
    return "".join(unicodedata.normalize("NFKC", text).replace("▁", " ").split())


def exact(text: str) -> str:
    """All, blanks aside."""
    return "".join(text.split())


def read(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """What tokens read as, blanks and a character torn at the end aside."""
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return "".join(text.split()).rstrip("\ufffd")


_RNG = random.Random(0)
CORPUS = [
    *HOSTILE,
    *ENDS,
    *(hostile_text(_RNG) for _ in range(30)),
    *("So she has 12 - 5 = 7 eggs left.\nThe answer is 7." for _ in range(5)),
    "".join(map(chr, range(33, 127))) + "\u2018\u2019\u201c\u201d\u2013\u2014\u00d7÷≤≥≈∑√π°€£→",
]
