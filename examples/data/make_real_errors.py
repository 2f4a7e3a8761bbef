"""Writes real and made errors in solutions to the same GSM8K problems, to compare what a verifier learns from each.

    python examples/data/make_real_errors.py --annotations ../shared/data/stepverify.jsonl \
        --input ../shared/data/gsm8k_train.jsonl --output_dir runs/real_errors

The real errors are StepVerify's: teachers marked the first wrong step of a language model's solution. A solution that
was marked more than once is used if all marks agree. Its right counterpart is the corrected response, in sentences. The
made errors are those of make_gsm8k_errors.py, with GSM8K's own solution as the right counterpart. A problem is used if
it has both kinds, so each file holds one wrong and one right solution of the same problems:

    real.jsonl, made.jsonl      for training
    both.jsonl                  the rows of the two, problem by problem
    real_validation.jsonl, made_validation.jsonl, both_validation.jsonl
                                the last 60 problems, to choose thresholds on
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from make_gsm8k_errors import make_rows

import qstep
from qstep.data import read_rows, write_jsonl

Rows = dict[str, list[dict[str, Any]]]
"""The rows of each problem, by its text."""


def step_row(name: str, sample: int, question: str, steps: list[str], labels: list[bool | None]) -> dict[str, Any]:
    """A labelled solution."""
    return {
        "id": f"{name}#{sample}",
        "problem_id": name,
        "task": "math",
        "prompt": question,
        "completion": "\n".join(steps),
        "completions": steps,
        "step_separator": "\n",
        "labels": labels,
        "label_source": "stepverify",
        "label": all(labels),
    }


def real_rows(annotations: Path) -> Rows:
    """A solution with a marked first wrong step and the corrected response, of each problem whose marks agree."""
    marks: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = defaultdict(list)
    for record in read_rows(annotations):
        marks[record["problem"].strip(), tuple(record["steps"])].append(record)
    rows: Rows = {}
    for (question, texts), records in marks.items():
        places = {record["incorrect_index"] for record in records}
        if len(places) > 1:
            continue
        first = places.pop()
        steps = [" ".join(step.split()) for step in texts]
        labels = [True] * first + [False] + [None] * (len(steps) - first - 1)
        corrected = [
            " ".join(step.split()) for step in qstep.split_steps(records[0]["correct_response"], "split:sentence")
        ]
        name = f"stepverify/{len(rows)}"
        rows[question] = [
            step_row(name, 0, question, corrected, [True] * len(corrected)),
            step_row(name, 1, question, steps, labels),
        ]
    return rows


def made_rows(solutions: Path) -> Rows:
    """A right solution and one with an error put in, of each problem that allows it."""
    rows: Rows = defaultdict(list)
    for row in make_rows(solutions, 1, 0)[0]:
        rows[str(row["prompt"]).strip()].append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, required=True, help="stepverify.jsonl")
    parser.add_argument("--input", type=Path, required=True, help="GSM8K's train split, JSON lines")
    parser.add_argument("--num_validation", type=int, default=60, help="problems kept for validation")
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    real, made = real_rows(args.annotations), made_rows(args.input)
    problems = [question for question in real if question in made]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    train, validation = problems[: -args.num_validation], problems[-args.num_validation :]
    for suffix, chosen in (("", train), ("_validation", validation)):
        for kind, sources in {"real": [real], "made": [made], "both": [real, made]}.items():
            rows = [row for question in chosen for source in sources for row in source[question]]
            write_jsonl(args.output_dir / f"{kind}{suffix}.jsonl", rows)
    print(f"{len(real)} problems with real errors, {len(problems)} of them with a made one: {len(train)} for training")


if __name__ == "__main__":
    main()
