"""`qstep evaluate`: reads a policy and problems, and measures the greedy and sampled accuracy."""

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from qstep.runs.options import AtLeast1, OutputFolder
from qstep.runs.outputs import refuse_foreign
from qstep.runs.progress import print_table, say_written
from qstep.runs.provenance import provenance
from qstep.stages.grade import GradeConfig, grade
from qstep.stages.sample import SampleConfig, Sampling, sample
from qstep.tasks.options import GradingOptions

if TYPE_CHECKING:
    from qstep.evals import PolicyEvaluation


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

    output_dir: OutputFolder
    split: str = "test"
    num_samples: AtLeast1 = 4


def evaluate(config: EvaluateConfig) -> "PolicyEvaluation":
    """Runs the stage and returns what it writes to `results.json`.

    `name` is the name of `output_dir`. `problems` holds the counts [right, wrong, ungradable] of each problem, from
    which `qstep report` computes paired differences between policies. `results` and `n-samples` have the layout of
    lm-evaluation-harness.
    """
    from qstep.data import read_rows
    from qstep.evals import PolicyEvaluation, holds, policy_report, verdicts_by_problem, write_result
    from qstep.evals.accuracy import digest_of_golds
    from qstep.evals.harness import harness_metrics
    from qstep.evals.measures import PolicyAccuracy
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
        accuracies[name] = policy_report(counts)
        problems[name] = {problem: [count.right, count.wrong, count.ungradable] for problem, count in counts.items()}
    results = PolicyEvaluation(
        name=config.output_dir.name,
        policy=config.model_setting(config.model_name_or_path, None),
        golds=digest_of_golds(read_rows(config.output_dir / "greedy_graded.jsonl")),
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
    return results
