"""Lists, headings, code and mathematics as steps, and the time that splitting takes."""

from __future__ import annotations

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
