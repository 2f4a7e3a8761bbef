"""Runs the demo for several base seeds and says which of its claims hold over them.

python benchmarks/demo_seeds.py --seeds 10 11 12 --output benchmarks/results/demo_seeds.json

Seeds 0 to 9 were looked at while settings were chosen, 10, 11 and 12 were not. Every seed has its own
base model, problems, samples and training, so the seeds' differences are averaged as independent estimates. A
claim holds if the 95 % interval of that average (over problems, not over all conceivable seeds) is above zero.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

CLAIMS = (
    "dqo - base (sampled)",
    "dqo - rs (sampled)",
    "pqm@64 - majority",
    "pqm@64 - mean",
    "pqm@64 - bce",
)


def run(seed: int, folder: Path) -> dict[str, Any]:
    """The results of one seed's demo, run in a process of its own."""
    command = [sys.executable, "-m", "qstep.cli", "demo", "--seed", str(seed), "--output_dir", str(folder)]
    subprocess.run(command, check=True)
    return json.loads((folder / "results.json").read_text())


def pooled(estimates: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of the seeds' differences, with the 95 % interval of a mean of independent estimates."""
    n = len(estimates)
    mean = sum(e["mean"] for e in estimates) / n
    errors = [(e["high"] - e["low"]) / (2 * 1.96) for e in estimates]
    half = 1.96 * math.sqrt(sum(error**2 for error in errors)) / n
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    results = {seed: run(seed, arguments.runs / f"demo-seed-{seed}") for seed in arguments.seeds}
    summary = {}
    for claim in CLAIMS:
        by_seed = {str(seed): of_seed["comparisons"][claim] for seed, of_seed in results.items()}
        summary[claim] = {
            **pooled(list(by_seed.values())),
            "above_zero_on_every_seed": all(e["mean"] > 0 for e in by_seed.values()),
            "by_seed": by_seed,
        }
    kept = ("stages", "policies", "verifiers", "verifier_auc", "labels", "provenance")
    report = {
        "command": "make demo-seeds",
        "claims": summary,
        "seeds": {str(seed): {name: of_seed[name] for name in kept} for seed, of_seed in results.items()},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    for claim, estimate in summary.items():
        verdict = "holds" if estimate["low"] > 0 else "does not hold" if estimate["high"] < 0 else "cannot tell"
        print(f"{claim:24} {estimate['mean']:+.3f} [{estimate['low']:+.3f}, {estimate['high']:+.3f}]  {verdict}")


if __name__ == "__main__":
    main()
