"""Which part of a response states its answer, and what else counts as the gold: cases of public bug reports."""

from __future__ import annotations

import json
import time

import pytest

from qstep.grading import extract_answer, grade, grade_many, readings
from qstep.grading.thinking import outside
from real_data import DATA

CASES = [
    ("(98, 2), (99, 503)", "$$\\boxed{(98, 2)} \\quad \\text{and} \\quad \\boxed{(99, 503)}$$", "right"),
    ("k = 45, n = 2", "$$\\boxed{k = 45} \\quad \\text{and} \\quad \\boxed{n = 2}$$", "right"),
    ("2, 3", "$x_1 = \\boxed{2}$ and $x_2 = \\boxed{3}$", "right"),
    ("2, 3", "$\\boxed{2}$, and $\\boxed{3}$", "right"),
    ("(3,4)", "$x = \\boxed{3}$, $y = \\boxed{4}$", "right"),
    ("3", "First \\boxed{3}. Wait, \\boxed{8}", "wrong"),
    ("8", "First \\boxed{3}. Wait, \\boxed{8}", "right"),
    ("2, 3", "$x=\\boxed{2}$ or $x=\\boxed{4}$", "wrong"),
    ("-2, 1", "\\[ \\boxed{-2} \\quad \\text{and} \\quad \\boxed{1} \\]", "right"),
    ("1", "\\boxed{-2} \\quad \\text{and} \\quad \\boxed{1}", "wrong"),
    ("-2, 1", "$x = \\boxed{-2}$ or $x = \\boxed{1}$", "right"),
    ("-2,1", "\\boxed{-2}, \\quad \\boxed{1}", "right"),
    ("8", "So $\\boxed{8}$.\n\nThe answer is $\\boxed{8}$", "right"),
    ("4", "$x=\\boxed{3}$\n\n$y=\\boxed{4}$", "right"),
    ("x+z=1", "$\\boxed{1}$", "wrong"),
    ("2x + z = 1", "$\\boxed{1}$", "wrong"),
    ("|AB|=1", "$\\boxed{1}$", "right"),
    ("f(x)=1", "$\\boxed{1}$", "right"),
    ("7", "$\\boxed{m+n=7}$", "right"),
    ("x+z=1", "$\\boxed{z+x=1}$", "right"),
    ("15", "3 + 12 = 15", "right"),
    ("1 - \\frac{1}{\\mathrm{e}}", "\\boxed{\\frac{e-1}{e}}", "right"),
    ("\\mathrm{e}^2", "\\boxed{e^2}", "right"),
    ("2\\mathrm{i}", "\\boxed{2i}", "right"),
    ("1 - \\frac{1}{\\mathrm{e}}", "\\boxed{1 + \\frac{1}{\\mathrm{e}}}", "wrong"),
    ("\\text{Evelyn}", "Comparing the speeds, the answer is Evelyn.", "right"),
    ("\\text{Evelyn}", "Comparing, the answer is **Evelyn**.", "right"),
    ("\\text{Evelyn}", "**Final answer:** Evelyn", "right"),
    ("\\text{ellipse}", "The final answer is an ellipse.", "right"),
    ("B", "The correct option is B.", "right"),
    ("20", "The answer is twenty.", "right"),
    ("20", "The answer is “20”.", "right"),
    ("20", "**Answer:** 「20」", "right"),
    ("20", "The answer is \u2018twenty.\u2019", "right"),
    ("20", 'It is "20"', "right"),
    ("C", "The answer is «(C)».", "right"),
    ("\\text{Evelyn}", 'The answer is "Evelyn".', "right"),
    ("20", 'He said "20", but the answer is 21.', "wrong"),
    ("2", "There are **two** solutions.", "right"),
    ("\\text{Evelyn}", "The answer is Angela.", "wrong"),
    ("\\text{Evelyn}", "The answer is not Evelyn.", "wrong"),
    ("D", "The answer: D, it doesn't make sense", "right"),
    ("A", "The answer is A, B, C.", "wrong"),
    ("25", "The answer is twenty-five.", "right"),
    ("3", "\\boxed{3\\ }", "right"),
    ("185", "\\boxed{185\\\\}", "right"),
    ("204_5", "\\boxed{204_{\\text{five}}}", "right"),
    ("f(2) < f(1) < f(4)", "\\boxed{f(4) > f(1) > f(2)}", "right"),
    ("x \\in [-2,7]", "\\boxed{-2 \\le x \\le 7}", "right"),
    ("11111111100", "The sum is $11,\\! 111,\\! 111,\\! 100$.", "right"),
    ("x \\in [-2,7)", "\\boxed{-2 \\le x \\le 7}", "wrong"),
    ("f(2) < f(1) < f(4)", "\\boxed{f(4) > f(2) > f(1)}", "wrong"),
    ("42", "The answer is $\\boxed{42}$.\n\n#### Verification\nWe check that 6*7 works.", "right"),
    ("42", "#### Final answer\n**42**", "right"),
    ("42", "\\boxed{42}\n\n###### Notes", "right"),
    ("42", "\\boxed{42}\n\n#### Notes", "right"),
    ("42", "First we get 42.\n\n#### Step 2: conclude\nSo it is 42 in total.", "right"),
    ("42", "#### 42</s>", "right"),
    ("42", "#### 42<|im_end|>\n", "right"),
    ("Evelyn", "She is fastest.\n#### Evelyn", "right"),
    ("42", "#### 42\n\nQuestion: what is 5+5?\nAnswer by you please", "right"),
    ("$5$", "\\boxed{5 \\text{ km}}", "right"),
    ("$22.1cm^{2}$", "\\boxed{22.1cm^{2}}", "right"),
    ("$36\\sqrt{7}cm^{3}$", "\\boxed{$36\\sqrt{7}cm^{3}$}", "right"),
    ("$2s$", "\\boxed{2s}", "right"),
    ("$25 \\mathrm{ft}$", "\\boxed{25 \\mathrm{ft}}", "right"),
    ("$5", "\\boxed{500 \\text{ cents}}", "right"),
    ("\\frac{n!}{k!(n-k)!}", "\\boxed{\\binom{n}{k}}", "right"),
    ("30", "\\boxed{\\frac{6!}{(6-2)!}}", "right"),
    ("(n-1)!", "\\boxed{(n - 1)!}", "right"),
    ("\\frac{d !}{2 k(d-k) !}", "\\boxed{\\frac{d !}{2 k(d-k) !}}", "right"),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "$\\begin{bmatrix}\n1 & 2 \\\\\n3 & 4\n\\end{bmatrix}$", "right"),
    ("$g(x)=1$ for some $a>0$", "$g(x)=1$ for some $a>0$", "right"),
    ("Infinite number of solutions", "Infinite number of solutions", "right"),
    ("The set of primes", "The set of primes", "right"),
    ("\\sqrt{3} - 1", "-1 + sqrt(3)", "right"),
    ("x**2+1", "x^2+1", "right"),
    ("2**(1/4)", "\\boxed{\\sqrt[4]{2}}", "right"),
    ("42", "The answer is obvious from the table. We have 42 in total.", "right"),
    ("42", "The other option is 5 dollars, but the answer is 42.", "right"),
    ("42", "<think>maybe \\boxed{5}</think> \\boxed{42}<|endoftext|>", "right"),
]


@pytest.mark.parametrize(("gold", "response", "verdict"), CASES)
def test_public_cases(gold: str, response: str, verdict: str) -> None:
    assert grade(gold, response, deadline_s=20).verdict == verdict


@pytest.mark.skipif(not (DATA / "grading_cases_public.jsonl").exists(), reason="no real data; set QSTEP_DATA")
def test_the_public_corpus() -> None:
    """Every one of the 60 cases, with no false positive."""
    lines = (DATA / "grading_cases_public.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    grades = grade_many([(case["gold"], case["answer"]) for case in cases], deadline_s=20)
    assert [
        case["id"] for case, g in zip(cases, grades, strict=True) if (g.verdict == "right") != case["expected"]
    ] == []


def test_a_long_answer_reaches_the_grader_whole() -> None:
    """More than the 4,096 bytes that one read of a pipe gives."""
    assert grade("1", "$\\text{" + "\u00e9" * 700 + "}$ and so on", deadline_s=20).verdict == "wrong"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("So.\n#### a, b.\n", ["a, b.", "a, b"]),
        ("#### first\nsecond", ["first\nsecond", "first"]),
        ("The answer is a b.", ["a b.", "a b"]),
        ("work\nlast line", ["work\nlast line", "last line"]),
        ("\\boxed{a b}", ["a b"]),
        ("#### no\nThe answer is **yes**.</s>", ["yes**.", "yes**", "yes"]),
        ("<answer>x y</answer>", ["x y"]),
        (" \n", []),
    ],
)
def test_readings_of_an_answer_in_text(response: str, expected: list[str]) -> None:
    assert readings(response) == expected


@pytest.mark.parametrize(
    "response",
    [
        "**Final Answer: 7** \u2705",
        "So the answer is **7** \u2714\ufe0f",
        "**Final Answer:**\n\n**7** \u2705",
        "Hence the answer is 7 \u220e",
        "The answer is $7$ $\\blacksquare$",
        "The answer is $7 \\quad \\square$",
        "#### 7 \u2705",
        "Final answer: 7 \u2713",
        "The answer is 7 \U0001f44d\U0001f3fd",
        "**7.** \U0001f60a",
    ],
)
def test_an_emoji_or_an_end_sign_is_no_part_of_the_answer(response: str) -> None:
    assert (grade("7", response).verdict, extract_answer(response)) == ("right", "7")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("\\boxed{30\u00b0}", "30\u00b0"),
        ("#### 12\u33a1", "12\u33a1"),
        ("\\boxed{A \\square B}", "A \\square B"),
        ("\\boxed{\\square}", "\\square"),
    ],
)
def test_signs_of_units_and_operations_stay(response: str, answer: str) -> None:
    assert extract_answer(response) == answer


OPTIONS = "\u8003\u8651\u6bcf\u4e2a\u9009\u9879\u30023+4=7\uff0c\u4e0e\u9009\u9879B\u4e00\u81f4\u3002\n"
"""Consider each option. 3+4=7, which agrees with option B."""


@pytest.mark.parametrize(
    "response",
    [
        OPTIONS + "\u7b54\u6848\uff1aB",
        OPTIONS + "\u56e0\u6b64\uff0c\u6b63\u786e\u7b54\u6848\u662f B\u3002",
        OPTIONS + "\u6545\u9009\uff1aB\u3002",
        OPTIONS + "\u7b54\u6848\u4e3a\uff08B\uff09\u3002",
        OPTIONS + "**\u6b63\u786e\u9009\u9879\u662f\uff1aB**",
        "3+4 = 7.\n\nOption B is correct.",
        "3+4 = 7.\n\n**Option (B)** is the correct answer.",
        "B is the correct answer.",
        "3+4 = 7. So B is correct",
        "We get 7, which is choice (B).",
        "Option A is wrong.\nOption B is correct.\nOption C is wrong.",
    ],
)
def test_a_choice_that_is_called_correct(response: str) -> None:
    assert grade("B", response).verdict == "right"
    assert grade("A", response).verdict == "wrong"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("3+4 = 7. Option B is wrong.", "7"),
        ("Is option B correct? 3+4 = 7.", "7"),
        ("Option B is correct? No, 3+4 = 7.", "7"),
        ("Suppose option B is correct. Then 3+4 = 7.", "7"),
        ("B is correct only if 3+4 = 7.", "7"),
        ("B is the correct base for the sum 7.", "7"),
        ("B is the correct base for the area.\nThe answer is C.", "C"),
        ("Statement B is correct. 3+4 = 7", "7"),
        ("Option A is correct.\nOption B is correct.\nThe sum is 7", "7"),
        ("Option A is correct.\nOption B is correct.\nThe answer is D.", "D"),
        ("We get 8, which is option B. But 3+4 = 7.", "7"),
        ("We get 7, which is not choice (B).", "7"),
        (OPTIONS + "\u7b54\u6848\u4e0d\u662fB\u3002", "7"),
        (OPTIONS + "\u7b54\u6848\u662fA\u8fd8\u662fB\uff1f", "7"),
        (OPTIONS + "\u7b54\u6848\u662fB\uff0cC\u3002", "7"),
    ],
)
def test_a_choice_that_is_only_spoken_of(response: str, answer: str) -> None:
    found = grade("B", response)
    assert (found.verdict, found.answer) == ("wrong", answer)


def test_a_choice_is_no_answer_to_a_question_for_a_number() -> None:
    assert grade("7", "3+4 = 7.\nOption B is correct.").verdict == "right"


UNITS = [
    "the answer is a ",
    "**a** ",
    "\\boxed{1} \\quad ",
    "#### a\n",
    "option: B ",
    "Option B is correct.\n",
    "\\square ",
    "</s>",
    " ",
    "x = ",
]


@pytest.mark.parametrize("unit", UNITS)
def test_extraction_takes_linear_time(unit: str) -> None:
    """Four times the text takes less than ten times as long."""

    def seconds(n: int) -> float:
        text = unit * n
        start = time.perf_counter()
        readings(text)
        extract_answer(text + " 7")
        return time.perf_counter() - start

    seconds(10)
    short, long = min(seconds(5_000) for _ in range(3)), min(seconds(20_000) for _ in range(3))
    assert long < max(10 * short, 0.5)


ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (f"{ANALYSIS}We get \\boxed{{41}}.{FINAL}The answer is 42.<|return|>", "The answer is 42.<|return|>"),
        (f"{ANALYSIS}\\boxed{{42}}", ""),
        (f"{ANALYSIS}a{FINAL}42", "42"),
    ],
)
def test_the_answer_of_gpt_oss_is_in_its_final_channel(response: str, answer: str) -> None:
    assert outside(response) == answer


@pytest.mark.parametrize(
    ("gold", "response", "verdict"),
    [
        ("5 hours", "The answer is 5 minutes.", "wrong"),
        ("5 hours", "#### 5 minutes", "wrong"),
        ("$5", "The answer is 5 cents.", "wrong"),
        ("1 hour", "#### 60 minutes", "right"),
        ("100 cm", "The answer is 1 m.", "right"),
        ("60", "#### 60 minutes", "right"),
        ("7", "#### 7 dozen eggs in 4 weeks", "right"),
        ("42", "The better choice is A, as it costs less.\nThe answer is 42.", "right"),
        ("42", "First option: A costs 40.\n\n**Answer: 42**", "right"),
        ("42", "Each option is a valid choice: I picked 42.\nThe answer is 42.", "right"),
        ("B", "The correct option is B.", "right"),
        ("15", "#### 1. Add\n3+2 = 5\n#### 2. Compute the total\n5*3=15, so the total is **15**.", "right"),
        ("17", "#### 2. Solve for $x$\n$x = 17$", "right"),
        ("12", "He has 12.\n#### 12. That is all", "right"),
        ("5", "Put the answer in <answer></answer> tags. 2+3=5 so <answer>5</answer>", "right"),
        ("5", "I give it in <answer> tags, with 2 digits.\n2+3=5\n<answer>5</answer>", "right"),
        ("5", "<answer>5</answer> Done <answer> </answer>", "right"),
        ("5", "<answer>\n5", "right"),
        ("B", "The answer is B because it is larger.", "right"),
        ("B", "The answer is (B) the dog.", "right"),
        ("C", "Therefore, the answer is C: the dog.", "right"),
        ("C", "\\boxed{\\textbf{(C)}\\ 12}", "right"),
        ("12", "\\boxed{\\textbf{(C)}\\ 12}", "right"),
        ("C", "\\boxed{\\text{C) 12}}", "right"),
        ("D", "\\boxed{\\text{C) 12}}", "wrong"),
    ],
)
def test_units_choices_headings_and_tags(gold: str, response: str, verdict: str) -> None:
    """Answers as models write them. Each was graded otherwise: without its unit, by an earlier choice, by the number of
    a heading, or not at all."""
    assert grade(gold, response).verdict == verdict
