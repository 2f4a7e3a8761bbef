"""Rounds: what the repeated stages become, what is refused, and that killed rounds end as undisturbed ones do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_families import saved
from qstep.cli import main
from qstep.evals import PolicyEvaluation, write_result
from qstep.recipes import Recipe, RecipeError, plan, read_recipe, run
from qstep.recipes.study import Study, answer
from qstep.runs.provenance import provenance
from qstep.tasks import miniature

SAMPLES = {
    "command": "sample",
    "model_name_or_path": "${previous.policy}",
    "dataset_name": "miniature",
    "num_problems": 2,
    "num_samples": "${count}",
    "first_sample": "${round}00",
    "max_new_tokens": 8,
    "seed": "${seed}",
}
POLICY = {
    "command": "train sft",
    "model_name_or_path": "./base",
    "train_file": "${graded}",
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "seed": "${seed}",
    "report_to": "none",
    "use_cpu": True,
}
PARTS: dict[str, Any] = {
    "title": "T",
    "about": "A",
    "output_dir": "out",
    "values": {"count": 2, "rounds": 3},
    "rounds": "${rounds}",
    "start": {"policy": "taught"},
    "stages": {
        "taught": {**POLICY, "train_file": "./rows.jsonl"},
        "judged": {"command": "grade", "input": "${samples}", "num_problems": 1},
    },
    "each_round": {
        "samples": SAMPLES,
        "graded": {"command": "grade", "input": "${samples}"},
        "policy": {**POLICY, "model_name_or_path": "${previous.policy}"},
    },
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_file: Path) -> Path:
    base = saved("llama", tmp_path / "base")
    miniature.tokenizer().save_pretrained(base)
    (tmp_path / "rows.jsonl").write_bytes(rows_file.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(**parts: Any) -> Recipe:
    Path("recipe.yaml").write_text(yaml.safe_dump({**PARTS, **parts}, sort_keys=False))
    return read_recipe(Path("recipe.yaml"))


def each_round(**changed: dict[str, Any]) -> dict[str, Any]:
    stages = PARTS["each_round"]
    return {name: {**stages.get(name, {}), **changed.get(name, {})} for name in {**stages, **changed}}


def test_each_round_has_its_own_stages(folder: Path) -> None:
    """Round 1 begins with the stage that `start` names. The other stages read the last round."""
    stages = written().resolved(None, 7)
    rounds = [f"{name}_{i}" for i in (1, 2, 3) for name in ("samples", "graded", "policy")]
    assert {*stages} == {"taught", *rounds, "judged"}
    models = [stages[f"samples_{i}"].options["model_name_or_path"] for i in (1, 2, 3)]
    assert models == ["${taught}", "${policy_1}", "${policy_2}"]
    assert [stages[f"samples_{i}"].options["first_sample"] for i in (1, 2, 3)] == ["100", "200", "300"]
    assert stages["graded_2"].options["input"] == "${samples_2}"
    assert stages["judged"].options["input"] == "${samples_3}"
    (of_run,) = plan(written(), folder / "out", [7])
    assert of_run.stages["samples_2"].after == {of_run.stages["policy_1"].key}


def test_a_training_from_an_adapter_is_refused_before_anything_runs(folder: Path) -> None:
    """It would be refused when its turn comes, after the jobs of a round."""
    with pytest.raises(
        RecipeError, match="'policy_2' trains from 'policy_1', which is an adapter: merge it by a stage"
    ):
        plan(written(each_round=each_round(policy={"use_peft": True})), folder / "out", [7])
    merged = {"command": "merge", "model_name_or_path": "${policy}"}
    changed = {"use_peft": True, "model_name_or_path": "${previous.merged}"}
    start = {"policy": "taught", "merged": "taught"}
    recipe = written(start=start, each_round=each_round(policy=changed, merged=merged))
    (of_run,) = plan(recipe, folder / "out", [7])
    assert of_run.stages["merged_1"].key in of_run.stages["policy_2"].after


def test_all_is_the_list_of_the_rounds_so_far(folder: Path) -> None:
    """Also with a text around it, inside of a list, and outside of the rounds, where it is that of all."""
    repeated = each_round(policy={"train_file": "${all.graded}"}, graded={"input": "${all.samples}"})
    page = {"command": "report", "results": ["${taught}/r.json", "${all.policy}/results.json"]}
    stages = written(each_round=repeated, stages={**PARTS["stages"], "page": page}).resolved(None, 0)
    assert [stages[f"policy_{i}"].options["train_file"] for i in (1, 2)] == [
        ["${graded_1}"],
        ["${graded_1}", "${graded_2}"],
    ]
    assert stages["page"].options["results"] == [
        "${taught}/r.json",
        *(f"${{policy_{i}}}/results.json" for i in (1, 2, 3)),
    ]


def test_variants_change_values_and_so_the_number_of_rounds(folder: Path) -> None:
    """Three rounds of 2 samples, or one of 6. What both need is one job, and the study finds the last round of each."""
    variants = {"three": {}, "one": {"values": {"rounds": 1, "count": 6}}}
    three, one = plan(written(variants=variants), folder / "out", [0])
    assert {"policy_3", "policy_1"} <= set(three.stages) and "policy_2" not in one.stages
    assert three.stages["taught"].key == one.stages["taught"].key
    assert [run.stages["samples_1"].options["num_samples"] for run in (three, one)] == [2, 6]
    judged = {"command": "evaluate", "model_name_or_path": "${policy}", "dataset_name": "miniature"}
    comparisons = {"x": {"a": "three/policy", "b": "one/policy", "measure": "sampled"}}
    texts = dict.fromkeys(("claim", "paper", "settings"), "text")
    recipe = written(
        variants=variants,
        each_round=each_round(judged_round=judged),
        study={**texts, "results": {"policy": "judged_round"}, "comparisons": comparisons},
    )
    assert Study.of(recipe).comparisons
    runs = plan(recipe, folder / "out", [0])
    for of_run, right in zip(runs, (3, 1), strict=True):
        output = of_run.stages[recipe.last("judged_round", of_run.variant)].output
        output.mkdir(parents=True)
        counts = {"p": [right, 4 - right, 0]}
        result = PolicyEvaluation(name="p", problems={"greedy": counts, "sampled": counts}, provenance=provenance({}))
        write_result(output / "results.json", result)
    assert answer(recipe, runs).comparisons["x"].over_seeds.mean == 0.5


def test_a_dry_run_names_all_rounds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written()
    assert main(["run", "recipe.yaml", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "0 of 11 jobs are done." in said
    assert all(f" {name}_{i} " in said for name in ("samples", "graded", "policy") for i in (1, 2, 3))
    assert main(["run", "recipe.yaml", "--dry_run", "--only", "policy", "--values.rounds", "2"]) == 0
    said = capsys.readouterr().out
    assert " policy_2 " in said and "policy_3" not in said and "judged" not in said
    assert main(["run", "recipe.yaml", "--dry_run", "--only", "policy_1"]) == 0
    assert "0 of 4 jobs are done." in capsys.readouterr().out
    written(variants={"one": {"values": {"rounds": 1}}, "three": {}})
    assert main(["run", "recipe.yaml", "--dry_run", "--only", "policy_2"]) == 0
    said = capsys.readouterr().out
    assert "0 of 7 jobs are done." in said, "the variant with one round has no second one"
    assert main(["run", "recipe.yaml", "--dry_run", "--only", "policy_4"]) == 1
    assert "no stage 'policy_4' to run" in capsys.readouterr().err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"start": {}},
            r"'samples', option 'model_name_or_path': \$\{previous.policy\} has no value in round 1: .*start",
        ),
        ({"start": {"polic": "taught"}}, r"start: 'polic' is no stage of `each_round` \(did you mean 'policy'"),
        ({"start": {"policy": "teached"}}, "start: policy is 'teached', which is no stage of `stages`"),
        ({"rounds": 0}, "rounds is 0; it must be a whole number from 1"),
        ({"rounds": "${round}"}, "rounds is .*; it must be a whole number from 1"),
        ({"each_round": {}}, "`rounds` and `each_round` need each other"),
        ({"each_round": each_round(taught={"command": "grade"})}, "taught: a stage of `stages` and of `each_round`"),
        ({"each_round": each_round(round={"command": "grade"})}, "round: the name of a stage and of a value"),
        (
            {"stages": {**PARTS["stages"], "j": {"command": "grade", "input": "${previous.samples}"}}},
            r"\$\{previous.samples\} has a meaning in the stages of `each_round` only",
        ),
        (
            {"each_round": each_round(graded={"input": "${previous.taught}"})},
            r"\$\{previous.taught\} needs a stage of `each_round`, and 'taught' is none",
        ),
        ({"each_round": each_round(graded={"input": "${all.taught}"})}, "'taught' is none"),
        ({"each_round": each_round(graded={"input": "${all.samples}${all.policy}"})}, "refers to several lists"),
        (
            {"stages": {**PARTS["stages"], "samples_2": {"command": "grade", "input": "./rows.jsonl"}}},
            "samples_2: the name of a stage and of one in a round; rename one of them",
        ),
        ({"variants": {"a": {"values": {"round": 1}}}}, r"variant 'a' changes an unknown value 'round' \(did you mean"),
    ],
)
def test_rounds_that_have_no_meaning_are_refused(folder: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan(written(**parts), folder / "out", [0])


def _killed_when(found: str, lacks: str) -> None:
    """Runs the recipe until a path like `found` is there and one like `lacks` is not, and kills it then."""
    command = [sys.executable, "-m", "qstep.cli", "run", "recipe.yaml"]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 600
        while not list(Path("out").glob(found)):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    assert not list(Path("out").glob(lacks))


def test_a_stage_of_a_round_can_be_run_alone(folder: Path) -> None:
    """Then none of the last round's stages is run, whose outputs are named at the end."""
    recipe = written(each_round=each_round(samples={"model_name_or_path": "./base"}))
    (of_run,) = run(recipe, only="graded_1")
    assert [*of_run.stages] == ["samples_1", "graded_1"]


@pytest.mark.timeout(1800)
def test_killed_rounds_end_as_undisturbed_ones(folder: Path) -> None:
    """Killed between two rounds, and while the policy of the second one is trained."""
    recipe = written(values={"count": 2, "rounds": 2})
    _killed_when("jobs/policy_1-*/done.json", "jobs/policy_2-*/policy_2")
    _killed_when("jobs/policy_2-*/policy_2/*", "jobs/policy_2-*/done.json")
    (killed,) = run(recipe)
    (undisturbed,) = run(recipe, folder / "again")
    for name, work in undisturbed.stages.items():
        assert killed.stages[name].key == work.key
        files = [file for file in work.folder.rglob("*") if file.suffix in (".jsonl", ".safetensors")]
        for file in (file for file in files if file.name != "train_log.jsonl"):  # it has times
            other = killed.stages[name].folder / file.relative_to(work.folder)
            assert other.read_bytes() == file.read_bytes(), file
    models = [undisturbed.stages[name].output / "model.safetensors" for name in ("taught", "policy_1", "policy_2")]
    assert len({model.read_bytes() for model in models}) == 3
