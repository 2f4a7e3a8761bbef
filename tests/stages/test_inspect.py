"""`qstep inspect`: the numbers of tokens and steps against their definitions, and the three formats."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from chats import PROMPT, TURNS, chat_tokenizer, save_chat_model
from qstep.cli import main
from qstep.data import read_rows, write_json, write_jsonl
from qstep.data.messages import turn_texts
from qstep.data.turns import encode_response
from qstep.report.inspection import render_inspection
from qstep.scoring import load_scorer
from qstep.scoring.policies import recorded_base
from qstep.scoring.token_values import TokenValues, pieces
from qstep.stages.inspect import InspectConfig, _chosen
from qstep.tasks import miniature

TRAINING = "--max_steps 3 --use_cpu true --report_to none --save_strategy no --disable_tqdm true --learning_rate 3e-3"


@pytest.fixture(scope="module")
def trained(base: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Policies trained for three steps, beside a copy of nothing: their base is where the tests' base is."""
    folder = tmp_path_factory.mktemp("trained")
    for name, options in {
        "dqo": "dqo --beta 0.5 --importance none --value head --value_learning_rate 0.05",
        "dro": "dro --beta 0.5 --value_learning_rate 0.05",
        "lora": "dqo --use_peft true --lora_r 4 --importance none --value_learning_rate 0.05",
        "sft": "sft",
        "uniform": "dqo --reference uniform --importance none",
    }.items():
        method, *rest = options.split()
        given = ["--model_name_or_path", str(base), "--train_file", str(rows_file), "--output_dir", str(folder / name)]
        assert main(["train", method, *given, *rest, *TRAINING.split()]) == 0
    return folder


def inspected(model: Path, rows: Path, output: Path, *more: str) -> list[dict[str, Any]]:
    given = ["--model_name_or_path", str(model), "--input", str(rows), "--format", "jsonl", "--output", str(output)]
    assert main(["inspect", *given, *more]) == 0
    return list(read_rows(output))


def logps_of(folder: Path, row: dict[str, Any]) -> list[float]:
    """Those of plain transformers, one sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = miniature.tokenizer()(row["prompt"])["input_ids"]
    ids = torch.tensor([*prompt, *row["completion_ids"]])
    with torch.no_grad():
        logps = model(ids[None]).logits[0].log_softmax(-1)
    return [logps[place - 1, ids[place]].item() for place in range(len(prompt), len(ids))]


def test_the_numbers_are_their_definitions(trained: Path, base: Path, rows_file: Path, tmp_path: Path) -> None:
    """Log-ratios of plain transformers, advantage = beta log-ratio, Q = advantage + V, and V as the head reads it."""
    rows = list(read_rows(rows_file))[:5]
    found = inspected(trained / "dqo", rows_file, tmp_path / "out.jsonl")
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    for row, shown in zip(rows, found, strict=True):
        pi, reference = logps_of(trained / "dqo", row), logps_of(base, row)
        tokens = shown["tokens"]
        assert [token["id"] for token in tokens] == row["completion_ids"]
        assert [token["logp"] for token in tokens] == pytest.approx(pi, abs=1e-4)
        ratios = [ours - theirs for ours, theirs in zip(pi, reference, strict=True)]
        assert [token["log_ratio"] for token in tokens] == pytest.approx(ratios, abs=2e-4)
        assert max(map(abs, ratios)) > 0.01
        for token in tokens:
            assert token["advantage"] == pytest.approx(0.5 * token["log_ratio"], abs=1e-6)
            assert token["q"] == pytest.approx(token["advantage"] + token["value"], abs=1e-6)
        assert len({token["value"] for token in tokens}) > 5
        assert shown["value"] == tokens[0]["value"] and shown["beta"] == 0.5


@pytest.mark.parametrize("name", ["dqo", "dro", "lora", "sft", "uniform"])
def test_sums_over_steps_are_sums_over_tokens(name: str, trained: Path, rows_file: Path, tmp_path: Path) -> None:
    for shown in inspected(trained / name, rows_file, tmp_path / "out.jsonl", "--rows", "1-4,7"):
        steps, tokens = shown["steps"], shown["tokens"]
        assert [step["text"] for step in steps] == "".join(token["text"] for token in tokens[:-1]).split("\n")
        for column in ("log_ratio", "advantage"):
            parts = [step[column] for step in steps]
            if name == "sft" and column == "advantage":
                assert parts == [None] * len(steps) and shown["advantage"] is None
                continue
            whole = sum(token[column] for token in tokens)
            assert sum(parts) == pytest.approx(whole, abs=1e-5) and shown[column] == pytest.approx(whole, abs=1e-5)
            for number, part in enumerate(parts):
                own = [token[column] for token in tokens if token["step"] == number]
                assert part == pytest.approx(sum(own), abs=1e-6) and len(own) == steps[number]["tokens"]
        if name in ("dqo", "lora", "uniform"):
            for before, after in pairwise(steps):
                assert before["value_after"] == after["value"], "V after a step is V before the next one"
            assert steps[-1]["value_after"] is None
        if name == "dro":
            assert shown["q"] == pytest.approx(shown["value"] + shown["advantage"])
            assert all(token["value"] is token["q"] is None for token in tokens), "V is that of the prompt"


def test_a_steps_q_is_that_of_the_scorer(trained: Path, base: Path, rows_file: Path, tmp_path: Path) -> None:
    scorer = load_scorer(trained / "dqo")  # the reference is the one that the training recorded
    assert scorer.score("1+2=", ["3"]) == load_scorer(trained / "dqo", reference=str(base)).score("1+2=", ["3"])
    rows = [{name: row[name] for name in ("id", "prompt", "completion", "completions")} for row in read_rows(rows_file)]
    write_jsonl(tmp_path / "rows.jsonl", rows[:2])
    for row, shown in zip(
        rows, inspected(trained / "dqo", tmp_path / "rows.jsonl", tmp_path / "o.jsonl"), strict=False
    ):
        expected = scorer.score(row["prompt"], row["completions"])
        # A step ends with its separator here, and with its text there.
        ends = [max(t["token"] for t in shown["tokens"] if t["step"] == n) - 1 for n in range(len(expected))]
        assert [shown["tokens"][end]["q"] for end in ends] == pytest.approx(expected, abs=1e-4)


def test_the_reference_of_the_training_is_found(
    trained: Path, base: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of an adapter is its base; a recorded folder is checked; `uniform` counts as 0; another one may be given."""
    lora = inspected(trained / "lora", rows_file, tmp_path / "lora.jsonl", "--rows", "1")[0]
    named = inspected(trained / "lora", rows_file, tmp_path / "named.jsonl", "--rows", "1", "--reference", str(base))[0]
    assert lora["log_ratio"] == pytest.approx(named["log_ratio"], abs=1e-4)
    uniform = inspected(trained / "uniform", rows_file, tmp_path / "uniform.jsonl", "--rows", "1")[0]
    assert all(token["log_ratio"] == token["logp"] for token in uniform["tokens"])
    meta = trained / "sft" / "train_log.meta.json"
    kept = meta.read_text()
    known = json.loads(kept)
    known["summary"]["base_model"]["path"] = "../elsewhere"
    meta.write_text(json.dumps(known))
    given = ["inspect", "--model_name_or_path", str(trained / "sft"), "--input", str(rows_file)]
    try:
        assert main(given) == 1
        assert "began with (base0) is not where it was: give --reference" in capsys.readouterr().err
    finally:
        meta.write_text(kept)
    assert main([*given[:2], str(base), *given[3:]]) == 1
    assert "does not record the model that its training began with: give --reference" in capsys.readouterr().err


def test_the_commit_of_the_training_is_the_reference(tmp_path: Path) -> None:
    """The Hub's branch may have moved since."""
    known = {
        "summary": {"base_model": {"name": "owner/model", "on_hub": True}},
        "settings": {"model": "owner/model@b1"},
    }
    write_json(tmp_path / "train_log.meta.json", known)
    assert recorded_base(tmp_path, "--reference") == ("owner/model", "b1")


def test_a_pair_of_policies_with_a_beta(trained: Path, base: Path, rows_file: Path, tmp_path: Path) -> None:
    """Without V there is no Q; without a beta no advantage."""
    pair = inspected(trained / "sft", rows_file, tmp_path / "a.jsonl", "--rows", "2", "--beta", "0.1")[0]
    assert pair["advantage"] == pytest.approx(0.1 * pair["log_ratio"]) and pair["value"] is None
    assert all(token["q"] is None and token["value"] is None for token in pair["tokens"])


def test_responses_are_chosen_by_id_or_line(
    trained: Path, rows_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(read_rows(rows_file))
    names = [rows[9]["id"], rows[2]["id"]]
    found = inspected(trained / "dqo", rows_file, tmp_path / "a.jsonl", "--ids", json.dumps(names))
    assert [row["id"] for row in found] == names[::-1]
    assert [r["id"] for r in inspected(trained / "dqo", rows_file, tmp_path / "b.jsonl", "--ids", names[0])] == names[
        :1
    ]
    capsys.readouterr()
    inspected(trained / "dqo", rows_file, tmp_path / "c.jsonl")
    assert "the first 5 responses are read. Choose others with --ids or --rows" in capsys.readouterr().err
    given = ["inspect", "--model_name_or_path", str(trained / "dqo"), "--input", str(rows_file)]
    for more, words in (
        (["--ids", "none"], "has no row with the id 'none'"),
        (["--rows", "60-70"], "has fewer than 70 responses (--rows 60-70)"),
        (["--rows", "0"], "--rows 0 is not a list of numbers, counted from 1: give for example 1,5-8"),
        (["--rows", "a"], "--rows a is not a list of numbers"),
        (["--rows", "1", "--ids", "a"], "--ids and --rows both choose responses"),
        (["--format", "html"], "--format html needs --output, the file to write"),
        (["--output", "x.html"], "it has no effect without --format jsonl or html"),
    ):
        assert main([*given, *more]) == 1
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(("ids", "chosen"), [([1, 2], ["1", "2"]), (["2", 0], ["0", "2"]), ("1", ["1"])])
def test_an_id_may_be_a_number(tmp_path: Path, ids: Any, chosen: list[str]) -> None:
    """A list on the command line is read as YAML, which takes the text 1 for a number."""
    write_jsonl(tmp_path / "a.jsonl", [{"id": str(n), "prompt": "p", "completion": "c"} for n in range(3)])
    config = InspectConfig(model_name_or_path="m", input=tmp_path / "a.jsonl", ids=ids)
    assert [row["id"] for row in _chosen(config)] == chosen
    with pytest.raises(ValueError, match="no row with the id '7'"):
        _chosen(replace(config, ids=[7, 1]))


def test_the_table(trained: Path, rows_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["inspect", "--model_name_or_path", str(trained / "dqo"), "--input", str(rows_file), "--rows", "1"]) == 0
    )
    text = capsys.readouterr().err
    assert re.search(r"beta 0\.500, log-ratio -?\d+\.\d{3}, advantage .*, value .*", text)
    assert "Steps" in text and "Tokens" in text and re.search(r"value after", text)


def test_the_page_shows_where_v_falls_and_escapes_text(trained: Path, tmp_path: Path) -> None:
    hostile = "1<script>alert(1)</script>2\x00"

    def token(place: int, value: float, step: int, text: str = "a") -> dict[str, Any]:
        return {
            "token": place,
            "id": 1,
            "text": text,
            "step": step,
            "logp": -1.0,
            "log_ratio": 0.5,
            "advantage": 0.1,
        } | {
            "value": value,
            "q": value + 0.1,
        }

    def step(number: int, before: float, after: float | None) -> dict[str, Any]:
        numbers = {"log_ratio": 1.0, "advantage": 0.2, "value": before, "value_after": after, "q": before}
        return {"step": number, "text": f"{hostile} {number}", "tokens": 2, **numbers}

    row = {
        **{"id": hostile, "prompt": hostile, "beta": 0.2, "log_ratio": 2.0, "advantage": 0.4, "value": 0.9},
        "steps": [step(0, 0.9, 0.8), step(1, 0.8, 0.1), step(2, 0.1, None)],
        "tokens": [token(0, 0.9, 0, hostile), token(1, 0.8, 1), token(2, 0.1, 2, "</span>")],
    }
    page = render_inspection([row], "x<y", tmp_path / "page.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "\x00" not in page and "x&lt;y" in page
    assert page.count("← V falls most") == 1
    flagged = page[page.index('class="first-wrong"') :]
    assert flagged.index("script&gt;2� 1") < flagged.index("← V falls most")
    assert not re.search(r"(src|href)=|https?://|url\(", page)
    assert 'class="q q8"' in page and 'class="q q0"' in page and 'points="0.0,5.0 500.0,16.2 1000.0,95.0"' in page


def test_the_page_is_written_by_the_command(trained: Path, rows_file: Path, tmp_path: Path) -> None:
    given = ["--model_name_or_path", str(trained / "dqo"), "--input", str(rows_file), "--format", "html"]
    assert main(["inspect", *given, "--output", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!doctype html>") and page.count('<section class="response">') == 5
    assert main(["inspect", *given, "--output", str(tmp_path / "page.html")]) == 0
    (tmp_path / "mine.html").write_text("<!doctype html>\n<title>Mine</title>")
    assert main(["inspect", *given, "--output", str(tmp_path / "mine.html")]) == 1


def test_others_turns_have_no_numbers(tmp_path: Path) -> None:
    """In a response of several turns only the assistant's tokens have numbers, and its turns are the steps."""
    save_chat_model(tmp_path / "base")
    write_jsonl(tmp_path / "rows.jsonl", [{"id": "a", "prompt": PROMPT, "completion": TURNS}])
    more = ("--reference", str(tmp_path / "base"), "--beta", "0.1")
    (shown,) = inspected(tmp_path / "base", tmp_path / "rows.jsonl", tmp_path / "out.jsonl", *more)
    response = encode_response(chat_tokenizer(), {"prompt": PROMPT, "completion": TURNS})
    assert ["log_ratio" in token for token in shown["tokens"]] == response.own and not all(response.own)
    assert [step["text"] for step in shown["steps"]] == turn_texts(TURNS)
    assert sum(step["tokens"] for step in shown["steps"]) == sum(response.own)
    assert shown["log_ratio"] == pytest.approx(0, abs=1e-5), "the policy is its own reference"


def test_thinking_is_in_no_step_of_the_answer(tmp_path: Path) -> None:
    save_chat_model(tmp_path / "base")
    row = {"id": "a", "prompt": PROMPT, "completion": "<think>aa\nbb\n</think>2+2=4\n#4"}
    write_jsonl(tmp_path / "rows.jsonl", [{**row, "step_separator": "split:answer:line"}])
    more = ("--reference", str(tmp_path / "base"), "--beta", "0.1")
    (shown,) = inspected(tmp_path / "base", tmp_path / "rows.jsonl", tmp_path / "out.jsonl", *more)
    texts = ["".join(t["text"] for t in shown["tokens"] if t["step"] == number) for number in (None, 0, 1)]
    assert texts[0].startswith("<think>aa\nbb\n</think>") and texts[1] == "2+2=4\n" and texts[2].startswith("#4")


def test_pieces_of_characters_of_several_tokens(smollm2: Any) -> None:
    text = "naïve 数学 🧮 = 12"
    ids = smollm2.encode(text)
    found = pieces(smollm2, ids)
    assert "".join(found) == text and "" in found


def test_values_are_read_from_the_checkpoint(trained: Path) -> None:
    assert TokenValues.load(str(trained / "dqo"), None, None).of_tokens
    assert not TokenValues.load(str(trained / "dro"), None, None).of_tokens
    assert TokenValues.load(str(trained / "dqo"), None, 0.7).beta == 0.7


def test_a_merged_policy_of_dro_has_no_v_of_tokens(trained: Path, base: Path, rows_file: Path, tmp_path: Path) -> None:
    given = f"--model_name_or_path {base} --train_file {rows_file} --output_dir {tmp_path}/dro"
    assert main(["train", "dro", *given.split(), "--use_peft", "true", "--beta", "0.5", *TRAINING.split()]) == 0
    assert main(["merge", "--model_name_or_path", f"{tmp_path}/dro", "--output_dir", f"{tmp_path}/merged"]) == 0
    values = TokenValues.load(f"{tmp_path}/merged", str(base), None)
    assert not values.of_tokens and values.beta == 0.5


def test_another_reference_is_another_file(trained: Path, base: Path, rows_file: Path, tmp_path: Path) -> None:
    reference = Path(shutil.copytree(base, tmp_path / "reference"))
    more = ("--reference", str(reference), "--rows", "1")
    inspected(trained / "dqo", rows_file, tmp_path / "out.jsonl", *more)
    shutil.copytree(trained / "sft", reference, dirs_exist_ok=True)
    with pytest.raises(AssertionError):
        inspected(trained / "dqo", rows_file, tmp_path / "out.jsonl", *more)


def test_a_response_without_tokens_is_named(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"id": "b", "prompt": "1+1=\n", "completion": "", "finish_reason": "length"}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    assert main(["inspect", "--model_name_or_path", str(trained / "dqo"), "--input", f"{tmp_path}/rows.jsonl"]) == 1
    assert "row 'b': the response has no tokens" in " ".join(capsys.readouterr().err.split())
