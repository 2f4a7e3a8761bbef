"""`qstep evaluate`: reads a policy and problems, and measures the greedy and sampled accuracy."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from qstep.runs.options import Bounds
from qstep.runs.outputs import refuse_foreign
from qstep.runs.progress import print_table, say_written
from qstep.runs.provenance import provenance
from qstep.stages.grade import GradeConfig, grade
from qstep.stages.sample import SampleConfig, Sampling, sample
from qstep.tasks.options import GradingOptions


@dataclass(kw_only=True)
class EvaluateConfig(GradingOptions, Sampling):
    """Measures a policy's accuracy with 95 % intervals, from greedy and from sampled responses.

    Ungradable answers do not count as wrong. Accuracies cover the gradable answers. The ungradable share and both
    bounds are reported too.

    Args:
        output_dir: the folder for the rows and `results.json`.
        split: the split of the data set.
        num_samples: responses per problem for the sampled accuracy. The greedy accuracy uses one.
    """

    output_dir: Path
    split: str = "test"
    num_samples: Annotated[int, Bounds(least=1)] = 4


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Runs the stage and returns what it writes to `results.json`.

    `name` is the name of `output_dir`. `greedy` and `sampled` are the results of `qstep.evals.policy_report`.
    `problems` holds the counts [right, wrong, ungradable] of each problem, from which `qstep report` computes paired
    differences between policies. `results` and `n-samples` have the layout of lm-evaluation-harness.
    """
    from qstep.data import read_rows
    from qstep.evals import (
        PolicyEvaluation,
        as_json,
        holds,
        policy_report,
        structure,
        verdicts_by_problem,
        write_result,
    )
    from qstep.evals.harness import harness_metrics
    from qstep.evals.results import PolicyAccuracy
    from qstep.report.tables import evaluation_table

    refuse_foreign("output_dir", config.output_dir / "results.json", holds(PolicyEvaluation))
    common, grading = (
        {field.name: getattr(config, field.name) for field in fields(kind)} for kind in (Sampling, GradingOptions)
    )
    accuracies: dict[str, PolicyAccuracy] = {}
    problems: dict[str, dict[str, list[int]]] = {}
    for name, changed in (("greedy", {"num_samples": 1, "temperature": 0.0}), ("sampled", {})):
        rows = sample(SampleConfig(output=config.output_dir / f"{name}.jsonl", **(common | changed)))
        graded = grade(GradeConfig(rows, config.output_dir / f"{name}_graded.jsonl", **grading))
        counts = verdicts_by_problem(read_rows(graded))
        accuracies[name] = structure(PolicyAccuracy, policy_report(counts), name)
        problems[name] = {problem: [count.right, count.wrong, count.ungradable] for problem, count in counts.items()}
    results = PolicyEvaluation(
        name=config.output_dir.name,
        accuracies=accuracies,
        problems=problems,
        harness={
            "results": {config.dataset_name: harness_metrics(accuracies)},
            "n-samples": {config.dataset_name: {"effective": len(problems["greedy"])}},
        },
        provenance=provenance(asdict(config)),
    )
    write_result(config.output_dir / "results.json", results)
    print_table(*evaluation_table(results, str(config.dataset_name)))
    say_written(config.output_dir / "results.json")
    return as_json(results)
