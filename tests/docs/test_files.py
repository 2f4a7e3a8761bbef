"""The examples of docs/files.md: each JSON row is written to the file of the command after it, which then runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

import qstep
from byte_tokenizer import byte_tokenizer
from hub_server import HubRepository, serving
from pages import commands, section
from qstep.cli import main
from qstep.data import read_rows
from qstep.data.naming import NAMES
from tiny_policies import sizes


def test_every_example_of_responses_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("responses.jsonl").write_text('{"problem": "2+2?", "target": 4, "generation": "It is 4."}')
    assert main(shlex.split(commands("docs/files.md")[0])[1:]) == 0
    text = section("docs/files.md", "## Responses and problems")
    examples = re.findall(r"```json\n(.*?)```\s+```sh\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 3 == len(commands("docs/files.md", "## Responses and problems"))
    verdicts = {}
    for row, command in examples:
        words = shlex.split(command)
        Path(words[words.index("--input") + 1]).write_text(row)
        assert main(words[1:]) == 0, command
        output = words[words.index("--output") + 1]
        verdicts[output] = [found["verdict"] for found in read_rows(Path(output))]
    assert verdicts == {
        "graded_other.jsonl": ["right"],
        "graded_qwen.jsonl": ["right", "wrong"],
        "graded_chats.jsonl": ["right"],
    }
    [call] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    rows = qstep.read_rows("other.jsonl")
    assert [row["verdict"] for row in eval(call, {"qstep": qstep, "rows": rows})] == ["right"]


def test_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list, the pattern and the folder give the same rows."""
    monkeypatch.chdir(tmp_path)
    Path("shards").mkdir()
    for number, name in enumerate(("part1.jsonl", "part2.jsonl", "shards/a.jsonl", "shards/b.jsonl")):
        Path(name).write_text(json.dumps({"question": f"{number % 2}+1?", "answer": "1", "response": "1"}))
    written = []
    for command in commands("docs/files.md", "## Several files"):
        words = shlex.split(command)
        assert main(words[1:]) == 0, command
        written.append(Path(words[words.index("--output") + 1]).read_bytes())
    assert len(written) == 3 and len({*written}) == 1 and written[0].count(b"\n") == 2


def test_a_data_set_of_the_hub(tmp_path: Path) -> None:
    [command] = commands("docs/files.md", "## Data sets of the Hub")
    card = "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: test\n    path: test.jsonl\n---\n"
    row = json.dumps({"question": "2+2?", "answer": "4", "response": "4"})
    repository = HubRepository("owner/name", {"README.md": card.encode(), "test.jsonl": row.encode()}, tags={"v1.0": 0})
    with serving(repository) as (address, _):
        env = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        code = "import sys; from qstep.cli import main; sys.exit(main(sys.argv[1:]))"
        subprocess.run(
            [sys.executable, "-c", code, *shlex.split(command)[1:]],
            env={**os.environ, **env, "HF_HUB_OFFLINE": "0"},
            cwd=tmp_path,
            check=True,
        )
    assert [found["verdict"] for found in read_rows(tmp_path / "graded_hub.jsonl")] == ["right"]
    [commit] = repository.commits
    meta = json.loads((tmp_path / "graded_hub.meta.json").read_text())
    assert meta["settings"]["input"] == f"owner/name@{commit}:main/test"
    assert [*(tmp_path / "cache" / "qstep" / "hub").rglob("test.rows.jsonl")]


def test_a_training_file_with_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = section("docs/files.md", "## Training files")
    [row] = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    [command] = commands("docs/files.md", "## Training files")
    words = shlex.split(command)
    Path(words[words.index("--train_file") + 1]).write_text(row)
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save_pretrained("base")
    LlamaForCausalLM(LlamaConfig(**{**sizes(), "vocab_size": len(tokenizer)})).save_pretrained("base")
    assert main([*words[1:], "--use_cpu", "true", "--report_to", "none", "--save_strategy", "no"]) == 0
    assert Path("rated", "model.safetensors").is_file()


def test_lists_of_responses_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the Python of the page, into rows that training reads."""
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", section("docs/files.md", "## Training files"), re.DOTALL)
    frame = pandas.DataFrame([{"prompt": "2+2?", "responses": ["It is 4.", "It is 5."], "rewards": [1, 0]}])
    exec(code, {"frame": frame})
    assert main(["audit", "--train_file", "rows.parquet"]) == 0
    rows = [(row["prompt"], row["response"], row["reward"]) for row in read_rows(Path("rows.parquet"))]
    assert rows == [("2+2?", "It is 4.", 1), ("2+2?", "It is 5.", 0)]


def test_the_table_has_the_names_that_are_read() -> None:
    lines = section("docs/files.md", "## Responses and problems").splitlines()
    named = [re.findall(r"`(\w+)`", line) for line in lines if line.startswith("| ")][1:]
    assert named[:2] == [[*NAMES["prompt"]], [*NAMES["gold"]]] and named[2] + named[3] == [*NAMES["completion"]]
