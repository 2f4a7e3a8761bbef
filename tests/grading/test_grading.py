"""What counts as the same answer: literal pairs, real gold answers, a corpus; where answers stand."""

# ruff: noqa: RUF001  (characters that look like others are under test)

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from fractions import Fraction
from itertools import permutations, product

import pytest

from qstep.grading import (
    GRADER_VERSION,
    Grade,
    equivalent,
    extract_answer,
    grade,
    grade_many,
)
from qstep.grading.grader import grade_by
from qstep.grading.rules import ALL
from qstep.grading.spelling import known_side, measured, plain, respelled
from real_data import DATA


def rows(name: str) -> list[dict]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"needs {name}; set QSTEP_DATA to the folder that holds it")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


SAME = r"""
762 | 762 M&Ms
120 | 120 ml
18 | 18 dollars a day
42 | 42.0
42 | +42
42 | 042
42 | ４２
0.5 | .5
0.50 | 0.5
0.5 | 0,5
1000000 | 1e6
1000000 | 1E+6
1000000 | 10^{6}
1000000 | 1\,000\,000
0.001 | 1e-3
1.5\times10^{-3} | 0.0015
1234.5 | 1,234.5
1234567 | 1.234.567
10,\!080 | 10080
11,\! 111,\! 111,\! 100 | 11111111100
1{,}000 | 1000
-7 | −7
\frac{1}{10} | 0.1
\frac{4}{33} | 0.\overline{12}
8 | 2^3
16 | 2^{2^2}
0 | -0
5040 | 7!
\sqrt{16} | 4
\frac34 | \dfrac{3}{4}
\frac34 | ¾
\frac{7}{2} | 3½
\frac{7}{2} | 3 \frac{1}{2}
-\frac{3}{4} | \frac{3}{-4}
1\frac{4}{5} | \frac{9}{5}
\frac{\frac12}{3} | \frac16
\frac{a+b}{c} | \frac{a}{c}+\frac{b}{c}
50\% | 0.5
50\% | 50 percent
0.5 | 50\%
5\text{ cm} | 5cm
5\text{ cm} | 50\text{ mm}
5\text{ km} | 5000\text{ m}
60^\circ | 60 degrees
\$18 | 18 dollars
5.4 \text{ cents} | \$0.054
18 | \$18.00 per day
864 \mbox{ inches}^2 | 864\text{ square inches}
15\mbox{ cm}^2 | 15 cm^2
8 | 8 apples
2 hours | 120 minutes
60 mph | 60 miles per hour
\frac{270}7\text{ degrees} | \frac{270}{7}^\circ
288\pi\text{ cm}^3 | 288\pi
3\sqrt{2} | 3\sqrt{2}\text{ units}
x\in(1,2] | (1,2]
-x<3 | x>-3
(-\infty,\infty) | \mathbb{R}
(2,\infty) | (2,+\infty)
\left[ \frac{\pi^2}{8}, \frac{5 \pi^2}{4} \right] | [\pi^2/8, 5\pi^2/4]
\{1,2,3\} | {3, 2, 1}
1,-2 | x=1, x=-2
1,-2 | x_1=1, x_2=-2
1,-2 | -2 \text{ and } 1
\pm 5 | -5, 5
3 \pm 2 \sqrt{2} | \{3-2\sqrt2,3+2\sqrt2\}
\{1\pm\sqrt{5},-2\} | -2,1+\sqrt5,1-\sqrt5
\{1,2\} | \{1,2,2\}
(3,-4) | x=3, y=-4
(3,-4) | (x,y)=(3,-4)
(1,2),(3,4) | (3,4) \text{ and } (1,2)
(1,-16,-4,43) | a=1,b=-16,c=-4,d=43
x^2+2x+1 | x²+2x+1
2\sqrt{3} | \sqrt{12}
6\pi | 6*pi
e^{2x} | (e^x)^2
\sqrt{x^2} | |x|
6 - 5i | -5i+6
\cot x | \frac{\cos x}{\sin x}
\log_2 8 | 3
(a+5)(b+2) | ab+2a+5b+10
x^5 - x^4 + x^3 - x^2 + x - 1 | (x-1)(x^4+x^2+1)
x^{1/2} | \sqrt{x}
\frac{1}{x} | x^{-1}
f(x)=x^2 | x^2
y = 2x + 3 | 2x-y+3=0
5x - 7y + 11z + 4 = 0 | 10x-14y+22z+8=0
x^2+y^2=4 | x^2+y^2-4=0
5 | x=5
x=5 | x = \frac{10}{2} = 5
12 | x+y=12
12 | m\angle ABC = 12^\circ
12 | f(2)=12
C | (c)
C | C) 8
C | Option C
\text{(C)} | C
\text{ellipse} | an ellipse
Alice and Bob | Bob and Alice
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \left[\begin{array}{cc}1&2\\3&4\end{array}\right]
\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix} | \begin{pmatrix} -\frac13 \\ \frac23 \end{pmatrix}
52_8 | (52)_8
42 | \text{The answer is } 42
"""

DIFFERENT = r"""
7 | -7
\frac{1}{3} | 0.33
3.14 | \pi
12 | 12 dozen
100 | 1e3
5 | 5.0000001
10^{-10} | 10^{-11}
1/2^{99} | 1/2^{98}
100! | 101!
123456789 | 123456788
-\infty | \infty
7 | 7!
1\frac{4}{5} | \frac{14}{5}
\frac{x+1}{2} | x+1/2
\frac{5}{0} | \infty
50\% | 5\%
5\text{ cm} | 5\text{ m}
\$18 | 18 cents
15\mbox{ cm}^2 | 15\text{ cm}^3
10:30\text{ a.m.} | 10:30 p.m.
60 mph | 60 km/h
2k | 2
5 | 5 or more
5 | at least 5
3 hours | 3 days
x>1 | x\ge1
x<3 | y<3
-x<3 | x<-3
(2,\infty) | [2,\infty)
\emptyset | 0
5 | \pm 5
1 \pm \sqrt{19} | 1+\sqrt{19}
\{1,2\} | \{1,2,3\}
3, 5, 7 | 357
8 | 3,8
(3,-4) | (-4,3)
(1,2),(3,4) | (1,2)
2\sqrt{3} | 3\sqrt{2}
e^{2x} | e^{x^2}
|x| | x
p-q | q-p
2^n | 2n
x | 2x
\cot x | \tan x
\sqrt[3]{2} | \sqrt{2}
x=5 | y=5
y = -2x | y=2x
5x - 7y + 11z + 4 = 0 | 5x-7y+11z+5=0
4 | 2x=8
12 | 3 \times 5 = 15
12 | 12 \neq 13
C | (D)
\text{east} | seat
\text{even} | odd
Yes | No
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&3\\2&4\end{pmatrix}
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}1&2\end{pmatrix}
1011_2 | 1011_3
42 | ?
42 | 41, 42, 43
42 | 42 \text{ or } 43
42 | \text{not } 42
42 | x > 41
42 | 42 \pm 1
42 | 42 42
42 | 42a
42 | 42/0
42 | [0,100]
42 | {{ gold }}
1 | True
0 | \text{none}
"""


def pairs(table: str) -> list[tuple[str, str]]:
    # The first " | " separates: answers such as |x| hold bars of their own.
    return [tuple(line.split(" | ", 1)) for line in table.strip().splitlines()]


def test_the_same_answer_is_right() -> None:
    verdicts = grade_many([(gold, rf"So \boxed{{{answer}}}.") for gold, answer in pairs(SAME)], deadline_s=10)
    missed = [(p, g) for p, g in zip(pairs(SAME), verdicts, strict=True) if g.verdict != "right"]
    assert not missed


def test_a_different_answer_is_wrong() -> None:
    verdicts = grade_many([(gold, rf"So \boxed{{{answer}}}.") for gold, answer in pairs(DIFFERENT)], deadline_s=10)
    missed = [(p, g) for p, g in zip(pairs(DIFFERENT), verdicts, strict=True) if g.verdict != "wrong"]
    assert not missed


def test_the_corpus() -> None:
    """At least 94 % right of those with one expected verdict, at most 1 % of the false ones accepted."""
    cases = [row for row in rows("grading_cases.jsonl") if row["expected"] != "any"]
    verdicts = grade_many([(row["gold"], row["answer"]) for row in cases], deadline_s=10)
    accepted = [g.verdict == "right" for g in verdicts]
    right = sum(a == row["expected"] for a, row in zip(accepted, cases, strict=True))
    false = [a for a, row in zip(accepted, cases, strict=True) if not row["expected"]]
    assert right / len(cases) >= 0.94
    assert sum(false) / len(false) <= 0.01


def test_answers_of_real_models_get_the_published_verdicts() -> None:
    """On these 2,400 (problems 0 to 199) math-verify alone agrees on 2,380; some published verdicts are wrong."""
    problems = rows("gsm8k_responses.jsonl")[:200]
    asked = [(problem["answer"], response["text"]) for problem in problems for response in problem["responses"]]
    published = [response["correct"] for problem in problems for response in problem["responses"]]
    verdicts = [g.verdict for g in grade_many(asked, deadline_s=10)]
    assert set(verdicts) == {"right", "wrong"}
    agreements = sum((v == "right") == correct for v, correct in zip(verdicts, published, strict=True))
    assert agreements >= 2385


REAL = [
    ("18", "She earns 9 * 2 = $<<9*2=18>>18 every day.\n#### 18 dollars every day", "right", "18"),
    ("-10", "It falls to 20 - 30 = -10.\n#### -10°F", "right", "-10"),
    ("10", "Each takes 2 minutes.\n\n**Answer: 10** minutes", "right", "10"),
    ("18", "9 + 9 = 18\nTotal: 18", "right", "18"),
    ("8", "From 1:00 to 5:00 are 4 hours, twice that is 8.\nA: 8", "right", "8"),
    ("7", "84 / 12 = 7.\n\nTherefore, Claire will eat #### 7 dozen eggs in 4 weeks.", "right", "7"),
    ("20", "After 2000 cents she has #### $20 in her piggy bank after saving for 5 days.", "right", "20"),
    ("160", "Net profit = $40.00 - $200.00\n\nTherefore, the profit is #### -$160.00.", "wrong", "-$160.00"),
    ("118000", "Therefore, the net proceeds from selling the house is #### 118 000.", "right", "118 000"),
    ("762", "300 + 312 + 150 = 762.\n\nSo, Mary got a total of #### 762 M&Ms.", "right", "762"),
    ("49", "55 - 6 = 49 degrees.\n#### 49\nThe answer is: 49", "right", "49"),
    ("5", "Step 1: count.\nStep 2: there are 5 of them.", "right", "5"),
    ("72", r"Thus $x = \frac{144}{2}$, and the total is $\boxed{72 \text{ clips}}$.", "right", r"72 \text{ clips}"),
    ("3", r"<think>Is it \boxed{5}? No.</think>The answer is \boxed{3}.", "right", "3"),
    ("1", "I am not able to solve this. See page 1", "wrong", None),
    ("7", "#### \u0667", "right", "7"),  # in Arabic digits
    ("7", "\u0627\u0644\u062c\u0648\u0627\u0628 \u0647\u0648 \u0667", "right", "7"),
    ("7", "\u0909\u0924\u094d\u0924\u0930: \u096d", "right", "7"),
    ("7", "\u7b54\u6848\uff1a7\u3002", "right", "7"),
    ("7", "\u7b54\u3048\u306f\uff17\u3067\u3059\u3002", "right", "7"),
    ("7", "\uc815\ub2f5\uc740 7\uc785\ub2c8\ub2e4", "right", "7"),
    ("7", "\u041e\u0442\u0432\u0435\u0442: 7 \u0440\u0443\u0431\u043b\u0435\u0439.", "right", "7"),
    ("7", "\u041e\u0442\u0432\u0435\u0442: 8.", "wrong", "8"),
    ("7", "\u7b54\u6848\uff1a8\u3002", "wrong", "8"),
]


@pytest.mark.parametrize(("gold", "response", "verdict", "answer"), REAL)
def test_answers_shaped_like_real_ones(gold: str, response: str, verdict: str, answer: str | None) -> None:
    found = grade(gold, response, deadline_s=10)
    assert (found.verdict, found.answer) == (verdict, answer)


def _rewritten(text: str) -> dict[str, str]:
    """The same answer, spelled otherwise."""
    return {
        "dollars": f"We get $\\boxed{{{text}}}$.",
        "spaces": f"\\boxed{{ {text}\\, }}",
        "display": f"The answer is\n\\[\n{text}\n\\]",
        "sizes": "\\boxed{" + re.sub(r"\\(left|right)\b", "", text) + "}",
        "dfrac": "\\boxed{" + text.replace(r"\frac", r"\dfrac") + "}",
        "tag": f"<think>\\boxed{{0}}</think><answer>{text}</answer>",
        "hashes": f"Some words.\n#### {text}",
    }


def test_every_gold_answer_of_math500_is_right_in_every_spelling_and_unlike_its_neighbour() -> None:
    golds = [row["answer"] for row in rows("math500.jsonl")]
    asked = [(gold, text) for gold in golds for text in _rewritten(gold).values()]
    missed = [(a, g) for a, g in zip(asked, grade_many(asked, deadline_s=10), strict=True) if g.verdict != "right"]
    assert not missed
    plain = [gold for gold in golds if re.fullmatch(r"\d{1,6}", gold)]
    shifted = grade_many([(gold, f"\\boxed{{{int(gold) + 1}}}") for gold in plain])
    assert {g.verdict for g in shifted} == {"wrong"}


def test_every_gsm8k_solution_is_right() -> None:
    answers = [row["answer"] for row in rows("gsm8k_test.jsonl")]
    golds = [answer.rpartition("#### ")[2] for answer in answers]
    missed = [g for g in map(grade, golds, answers) if g.verdict != "right"]
    assert not missed
    off_by_one = [str(int(gold.replace(",", "")) + 1) for gold in golds]
    assert {g.verdict for g in map(grade, off_by_one, answers)} == {"wrong"}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 42", "42"),
        ("words\n#### $1,234\n", "$1,234"),
        ("#### The answer is 42", "42"),
        ("<answer>7</answer> oops <answer>8</answer>", "8"),
        ("**6**", "6"),
        ("```\n8\n```", "8"),
        ("\ufeff8", "8"),
        ("x=5", "x=5"),
        ("no solution", "no solution"),
        ("The answer is 3.5.", "3.5"),
        ("The answer is $1,234.50.", "$1,234.50"),
        ("The answer is:\n\n6", "6"),
        ("**Answer:** 6", "6"),
        ("The final answer is $6$. I hope it is correct.", "6"),
        ("The answer is C.", "C"),
        ("The answer is 6 because 2*3=6.", "6"),
        ("The answer is not 8, it is 9.", "9"),
        (r"First \boxed{3}. Wait, that is wrong. The answer is \boxed{8}.", "8"),
        (r"\boxed{8}. The answer is correct.", "8"),
        (r"\boxed{8}" + "\nSo the final answer is 9.", "9"),
        (r"$\boxed{8}$ and that is the answer to part 2 of 3.", "8"),
        (r"\boxed{3} and $\boxed{5}$", "3, 5"),
        (r"\boxed{\boxed{8}}", "8"),
        (r"\fbox{8}", "8"),
        (r"\boxed{8", "8"),
        (r"\boxed{3} then \boxed{}", "3"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"<think>\boxed{5}", None),
        (r"\boxed{5}</think> The answer is 6.", "6"),
        ("It costs $20 + $16 = $36 in total.", "36"),
        ("Prices rise by 12% a year", r"12\%"),
        (r"Therefore, $x = \frac{1}{2}$.", r"x = \frac{1}{2}"),
        ("She sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs.", "9"),
        ("El resultado es 8.", "8"),
        ("I hope this helps! Step 1.", None),
        ("  \n\t ", None),
    ],
)
def test_the_final_answer_is_found(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_a_grade_says_what_it_judged() -> None:
    assert grade("8", r"so \boxed{8}") == Grade("right", "identical text", "8")
    assert grade("8", "I hope this helps! Step 1.") == Grade("wrong", "no final answer found", None)
    assert grade("", r"\boxed{42}").verdict == "ungradable"
    assert grade(r"\boxed{\frac{1}{2}}", "0.5").verdict == "right"
    assert GRADER_VERSION.startswith("qstep-grading 7, math-verify 0.")


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="deadline_s is 0; it must be positive"):
        grade("1", "1", deadline_s=0)
    with pytest.raises(ValueError, match="workers is 0; it must be at least 1"):
        grade_many([("1", "1")], workers=0)


def test_equivalent_answers_are_one() -> None:
    """0.5, 1/2 and 50 % are one answer, 2 sqrt 3 and sqrt 12 another; x and y are two."""
    for a, b in [("0.5", r"\frac12"), ("0.5", "50%"), (r"2\sqrt{3}", r"\sqrt{12}"), ("x+1", "1+x"), ("1,2", "2,1")]:
        assert equivalent(a, b), (a, b)
    for a, b in [("x", "y"), ("0.5", r"\sqrt{12}")]:
        assert not equivalent(a, b), (a, b)


SAME_EQUATIONS = (
    (
        "15",
        "3 + 12",
        "3 + 12 = 15",
        "12+3=15",
        "x = 15",
        "15 = x",
        "x = 3 + 12 = 15",
        r"\text{Total} = \$15",
        "f(1)=15",
    ),
    ("16", "3+12=16", "y = 16"),
    ("0.5", r"x = \frac{1}{2}", "1/2 = 0.5"),
    ("x + 3 = 18",),
    ("y = 2x",),
    ("(1, 2)", "x = 1, y = 2"),
)
"""Answers that state the same value, in any order; those of another line state another."""


def test_an_equation_with_one_known_side_is_that_side_whichever_comes_first() -> None:
    for line in SAME_EQUATIONS:
        for a, b in product(line, line):
            assert equivalent(a, b), (a, b)
    for line, other in permutations(SAME_EQUATIONS, 2):
        for a, b in product(line, other):
            assert not equivalent(a, b), (a, b)


@pytest.mark.parametrize(
    ("value", "side"),
    [
        ("3 + 12 = 15", "15"),
        (r"\frac{30}{2} = 15", "15"),
        ("x = 3 + 12 = 15", "15"),
        ("15 = x", "15"),
        ("15", "15"),
        ("x + 3 = 18", "x + 3 = 18"),
        ("x >= 3", "x >= 3"),
        ("x = 1, y = 2", "x = 1, y = 2"),
        ("x =", "x ="),
        ("=", "="),
    ],
)
def test_the_known_side_of_an_equation(value: str, side: str) -> None:
    assert known_side(value) == side


def test_numbers_have_one_spelling() -> None:
    """0.1(6) is (16 - 1)/90; 60 cm and a metre are lengths of sizes 1/100 and 1."""
    assert respelled(r"0.1\overline{6}") == r"\frac{016-01}{90}"
    assert respelled("3½") == r"3\frac{1}{2}"
    assert respelled("1 000 000") == respelled("1\\,000\\,000") == "1000000"
    assert plain("-$1,007.50") == "-1007.5"
    assert plain("1.2.3") is None
    assert measured("60 cm") == ("60", ("length", 1), Fraction(1, 100))
    assert measured(r"5\text{ feet}^2") == ("5", ("length", 2), Fraction(381, 1250) ** 2)
    assert measured("$5") == ("5", ("money", 1), 1)
    assert measured("5 apples") is None


@pytest.mark.parametrize(
    ("rule", "gold", "response"),
    [
        ("visible", "3", r"\boxed{3}<think>\boxed{5}"),
        ("marks", "7", "#### 7 eggs in 4 weeks"),
        ("passing", "9", "not 8, but 9, see page 7"),
        ("spelling", "118000", "#### 118 000"),
        ("words", "762", r"\boxed{762 M\&Ms}".replace("\\&", "&")),
        ("units", r"5\text{ cm}", r"\boxed{0.05\text{ m}}"),
        ("exact", r"\frac{1}{2^{99}}", r"\boxed{\frac{1}{2^{98}}}"),
    ],
)
def test_each_family_of_rules_can_be_left_out(rule: str, gold: str, response: str) -> None:
    with_it, without = (grade_by(rules, gold, response, 3.0) for rules in (ALL, ALL - {rule}))
    assert with_it != without
    assert (with_it.verdict == "right") == (rule != "exact")


def test_importing_the_room_is_light() -> None:
    heavy = {"sympy", "math_verify", "torch", "numpy"}
    code = f"import sys, qstep.grading; print(sorted({heavy} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_env())
    assert printed.stdout.strip() == "[]"


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
