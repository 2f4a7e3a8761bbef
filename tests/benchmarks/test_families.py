"""The table of docs/models.md is of all families, and what it says of one of them is run here."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest
from transformers.models.auto import tokenization_auto

from model_families import FAMILIES, PADDED
from pages import ROOT, commands
from qstep.cli import main
from qstep.data import read_rows, write_jsonl

sys.path.insert(0, str(ROOT / "benchmarks"))
import families

PAGE = "docs/models.md"


def test_the_page_has_every_family() -> None:
    lines = (ROOT / PAGE).read_text(encoding="utf-8").partition(families.BEGIN)[2].partition(families.END)[0]
    cells = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines.splitlines()[2:]]
    assert [cell[0] for cell in cells] == [*FAMILIES, *PADDED], "run python benchmarks/families.py"
    batches = [cell[1].partition(",")[0] for cell in cells]
    assert batches == ["packed"] * len(FAMILIES) + ["padded"] * len(PADDED)
    assert [cell[0] for cell in cells if cell[1] == "padded, prompts once"] == ["stablelm", "bloom"]
    assert all(float(cell[2]) < 1e-5 for cell in cells)
    assert [bool(cell[3]) for cell in cells] == [way == "padded" for way in batches]


@pytest.mark.timeout(300)
def test_a_hybrid_is_trained_merged_scored_sampled_killed_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script runs every method; here are three."""
    monkeypatch.setattr(tokenization_auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", set())
    families.use("qwen3_next", tmp_path, ("pqm", "rs", "dqo"))


def test_the_table_replaces_the_former_one(tmp_path: Path) -> None:
    page = tmp_path / "models.md"
    page.write_text(f"before\n{families.BEGIN}old\n{families.END}after\n", encoding="utf-8")
    families.write("new\n", page)
    assert page.read_text(encoding="utf-8") == f"before\n{families.BEGIN}new\n{families.END}after\n"


def test_every_command_of_the_page_runs(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = "--max_steps 2 --use_cpu true --report_to none --save_strategy no"
    for name in ("Qwen/Qwen3.5-0.8B-Base", "openai/gpt-oss-20b"):
        shutil.copytree(base, name)
    for name in ("labelled", "graded"):
        write_jsonl(Path(f"{name}.jsonl"), list(read_rows(rows_file)))
    found = [command for command in commands(PAGE) if command.startswith("qstep")]
    assert len(found) == 2
    for command in found:
        assert main([*shlex.split(command)[1:], *tiny.split()]) == 0, command
