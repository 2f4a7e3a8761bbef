"""The grader beside math-verify alone, and without each of its families of rules, in one run.

    python benchmarks/grading.py [--output benchmarks/results/grading.json]

On real answers with published verdicts (`gsm8k_responses.jsonl`: 12 models, problems 0 to 659, the even ones
seen while the rules were written), on invented cases with one expected verdict (`grading_cases.jsonl`), and
on gold answers against themselves, as a model would write them. math-verify alone reads the gold answer in a
box and the response with its defaults; it runs here in a process that is killed at the same deadline. A
false positive is an answer called right that is not. About .5 % of the published verdicts are themselves
wrong. The files are found in `QSTEP_DATA`, else in `../shared/data`.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from math_verify import parse, verify

from qstep.cores import cores
from qstep.grading import GRADER_VERSION
from qstep.grading.grader import grade_by
from qstep.grading.rules import ALL, Rules
from qstep.runs.provenance import provenance

DATA = Path(os.environ.get("QSTEP_DATA", Path(__file__).parents[2] / "shared" / "data"))


class Case(NamedTuple):
    gold: str
    answer: str
    right: bool


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def sets_of_cases() -> dict[str, list[Case]]:
    real = rows("gsm8k_responses.jsonl")
    pairs = [[Case(row["answer"], r["text"], r["correct"]) for r in row["responses"]] for row in real]
    golds = {
        "MATH500 gold": [row["answer"] for row in rows("math500.jsonl")],
        "AIME24 gold": [row["answer"] for row in rows("aime24.jsonl")],
        "GSM-Plus gold": [row["answer"] for row in rows("gsmplus_testmini.jsonl")],
    }
    return {
        "real answers, even problems": [case for group in pairs[::2] for case in group],
        "real answers, odd problems": [case for group in pairs[1::2] for case in group],
        "invented cases": [
            Case(row["gold"], row["answer"], row["expected"])
            for row in rows("grading_cases.jsonl")
            if row["expected"] != "any"
        ],
        **{
            name: [Case(str(gold), f"The answer is $\\boxed{{{gold}}}$.", True) for gold in answers]
            for name, answers in golds.items()
        },
    }


def judge_forever(ends: Connection) -> None:
    """What a user of math-verify writes."""
    logging.disable(logging.CRITICAL)
    while True:
        gold, answer = ends.recv()
        expected = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
        ends.send(bool(verify(expected, parse(answer, parsing_timeout=None), timeout_seconds=None)))


def math_verify_alone(cases: Iterable[Case], deadline_s: float) -> list[str]:
    """Verdicts of math-verify in a process that is started again when a case takes longer than the deadline."""
    context = multiprocessing.get_context("fork")
    verdicts, child = [], None
    for case in cases:
        if child is None:
            ours, theirs = context.Pipe()
            child = context.Process(target=judge_forever, args=(theirs,), daemon=True)
            child.start()
            theirs.close()
        ours.send((case.gold, case.answer))
        try:
            verdicts.append("right" if ours.recv() else "wrong") if ours.poll(deadline_s) else verdicts.append("late")
        except EOFError:
            verdicts.append("late")
        if verdicts[-1] == "late":
            child.kill()
            child.join()
            child = None
    if child is not None:
        child.kill()
        child.join()
    return verdicts


def with_rules(rules: Rules, cases: Iterable[Case], deadline_s: float) -> list[str]:
    with ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(lambda case: grade_by(rules, case.gold, case.answer, deadline_s).verdict, cases))


def measured(cases: list[Case], verdicts: list[str], seconds: float) -> dict[str, Any]:
    agreements = sum((verdict == "right") == case.right for verdict, case in zip(verdicts, cases, strict=True))
    false = [verdict == "right" for verdict, case in zip(verdicts, cases, strict=True) if not case.right]
    return {
        "cases": len(cases),
        "agreements": agreements,
        "share": round(agreements / len(cases), 5),
        "false_positives": sum(false),
        "false": len(false),
        "without_verdict": sum(verdict not in ("right", "wrong") for verdict in verdicts),
        "grades_per_s": round(len(cases) / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--deadline_s", type=float, default=3.0)
    options = parser.parse_args()
    graders: dict[str, Rules | None] = {"math-verify alone": None, "ours": ALL}
    graders |= {f"without {rule}": ALL - {rule} for rule in sorted(ALL)}
    results: dict[str, dict[str, Any]] = {}
    # Workers start before anything is timed.
    with_rules(ALL, [Case("x+1", "\\boxed{1+x}", True)] * 8, 60.0)
    for name, cases in sets_of_cases().items():
        for grader, rules in graders.items():
            start = time.perf_counter()
            if rules is None:
                verdicts = math_verify_alone(cases, options.deadline_s)
            else:
                verdicts = with_rules(rules, cases, options.deadline_s)
            found = measured(cases, verdicts, time.perf_counter() - start)
            results.setdefault(name, {})[grader] = found
            print(
                f"{name:28} {grader:18} {found['agreements']:5}/{found['cases']:5} = {found['share']:.2%}  "
                f"false positives {found['false_positives']}/{found['false']}  no verdict {found['without_verdict']}  "
                f"{found['grades_per_s']:.0f}/s",
                flush=True,
            )
    if options.output:
        about = provenance(vars(options)) | {
            "command": shlex.join(["python", "benchmarks/grading.py", *sys.argv[1:]]),
            "grader": GRADER_VERSION,
        }
        options.output.write_text(json.dumps({"results": results, "provenance": about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
