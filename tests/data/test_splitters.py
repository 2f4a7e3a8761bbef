"""Lists, headings, code and mathematics as steps, and the time that splitting takes."""

from __future__ import annotations

import random
import time

import pytest

from qstep.data import split_steps


@pytest.mark.parametrize(
    ("text", "separator", "steps"),
    [
        (
            "1. add 1 to get 2\n2. double it\nThe answer is 4.",
            "numbered",
            ["1. add 1 to get 2", "2. double it\nThe answer is 4."],
        ),
        (
            "Plan:\n1. a\n   1. s\n   2. t\n2) b\n\nNow\n1. c\n2. d",
            "numbered",
            ["Plan:", "1. a\n   1. s\n   2. t", "2) b\n\nNow", "1. c", "2. d"],
        ),
        ("3. not from one\n4. on", "numbered", ["3. not from one\n4. on"]),
        ("1. alone\n7. not next", "numbered", ["1. alone\n7. not next"]),
        ("Step 1: x\n1. a\n2. b\nStep 2: y", "numbered", ["Step 1: x\n1. a\n2. b", "Step 2: y"]),
        (
            "Plan:\n1. add\n2. halve\n\nStep 1: 3+5=8\nStep 2: 8/2=4\nSo 4.",
            "numbered",
            ["Plan:", "1. add", "2. halve", "Step 1: 3+5=8", "Step 2: 8/2=4\nSo 4."],
        ),
        (" 1. Add.\n2. Halve.", "numbered", ["1. Add.", "2. Halve."]),
        ("  1. Add.\n  2. Halve.", "numbered", ["1. Add.", "2. Halve."]),
        ("  1. a\n1. x\n2. y\n  2. b", "numbered", ["1. a", "1. x", "2. y\n  2. b"]),
        (
            "\u7b2c\u4e00\u6b65: a\n\u7b2c\u4e8c\u6b65: b",
            "numbered",
            ["\u7b2c\u4e00\u6b65: a", "\u7b2c\u4e8c\u6b65: b"],
        ),
        ("1. Add. 2. Multiply.", "sentence", ["1. Add.", "2. Multiply."]),
        (
            "A\n\n\\begin{align}\nx\n\ny\n\\end{align}\nB\n\n```\na\n\nb\n```\n\nC",
            "blank_line",
            ["A", "\\begin{align}\nx\n\ny\n\\end{align}\nB", "```\na\n\nb\n```", "C"],
        ),
        ("```\na\n\nb", "blank_line", ["```\na", "b"]),
    ],
)
def test_lists_and_blocks(text: str, separator: str, steps: list[str]) -> None:
    """And no step is split again."""
    assert split_steps(text, f"split:{separator}") == steps
    assert all(split_steps(step, f"split:{separator}") == [step] for step in steps)


PIECES = {
    "line": ["a", "\n", "\r", "\r\n", "\x0b", "\u2028", " "],
    "blank_line": ["a", "\n", "\r\n", "\n\n", "\n \n", "\\[", "\\]", "```", " "],
    "paragraph": ["a", "\n\n", "\n", ":", "Wait, a", "<think>", "</think>", "[/THINK]", " ", "x" * 80, "\\[", "\\]"],
    "numbered": [
        "a",
        "\n",
        "\n1. a",
        "\n2. b",
        "\n 1. a",
        "\n 2) b",
        " ",
        "\nStep 1: a",
        "\n**Step 2**",
        "\u3002",
        "\u7b2c1\u6b65",
    ],
    "sentence": ["a", "A b. ", "\n", " ", "! (", "5! ", "Mr. ", "1. ", "e.g. ", "J. ", "\\[", ".\\]", "```", "\u3002"],
    "turn": ["a", "\n\n", "Step 1: a\n", "Wait"],
}


@pytest.mark.parametrize("name", PIECES)
def test_no_splitter_splits_its_own_steps_again(name: str) -> None:
    """In generated texts of up to 12 of the pieces that matter to the splitter."""
    draw = random.Random(name)
    for _ in range(3_000):
        text = "".join(draw.choices(PIECES[name], k=draw.randint(1, 12)))
        for step in split_steps(text, f"split:{name}"):
            assert split_steps(step, f"split:{name}") == [step], text


UNITS = [
    "!",
    "?",
    ". ",
    "\\[ ",
    "\\( ",
    "$$ ",
    "\\begin{a} ",
    "[asy]",
    "```",
    "\n",
    "\n\n",
    "1. a\n",
    "Step 1: a\n",
    "(!)",
    "\r\n \r\n",
    "a. b ",
    "</think>\n\n",
    "a:\n\n",
    "Wait\n\n",
    "<think>",
]


@pytest.mark.parametrize("separator", ["line", "blank_line", "paragraph", "numbered", "sentence", "answer:line"])
@pytest.mark.parametrize("unit", [*UNITS, "\\begin{a%d} "])
def test_every_splitter_takes_linear_time(unit: str, separator: str) -> None:
    """Four times the text takes less than ten times as long."""

    def seconds(n: int) -> float:
        text = "".join(unit % i if "%" in unit else unit for i in range(n)) + "x"
        start = time.perf_counter()
        split_steps(text, f"split:{separator}")
        return time.perf_counter() - start

    short, long = min(seconds(4_000) for _ in range(3)), min(seconds(16_000) for _ in range(3))
    assert long < max(10 * short, 0.5)
