"""Do large importance weights come with jumps of DQO's loss? A histogram of both, from the logs of a study.

python benchmarks/weights.py --runs runs/studies --output benchmarks/results/policies_weights_updates.json

The study is studies/policies_weights.yaml, which logs each update. An update's largest raw weight is that of its 32
responses whose pi/mu is largest, before any limit. A jump is a loss of more than twice the median of the ten updates
before it and the ten after it. Both were decided before a log of that study was read.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from qstep.data import read_rows, write_json
from qstep.runs.provenance import provenance

EDGES = (1.0, 2.0, 5.0, 10.0, 100.0)
"""Between the bins of the largest raw weight."""
AROUND, JUMP = 10, 2.0


def jumps(losses: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For each update, whether its loss is a jump."""
    found = []
    for number, loss in enumerate(losses):
        first, last = max(0, number - AROUND), number + AROUND + 1
        others = np.delete(losses[first:last], number - first)
        found.append(loss > JUMP * np.median(others))
    return np.array(found)


def histogram(logs: list[Path]) -> dict[str, Any]:
    """The updates and the jumps by their largest raw weight, and what is lost by limits."""
    weights, jumped, effective = [], [], []
    for log in logs:
        rows = [row for row in read_rows(log) if row.get("loss") is not None]
        weights.append(np.exp([row["importance/log_weight_max"] for row in rows]))
        effective += [row["importance/effective_sample_size"] for row in rows]
        jumped.append(jumps(np.array([row["loss"] for row in rows])))
    largest, jump = np.concatenate(weights), np.concatenate(jumped)
    bins = np.digitize(largest, EDGES)
    names = [f"up to {EDGES[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(EDGES))]
    return {
        "updates": len(largest),
        "jumps": int(jump.sum()),
        "effective_sample_size": float(np.mean(effective)),
        "by_largest_weight": {
            name: {"updates": int((bins == number).sum()), "jumps": int(jump[bins == number].sum())}
            for number, name in enumerate([*names, f"above {EDGES[-1]:g}"])
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="the study's output_dir")
    parser.add_argument(
        "--variants", nargs="*", default=["trajectory", "clip_2", "clip_10", "unlimited", "prefix", "token"]
    )
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    found = {
        variant: histogram(sorted(args.runs.glob(f"{variant}/seed-*/dqo/train_log.jsonl"))) for variant in args.variants
    }
    about = provenance(vars(args)) | {"command": f"python {' '.join(sys.argv)}"}
    write_json(args.output, {"variants": found, "provenance": about})
    for variant, counts in found.items():
        print(variant, counts)


if __name__ == "__main__":
    main()
