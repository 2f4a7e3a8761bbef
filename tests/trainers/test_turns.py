"""Training, scoring and grading on responses of several turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chats import CALL, PROMPT, TURNS, chat_tokenizer, save_chat_model
from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.models import ModelOptions, PolicyModel, PolicyWithValue
from qstep.objectives import METHODS
from qstep.objectives.responses import collate_rows

QUIET = "--report_to none --save_strategy no --disable_tqdm true --use_cpu true --logging_steps 1 --max_steps 2"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chats") / "base"
    save_chat_model(folder)
    return folder


def turns(tool: str, last: str) -> list[dict[str, Any]]:
    ask = {"role": "assistant", "content": "ask", "tool_calls": [CALL]}
    return [ask, {"role": "tool", "content": tool}, {"role": "assistant", "content": last}]


def item(*completions: Any, **more: Any) -> dict[str, Any]:
    rows = [{"prompt": PROMPT, "completion": completion, "reward": 1.0, **more} for completion in completions]
    return {"rows": rows, "where": ["row"] * len(rows), "row_index": list(range(len(rows)))}


def test_a_tool_message_is_no_target(base: Path) -> None:
    """The loss has no gradient with respect to the logits that would choose the context's tokens.

    So with other targets there, the loss and all gradients are the same bit for bit.
    """
    batch = collate_rows(chat_tokenizer(), [item(TURNS)])
    mask = batch["response_mask"].bool()
    assert 0 < mask.sum() < mask.numel()

    def gradients(targets: torch.Tensor) -> list[torch.Tensor]:
        model = PolicyModel.new(ModelOptions(model_name_or_path=str(base)))
        logps = model({**batch, "response_ids": targets})
        assert (logps[~mask] == 0).all() and (logps[mask] < 0).all()
        (-logps.sum()).backward()
        return [logps.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    same, other = (gradients(batch["response_ids"].masked_fill(~mask, token)) for token in (7, 8))
    assert all(map(torch.equal, same, other))


def test_log_probs_are_those_of_the_whole_conversation(base: Path) -> None:
    """Against plain transformers on the rendered conversation."""
    tokenizer = chat_tokenizer()
    batch = collate_rows(tokenizer, [item(TURNS)])
    model = PolicyModel.new(ModelOptions(model_name_or_path=str(base)))
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([tokenizer.apply_chat_template([*PROMPT, *TURNS], return_dict=False)])[:, :-1]
    plain = AutoModelForCausalLM.from_pretrained(base)(ids).logits.log_softmax(-1)
    expected = plain[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)[-batch["response_ids"].shape[1] :]
    mask = batch["response_mask"].bool()
    torch.testing.assert_close(model(batch)[mask], expected[mask[0]], atol=1e-5, rtol=1e-5)


def test_the_reward_is_at_the_last_token_and_step_rewards_end_turns(tmp_path: Path) -> None:
    config = METHODS["dqo"].config(
        output_dir=str(tmp_path),
        report_to="none",
        process_rewards="potential",
        step_separator="split:turn",
        use_cpu=True,
    )
    objective = METHODS["dqo"].objective(config, chat_tokenizer())
    steps = ["ask", "The answer is 4."]
    batch = objective.collate([item(TURNS, step_rewards=[0.5, 0.9], completions=steps, step_separator="split:turn")])
    mask = batch["response_mask"].bool()[0]
    paid = batch["rewards"][0]
    first_end, last = int(mask.logical_not().nonzero()[0]) - 1, len(mask) - 1
    assert paid[~mask].abs().sum() == 0
    assert paid.nonzero().flatten().tolist() == [first_end, last]
    assert paid[first_end] == pytest.approx(0.5) and paid[last] == pytest.approx(1.0 - 0.5)


def test_one_turn_as_messages_trains_like_its_text(tmp_path: Path, base: Path) -> None:
    weights = []
    for name, completion in (("text", "4"), ("messages", [{"role": "assistant", "content": "4", "tool_calls": None}])):
        rows = [{"prompt": PROMPT, "completion": completion, "label": True}] * 4
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
        train("sft", base, tmp_path / f"{name}.jsonl", tmp_path / name)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


OWN = "ask" + "<tool_call>" + json.dumps(CALL["function"]) + "</tool_call><|im_end|>"


@pytest.mark.parametrize("method", ["sft", "rs", "dpo", "kto", "dro", "dqo"])
def test_policies_train_on_several_turns(
    tmp_path: Path, base: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained are the assistant's tokens, with its calls and the ends of its turns, and of no tool. The right response
    is likelier afterwards: by itself, or compared with the wrong ones."""
    batches: list[Any] = []
    for kind in (PolicyModel, PolicyWithValue):

        def recorded(self: Any, batch: Any, forward: Any = kind.forward) -> Any:
            batches.append({name: batch[name].clone() for name in ("response_ids", "response_mask")})
            return forward(self, batch)

        monkeypatch.setattr(kind, "forward", recorded)
    other = [[{"role": "user", "content": "What is 1+3?"}]] if method == "kto" else []
    graded = grade(tmp_path, PROMPT, *other)
    options = ["--learning_rate", "1e-2", *(["--importance", "none"] if method == "dqo" else [])]
    train(method, base, graded, tmp_path / "out", *options)
    tokenizer = chat_tokenizer()
    texts = {
        tokenizer.decode(ids[mask.bool()])
        for batch in batches
        for ids, mask in zip(batch["response_ids"], batch["response_mask"], strict=True)
        if mask.any()
    }
    trained_on = "4" if method == "rs" else "4567"
    assert texts == {f"{OWN}The answer is {number}.<|im_end|>" for number in trained_on}
    before, after = (likelihoods(folder, list(read_rows(graded))[:4]) for folder in (base, tmp_path / "out"))
    gained = [b - a for a, b in zip(before, after, strict=True)]
    assert gained[0] > 0.1 if method in ("sft", "rs") else gained[0] > max(gained[1:]) + 1e-3


def likelihoods(folder: Path, rows: list[dict[str, Any]]) -> list[float]:
    """The mean log-prob of the assistant's tokens in each row."""
    batch = collate_rows(chat_tokenizer(), [{"rows": rows, "where": ["row"] * 4, "row_index": list(range(4))}])
    logps = PolicyModel.new(ModelOptions(model_name_or_path=str(folder)))(batch).detach()
    mask = batch["response_mask"]
    return ((logps * mask).sum(1) / mask.sum(1)).tolist()


def test_a_scorer_trains_and_scores_each_turn(tmp_path: Path, base: Path) -> None:
    graded = grade(tmp_path)
    labelled = tmp_path / "labelled.jsonl"
    run("annotate", "--input", str(graded), "--output", str(labelled), "--method", "outcome")
    first = next(read_rows(labelled))
    assert len(first["completions"]) == len(first["labels"]) == 2
    assert first["step_separator"] == "split:turn"
    options = ["--step_separator", "split:turn", "--separator_token", "<|sep|>"]
    train("pqm", base, labelled, tmp_path / "pqm", *options)
    scored = tmp_path / "scored.jsonl"
    run("score", "--input", str(graded), "--scorer", str(tmp_path / "pqm"), "--output", str(scored))
    rows = list(read_rows(scored))
    assert all(len(row["q_values"]) == 2 and row["completion"][1]["role"] == "tool" for row in rows)
    train("dqo", base, scored, tmp_path / "dqo", "--process_rewards", "potential", "--step_separator", "split:turn")
    run("best-of-n", "--inputs.pqm", str(scored), "--output", str(tmp_path / "best.json"))
    run("report", "--results.best", str(tmp_path / "best.json"), "--output", str(tmp_path / "report.html"))


def test_a_scorer_of_lines_refuses_turns(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": PROMPT, "completions": ["2+2=4", "4"], "labels": [True, bool(i)]} for i in range(4)]
    write_jsonl(tmp_path / "lines.jsonl", rows)
    train("pqm", base, tmp_path / "lines.jsonl", tmp_path / "pqm")
    arguments = ["--input", str(grade(tmp_path)), "--scorer", str(tmp_path / "pqm")]
    assert main(["score", *arguments, "--output", str(tmp_path / "scored.jsonl")]) == 1
    assert "Use a scorer that was trained with --step_separator split:turn" in capsys.readouterr().err


def run(*arguments: str) -> None:
    assert main(list(arguments)) == 0


def test_rollouts_refuse_turns(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--input", str(grade(tmp_path)), "--method", "monte_carlo", "--model_name_or_path", str(base)]
    assert main(["annotate", *arguments, "--output", str(tmp_path / "labels.jsonl")]) == 1
    assert "has a response of several turns, and" in capsys.readouterr().err


def grade(folder: Path, *prompts: Any) -> Path:
    rows = [
        {"prompt": prompt, "answer": "4", "completion": turns(tool, f"The answer is {tool}.")}
        for prompt in prompts or [PROMPT]
        for tool in "4567"
    ]
    write_jsonl(folder / "rows.jsonl", rows)
    run("grade", "--input", str(folder / "rows.jsonl"), "--output", str(folder / "graded.jsonl"))
    return folder / "graded.jsonl"


def train(method: str, base: Path, rows: Path, output: Path, *options: str) -> None:
    arguments = ["--model_name_or_path", str(base), "--train_file", str(rows), "--output_dir", str(output)]
    run("train", method, *arguments, *QUIET.split(), *options)
