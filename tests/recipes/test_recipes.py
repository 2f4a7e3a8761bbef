"""Recipes: what their files may say, which job each stage becomes, what is run again, and what is shared."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM

from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.evals import Page
from qstep.evals.measures import Difference
from qstep.recipes import JobFailed, OutputBusy, Recipe, RecipeError, plan, read_recipe, run
from qstep.recipes.command import MINIATURE
from qstep.recipes.graph import _alone, _longest_first
from qstep.recipes.references import fill
from qstep.recipes.study import Study
from qstep.recipes.summary import claims
from small_recipe import write

ROOT = Path(__file__).parents[2]
SHIPPED = [MINIATURE, *sorted((ROOT / "recipes").glob("*.yaml")), *sorted((ROOT / "studies").glob("*.yaml"))]


def stages(folder: Path, **changed: dict[str, Any]) -> dict[str, Any]:
    written = yaml.safe_load(write(folder).read_text())["stages"]
    return {name: {**written.get(name, {}), **changed.get(name, {})} for name in {**written, **changed}}


def keys(file: Path, **values: Any) -> dict[str, str]:
    (of_run,) = plan(read_recipe(file, values), file.parent / "out", [0])
    return {name: work.key for name, work in of_run.stages.items()}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_shipped_recipe_is_checked_against_its_commands(file: Path) -> None:
    recipe = read_recipe(file)
    assert recipe.study is None or Study.of(recipe).comparisons
    assert "cores" in recipe.about and "qstep" in recipe.about, "say the command and the hardware"
    stages = [stage for variant in recipe.variants or (None,) for stage in recipe.resolved(variant, 1).values()]
    for stage in {repr((stage.command.name, stage.options)): stage for stage in stages}.values():
        recipe.check(stage)


def test_an_option_is_checked_with_the_file_that_a_reference_becomes(tmp_path: Path) -> None:
    """The output of a stage is a file, which has no splits. The dry run took `${raw}` for the id of a Hub data set."""
    made = {"raw": {"command": "convert", "dataset_name": "owner/name", "split": "gsm8k"}}
    made["again"] = {"command": "convert", "dataset_name": "${raw}", "split": "gsm8k"}
    file = write(tmp_path)
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "stages": made}))
    with pytest.raises(
        RecipeError, match=r"stage 'again', .* --split is 'gsm8k', but it has no effect without a Hub id"
    ):
        plan(read_recipe(file), tmp_path / "out", [0])
    del made["again"]["split"]
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "stages": made}))
    assert list(plan(read_recipe(file), tmp_path / "out", [0])[0].stages) == ["raw", "again"]


def test_references_are_filled_in() -> None:
    names = {"model": "m", "steps": 3}
    assert fill("${steps}", names) == 3
    assert fill({"a": ["${model}/x", 1], "b": "${other}"}, names) == {"a": ["m/x", 1], "b": "${other}"}


def test_values_refer_to_values_and_to_the_seed(tmp_path: Path) -> None:
    graded = {"command": "grade", "input": "${file}", "seed": "${own}", "offset": "${skipped}"}
    values = {"file": "${folder}/rows.jsonl", "folder": str(tmp_path), "own": "${seed}", "skipped": 1}
    recipe = read_recipe(write(tmp_path, stages={"graded": graded}, values=values))
    options = recipe.resolved(None, 7)["graded"].options
    assert options == {"input": str(tmp_path / "rows.jsonl"), "seed": 7, "offset": 1}
    circle = read_recipe(write(tmp_path, stages={"graded": graded}, values={"file": "${a}", "a": "${file}", "own": 1}))
    with pytest.raises(RecipeError, match=r"values refer to each other in a circle: (file|a) -> "):
        circle.resolved(None, 0)


def test_stages_are_ordered_by_their_references(tmp_path: Path) -> None:
    (of_run,) = plan(read_recipe(write(tmp_path)), tmp_path / "out", [0])
    assert list(of_run.stages) == ["graded", "labels"]
    labels = of_run.stages["labels"]
    assert labels.after == {of_run.stages["graded"].key}
    assert labels.options["input"] == str(of_run.stages["graded"].output)
    assert labels.options["max_per_problem"] == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": {"command": "anotate"}}, r"stage 'labels': no command 'anotate' \(did you mean 'annotate'\?\)"),
        ({"labels": {"rolouts": 3}}, r"stage 'labels': .*no option 'rolouts' \(did you mean 'rollouts'\?\)"),
        ({"labels": {"rollouts": "many"}}, r"(?s)stage 'labels', `qstep annotate`: .*rollouts"),
        ({"labels": {"input": "${grades}"}}, r"option 'input': nothing is called 'grades' \(did you mean 'graded'\?\)"),
        ({"labels": {"output": "x.jsonl"}}, "stage 'labels': output is set by the recipe's output folder"),
        ({"graded": {"input": "${labels}"}}, "in a circle: labels -> graded -> labels"),
        ({"graded": {"input": "none.jsonl"}}, "stage 'graded', option 'input': none.jsonl is missing"),
        ({"graded": {"seconds": 0}}, "stage 'graded': seconds is 0"),
        ({"graded": {"devices": 0}}, "stage 'graded': devices is 0: give a whole number from 1"),
        ({"graded": {"devices": 2}}, "stage 'graded': `qstep grade` runs in one process; remove devices"),
        ({"s": {"command": "sample", "dataset_name": "./no.jsonl", "model_name_or_path": "m"}}, "no.jsonl is missing"),
        ({"s": {"command": "sample", "model_name_or_path": "./no"}}, "'model_name_or_path': ./no is missing"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_runs(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    file = write(tmp_path, stages=stages(tmp_path, **changed))
    with pytest.raises(RecipeError, match=message) as raised:
        run(file)
    assert str(file) in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"values": {"clip": float("inf")}}, r"a number is infinite or NaN; write a large number, such as 1\.0e\+9"),
        ({"stage": {}}, r"a recipe has no 'stage' \(did you mean 'stages'\?\)"),
        ({"title": ""}, "'title' is missing"),
        ({"seeds": ["one"]}, "seeds is"),
        ({"values": {"graded": 1}}, "graded: the name of a stage and of a value"),
        ({"values": {"seed": 1}}, "seed: a value cannot have this name, which qstep fills in"),
        ({"values": {"round": 1}}, "round: a value cannot have this name, which qstep fills in"),
        ({"stages": {"jobs": {"command": "grade"}}}, "jobs: a stage cannot have this name"),
        ({"variants": {"a": {"label": {}}}}, r"variant 'a' changes an unknown stage 'label' \(did you mean"),
        ({"stages": {"a b": {}}}, "'a b' is not a name"),
        ({"stages": {"a": {"like": "b"}}}, "stage 'a' is like an unknown stage 'b'"),
        ({"stages": {"a": {"like": ["b"]}}}, r"stage 'a' is like \['b'\]: give the name of one stage"),
        ({"output_dir": 3}, "output_dir is 3; it must be text"),
        ({"processes": "x"}, "processes is 'x'; it must be a whole number from 1"),
        ({"stages": {"a": {"like": "b"}, "b": {"like": "a"}}}, "like each other in a circle: a -> b -> a"),
        ({"extends": "none.yaml"}, "extends is 'none.yaml'; it must be the file of a recipe"),
        ({"extends": "recipe.yaml"}, "extends recipe.yaml, which extends this one"),
    ],
)
def test_a_malformed_recipe_is_refused(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    file = write(tmp_path, **parts)
    with pytest.raises(RecipeError, match=message):
        plan(read_recipe(file), tmp_path / "out", [0])


def test_yaml_that_says_a_thing_twice_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text() + "title: again\n")
    with pytest.raises(RecipeError, match="'title' is there twice"):
        read_recipe(file)
    with pytest.raises(RecipeError, match="no value 'steps' to set"):
        read_recipe(write(tmp_path), {"steps": 3})


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text().replace("per_problem: 1", "per_problem: 1e-4"))
    assert read_recipe(file).values == {"per_problem": 1e-4}


def test_keys_follow_settings_and_inputs(tmp_path: Path) -> None:
    file = write(tmp_path)
    before = keys(file)
    assert keys(file) == before
    assert keys(file, per_problem=2)["graded"] == before["graded"]
    assert keys(file, per_problem=2)["labels"] != before["labels"]
    write(tmp_path, stages=stages(tmp_path, labels={"device": "cpu", "max_rows": 3}))
    assert keys(file) == before, "what changes the speed alone changes no key"
    rows = list(read_rows(tmp_path / "rows.jsonl"))
    file = write(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", rows[:3])
    after = keys(file)
    assert after["graded"] != before["graded"] and after["labels"] != before["labels"]


def test_keys_follow_the_users_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "recipe_reward.py"
    code.write_text("def reward(completions, **columns): return [1.0 for _ in completions]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = write(tmp_path, stages=stages(tmp_path, graded={"grader": "recipe_reward:reward"}))
    before = keys(file)
    assert keys(file) == before
    code.write_text("def reward(completions, **columns): return [0.0 for _ in completions]\n")
    after = keys(file)
    assert after["graded"] != before["graded"] and after["labels"] != before["labels"]
    file = write(tmp_path, stages=stages(tmp_path, labels={"step_separator": "split:recipe_splitter:cut"}))
    code = tmp_path / "recipe_splitter.py"
    code.write_text("def cut(text): return [text]\n")
    before = keys(file)
    code.write_text("def cut(text): return list(text)\n")
    after = keys(file)
    assert after["graded"] == before["graded"] and after["labels"] != before["labels"]
    file = write(tmp_path, stages=stages(tmp_path, graded={"task": "no_such_module:task"}))
    with pytest.raises(RecipeError, match=r"stage 'graded', option 'task': .* cannot be loaded"):
        keys(file)


def test_the_seed_goes_where_it_is_referred_to_and_variants_share_the_rest(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        stages=stages(tmp_path, labels={"seed": "${seed}", "flip_share": 0.5}),
        variants={"one": {}, "two": {"labels": {"max_per_problem": 2}}},
    )
    runs = plan(read_recipe(file), tmp_path / "out", [1, 2])
    assert [(r.variant, r.seed) for r in runs] == [("one", 1), ("one", 2), ("two", 1), ("two", 2)]
    assert len({r.stages["graded"].key for r in runs}) == 1
    assert len({r.stages["labels"].key for r in runs}) == 4
    assert [r.stages["labels"].options["seed"] for r in runs] == [1, 2, 1, 2]
    assert runs[3].folder == tmp_path / "out" / "two" / "seed-2"


def test_a_stage_is_like_another_and_follows_its_variants(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        stages=stages(
            tmp_path, more={"like": "labels", "flip_share": 0.5, "seed": 7}, most={"like": "more", "seed": 8}
        ),
        variants={"one": {}, "two": {"labels": {"max_problems": 1}, "most": {"max_problems": 2}}},
    )
    one, two = plan(read_recipe(file), tmp_path / "out", [0])
    assert one.stages["more"].options["max_per_problem"] == 1
    assert [one.stages[name].options.get("seed") for name in ("labels", "more", "most")] == [None, 7, 8]
    assert [two.stages[name].options["max_problems"] for name in ("labels", "more", "most")] == [1, 1, 2]


def test_a_recipe_extends_another_and_shares_its_outputs(tmp_path: Path) -> None:
    base = write(tmp_path)
    child = tmp_path / "child.yaml"
    changes = {"extends": base.name, "title": "more", "values": {"k": 2}, "stages": {"more": {"like": "labels"}}}
    child.write_text(yaml.safe_dump(changes))
    recipe = read_recipe(child, {"k": 3})
    assert (recipe.title, recipe.about, dict(recipe.values)) == ("more", "a test", {"per_problem": 1, "k": 3})
    (of_base,), (of_child,) = (plan(read_recipe(file), tmp_path / "out", [0]) for file in (base, child))
    assert {**of_base.stages} == {name: of_child.stages[name] for name in of_base.stages}
    assert set(of_child.stages) - set(of_base.stages) == {"more"}


def test_the_longest_chain_starts_first(tmp_path: Path) -> None:
    long = {"command": "grade", "input": str(tmp_path / "rows.jsonl"), "seconds": 50}
    last = {"command": "annotate", "input": "${graded}", "seconds": 60}
    file = write(tmp_path, stages=stages(tmp_path, long=long, last=last))
    (of_run,) = plan(read_recipe(file), tmp_path / "out", [0])
    works = {work.key: work for work in of_run.stages.values()}
    assert [works[key].stage.name for key in _longest_first(works)] == ["graded", "last", "long", "labels"]


def test_a_recipe_runs_once_and_again_only_what_changed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write(
        tmp_path,
        variants={"few": {}, "all": {"labels": {"max_per_problem": 2}}},
        processes=2,
    )
    runs = run(file)
    outputs = {r.variant: r.stages["labels"].output for r in runs}
    assert {name: len(list(read_rows(path))) for name, path in outputs.items()} == {"few": 2, "all": 4}
    assert len(list((tmp_path / "out" / "jobs").iterdir())) == 3, "the grading is shared"
    assert (tmp_path / "out" / "all" / "labels.jsonl").resolve() == outputs["all"].resolve()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "jobs").rglob("*")}
    run(file)
    assert "3 of 3 jobs are done" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "jobs").rglob("*")} == written
    outputs["all"].write_text("")  # as a kill, or a person, may leave it
    outputs["all"].with_suffix(".meta.json").unlink()
    run(file)
    assert "2 of 3 jobs are done" in capfd.readouterr().err
    assert len(list(read_rows(outputs["all"]))) == 4


def test_a_file_edited_to_the_same_size_is_noticed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """ "right" and "wrong" have five letters each. A copy of the folder, with other times, counts as unchanged."""
    file = write(tmp_path)
    (of_run,) = run(file)
    rows = of_run.stages["graded"].output
    for path in (tmp_path / "out" / "jobs").rglob("*"):
        os.utime(path)
    run(file)
    total = len(of_run.stages)
    assert f"{total} of {total} jobs are done and unchanged" in capfd.readouterr().err
    kept = rows.read_bytes()
    edited = kept.replace(b'"verdict": "right"', b'"verdict": "wrong"', 1)
    assert len(edited) == len(kept) and edited != kept
    rows.write_bytes(edited)
    with pytest.raises(JobFailed, match=r"(?s)graded failed .* Restore it, or delete both files"):
        run(file)
    rows.write_bytes(kept)
    run(file)


def test_jobs_are_counted_and_listed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each with what it wrote and the time that is left; a dry run lists them in order and writes nothing."""
    file = write(tmp_path, stages=stages(tmp_path, labels={"seconds": 1e6}))

    def dry_run() -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(["run", str(file), "--dry_run"]) == 0
        assert sorted(tmp_path.rglob("*")) == before
        return capfd.readouterr().out

    said = dry_run()
    assert "0 of 2 jobs are done." in said
    assert re.findall(r"^ *(\d+)  (to run|done  )  (\w+) +qstep (\w+)", said, re.MULTILINE) == [
        ("1", "to run", "graded", "grade"),
        ("2", "to run", "labels", "annotate"),
    ]
    (of_run,) = run(file)
    said = capfd.readouterr().err
    graded, labels = (of_run.stages[name].output for name in ("graded", "labels"))
    assert re.search(rf"1 of 2: graded, [\d.]+ s, about \d+ h \d+ min left\n    wrote {graded}\n", said)
    assert re.search(rf"2 of 2: labels, [\d.]+ s\n    wrote {labels}\n", said)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said), "a log file has no control characters"
    labels.unlink()
    labels.with_suffix(".meta.json").unlink()
    said = dry_run()
    assert "1 of 2 jobs are done." in said and re.search(r"1  done    graded", said)
    run(file)
    assert re.search(r"1 of 2 jobs are done and unchanged\n2 of 2: labels, ", capfd.readouterr().err)


def test_a_dry_run_checks_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--dry_run", "--seeds", "1,2", "--output_dir", str(tmp_path / "demo")]) == 0
    assert "0 of 40 jobs are done." in capsys.readouterr().out
    assert not (tmp_path / "demo").exists()
    assert main(["run", str(write(tmp_path, stages=stages(tmp_path, labels={"rolouts": 3}))), "--dry_run"]) == 1
    assert "did you mean 'rollouts'?" in capsys.readouterr().err


def test_a_failed_stage_is_named_with_its_log_and_the_rest_is_kept(tmp_path: Path) -> None:
    again = {"command": "grade", "input": "${graded}", "offset": 50}
    file = write(tmp_path, stages=stages(tmp_path, again=again))
    with pytest.raises(
        JobFailed, match=r"(?s)again failed with status 1; .*log\.txt ends:.*give an --offset below that, not 50"
    ):
        run(file)
    (graded,) = (tmp_path / "out" / "jobs").glob("graded-*")
    assert (graded / "done.json").exists()


def test_only_a_stage_and_what_it_needs_is_run(tmp_path: Path) -> None:
    (of_run,) = run(write(tmp_path), only="graded")
    assert list(of_run.stages) == ["graded"]
    assert not (tmp_path / "out" / "labels.jsonl").exists()
    with pytest.raises(RecipeError, match="no stage 'grade' to run"):
        run(write(tmp_path), only="grade")


def test_one_run_at_a_time_writes_a_folder(tmp_path: Path) -> None:
    with _alone(tmp_path / "out"), pytest.raises(OutputBusy, match="another run"):
        run(write(tmp_path))


def test_what_a_kill_left_half_written_is_written_anew(tmp_path: Path) -> None:
    """Killed, with all its processes, between the model's config and the textbook, which takes a second to write."""
    file = write(tmp_path, stages={"start": {"command": "miniature", "textbook_rows": 100_000}})
    jobs = tmp_path / "out" / "jobs"
    with subprocess.Popen([sys.executable, "-m", "qstep.cli", "run", str(file)], start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not list(jobs.glob("start-*/start/model/config.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    (folder,) = jobs.glob("start-*")
    assert not (folder / "done.json").exists()
    (of_run,) = run(file)
    model = of_run.stages["start"].output / "model"
    assert AutoModelForCausalLM.from_pretrained(model).num_parameters() > 300_000
    assert len(list(read_rows(model.parent / "textbook.jsonl"))) == 100_000


def test_differences_are_pooled_over_seeds() -> None:
    """Means .2 and .4, half-widths .196 each (an error of .1): mean .3, error sqrt(2) * .1 / 2 = .0707."""
    estimates = [Difference(m, m - 0.196, m + 0.196, a="a", b="b") for m in (0.2, 0.4)]
    found = claims({seed: Page(comparisons={"a - b": e}) for seed, e in zip((1, 2), estimates, strict=True)})
    result = found["a - b"].by_seed, found["a - b"]
    assert result[0] == {"1": estimates[0], "2": estimates[1]}
    assert result[1].mean == pytest.approx(0.3) and result[1].high == pytest.approx(0.3 + 1.96 * 0.1 / 2**0.5)
    assert result[1].above_zero_on_every_seed and result[1].seeds == 2
    nothing = Difference(None, None, None, a="a", b="b")
    half = claims({1: Page(comparisons={"a - b": nothing}), 2: Page(comparisons={"a - b": estimates[0]})})["a - b"]
    assert (half.mean, half.seeds, half.above_zero_on_every_seed) == (0.2, 1, False)
    assert claims({1: Page(comparisons={"a - b": nothing})})["a - b"].mean is None


def test_the_api_takes_a_recipe_object(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path))
    assert isinstance(recipe, Recipe)
    (of_run,) = run(recipe, tmp_path / "elsewhere", only="graded")
    record = json.loads((of_run.stages["graded"].folder / "done.json").read_text())
    assert record["seconds"] >= 0 and "graded.jsonl" in record["files"]


@pytest.mark.timeout(1200)
def test_the_miniature_in_small_with_two_seeds(
    rows_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The packaged recipe with a few steps of everything."""
    recipe = yaml.safe_load(MINIATURE.read_text())
    small = {"textbook_rows": 500, "num_problems": 4, "num_samples": 4, "max_problems": 2, "max_per_problem": 2}
    for stage in recipe["stages"].values():
        stage |= {option: value for option, value in small.items() if option in stage}
        if stage["command"].startswith("train"):
            stage |= {"max_steps": 2, "per_device_train_batch_size": 4, "warmup_steps": 0, "use_cpu": True}
    # The tiny base solves nothing: rejection sampling needs a right response, and a verifier right and wrong steps.
    recipe["stages"]["rs"]["train_file"] = "${miniature}/textbook.jsonl"
    for verifier in ("pqm", "bce"):
        recipe["stages"][verifier]["train_file"] = str(rows_file)
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert main(["run", str(file), "--output_dir", str(tmp_path / "out"), "--seeds", "1,2"]) == 0
    printed = capfd.readouterr().err
    comparisons = {"dqo - base (sampled)", "dqo - rs (sampled)", "pqm@4 - majority", "pqm@4 - mean", "pqm@4 - bce"}
    for seed in (1, 2):
        results = json.loads((tmp_path / "out" / f"seed-{seed}" / "results.json").read_text())
        assert set(results["comparisons"]) == comparisons
        assert set(results["policies"]) == {"base", "rs", "dqo"}
        assert {"pqm", "bce", "majority", "mean", "pass", "pqm_weighted"} <= set(results["verifiers"])
        assert {"versions", "git_commit", "command"} <= set(results["provenance"])
        assert set(results["training"]) == {"pqm", "bce", "dqo", "rs"} and results["labels"]
        assert "<script" not in (tmp_path / "out" / f"seed-{seed}" / "report.html").read_text()
    pooled_results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(pooled_results["claims"]) == comparisons and set(pooled_results["seeds"]) == {"1", "2"}
    assert all(claim["seeds"] == 2 and name in printed for name, claim in pooled_results["claims"].items())
    first, second = (tmp_path / "out" / f"seed-{seed}" / "base" for seed in (1, 2))
    assert (first / "model.safetensors").read_bytes() != (second / "model.safetensors").read_bytes()
    assert main(["run", str(file), "--output_dir", str(tmp_path / "out"), "--seeds", "1,2"]) == 0
    assert "40 of 40 jobs are done and unchanged" in capfd.readouterr().err


def test_a_stage_may_be_called_results(tmp_path: Path) -> None:
    """Its file has the name of a report's summary, and is none."""
    more = {"command": "best-of-n", "inputs": "${graded}", "ns": [1, 2]}
    (of_run,) = run(write(tmp_path, stages=stages(tmp_path, results=more)))
    assert of_run.stages["results"].output.name == "results.json"


def test_a_date_is_text(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"{write(tmp_path).read_text()}\nshared: 2024-01-01\n")
    assert read_recipe(file).shared == "2024-01-01"
