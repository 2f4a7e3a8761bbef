"""The form of the prompts that a scorer was trained on: found in the rows, kept in the contract, compared in use."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from qstep.data import index_rows, scanning, write_jsonl
from qstep.models import StepContract
from qstep.scoring import Ensemble, StepScorer, load_scorer
from qstep.scoring.formats import ContractFormat
from qstep.serving.app import Service
from qstep.serving.options import ServerOptions
from qstep.stages.evaluate_steps import EvaluateStepsConfig, evaluate
from qstep.stages.score import ScoreConfig, score
from qstep.stages.search import SearchConfig, search
from qstep.tasks import miniature
from qstep.tasks.problems import worded
from qstep.types import Prompt
from scorers import miniature_scorer
from tiny_trainers import trainer

QUESTIONS = ["What is 3 + 4?", "Tom has 3 apples.\n\nHow many?", "And 12 / 4?"]
LAST = "Think, step by step.\n\nBox the answer."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_scorer(tmp_path_factory.mktemp("models") / "scorer")


def trained_on(folder: Path, **form: Any) -> StepScorer:
    """The scorer with a contract that states this form of prompts."""
    scorer = StepScorer.load(folder)
    assert isinstance(scorer.format, ContractFormat)
    scorer.format.contract = replace(scorer.format.contract, **form)
    return scorer


def rewrite(folder: Path, target: Path, **form: Any) -> Path:
    """The checkpoint with these entries in its stored contract."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"qstep": config["qstep"] | form}))
    return target


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize(
    ("prompts", "kind", "instruction"),
    [
        ([worded(q, None, False) for q in QUESTIONS], "string", None),
        ([worded(q, LAST, False) for q in QUESTIONS], "string", LAST),
        ([worded(q, LAST, True) for q in QUESTIONS], "messages", LAST),
        ([worded(q, LAST, n == 1) for n, q in enumerate(QUESTIONS)], "mixed", LAST),
        ([worded(q, LAST, False) for q in QUESTIONS[:2]] + [QUESTIONS[2]], "string", None),
        ([worded(QUESTIONS[0], LAST, True)] * 3, "messages", None),  # one question: what it ends with is its own
        (["a\n\nb", "x a\n\nb", "y x a\n\nb"], "string", "b"),
    ],
)
def test_the_index_finds_the_form_of_prompts(
    prompts: list[Prompt], kind: str, instruction: str | None, processes: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"prompt": prompt, "completions": ["a"], "labels": [True]} for prompt in prompts])
    monkeypatch.setattr(scanning, "_BYTES_A_PROCESS", path.stat().st_size // processes)
    found = index_rows(path, "stepwise")
    assert (found.prompts, found.instruction) == (kind, instruction)


def test_training_stores_it_and_the_checkpoint_carries_it(base: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{n}+1=\n\n#", "completions": [f"{n}+1={n + 1}", "#0"], "labels": [True, False]} for n in range(4)
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    options = {"max_steps": 1, "max_length": 64, "per_device_train_batch_size": 2}
    made = trainer("pqm", base, tmp_path / "rows.jsonl", tmp_path / "out", **options)
    assert (made.objective.contract.prompts, made.objective.contract.instruction) == ("string", "#")
    made.save_model(str(tmp_path / "saved"))
    contract = StepContract.of(AutoConfig.from_pretrained(tmp_path / "saved"), miniature.tokenizer())
    assert contract == made.objective.contract


def test_how_a_prompt_differs(folder: Path) -> None:
    asked = [{"role": "user", "content": "1+1=\n\n#"}]
    unknown = trained_on(folder)
    both = trained_on(folder, prompts="mixed", instruction="#")
    strings = trained_on(folder, prompts="string")
    messages = trained_on(folder, prompts="messages", instruction="#")
    for scorer, prompt, instruction, says in [
        (unknown, asked, None, None),
        (unknown, "1+1=", "#", None),
        (both, asked, "#", None),
        (both, "1+1=\n\n#", None, None),
        (both, "1+1=#", None, r"does not end with the instruction .* \(--instruction '#'\)"),
        (strings, "1+1=", None, None),
        (strings, asked, None, r"is a conversation, and .* Give a string \(--conversational false\)"),
        (strings, "1+1=\n\n#", "#", r"ends with an instruction, .* Leave it out \(--instruction\)"),
        (messages, asked, "#", None),
        (messages, "1+1=\n\n#", "#", r"is a string, and .* Give a conversation \(--conversational true for problems"),
        (Ensemble([both, strings]), asked, None, "is a conversation"),
    ]:
        found = scorer.unlike_training(prompt, instruction)
        if says is None:
            assert found is None
        else:
            assert found is not None and re.match(says, found), found


def test_a_contract_of_an_older_qstep_is_read(folder: Path, tmp_path: Path) -> None:
    stored = json.loads((folder / "config.json").read_text())["qstep"]
    old = {name: value for name, value in stored.items() if name not in ("prompts", "instruction")}
    assert StepContract.read(old) == StepContract.read(stored)
    assert StepContract.read(old | {"else": 1}) is None and StepContract.read(old | {"version": 2}) is None
    older = rewrite(folder, tmp_path / "older")
    config = json.loads((older / "config.json").read_text())
    (older / "config.json").write_text(json.dumps(config | {"qstep": old}))
    assert load_scorer(str(older)).score("1+1=", ["2"]) == StepScorer.load(folder).score("1+1=", ["2"])


def test_score_warns_and_scores(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"id": str(n), "prompt": f"{n}+1=\n", "completion": "2"} for n in range(3)])
    q_values = []
    for name, form in (("same", {"prompts": "string"}), ("other", {"prompts": "messages"})):
        scorer = rewrite(folder, tmp_path / name, **form)
        out = score(ScoreConfig(tmp_path / "rows.jsonl", tmp_path / f"{name}.jsonl", scorer=str(scorer)))
        said = " ".join(capsys.readouterr().err.split())
        assert ("3 of 3 prompts differ from those of training" in said) == (name == "other")
        assert ("Give a conversation (--conversational true for problems," in said) == (name == "other")
        q_values.append([json.loads(line)["q_values"] for line in out.read_text().splitlines()])
    assert q_values[0] == q_values[1]


def test_search_and_evaluate_warn(base: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scorer = str(rewrite(folder, tmp_path / "scorer", prompts="messages"))
    found = tmp_path / "found.jsonl"
    search(
        SearchConfig(
            model_name_or_path=str(base),
            scorer=scorer,
            output=found,
            method="best_of_n",
            num_problems=2,
            width=1,
            max_new_tokens=4,
        )
    )
    assert "miniature: 2 of 2 prompts differ" in " ".join(capsys.readouterr().err.split())
    rows = [
        {"prompt": problem.prompt, "completions": ["1", "#1"], "labels": [True, wrong]}
        for problem in miniature.problems("test", 3)
        for wrong in (True, False)
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    evaluate(EvaluateStepsConfig(scorer=scorer, inputs=tmp_path / "rows.jsonl", output_dir=tmp_path / "judged"))
    assert "rows.jsonl: 6 of 6 prompts differ" in " ".join(capsys.readouterr().err.split())


def test_a_server_warns_in_its_reply(folder: Path) -> None:
    service = Service(
        trained_on(folder, prompts="messages"), ServerOptions(), name="m", batch_tokens=100, fingerprint="f"
    )
    for request, warnings in (
        ({"input": [{"prompt": "1+1=", "steps": ["2"]}, [1, 2]]}, 1),
        ({"input": [[1, 2, 3]]}, 0),
    ):
        asked = service.reader.read(json.dumps(request).encode())
        reply = service._reply(asked, [[0.5] for _ in asked])
        assert len(reply.get("warnings", [])) == warnings
        assert warnings == 0 or reply["warnings"][0].startswith("`input[0].prompt` is a string, and the scorer")
