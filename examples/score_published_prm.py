"""Scores the steps of one response with a process reward model that others have published.

    python examples/score_published_prm.py --scorer Qwen/Qwen2.5-Math-PRM-7B

Each step gets a Q, the logit of the chance that it is right; sigmoid(Q) is that chance. qstep recognises the checkpoint
and reads it as its authors do: docs/scorers.md lists the formats. A model trained by qstep is scored in the same way.
"""

from __future__ import annotations

import argparse
import math

import qstep

QUESTION = "Tom has 3 apples and buys 12 more. He eats 5. How many apples are left?"
RESPONSE = """Tom has 3 + 12 = 15 apples.
After eating 5 he has 15 - 5 = 9 apples.
The answer is 9."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorer", default="Qwen/Qwen2.5-Math-PRM-7B", help="a folder or a Hub id")
    parser.add_argument("--scorer_kind", default="auto", help="its format, where the checkpoint does not tell")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    args = parser.parse_args()

    scorer = qstep.load_scorer(args.scorer, args.scorer_kind, device=args.device)
    steps = qstep.split_steps(RESPONSE)
    for step, q in zip(steps, scorer.score(QUESTION, steps), strict=True):
        print(f"{q:8.3f}  {1 / (1 + math.exp(-q)):6.1%}  {step}")


if __name__ == "__main__":
    main()
