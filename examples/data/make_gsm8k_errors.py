"""Writes stepwise rows from GSM8K's worked solutions: each as it is, and with errors put in whose place is known.

    python examples/data/make_gsm8k_errors.py --input ../shared/data/gsm8k_train.jsonl --num_problems 7000 \
        --output runs/gsm8k_errors.jsonl
    python examples/data/make_gsm8k_errors.py --input ../shared/data/gsm8k_train.jsonl --offset 7000 \
        --num_problems 100 --output runs/gsm8k_errors_validation.jsonl

GSM8K marks each calculation, `48/2 = <<48/2=24>>24`, so a wrong one can be made whose consequences are worked out. A
wrong solution has one error, at a random calculation, of a random kind:

    slip        the result is another number: one or ten off, digits swapped, a zero more or less
    operator    one operator is another: the sum for the difference, the quotient for the product
    operand     a number is another one of the problem's

Every later calculation continues with the wrong number, and so does the text. Two kinds of solutions are not used, and
counted: those whose final answer stays right, and those that do not follow from their own calculations. The marks are
then removed. The first wrong step and all steps after it are labelled wrong, as in PQM's order. Train with
`--stop_at_first_error true` to read the first one only. These are visible errors of arithmetic. Models also err in
other ways.
"""

from __future__ import annotations

import argparse
import ast
import json
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

MARK = re.compile(r"<<([^=<>]+)=([^=<>]+)>>")
NUMBER = re.compile(r"(?<![\d.])\d[\d,]*(?:\.\d+)?|(?<![\d.])\.\d+")
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
KINDS = ("slip", "operator", "operand")


def value_of(expression: str) -> Fraction | None:
    """The value of numbers, + - * / and brackets; None for anything else."""

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int() | float()):
                return Fraction(str(node.value))
            case ast.BinOp(left, op, right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(left), value(right))
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
        raise ValueError(expression)

    try:
        return value(ast.parse(expression.replace(",", "").lstrip("0 ") or "0", mode="eval").body)
    except (ValueError, SyntaxError, ZeroDivisionError):
        return None


def written(number: Fraction) -> str | None:
    """A number as GSM8K writes it; None where it has more than two decimals, or is below 0."""
    if number < 0 or (number * 100).denominator != 1:
        return None
    return f"{float(number):.2f}".rstrip("0").rstrip(".") if number.denominator != 1 else str(number.numerator)


def slipped(number: str, rng: random.Random) -> str:
    """The number with a slip of the pen in it."""
    value = Fraction(number)
    found = [value + 1, value - 1, value + 10, value - 10, value * 10, value / 10]
    digits = list(number)
    if len(digits) > 1 and "." not in digits:
        i = rng.randrange(len(digits) - 1)
        digits[i], digits[i + 1] = digits[i + 1], digits[i]
        found.append(Fraction("".join(digits)))
    whole = value.denominator == 1
    others = [other for other in found if other > 0 and other != value and (other.denominator == 1 or not whole)]
    return rng.choice([text for other in others if (text := written(other)) is not None])


def replaced(text: str, old: str, new: str) -> str:
    """The text with one number in place of another, wherever it stands as a number."""
    return NUMBER.sub(lambda found: as_in(found[0], new) if plain(found[0]) == old else found[0], text)


def as_in(example: str, number: str) -> str:
    """A number with its thousands set apart where the example's are."""
    whole, point, decimals = number.partition(".")
    return f"{int(whole):,}{point}{decimals}" if "," in example else number


def plain(number: str) -> str:
    """A number without commas and needless zeros."""
    value = number.replace(",", "").rstrip(".")
    return value.rstrip("0").rstrip(".") if "." in value else value


def with_error(
    question: str, steps: list[str], where: tuple[int, int], kind: str, rng: random.Random
) -> list[str] | None:
    """The steps with an error in calculation `where` (its step, and its place in it) and all that follows from it.

    None where an error of this kind cannot be made there, or a consequence cannot be worked out.
    """
    asked = {plain(number) for number in NUMBER.findall(question)}
    changed: dict[str, str] = {}  # what was calculated, and what is now
    wrong: list[str] = []
    for number, step in enumerate(steps):
        done, position = "", 0
        for place, mark in enumerate(MARK.finditer(step)):
            before, expression, result = step[position : mark.start()], mark[1].replace(" ", ""), plain(mark[2])
            position = mark.end()
            for old, new in changed.items():
                before, expression = replaced(before, old, new), replaced(expression, old, new)
            places = _written_out(before, expression)
            if (number, place) == where and kind == "slip":
                new_result: str | None = slipped(result, rng)
            else:
                if (number, place) == where:
                    change = _change(expression, kind, asked, rng)
                    if change is None or not places:
                        return None
                    begin, end, other = change
                    expression = expression[:begin] + other + expression[end:]
                    before = before[: places[begin]] + other + before[places[end - 1] + 1 :]
                value = value_of(expression)
                new_result = None if value is None else written(value)
            if new_result is None or (new_result == result and (number, place) == where):
                return None
            if new_result != result:
                if result in changed or result in asked or (len(result) == 1 and _stands_later(result, steps, number)):
                    return None  # which of two equal numbers is meant cannot be told
                changed[result] = new_result
                if places:  # "he has 93 left because 30 + 63 = 93"
                    before = replaced(before[: places[0]], result, new_result) + before[places[0] :]
            shown = NUMBER.match(step, position)
            if shown and plain(shown[0]) == result:
                position = shown.end()
                new_result = as_in(shown[0], new_result)
            done += before + new_result
        rest = step[position:]
        for old, new in changed.items():
            rest = replaced(rest, old, new)
        wrong.append(done + rest)
    return wrong


def _stands_later(number: str, steps: list[str], step: int) -> bool:
    return any(plain(found) == number for text in steps[step + 1 :] for found in NUMBER.findall(text))


def _change(expression: str, kind: str, asked: set[str], rng: random.Random) -> tuple[int, int, str] | None:
    """What to put where in an expression: another operator, or another number of the problem's."""
    if kind == "operator":
        signs = [i for i, character in enumerate(expression) if character in "+-*/" and i > 0]
        if not signs:
            return None
        i = rng.choice(signs)
        return i, i + 1, rng.choice({"+": "-*", "-": "+", "*": "+/", "/": "*"}[expression[i]])
    numbers = list(NUMBER.finditer(expression))
    others = sorted(asked - {plain(number[0]) for number in numbers})
    if not numbers or not others:
        return None
    chosen = rng.choice(numbers)
    return chosen.start(), chosen.end(), rng.choice(others)


_SAME = str.maketrans({"x": "*", "X": "*", "\u00d7": "*", "\u00f7": "/", "\u2212": "-", "[": "(", "]": ")"})


def _written_out(before: str, expression: str) -> list[int]:
    """Where the text before a mark writes its expression out, character by character: `48 / 2` in `sold 48 / 2 = `.

    Empty where it does not. Spaces, currency and commas may stand between.
    """
    places: list[int] = []
    text = before.translate(_SAME)
    i = len(text.rstrip(" =$")) - 1
    for wanted in reversed(expression):
        while i >= 0 and text[i] != wanted and text[i] in " $,":
            i -= 1
        if i < 0 or text[i] != wanted:
            return []
        places.append(i)
        i -= 1
    return places[::-1]


def read_solutions(path: Path) -> Iterator[tuple[int, str, list[str], str]]:
    """Index, question, steps with their marks, and final answer."""
    with path.open(encoding="utf-8") as file:
        for index, line in enumerate(file):
            row = json.loads(line)
            solution, _, gold = row["answer"].rpartition("####")
            yield index, row["question"], [s.strip() for s in solution.split("\n") if s.strip()], plain(gold.strip())


def follows(steps: list[str], gold: str) -> bool:
    """Whether every calculation is right and the last one gives the final answer."""
    marks = [mark for step in steps for mark in MARK.finditer(step)]
    right = all((v := value_of(mark[1])) is not None and written(v) == plain(mark[2]) for mark in marks)
    return bool(marks) and right and plain(marks[-1][2]) == gold


def make_rows(
    path: Path, wrong_each: int, seed: int, *, offset: int = 0, num_problems: int | None = None
) -> tuple[list[dict[str, object]], Counter[str]]:
    """A right and `wrong_each` wrong rows of every problem that allows it, and how many do not, by reason."""
    rows: list[dict[str, object]] = []
    counts: Counter[str] = Counter()
    end = None if num_problems is None else offset + num_problems
    for index, question, steps, gold in islice(read_solutions(path), offset, end):
        rng = random.Random(f"{seed}/{index}")
        if not follows(steps, gold):
            counts["left out: the answer does not follow from the marked calculations"] += 1
            continue
        right = [MARK.sub("", step) for step in steps]
        places = [(number, place) for number, step in enumerate(steps) for place, _ in enumerate(MARK.finditer(step))]
        found: dict[tuple[str, ...], tuple[int, str]] = {}
        for _ in range(8 * wrong_each):
            where, kind = rng.choice(places), rng.choice(KINDS)
            wrong = with_error(question, steps, where, kind, rng)
            if wrong is not None and answer_of(steps, wrong, right) != gold and len(found) < wrong_each:
                found.setdefault((*wrong, f"The answer is {answer_of(steps, wrong, right)}"), (where[0], kind))
        if len(found) < wrong_each:
            counts["left out: too few errors can be made"] += 1
            continue
        made = [([*right, f"The answer is {gold}"], len(steps) + 1, "none")]
        made += [(list(texts), first, kind) for texts, (first, kind) in found.items()]
        for sample, (texts, first, kind) in enumerate(made):
            counts[f"rows: {kind}"] += 1
            rows.append(
                {
                    "id": f"gsm8k/train/{index}#{sample}",
                    "problem_id": f"gsm8k/train/{index}",
                    "sample": sample,
                    "task": "math",
                    "prompt": question,
                    "gold": gold,
                    "completion": "\n".join(texts),
                    "completions": texts,
                    "step_separator": "\n",
                    "labels": [step < first for step in range(len(texts))],
                    "label_source": f"injected: {kind}",
                    "label": kind == "none",
                }
            )
    return rows, counts


def answer_of(steps: list[str], wrong: list[str], right: list[str]) -> str:
    """The final answer of the wrong steps: the number where the right ones have the last calculation's result."""
    number = max(i for i, step in enumerate(steps) if MARK.search(step))
    results = [m for m in MARK.finditer(steps[number])]
    before = len(NUMBER.findall(MARK.sub("", steps[number][: results[-1].end()])))
    shown = NUMBER.match(steps[number], results[-1].end())
    numbers = NUMBER.findall(wrong[number])
    place = before if shown else max(before - 1, 0)
    return plain(numbers[place]) if place < len(numbers) else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="GSM8K's train split, JSON lines")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--offset", type=int, default=0, help="problems to skip first")
    parser.add_argument("--num_problems", type=int, help="problems to read, all by default")
    parser.add_argument("--wrong_each", type=int, default=3, help="wrong solutions of each problem")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows, counts = make_rows(args.input, args.wrong_each, args.seed, offset=args.offset, num_problems=args.num_problems)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for name, count in sorted(counts.items()):
        print(f"{count:7} {name}")


if __name__ == "__main__":
    main()
