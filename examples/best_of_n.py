"""Chooses the best of several responses to each question, and says how often that is right.

    python examples/best_of_n.py --rows responses.jsonl --scorer Qwen/Qwen2.5-Math-PRM-7B --dtype bfloat16

A row is a question with its responses, and its answer where it is known:

    {"question": "What is 2 + 3?", "answer": "5", "responses": ["2 + 3 = 5. The answer is 5.", "The answer is 6."]}

The chosen responses are printed. If the rows have answers, a table follows: how often a response at random (mean), the
commonest answer (majority), the best score (scorer), a vote weighted by scores, and a perfect judge (pass) are right.
"""

from __future__ import annotations

import argparse

import qstep
from qstep.data import read_groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, help="a .jsonl, .json or .parquet file")
    parser.add_argument("--scorer", required=True, help="a process reward model: a folder or a Hub id")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--dtype", default="float32", help="type of the weights: float32, bfloat16, float16 or auto")
    args = parser.parse_args()

    rows = qstep.read_rows(args.rows)
    scored = qstep.score(rows, qstep.load_scorer(args.scorer, device=args.device, dtype=args.dtype))
    for responses in read_groups(scored):
        best = max(responses, key=lambda row: float("-inf") if row["score"] is None else row["score"])
        print(f"{best['prompt']}\n    score {best['score']}: {best['completion']!r}")
    if all("gold" in row for row in scored):
        print(qstep.best_of_n(qstep.grade(scored)))


if __name__ == "__main__":
    main()
