"""Every command refuses to write over a file or folder that it did not write, and leaves it as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qstep.data import write_jsonl
from qstep.stages.commands import COMMANDS

MODEL = "--model_name_or_path={here}/model"
SCORER = "--scorer={here}/model"
ROWS = "--input={here}/rows.jsonl"
OUTPUT = "--output={here}/theirs.jsonl"
RESULT = "--output={here}/theirs.json"
FOLDER = "--output_dir={here}/theirs"
PROBLEMS = "--dataset_name=miniature --num_problems=2"

COMMAND_LINES = {
    "convert": f"--dataset_name={{here}}/published.jsonl {OUTPUT}",
    "sample": f"{MODEL} {PROBLEMS} {OUTPUT}",
    "grade": f"{ROWS} {OUTPUT}",
    "annotate": f"{ROWS} {OUTPUT} --method=outcome",
    "audit": f"--train_file={{here}}/rows.jsonl {RESULT}",
    "pairs": f"{ROWS} {OUTPUT} --format=stepwise",
    "score": f"{ROWS} {SCORER} {OUTPUT}",
    "search": f"{MODEL} {SCORER} {PROBLEMS} {OUTPUT}",
    "best-of-n": f"--inputs={{here}}/rows.jsonl {RESULT}",
    "compare-search": f"--inputs.beam={{here}}/rows.jsonl {RESULT}",
    "evaluate": f"{MODEL} {PROBLEMS} {FOLDER}",
    "evaluate processbench": f"--inputs={{here}}/rows.jsonl {SCORER} {FOLDER}",
    "report": "--results={here}/result.json --output={here}/theirs.html",
    "merge": f"{MODEL} {FOLDER}",
    "export": f"{SCORER} {FOLDER}",
    "inspect": f"--model_name_or_path={{here}}/model {ROWS} {OUTPUT} --format=jsonl",
    "card": "--model={here}/model --output={here}/theirs.md",
    "miniature": f"{FOLDER} --textbook_rows=1",
    **{
        name: f"{MODEL} --train_file={{here}}/rows.jsonl {FOLDER} --max_steps=1 --use_cpu=true"
        for name in COMMANDS
        if name.startswith("train ")
    },
}

THEIRS = {
    "evaluate": ["results.json"],
    "evaluate processbench": ["results.json", "report.html"],
    "merge": ["notes.txt", "model.safetensors"],
    "export": ["notes.txt", "config.json"],
    "miniature": ["notes.txt", "textbook.jsonl"],
    "train pqm": ["train_log.jsonl", "README.md", "config.json", "adapter_config.json", "value.safetensors"],
}
"""The files of a folder that a command would replace, one at a time. A training writes rows, its log."""

REFUSED = r"other content|so their settings are unknown|was not written completely|no log of a training that wrote it"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with inputs that each command reads before it looks at its output."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    (model / "model.safetensors").write_bytes(b"")
    meta = {"stage": "train pqm", "settings": {}, "fingerprint": "", "complete": True, "summary": {"base_model": {}}}
    (model / "train_log.meta.json").write_text(json.dumps(meta))
    row = {"id": "a#0", "prompt": "1+1?", "gold": "2", "completion": "2", "verdict": "right", "answer": "2"}
    write_jsonl(tmp_path / "rows.jsonl", [row | {"completions": ["2"], "labels": [True]}])
    write_jsonl(tmp_path / "published.jsonl", [{"prompt": "1+1?", "completions": ["2"], "labels": [True]}])
    (tmp_path / "result.json").write_text("{}")
    return tmp_path


def test_each_command_that_has_an_output_is_tested() -> None:
    assert COMMAND_LINES.keys() == {name for name, command in COMMANDS.items() if command.outputs}


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        (name, file)
        for name, line in COMMAND_LINES.items()
        for file in (THEIRS.get(name, ["train_log.jsonl"]) if FOLDER in line.split() else [""])
    ],
)
def test_what_it_did_not_write_is_refused_and_kept(name: str, theirs: str, here: Path) -> None:
    arguments = COMMAND_LINES[name].format(here=here).split()
    place = next(Path(argument.partition("=")[2]) for argument in arguments if "/theirs" in argument)
    file = place / theirs if theirs else place
    file.parent.mkdir(exist_ok=True)
    mine = "<!doctype html>\n<title>Mine</title>\n" if file.suffix == ".html" else '{"mine": 1}\n'
    file.write_text(mine)
    before = sorted(here.rglob("*"))
    with pytest.raises(ValueError, match=REFUSED):
        COMMANDS[name].run(COMMANDS[name].parse(arguments))
    assert file.read_text() == mine
    assert [path for path in sorted(here.rglob("*")) if not path.name.endswith(".index")] == before
