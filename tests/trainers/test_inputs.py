"""Training on several files, chosen columns, blank lines and labels 1 and 0: the weights of the one plain file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import qstep
from qstep.data import joined, read_rows
from qstep.objectives.ranking import RankingConfig
from qstep.recipes.graph import plan
from qstep.recipes.reading import read_recipe
from qstep.runs.sidecar import SettingsChanged
from qstep.stages.train import TrainInputs, train

OPTIONS: dict[str, Any] = dict(
    use_cpu=True,
    report_to="none",
    disable_tqdm=True,
    per_device_train_batch_size=4,
    responses_per_prompt=4,
    learning_rate=1e-2,
    max_steps=2,
    save_strategy="no",
)
NAMES = {"prompt": "q", "completions": "parts", "labels": "ratings"}


@pytest.fixture(scope="module")
def plain(base: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of training on one file of JSON lines."""
    folder = tmp_path_factory.mktemp("plain") / "pqm"
    inputs = TrainInputs(model_name_or_path=str(base), train_file=rows_file)
    train("pqm", inputs, RankingConfig(output_dir=str(folder), **OPTIONS))
    return (folder / "model.safetensors").read_bytes()


def lines(rows: list[dict[str, Any]]) -> bytes:
    """Rows with other names, labels 1 and 0, and blank lines."""
    found = []
    for row in rows:
        labels = [label if label is None else int(label) for label in row["labels"]]
        renamed = {NAMES.get(name, name): value for name, value in {**row, "labels": labels}.items()}
        found.append(json.dumps(renamed).encode() + b"\n\n")
    return b"\n" + b"".join(found)


def test_the_weights_are_those_of_the_one_plain_file(base: Path, rows_file: Path, plain: bytes, tmp_path: Path) -> None:
    rows = [*read_rows(rows_file)]
    (tmp_path / "a.jsonl").write_bytes(lines(rows[:7]))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines(rows[7:]), mtime=0))
    both = joined([tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"])
    inputs = TrainInputs(model_name_or_path=str(base), train_file=both, columns=NAMES)
    config = RankingConfig(output_dir=str(tmp_path / "pqm"), **OPTIONS)
    train("pqm", inputs, config)
    assert (tmp_path / "pqm" / "model.safetensors").read_bytes() == plain
    assert "a.jsonl, b.jsonl.gz" in (tmp_path / "pqm" / "README.md").read_text()
    with pytest.raises(SettingsChanged, match="train_file"):
        train("pqm", TrainInputs(model_name_or_path=str(base), train_file=tmp_path / "a.jsonl", columns=NAMES), config)


def test_rows_in_memory_with_other_names(base: Path, rows_file: Path, plain: bytes, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in lines([*read_rows(rows_file)]).splitlines() if line]
    options = {name: value for name, value in OPTIONS.items() if name != "report_to"}
    qstep.train("pqm", rows, model=base, output_dir=tmp_path / "pqm", columns=NAMES, report_to="none", **options)
    assert (tmp_path / "pqm" / "model.safetensors").read_bytes() == plain
    rows[1]["ratings"][0] = 2
    with pytest.raises(ValueError, match=r"rows\[1\], field 'ratings': is \[2"):
        qstep.train("pqm", rows, model=base, output_dir=tmp_path / "bad", columns=NAMES, report_to="none", **options)


def test_a_recipe_has_the_key_of_all_files(rows_file: Path, tmp_path: Path) -> None:
    """A changed shard, a further one, and another order are other jobs; a stage's output may be in the list."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(rows_file.read_bytes())
    recipe = tmp_path / "recipe.yaml"

    def key(value: str) -> str:
        grading = f"{{command: grade, input: {tmp_path}/a.jsonl}}"
        stages = f"  graded: {grading}\n  again: {{command: annotate, input: {value}}}\n"
        recipe.write_text(f"title: t\nabout: a\noutput_dir: out\nstages:\n{stages}")
        [run] = plan(read_recipe(recipe), tmp_path / "out", [0])
        return run.stages["again"].key

    first = key(f"'{tmp_path}/*.jsonl'")
    listed = key(f"[{tmp_path}/a.jsonl, {tmp_path}/b.jsonl]")
    mixed = key(f"['${{graded}}', {tmp_path}/b.jsonl]")
    assert key(f"[{tmp_path}/b.jsonl, {tmp_path}/a.jsonl]") != listed
    (tmp_path / "b.jsonl").write_bytes(rows_file.read_bytes() + b"\n")
    assert key(f"[{tmp_path}/a.jsonl, {tmp_path}/b.jsonl]") != listed
    assert key(f"['${{graded}}', {tmp_path}/b.jsonl]") != mixed
    assert key(f"'${{graded}},{tmp_path}/b.jsonl'") != mixed
    assert key(f"'{tmp_path}/*.jsonl'") != first
