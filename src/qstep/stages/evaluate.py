"""`qstep evaluate`: a policy and problems in, its greedy and sampled accuracy out."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qstep.stages.grade import GradeConfig, grade
from qstep.stages.progress import console
from qstep.stages.sample import SampleConfig, Sampling, sample


@dataclass(kw_only=True)
class EvaluateConfig(Sampling):
    """Samples and grades a policy's responses, greedy and at a temperature, and reports accuracy with 95 % intervals.

    Args:
        output_dir: where the rows and `results.json` go.
        deadline_s: seconds the grading of one answer may take.
    """

    output_dir: Path
    split: str = "test"
    num_samples: int = 4
    deadline_s: float = 3.0


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Runs the stage and returns `{"greedy": ..., "sampled": ...}`, also written to `results.json`."""
    from qstep.data import read_rows, write_json
    from qstep.evals import policy_report

    common = {field.name: getattr(config, field.name) for field in fields(Sampling)}
    results = {}
    for name, changed in (("greedy", {"num_samples": 1, "temperature": 0.0}), ("sampled", {})):
        rows = sample(SampleConfig(output=config.output_dir / f"{name}.jsonl", **(common | changed)))
        graded = grade(GradeConfig(rows, config.output_dir / f"{name}_graded.jsonl", config.deadline_s))
        results[name] = policy_report(read_rows(graded))
        line = "{mean:.3f} [{low:.3f}, {high:.3f}] of {n} problems, {samples} responses, {ungradable} ungradable"
        console.print(f"{config.output_dir.name} {name}: {line.format(**results[name])}")
    write_json(config.output_dir / "results.json", results)
    return results
