"""Near copies and overlaps of test problems, by hand."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from qstep.data import Instruction, KnownProblems, Match, problem_text

BOXED = "\n\nPlease reason step by step. Put your final answer in a box."


def match(text: str, tests: list[str], others: Iterable[str] = ()) -> Match | None:
    return KnownProblems(lambda: enumerate(tests, 1)).match(text, Instruction.of([text, *others]))


@pytest.mark.parametrize(
    "text",
    [
        "What is 2+2? ",
        "what is\n2 + 2",
        "What is $2+2$?",
        "What is 2\\,+\\!2?",
        "What is~2 + 2 .",
        "What is \\left 2+2\\right?",
        "What is 2 \\QUAD + \\  2?",
    ],
)
def test_spelling_makes_no_other_problem(text: str) -> None:
    tests = ["What is 3+3?", "What is $2+2$?" if "$" in text else "What is 2+2?"]
    assert match(text, tests) == Match(2)


@pytest.mark.parametrize(
    ("text", "test"),
    [
        ("What is 3 1/2?", "What is 31/2?"),
        ("Compute 5!", "Compute 5"),
        ("What is n!?", "What is n?"),
        ("Add 1 23 and 4.", "Add 12 3 and 4."),
    ],
)
def test_digits_are_not_joined_and_a_factorial_stays(text: str, test: str) -> None:
    assert match(text, [test]) != Match(1) and match(text, [text.upper()]) == Match(1)


@pytest.mark.parametrize("text", ["What is 2-2?", "What is 2+22?", "What is 2+2 in base 3?", "\\leftarrow"])
def test_another_problem_is_no_copy(text: str) -> None:
    assert match(text, ["What is 2+2?", "arrow"]) is None


def test_characters_are_words_where_words_have_no_blanks() -> None:
    """Eighteen characters of a Chinese problem in another one, with other punctuation; twelve are too few."""
    known = "\u5c0f\u660e\u6709\u4e09\u5341\u4e8c\u4e2a\u82f9\u679c\uff0c"
    known += "\u7ed9\u4e86\u5c0f\u7ea2\u5341\u4e2a\uff0c\u8fd8\u5269\u51e0\u4e2a\uff1f"
    other = "\u6628\u5929" + known[:17].replace("\uff0c", ", ") + "\uff0c\u4ed6\u8fd8\u6709\u591a\u5c11\uff1f"
    found = match(other, [known])
    assert found is not None and found.line == 1 and found.words == " ".join(known[:14].replace("\uff0c", ""))
    assert match("\u6628\u5929" + known[:13], [known]) is None
    assert match("In words: " + known[:14] + " abc", ["x", known]) == Match(
        2, " ".join(known[:14].replace("\uff0c", ""))
    )


def test_an_instruction_is_left_out_on_either_side() -> None:
    """All problems of either file have it, or two of three. It is found as sentences, and never as a whole problem."""
    problems = ["What is 2+2?", "What is 3+3?", "What is 4+4?"]
    asked = [problem + BOXED for problem in problems]
    assert match(asked[1], problems, asked) == match(problems[1], asked, problems) == Match(2)
    assert match("Solve this: " + problems[1], asked, ["Solve this: 1", "Solve this: 2"]) == Match(2)
    assert Instruction.of([*asked[:2], problems[2]]).last == ("putyourfinalanswerinabox", "pleasereasonstepbystep")
    assert Instruction.of([asked[0], *problems[1:]]) == Instruction()
    assert Instruction.of(["Why?", "Why?"]).removed("Why?") == "Why?"
    assert Instruction(("solve",), ("go",)).removed("Solve:\nx = 1.\nGo!") == "x = 1."


def test_thirteen_words_in_a_row_overlap() -> None:
    words = [f"w{n}" for n in range(20)]
    test = " ".join(words)
    assert match("A, b: " + ", ".join(words[3:16]).upper() + "?", ["no", test]) == Match(2, " ".join(words[3:16]))
    assert match("A b " + " ".join(words[3:15]), ["no", test]) is None
    assert match("w1 (w2) w3", ["w1 w2 w3"]) == Match(1, "w1 w2 w3"), "a short problem is compared as a whole"
    assert match("w1 w2 w3 w4", ["w1 w2 w3"]) is None


def test_a_phrase_of_the_test_set_is_no_overlap() -> None:
    """Eleven of thirty test problems begin with 13 words that are no instruction, as most do not; ten is too few."""
    phrase = " ".join(f"w{n}" for n in range(13))
    others = [f"other problem {n}" for n in range(19)]
    for number, found in ((10, Match(1, phrase)), (11, None)):
        assert match(phrase + " c", [*(f"{phrase} a{n}" for n in range(number)), *others]) == found


def test_the_words_of_an_instruction_do_not_overlap() -> None:
    long = " ".join(f"w{n}" for n in range(20)) + "."
    assert match(f"{long} a b", [f"{long} c d", f"{long} e f"], [f"{long} g h"]) is None


def test_the_text_of_a_conversation_is_the_users() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    assert problem_text(chat) == problem_text("2+2?") == "2+2?"
