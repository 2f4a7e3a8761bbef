"""`qstep demo`: the whole job in one command, on the miniature or on a model and problems of your own.

Each step is one of qstep's commands, on files in one folder, skipped when its output is complete. A run that was
killed goes on; a changed setting is refused rather than mixed.
"""

import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qstep.stages.best_of_n import BestOfNConfig, best_of_n
from qstep.stages.grade import GradeConfig, grade
from qstep.stages.inputs import hide_loading_bars
from qstep.stages.progress import console
from qstep.stages.provenance import provenance
from qstep.stages.report import ReportConfig, report
from qstep.stages.workers import Job, Workers


def _options(batch_size: int, learning_rate: float, **options: Any) -> dict[str, Any]:
    """Training options of the miniature, chosen on its validation problems."""
    return {
        "num_train_epochs": 1,
        "per_device_train_batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup_steps": 10,
        "adam_beta2": 0.98,
        **options,
    }


@dataclass
class DemoConfig:
    """From nothing to a better reasoner: policy, samples, labels, verifiers, offline RL, evaluation, report.

    Args:
        output_dir: where everything goes.
        seed: of the base model, the problems, the sampling and the training.
        title: of the report.
        model_name_or_path: the policy to start from, a folder or Hub id; by default one is learned from the
            miniature's textbook.
        dataset_name: the problems to learn from; see `qstep sample`.
        held_out_name: the problems to judge on, where they are another file; by default `dataset_name`.
        train_split: the split to learn from.
        held_out_split: the split to judge on.
        instruction: text put after each question.
        conversational: use the model's chat template.
        train_problems: problems to sample and learn from.
        train_samples: responses to each.
        held_out_problems: problems the verifiers are judged on.
        held_out_samples: responses to each.
        eval_problems: problems the policies are judged on (from the same split; the first are shared).
        eval_samples: sampled responses to each.
        max_new_tokens: length limit of a response.
        temperature: of all sampling.
        exact_labels: whether the task can check its steps; if so the verifiers learn from exact labels.
        rollouts: k of the Monte-Carlo labels.
        rollout_problems: problems to label by Monte-Carlo.
        rollout_samples: responses to label of each.
        rollouts_at_once: responses whose rollouts are drawn together.
        step_separator: the text between steps.
        textbook_rows: rows of the miniature's textbook.
        base: options of `qstep train rs` for learning the textbook.
        verifier: options of `qstep train pqm` and `bce`.
        dqo: options of `qstep train dqo`.
        rs: options of `qstep train rs`.
        processes: commands run side by side, each with a model of its own; 1 where memory is short.
        max_rows: responses decoded at once, in each process.
        max_tokens: positions held in the cache at once, in each process.
        device: cpu, cuda, or auto.
        dtype: of the weights when sampling.
    """

    output_dir: Path = Path("runs/demo")
    seed: int = 0
    title: str = "qstep on the miniature"
    model_name_or_path: str | None = None
    dataset_name: str = "miniature"
    held_out_name: str | None = None
    train_split: str = "train"
    held_out_split: str = "test"
    instruction: str | None = None
    conversational: bool = False
    train_problems: int = 500
    train_samples: int = 16
    held_out_problems: int = 300
    held_out_samples: int = 64
    eval_problems: int = 400
    eval_samples: int = 8
    max_new_tokens: int = 64
    temperature: float = 1.0
    exact_labels: bool = True
    rollouts: int = 4
    rollout_problems: int = 100
    rollout_samples: int = 8
    rollouts_at_once: int = 256
    step_separator: str = "\n"
    textbook_rows: int = 16_000
    base: dict[str, Any] = field(default_factory=lambda: _options(32, 4e-3, warmup_steps=50))
    verifier: dict[str, Any] = field(
        default_factory=lambda: _options(
            32,
            2e-3,
            warmup_steps=50,
            max_steps=400,
            weight_decay=0.3,
            responses_per_prompt=1,
            margin=4.0,
            stop_at_first_error=True,
        )
    )
    dqo: dict[str, Any] = field(
        default_factory=lambda: _options(
            32,
            1e-4,
            num_train_epochs=1.25,
            train_sampling_strategy="group_by_length",
            beta=0.2,
            value_learning_rate=1e-3,
        )
    )
    rs: dict[str, Any] = field(
        default_factory=lambda: _options(64, 6e-4, num_train_epochs=2, train_sampling_strategy="group_by_length")
    )
    processes: int = 2
    max_rows: int = 1024
    max_tokens: int = 131_072
    device: str = "auto"
    dtype: str = "float32"


def demo(config: DemoConfig) -> dict[str, Any]:
    """Runs the whole job, writes `results.json` and `report.html`, prints a closing table, returns the results."""
    run = _Run(config)
    with closing(run.workers):
        run.workers.start()
        return _demo(run)


def _demo(run: "_Run") -> dict[str, Any]:
    from qstep.data import read_rows, write_json

    config = run.config
    with run.stage("base"):
        base = config.model_name_or_path or run.learn_base()
    with run.stage("sample"):
        sampling = {
            "held_out": run.sampling("held_out", base, config.held_out_problems, config.held_out_samples),
            "train": run.sampling("train", base, config.train_problems, config.train_samples),
        }
        run.workers.run({f"sample {name}": job for name, job in sampling.items()})
    with run.stage("grade"):
        train_rows, held_out = (
            grade(GradeConfig(run.path(f"{name}.jsonl"), run.path(f"{name}_graded.jsonl")))
            for name in ("train", "held_out")
        )
    with run.stage("annotate"):
        rolled_out = labelled = run.path("train_rollouts.jsonl")
        jobs = {"annotate by rollouts": run.rolling_out(base, train_rows)}
        if config.exact_labels:
            jobs |= {f"annotate {name}": run.annotation(name) for name in ("train", "held_out")}
            labelled, held_out = run.path("train_exact.jsonl"), run.path("held_out_exact.jsonl")
        run.workers.run(jobs)
    with run.stage("train"):
        policies = {"base": base, "dqo": str(run.path("dqo")), "rs": str(run.path("rs"))}
        jobs = {  # the longest first, so that no core waits long at the end
            "dqo": run.training("dqo", base, train_rows, config.dqo),
            "pqm": run.training("pqm", base, labelled, config.verifier),
            "bce": run.training("bce", base, labelled, config.verifier),
            "rs": run.training("rs", base, train_rows, config.rs),
        }
        if not any(row["verdict"] == "right" for row in read_rows(train_rows)):
            console.print("rs is left out: none of the sampled responses is right, so it has nothing to learn from")
            del jobs["rs"], policies["rs"]
        scored = {name: run.path(f"held_out_{name}.jsonl") for name in ("pqm", "bce")}
        scoring = {f"score_{name}": run.scoring(name, held_out, path) for name, path in scored.items()}
        evaluations = {f"eval_{name}": run.evaluation(name, model) for name, model in policies.items()}
        run.workers.run(jobs | {"eval_base": evaluations.pop("eval_base")} | scoring)
    with run.stage("evaluate"):
        run.workers.run(evaluations)
        accuracies = {name: json.loads((run.path(f"eval_{name}") / "results.json").read_text()) for name in policies}
    with run.stage("best_of_n"):
        verifiers = json.loads(best_of_n(BestOfNConfig(scored, run.path("best_of_n.json"))).read_text())
    results = run.results(accuracies, verifiers, rolled_out)
    write_json(run.path("results.json"), results)
    report(ReportConfig(run.path("results.json"), run.path("report.html"), examples={"pqm": scored["pqm"]}))
    _closing_table(results)
    console.print(f"\nresults  {run.path('results.json')}\nreport   {run.path('report.html')}  (open it in a browser)")
    return results


class _Run:
    """One run's folder, its configs for each command, and the seconds each stage took."""

    def __init__(self, config: DemoConfig) -> None:
        self.config = config
        self.provenance = provenance(asdict(config))
        config.output_dir.mkdir(parents=True, exist_ok=True)
        timings = self.path("timings.json")
        # The miniature's model is so small that two threads take longer than one.
        self.workers = Workers(config.processes, threads=1 if config.model_name_or_path is None else None)
        self.seconds: dict[str, float] = json.loads(timings.read_text()) if timings.exists() else {}

    def path(self, name: str) -> Path:
        return self.config.output_dir / name

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage; one that was complete before keeps its first time."""
        from qstep.data import write_json

        console.rule(name)
        start = time.monotonic()
        yield
        if name not in self.seconds:
            self.seconds[name] = round(time.monotonic() - start, 1)
            write_json(self.path("timings.json"), self.seconds)

    def learn_base(self) -> str:
        """A policy that has learned the miniature from its unreliable textbook."""
        import torch
        from transformers import Qwen3ForCausalLM

        from qstep.data import write_jsonl
        from qstep.tasks import miniature

        hide_loading_bars()
        start, textbook = self.path("initial"), self.path("textbook.jsonl")
        if not (start / "config.json").exists():
            torch.manual_seed(self.config.seed)
            Qwen3ForCausalLM(miniature.base_config()).save_pretrained(start)
            miniature.tokenizer().save_pretrained(start)
        if not textbook.exists():
            write_jsonl(textbook, miniature.textbook(self.config.textbook_rows, self.config.seed))
        self.workers.run({"base": self.training("rs", str(start), textbook, self.config.base, "base")})
        return str(self.path("base"))

    def sampling(self, name: str, model: str, problems: int, samples: int) -> Job:
        """The sampling of `<name>.jsonl`."""
        options = {
            "model_name_or_path": model,
            "output": str(self.path(f"{name}.jsonl")),
            "num_problems": problems,
            "num_samples": samples,
            **self._problems(held_out=name == "held_out"),
        }
        return self._job(["sample"], name, options, rows=problems * samples)

    def _problems(self, held_out: bool) -> dict[str, Any]:
        """What every sampling shares: where the problems come from and how responses are drawn."""
        config = self.config
        return {
            "dataset_name": (config.held_out_name or config.dataset_name) if held_out else config.dataset_name,
            "split": config.held_out_split if held_out else config.train_split,
            "data_seed": config.seed,
            "instruction": config.instruction,
            "conversational": config.conversational,
            "max_new_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "seed": config.seed,
            "max_rows": config.max_rows,
            "max_tokens": config.max_tokens,
            "device": config.device,
            "dtype": config.dtype,
        }

    def rolling_out(self, model: str, rows: Path) -> Job:
        """Monte-Carlo labels of some of the training rows."""
        config = self.config
        options = {
            "input": str(rows),
            "output": str(self.path("train_rollouts.jsonl")),
            "method": "monte_carlo",
            "model_name_or_path": model,
            "rollouts": config.rollouts,
            "temperature": config.temperature,
            "max_new_tokens": config.max_new_tokens,
            "seed": config.seed,
            "step_separator": config.step_separator,
            "max_problems": config.rollout_problems,
            "max_per_problem": config.rollout_samples,
            "rows_at_once": config.rollouts_at_once,
            "max_rows": config.max_rows,
            "max_tokens": config.max_tokens,
            "device": config.device,
            "dtype": config.dtype,
        }
        rows_to_label = config.rollout_problems * min(config.rollout_samples, config.train_samples)
        return self._job(["annotate"], "train_rollouts", options, rows=rows_to_label)

    def annotation(self, name: str) -> Job:
        """Exact labels of the graded rows."""
        options = {
            "input": str(self.path(f"{name}_graded.jsonl")),
            "output": str(self.path(f"{name}_exact.jsonl")),
            "step_separator": self.config.step_separator,
        }
        return self._job(["annotate"], f"{name}_exact", options)

    def training(self, method: str, model: str, rows: Path, options: dict[str, Any], name: str | None = None) -> Job:
        """A training that writes the folder `name` (by default that of its method)."""
        name = name or method
        shared = {
            "model_name_or_path": model,
            "train_file": str(rows),
            "output_dir": str(self.path(name)),
            "seed": self.config.seed,
            "lr_scheduler_type": "linear",
            "weight_decay": 0.0,
            "logging_steps": 10,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        if method != "rs":
            shared["step_separator"] = self.config.step_separator
        if method == "bce":
            options = {option: value for option, value in options.items() if option != "margin"}
        if self.config.device == "cpu":
            shared["use_cpu"] = True
        return self._job(["train", method], name, shared | options)

    def scoring(self, scorer: str, rows: Path, output: Path) -> Job:
        """The scoring of rows, once the scorer is trained."""
        options = {
            "input": str(rows),
            "output": str(output),
            "model_name_or_path": str(self.path(scorer)),
            "device": self.config.device,
        }
        return self._job(["score"], f"score_{scorer}", options, after=scorer)

    def evaluation(self, policy: str, model: str) -> Job:
        """The evaluation of a policy."""
        options = {
            "model_name_or_path": model,
            "output_dir": str(self.path(f"eval_{policy}")),
            "num_problems": self.config.eval_problems,
            "num_samples": self.config.eval_samples,
            **self._problems(held_out=True),
        }
        return self._job(["evaluate"], f"eval_{policy}", options)

    def _job(
        self,
        command: list[str],
        name: str,
        options: dict[str, Any],
        after: str | None = None,
        rows: int | None = None,
    ) -> Job:
        """A command whose options are written to `<name>.yaml`."""
        import yaml

        file = self.path(f"{name}.yaml")
        file.write_text(yaml.safe_dump(options))
        return Job([*command, "--config", str(file)], self.path(name), after, rows)

    def results(self, policies: dict[str, Any], verifiers: dict[str, Any], rolled_out: Path) -> dict[str, Any]:
        from qstep.data import read_rows
        from qstep.evals import label_agreement, policy_difference, verdicts_by_problem

        config = self.config
        sampled = {
            name: verdicts_by_problem(read_rows(self.path(f"eval_{name}") / "sampled_graded.jsonl"))
            for name in policies
        }
        largest = max(verifiers["ns"])
        comparisons = {
            f"dqo - {other} (sampled)": policy_difference(sampled["dqo"], sampled[other])
            for other in ("base", "rs")
            if other in policies
        }
        for other in ("majority", "mean", "bce"):
            comparisons[f"pqm@{largest} - {other}"] = verifiers["differences"][f"pqm_minus_{other}"]
        labels: dict[str, Any] = {}
        if config.exact_labels:
            exact = {row["id"]: row["labels"] for row in read_rows(self.path("train_exact.jsonl"))}
            rows = list(read_rows(rolled_out))
            agreement = label_agreement(
                [[int(label) for label in exact[row["id"]]] for row in rows],
                [row["successes"] for row in rows],
                [row["trials"] for row in rows],
                [row["problem_id"] for row in rows],
            )
            labels = {**agreement, **agreement["hard"]}
        return {
            "title": config.title,
            "stages": self.seconds,
            "policies": {name: {how: of[how] for how in ("greedy", "sampled")} for name, of in policies.items()},
            "comparisons": comparisons,
            "verifiers": verifiers["curves"],
            "verifier_auc": verifiers["auc"],
            "labels": labels,
            "training": {
                name: [
                    {metric: value for metric, value in line.items() if metric not in ("id", "max_steps")}
                    for line in read_rows(self.path(name) / "train_log.jsonl")
                ]
                for name in ("pqm", "bce", "dqo", "rs")
                if name != "rs" or "rs" in policies
            },
            "provenance": self.provenance,
        }


def _closing_table(results: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title="accuracy on held-out problems, 95 % intervals")
    for column in ("", "greedy", "sampled"):
        table.add_column(column)
    for name, of_policy in results["policies"].items():
        table.add_row(name, *(_interval(of_policy[how]) for how in ("greedy", "sampled")))
    console.print(table)
    for name, difference in results["comparisons"].items():
        console.print(f"{name:28} {_interval(difference, signed=True)}")


def _interval(estimate: dict[str, Any], signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    return f"{estimate['mean']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"
