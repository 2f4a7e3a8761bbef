"""`qstep serve` as a command, and the commands of docs/serving.md: what is refused before anything is served."""

from __future__ import annotations

import json
import re
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from pages import commands
from qstep.cli import main
from qstep.recipes import RecipeError, read_recipe
from qstep.scoring import StepScorer
from qstep.serving.requests import RequestReader
from qstep.stages.commands import COMMANDS
from qstep.stages.serve import ServeConfig, serve
from qstep.tasks import miniature
from scorers import miniature_scorer
from vllm_server import step_pooling

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_scorer(tmp_path_factory.mktemp("models") / "scorer")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"port": 65536}, "--port is 65536; it must be from 0 to 65535"),
        ({"client_s": 0}, "--client_s is 0; it must be at least 1"),
        ({"max_body_bytes": 0}, "--max_body_bytes is 0"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ServeConfig(scorer="x", **options)


def test_an_address_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1 port {port}: Address already in use"):
            serve(ServeConfig(scorer=str(folder), port=port))


def test_a_queue_that_the_longest_response_does_not_fit_in(folder: Path) -> None:
    with pytest.raises(ValueError, match="--queue_tokens is 100, and a response may have 128 tokens"):
        serve(ServeConfig(scorer=str(folder), port=0, queue_tokens=100))


def test_without_its_packages(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("qstep.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert main(["serve", "--scorer", str(folder)]) == 1
    assert (
        "qstep serve needs the package orjson, which is not installed: run `pip install -e '.[serve]'`"
        in capsys.readouterr().err
    )


def test_a_recipe_cannot_wait_for_a_server(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "title: x\nabout: x\noutput_dir: out\nstages: {there: {command: serve, scorer: x}}\n"
    )
    with pytest.raises(RecipeError, match="stage 'there': `qstep serve` writes nothing and does not end"):
        read_recipe(tmp_path / "r.yaml").resolved(None, 0)


def test_the_commands_of_the_page(folder: Path) -> None:
    """Those of qstep parse, the body of curl asks for three steps' Qs, and vLLM is told what the tests tell it."""
    of_qstep = [shlex.split(line) for line in commands("docs/serving.md")]
    assert [words[1] for words in of_qstep] == ["serve", "score"]
    for _, name, *arguments in of_qstep:
        [config] = COMMANDS[name].parse(arguments)
        assert config.scorer == "runs/pqm"
    [body] = re.findall(r"-d '(.*)'", PAGE)
    scorer = StepScorer.load(folder)
    [asked] = RequestReader(scorer.format, 64, "mini", 128).read(body.encode())
    text = "7+8*3=\n7+8=5\n5*3=5\n#5\n"
    assert asked.sequences == [miniature.tokenizer()(text)["input_ids"]] and asked.wanted == [[1, 2, 3]]
    [pooling] = re.findall(r"--pooler-config '(.*?)'", PAGE)
    number = scorer.format.contract.separator_token_id
    assert json.loads(pooling.replace("ID}", f"{number}}}")) == step_pooling(scorer.format.contract)
