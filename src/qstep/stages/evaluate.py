"""`qstep evaluate`: a policy and problems in, its greedy and sampled accuracy out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qstep.stages.grade import GradeConfig, grade
from qstep.stages.progress import console
from qstep.stages.sample import SampleConfig, sample


@dataclass
class EvaluateConfig:
    """Samples and grades a policy's responses, greedy and at a temperature, and reports accuracy with 95 % intervals.

    Args:
        model_name_or_path: a causal language model: a folder or a Hub id.
        output_dir: where the rows and `results.json` go.
        dataset_name: `miniature`, `reasoning_gym:<task>`, a .jsonl/.json/.parquet file, or a Hub id.
        split: the split of the data set.
        num_problems: how many problems, all by default.
        offset: how many problems to skip first.
        data_seed: seed of generated problems.
        instruction: text put after each question, behind a blank line.
        conversational: put the question through the model's chat template.
        num_samples: sampled responses per problem.
        max_new_tokens: length limit of a response.
        temperature: of the sampled responses.
        seed: of the sampling.
        max_rows: responses decoded at once.
        max_tokens: positions held in the cache at once.
        device: cpu, cuda, or auto.
        dtype: of the model's weights.
        deadline_s: seconds the grading of one answer may take.
    """

    model_name_or_path: str
    output_dir: Path
    dataset_name: str = "miniature"
    split: str = "test"
    num_problems: int | None = None
    offset: int = 0
    data_seed: int = 0
    instruction: str | None = None
    conversational: bool = False
    num_samples: int = 4
    max_new_tokens: int = 512
    temperature: float = 1.0
    seed: int = 0
    max_rows: int = 1024
    max_tokens: int = 131_072
    device: str = "auto"
    dtype: str = "float32"
    deadline_s: float = 3.0


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Runs the stage and returns `{"greedy": ..., "sampled": ...}`, also written to `results.json`."""
    from dataclasses import fields

    from qstep.data import read_rows, write_json
    from qstep.evals import policy_report

    shared = {field.name for field in fields(SampleConfig)} & {field.name for field in fields(EvaluateConfig)}
    common = {name: getattr(config, name) for name in shared - {"num_samples", "temperature"}}
    results = {}
    for name, num_samples, temperature in (
        ("greedy", 1, 0.0),
        ("sampled", config.num_samples, config.temperature),
    ):
        rows = sample(
            SampleConfig(
                **common,
                output=config.output_dir / f"{name}.jsonl",
                num_samples=num_samples,
                temperature=temperature,
            )
        )
        graded = grade(GradeConfig(rows, config.output_dir / f"{name}_graded.jsonl", config.deadline_s))
        results[name] = policy_report(read_rows(graded))
        line = "{mean:.3f} [{low:.3f}, {high:.3f}] of {n} problems, {samples} responses, {ungradable} ungradable"
        console.print(f"{config.output_dir.name} {name}: {line.format(**results[name])}")
    write_json(config.output_dir / "results.json", results)
    return results
