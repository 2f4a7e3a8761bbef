"""`qstep evaluate processbench`: benchmarks judged whole, thresholds never chosen on them, files for others."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy.special import expit

from pages import commands
from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.evals import as_json, read_benchmarks
from qstep.evals.step_benchmarks import shared_rows
from qstep.runs.sidecar import SettingsChanged
from qstep.scoring import StepScorer, load_scorer
from qstep.stages.commands import COMMANDS
from qstep.stages.evaluate_steps import EvaluateStepsConfig, evaluate
from qstep.tasks import miniature
from real_data import DATA, needs
from scorers import miniature_scorer


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_scorer(tmp_path_factory.mktemp("models") / "scorer")


def benchmark(problems: int, *, skip: int = 0, name: str = "mini") -> list[dict[str, Any]]:
    """Rows in ProcessBench's form, every other one wrong from its second step on."""
    rows = []
    for number, problem in enumerate(miniature.problems("train", skip + problems)[skip:]):
        steps = miniature.solution(problem.prompt).split("\n")
        if wrong := number % 2:
            steps[1] = steps[1][:-1] + str((int(steps[1][-1]) + 1) % 10)
        rows.append(
            {"id": f"{name}-{skip + number}", "generator": "g", "problem": problem.prompt, "steps": steps}
            | {"final_answer_correct": not wrong, "label": 1 if wrong else -1}
        )
    return rows


def judged_by(config: EvaluateStepsConfig) -> dict[str, Any]:
    """The result as JSON."""
    result: dict[str, Any] = as_json(evaluate(config))
    return result


def judge(scorer: Path, folder: Path, inputs: dict[str, list[dict[str, Any]]], **options: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    files = {name: folder / f"{name}.json" for name in inputs}
    for name, rows in inputs.items():
        files[name].write_text(json.dumps(rows))
    return judged_by(EvaluateStepsConfig(scorer=str(scorer), inputs=files, output_dir=folder / "out", **options))


def test_f1_is_what_ten_lines_make_of_the_scorer_s_qs(scorer: Path, tmp_path: Path) -> None:
    rows = benchmark(30)
    alone = StepScorer.load(scorer)
    qs = [alone.score(row["problem"], row["steps"]) for row in rows]
    middle = sorted(q for q_values in qs for q in q_values)[8]
    made = judge(scorer, tmp_path, {"mini": rows}, threshold=float(expit(middle + 1e-6)))
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for row, q_values in zip(rows, qs, strict=True):
        found = [i for i, q in enumerate(q_values) if q < middle + 1e-6]
        hits[row["label"] != -1].append((found[0] if found else -1) == row["label"])
    a, b = (sum(of) / len(of) for of in (hits[True], hits[False]))
    of = made["steps"]["mini"]
    assert (of["acc_error"]["mean"], of["acc_correct"]["mean"]) == pytest.approx((a, b))
    assert of["f1"]["mean"] == pytest.approx(2 * a * b / (a + b)) and 0 < b < 1
    assert (of["responses"], of["n_error"], of["n_correct"], of["left_out"]) == (30, 15, 15, {})
    assert of["steps"] == sum(len(row["steps"]) for row in rows)


def test_files_are_laid_out_as_the_harness_does(scorer: Path, tmp_path: Path) -> None:
    made = judge(scorer, tmp_path, {"a": benchmark(8), "b": benchmark(6, skip=8)})
    out = tmp_path / "out"
    (harness,) = out.glob("results_*.json")
    read = json.loads(harness.read_text())
    assert set(read["results"]) == {"a", "b"} and read["n-samples"]["a"] == {"original": 8, "effective": 8}
    assert read["results"]["a"]["acc_error,none"] == made["steps"]["a"]["acc_error"]["mean"]
    assert {name.partition(",")[0] for name in read["results"]["a"]} == {
        "alias",
        *(
            f"{m}{s}"
            for m in (
                *("f1", "acc_error", "acc_correct", "auroc", "auroc_within_problem", "auroc_of_position"),
                *("auroc_at_equal_position", "ece"),
            )
            for s in ("", "_stderr")
        ),
    }
    assert {"versions", "config", "n-shot", "higher_is_better", "date"} <= set(read)
    metrics = {name.partition(",")[0] for name in read["results"]["a"] if "stderr" not in name} - {"alias"}
    assert read["higher_is_better"]["a"] == {metric: metric != "ece" for metric in metrics}
    (samples,) = (list(read_rows(path)) for path in out.glob("samples_a_*.jsonl"))
    assert len(samples) == 8 and samples[1]["target"] == 1 and samples[1]["doc"]["generator"] == "g"
    right = [sample["acc"] for sample in samples if sample["target"] == -1]
    assert sum(right) / len(right) == pytest.approx(made["steps"]["a"]["acc_correct"]["mean"])
    assert all((sample["filtered_resps"] == [sample["target"]]) == bool(sample["acc"]) for sample in samples)
    mean = sum(made["steps"][name]["f1"]["mean"] for name in "ab") / 2
    assert made["mean"]["f1"]["mean"] == pytest.approx(mean)
    page = (out / "report.html").read_text()
    assert "First wrong steps" in page and page.count("<svg") == 2
    assert "\u03c3(Q) below 0.5, the Q of the question" in page and "Position alone" in page
    assert made["steps"]["a"]["auroc"]["step_within_problem"] is None, "each problem has one response"
    assert made["steps"]["a"]["auroc"]["step_at_equal_position"]["n"] == 8
    assert main(["report", "--results", str(out / "results.json"), "--output", str(tmp_path / "page.html")]) == 0
    assert "Over-optimisation" not in (tmp_path / "page.html").read_text()
    assert "First wrong steps" in (tmp_path / "page.html").read_text()


def test_stepwise_rows_are_judged_alike(scorer: Path, tmp_path: Path) -> None:
    """The same responses as stepwise rows; labels after the first error may be absent, or say anything."""
    raw = benchmark(10)
    stepwise = []
    for number, row in enumerate(raw):
        labels: list[Any] = [True] * len(row["steps"])
        if row["label"] != -1:
            labels[row["label"]] = False
            labels[row["label"] + 1 :] = [[None, True][number % 4 == 1]] * (len(labels) - row["label"] - 1)
        stepwise.append({"prompt": row["problem"], "completions": row["steps"], "labels": labels})
        if number < 4:  # as `qstep convert` writes it: null where there is no error
            stepwise[-1]["first_error"] = None if row["label"] == -1 else row["label"]
    unknown = [stepwise[0] | {"labels": [True, None, *[True] * (len(stepwise[0]["labels"]) - 2)]}]
    blank = [{"prompt": "1+1=", "completion": "", "completions": [], "labels": []}]
    write_jsonl(tmp_path / "rows.jsonl", stepwise + unknown + blank)
    theirs = judge(scorer, tmp_path / "raw", {"mini": raw})["steps"]["mini"]
    config = EvaluateStepsConfig(scorer=str(scorer), inputs=tmp_path / "rows.jsonl", output_dir=tmp_path / "out")
    ours = judged_by(config)["steps"]["rows"]
    assert ours.pop("left_out") == {
        "its labels leave open which step is the first wrong one": 1,
        "the response has no step": 1,
    }
    assert theirs.pop("left_out") == {}
    assert ours == theirs


def test_a_given_step_is_one_step_whatever_is_in_it(
    scorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of three responses have the scorer's separator in a step: as many Qs as steps, counted and told."""
    rows = benchmark(3)
    for row in rows[:2]:
        row["steps"] = ["\n".join(row["steps"][:2]), *row["steps"][2:]]
        row["label"] = -1 if row["label"] == -1 else 0
    made = judge(scorer, tmp_path, {"mini": rows})
    scored = list(read_rows(tmp_path / "out" / "scored_mini.jsonl"))
    assert [len(row["q_values"]) for row in scored] == [len(row["steps"]) for row in rows]
    assert made["steps"]["mini"]["separators"] == {
        "rows_split_at_another": 0,
        "rows_that_do_not_say": 3,
        "rows_with_a_separator_in_a_step": 2,
        "steps_with_a_separator": 2,
    }
    said = " ".join(capsys.readouterr().err.split())
    assert "2 steps in 2 rows contain this scorer's step separator" in said
    assert "2 steps contain the scorer&#39;s separator" in (tmp_path / "out" / "report.html").read_text()
    stepwise = {"prompt": rows[2]["problem"], "completions": rows[2]["steps"], "labels": [True] * len(rows[2]["steps"])}
    write_jsonl(tmp_path / "other.jsonl", [stepwise | {"step_separator": "\n\n"}])
    other = judged_by(
        EvaluateStepsConfig(scorer=str(scorer), inputs=tmp_path / "other.jsonl", output_dir=tmp_path / "other")
    )
    assert other["steps"]["other"]["separators"]["rows_split_at_another"] == 1
    assert other["steps"]["other"]["f1"] is None, "no response has an error"


def test_a_threshold_is_chosen_on_other_rows(scorer: Path, tmp_path: Path) -> None:
    chosen_rows, judged = benchmark(20, skip=30), benchmark(20)
    (tmp_path / "dev.json").write_text(json.dumps(chosen_rows))
    by_file = judge(scorer, tmp_path / "file", {"mini": judged}, threshold_file=tmp_path / "dev.json")
    by_split = judge(scorer, tmp_path / "split", {"mini": judged, "dev": chosen_rows}, threshold_split="dev")
    threshold = by_file["threshold"]
    assert threshold["value"] == by_split["threshold"]["value"] == pytest.approx(expit(threshold["q_value"]))
    assert threshold["chosen_on"]["source"] == str(tmp_path / "dev.json") and threshold["chosen_on"]["rows"] == 20
    assert list(by_split["steps"]) == ["mini"], "what it is chosen on is not judged"
    assert by_file["steps"] == by_split["steps"]
    on_dev = judge(scorer, tmp_path / "dev", {"dev": chosen_rows}, threshold=threshold["value"])["steps"]["dev"]
    assert on_dev["f1"]["mean"] == pytest.approx(threshold["chosen_on"]["f1"]["mean"])
    assert on_dev["f1"]["mean"] >= max(f1 for f1 in on_dev["by_threshold"]["f1"] if f1 is not None) - 1e-9


def test_a_threshold_is_never_chosen_on_what_is_judged(scorer: Path, tmp_path: Path) -> None:
    judged = benchmark(10)
    copied = [{**judged[4], "id": "another"}, *benchmark(4, skip=40)]
    renamed = [{**row, "steps": [*row["steps"], "#0"]} for row in judged[:4]]
    for number, (rows, says) in enumerate(
        (
            (judged, r"share 10 rows \(the first is 'mini-0'"),
            (copied, r"share 1 rows \(the first is 'mini-4'"),
            (renamed, "share 4 rows"),
        )
    ):
        (tmp_path / "dev.json").write_text(json.dumps(rows))
        with pytest.raises(ValueError, match=says):
            judge(scorer, tmp_path / str(number), {"mini": judged}, threshold_file=tmp_path / "dev.json")
        assert not list((tmp_path / str(number)).glob("out/*")), "nothing was scored"
    others = [{**row, "id": f"other {row['id']}", "steps": [*row["steps"], "#0"]} for row in judged[:4]]
    (tmp_path / "dev.json").write_text(json.dumps(others))
    made = judge(scorer, tmp_path / "others", {"mini": judged}, threshold_file=tmp_path / "dev.json")
    assert made["threshold"]["chosen_on"]["problems_that_are_judged_too"] == 4


def test_rows_of_two_files_of_one_name_are_not_the_same(tmp_path: Path) -> None:
    """Such sets have no ids, so the rows are numbered after their file's name."""
    for folder in ("test", "dev"):
        (tmp_path / folder).mkdir()
        row = {"problem": f"{folder}?", "steps": ["1", "2"], "incorrect_index": 1, "error_category": "x"}
        write_jsonl(tmp_path / folder / "rows.jsonl", [row])
    found = read_benchmarks({"test": tmp_path / "test/rows.jsonl", "dev": tmp_path / "dev/rows.jsonl"}, None)
    assert [row["id"] for part in found.values() for row in part.rows] == ["rows/0", "rows/0"]
    assert shared_rows(found["test"], found["dev"]) == ([], 0)


def test_options_that_cannot_be_meant(scorer: Path, tmp_path: Path) -> None:
    def config(**options: Any) -> EvaluateStepsConfig:
        return EvaluateStepsConfig(scorer=str(scorer), output_dir=tmp_path / "out", **options)

    for options, says in (
        ({}, "give either --inputs or --dataset_name"),
        ({"inputs": tmp_path, "dataset_name": "a/b"}, "give either --inputs or"),
        ({"inputs": tmp_path, "threshold": 1.5}, "--threshold is 1.5"),
        (
            {"inputs": tmp_path, "threshold": 0.5, "threshold_split": "a"},
            "--threshold and --threshold_split exclude each",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            config(**options)
    rows = benchmark(2)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "1+1=\n", "completions": ["#2"], "labels": [True]}])
    for options, says in (
        ({"inputs": tmp_path / "a.json", "threshold_split": "b"}, "the subsets are a: name one of at least two"),
        ({"inputs": tmp_path / "a.json", "threshold_split": "a"}, "so that another is left"),
        ({"inputs": {"threshold": tmp_path / "a.json"}}, "--inputs.threshold is reserved for --threshold_file"),
        (
            {"inputs": {"threshold": tmp_path / "a.json"}, "threshold_file": tmp_path / "a.json"},
            "--inputs.threshold is reserved for --threshold_file",
        ),
        ({"inputs": {"a/b": tmp_path / "a.json"}}, "called 'a/b'"),
        ({"inputs": tmp_path / "rows.jsonl", "conversational": True}, "--conversational has no effect"),
    ):
        with pytest.raises(ValueError, match=says):
            evaluate(config(**options))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": 9}, "row 2.*'label'.*is 9"),
        ({"label": True}, "row 2.*'label'.*is True"),
        ({"steps": []}, "row 2.*'steps'"),
        ({"problem": " "}, "row 2.*'problem'"),
        ({"id": "mini-0"}, "row 2.*'id'.*occurs twice"),
    ],
)
def test_bad_rows_are_named(change: dict[str, Any], says: str, scorer: Path, tmp_path: Path) -> None:
    rows = benchmark(3)
    rows[1] |= change
    with pytest.raises(ValueError, match=says):
        judge(scorer, tmp_path, {"mini": rows})


def test_labels_that_name_no_first_error_are_told(scorer: Path, tmp_path: Path) -> None:
    row = {"prompt": "1+1=\n", "completions": ["1+1=2", "#2"]}
    for labels, says in (([0.5, 1.0], "are soft"), ([None, False], "no row with a known first wrong step")):
        write_jsonl(tmp_path / "rows.jsonl", [row | {"labels": labels}])
        with pytest.raises(ValueError, match=says):
            evaluate(EvaluateStepsConfig(scorer=str(scorer), inputs=tmp_path / "rows.jsonl", output_dir=tmp_path / "o"))
    write_jsonl(tmp_path / "rows.jsonl", [row | {"labels": [True, False], "first_error": 0}])
    with pytest.raises(ValueError, match=r"first_error.*is 0, but the labels say 1"):
        evaluate(EvaluateStepsConfig(scorer=str(scorer), inputs=tmp_path / "rows.jsonl", output_dir=tmp_path / "o"))


def test_over_long_rows_are_refused_or_counted(scorer: Path, tmp_path: Path) -> None:
    rows = benchmark(6)
    rows[2]["steps"] = rows[2]["steps"] * 30
    with pytest.raises(ValueError, match=r"1 rows are longer .* max_length of 128 tokens \('mini-2'\)"):
        judge(scorer, tmp_path, {"mini": rows})
    made = judge(scorer, tmp_path, {"mini": rows}, over_long="drop")
    assert made["steps"]["mini"]["left_out"] == {"longer than max_length": 1}
    assert made["n-samples"]["mini"] == {"original": 6, "effective": 5}
    with pytest.raises(ValueError, match="--over_long drop, without 1 rows"):
        judge(scorer, tmp_path, {"mini": rows})


def test_over_long_rows_are_read_in_windows(scorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All six rows are judged, the long one by windows; the file is another one than without windows."""
    rows = benchmark(6)
    rows[2]["steps"] = rows[2]["steps"] * 30
    made = judge(scorer, tmp_path, {"mini": rows}, over_long="window")
    assert made["steps"]["mini"]["responses"] == 6 and made["steps"]["mini"]["in_windows"] == 1
    long = list(read_rows(tmp_path / "out" / "scored_mini.jsonl"))[2]
    alone = load_scorer(str(scorer), windows=True)
    assert long["q_values"] == pytest.approx(alone.score(rows[2]["problem"], rows[2]["steps"]), abs=1e-5)
    assert "1 responses are longer than this scorer's max_length" in " ".join(capsys.readouterr().err.split())
    assert "read in windows" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(SettingsChanged, match="over_long"):
        judge(scorer, tmp_path, {"mini": rows}, over_long="drop")


def test_error_classes_have_figures_of_their_own(
    scorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nine rows in PRMBench's form: three of a class with errors, three without one, and three rewritten ones."""
    rows = []
    for number, row in enumerate(benchmark(9)):
        kind, wrong = (("circular", [2 + number % 2]), ("multi_solutions", []), ("redundency", [2]))[number // 3]
        of_row = {"idx": f"{kind}_{number}", "classification": kind, "modified_process": row["steps"]}
        of_row |= {"question": row["problem"], "original_question": row["problem"], "modified_question": row["problem"]}
        rows.append(of_row | {"original_process": row["steps"], "error_steps": wrong})
    made = judge(scorer, tmp_path, {"prmbench": rows}, threshold=0.5)["steps"]["prmbench"]
    classes = made["classes"]
    assert {name: (of["responses"], of["found"]["n_error"]) for name, of in classes.items()} == {
        "circular": (3, 3),
        "multi_solutions": (3, 0),
        "redundency": (3, 3),
        "correct": (3, 0),
    }
    scored = list(read_rows(tmp_path / "out" / "scored_prmbench.jsonl"))
    circular = [row for row in scored if row["classification"] == "circular"]
    assert [row["first_error"] for row in circular] == [1, 2, 1]
    first = [next((i for i, q in enumerate(row["q_values"]) if q < 0), -1) for row in circular]
    hits = sum(f == row["first_error"] for f, row in zip(first, circular, strict=True))
    assert classes["circular"]["found"]["acc_error"]["mean"] == pytest.approx(hits / 3)
    assert classes["circular"]["acc_error_of_position"]["mean"] == pytest.approx(2 / 3)
    assert classes["circular"]["auroc"]["position"]["n"] == 3
    assert classes["multi_solutions"]["found"]["acc_error"] is classes["multi_solutions"]["auroc"]["step"] is None
    quiet = [all(q >= 0 for q in row["q_values"]) for row in scored if row["classification"] == "correct"]
    assert classes["correct"]["found"]["acc_correct"]["mean"] == pytest.approx(sum(quiet) / 3)
    said = capsys.readouterr().err
    assert "first wrong step by classification" in said and "AUROC of steps, by classification" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert "By classification" in page and page.count('<th scope="row">circular</th>') == 1
    arguments = ["--results", str(tmp_path / "out" / "results.json"), "--output", str(tmp_path / "page.html")]
    assert main(["report", *arguments]) == 0 and "By classification" in (tmp_path / "page.html").read_text()
    both = judge(scorer, tmp_path / "both", {"a": rows, "b": benchmark(4)})
    assert "classes" in both["steps"]["a"] and "classes" not in both["steps"]["b"]
    assert "a: circular" in (tmp_path / "both" / "out" / "report.html").read_text()


def test_a_stopped_run_goes_on(scorer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after its second batch, it scores the rest alone, and ends with the numbers of an undisturbed run."""
    rows = benchmark(12)
    whole = judge(scorer, tmp_path / "whole", {"mini": rows}, score_tokens=60)
    original, forwards = StepScorer._scored, 0

    def counted(self: StepScorer, pending: Any) -> Any:
        nonlocal forwards
        forwards += 1
        if forwards == 3:
            raise KeyboardInterrupt
        return original(self, pending)

    monkeypatch.setattr(StepScorer, "_scored", counted)
    with pytest.raises(KeyboardInterrupt):
        judge(scorer, tmp_path / "stopped", {"mini": rows}, score_tokens=60)
    done = len((tmp_path / "stopped" / "out" / "scored_mini.jsonl").read_text().splitlines())
    assert 0 < done < 12
    resumed = judge(scorer, tmp_path / "stopped", {"mini": rows}, score_tokens=60)
    assert resumed["steps"] == whole["steps"]
    scored = forwards
    again = judge(scorer, tmp_path / "stopped", {"mini": rows}, threshold=0.4)
    assert forwards == scored, "another threshold scores nothing anew"
    assert again["steps"]["mini"]["calibration"] == whole["steps"]["mini"]["calibration"]


def test_a_folder_of_datasets_is_judged_split_by_split(scorer: Path, tmp_path: Path) -> None:
    """Laid out as Qwen/ProcessBench is on the Hub: a file a split, named in the card's front matter."""
    folder = tmp_path / "ProcessBench"
    folder.mkdir()
    names = {"gsm8k": benchmark(6), "math": benchmark(4, skip=6, name="math")}
    splits = "".join(f"  - split: {name}\n    path: {name}.json\n" for name in names)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n")
    for name, rows in names.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    made = judged_by(EvaluateStepsConfig(scorer=str(scorer), dataset_name=str(folder), output_dir=tmp_path / "out"))
    assert {name: of["responses"] for name, of in made["steps"].items()} == {"gsm8k": 6, "math": 4}
    by_files = judge(scorer, tmp_path / "files", names)
    assert made["steps"] == by_files["steps"] and made["mean"] == by_files["mean"]


def test_the_command_has_two_words() -> None:
    assert COMMANDS["evaluate processbench"].module.endswith("evaluate_steps")
    (config,) = COMMANDS["evaluate processbench"].parse(
        [
            "--scorer",
            "s",
            "--output_dir",
            "o",
            "--inputs.gsm8k",
            "a.json",
            "--inputs.math",
            "b.json",
            "--threshold",
            "0.3",
        ]
    )
    assert config.inputs == {"gsm8k": Path("a.json"), "math": Path("b.json")} and config.threshold == 0.3
    assert COMMANDS["evaluate"].module.endswith("stages.evaluate")


@needs("processbench_gsm8k.json")
def test_the_whole_of_a_real_benchmark(tmp_path: Path) -> None:
    """ProcessBench's 400 GSM8K responses with a scorer that knows bytes and nothing else: all are judged."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from byte_tokenizer import byte_tokenizer
    from qstep.models import ModelOptions, ScorerModel, StepContract

    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = Qwen3Config(**shape, intermediate_size=8, head_dim=8, vocab_size=len(tokenizer))
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = ScorerModel.new(ModelOptions(model_name_or_path=str(tmp_path / "base")))
    StepContract.create(
        tokenizer, step_separator="\n", separator_token="<eos>", max_length=8192, aggregation="min", objective="pqm"
    ).attach(model.config)
    model.save(tmp_path / "scorer")
    tokenizer.save_pretrained(tmp_path / "scorer")
    path = DATA / "processbench_gsm8k.json"
    made = judged_by(
        EvaluateStepsConfig(
            scorer=str(tmp_path / "scorer"), inputs={"gsm8k": path}, output_dir=tmp_path / "out", score_tokens=1
        )
    )["steps"]["gsm8k"]
    assert (made["responses"], made["problems"], made["left_out"]) == (400, 375, {})
    assert (made["n_error"], made["n_correct"], made["steps"]) == (207, 193, 2082)
    assert made["separators"]["steps_with_a_separator"] == 272
    raw = json.loads(path.read_text())
    scored = list(read_rows(tmp_path / "out" / "scored_gsm8k.jsonl"))
    assert [len(row["q_values"]) for row in scored] == [len(row["steps"]) for row in raw]
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for row, of in zip(raw, scored, strict=True):
        found = [i for i, q in enumerate(of["q_values"]) if q < 0]
        hits[row["label"] != -1].append((found[0] if found else -1) == row["label"])
    for name, kind in (("acc_error", True), ("acc_correct", False)):
        assert made[name]["mean"] == pytest.approx(sum(hits[kind]) / len(hits[kind]))


def test_the_commands_of_the_page_run(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/evaluation.md's commands as they stand, in a folder where a tiny model and tiny files have those names."""
    of_page = commands("docs/evaluation.md")
    assert len(of_page) >= 7
    monkeypatch.chdir(tmp_path)
    Path("Qwen/ProcessBench").mkdir(parents=True)
    for number, name in enumerate(("gsm8k", "math", "dev")):
        rows = benchmark(6, skip=6 * number, name=name)
        Path(f"{name}.json").write_text(json.dumps(rows))
        Path(f"Qwen/ProcessBench/{['train', 'test', 'validation'][number]}.json").write_text(json.dumps(rows))
    write_jsonl(Path("dev.jsonl"), benchmark(6, skip=12, name="dev"))
    training = ["--max_steps", "1", "--use_cpu", "true", "--report_to", "none", "--save_strategy", "no"]
    training += ["--model_name_or_path", str(base), "--train_file", str(rows_file), "--output_dir", "runs/pqm"]
    assert main(["train", "pqm", *training]) == 0
    shutil.copytree(base, "runs/dqo")
    config = json.loads(Path("runs/dqo/config.json").read_text())
    Path("runs/dqo/config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    write_jsonl(Path("problems.jsonl"), [{"question": "1+1=", "answer": "2"}])
    graded = [{**row, "verdict": "right" if row["label"] else "wrong", "answer": None} for row in read_rows(rows_file)]
    write_jsonl(Path("graded.jsonl"), [{**row, "task": "miniature"} for row in graded])
    assert main(["score", "--input", "graded.jsonl", "--scorer", "runs/pqm", "--output", "scored.jsonl"]) == 0
    for command in of_page:
        assert main(shlex.split(command)[1:]) == 0, command
    assert "model-index" in Path("runs/pqm/README.md").read_text()
    shown = Path("runs/page.html").read_text()
    assert all(part in shown for part in ("First wrong steps", "One score from many steps", "Over-optimisation"))
