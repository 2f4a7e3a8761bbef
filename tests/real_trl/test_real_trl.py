"""SFT, DPO, IPO and KTO against TRL 1.16 on the rows that `qstep pairs` writes (make test-trl).

Both compute the loss and its gradient at a policy that differs from the reference, on all rows in one batch, and then
both train for three steps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

import chats
from qstep.cli import main
from qstep.data import read_rows, write_jsonl
from qstep.tasks import miniature
from qstep.trainers.batches import begin_step
from tiny_trainers import trainer as qstep_trainer

SETTINGS: dict[str, Any] = dict(
    report_to="none",
    save_strategy="no",
    disable_tqdm=True,
    use_cpu=True,
    bf16=False,
    gradient_checkpointing=False,
    optim="sgd",
    learning_rate=0.05,
    lr_scheduler_type="constant",
    max_grad_norm=0.0,
    max_steps=3,
    logging_steps=1,
)
TRAINERS: dict[str, Any] = {
    "sft": (SFTConfig, SFTTrainer, "prompt-completion", ["--responses", "every"]),
    "dpo": (DPOConfig, DPOTrainer, "preference", []),
    "kto": (KTOConfig, KTOTrainer, "unpaired", []),
}


@pytest.fixture(scope="module")
def rows(rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Problems with 1 to 4 responses of different lengths, so that their numbers of pairs differ."""
    kept = [
        {**row, "completion": row["completion"].replace("\n", "\n" * (1 + row_number % 3)), "completion_ids": None}
        for row_number, row in enumerate(read_rows(rows_file))
        if int(row["id"][-1]) <= row_number // 4 % 4
    ]
    path = tmp_path_factory.mktemp("trl") / "rows.jsonl"
    write_jsonl(path, [{k: row[k] for k in ("id", "problem_id", "prompt", "completion", "reward")} for row in kept])
    return path


@pytest.fixture(scope="module")
def moved(base: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model after a few steps on the responses. So they are likelier than before, and KTO's KL is above 0."""
    folder = tmp_path_factory.mktemp("moved")
    run = qstep_trainer("sft", base, rows_file, folder, max_steps=4, learning_rate=1e-3, per_device_train_batch_size=16)
    run.train()
    run.save_model(str(folder))
    return folder


def written(method: str, rows: Path, folder: Path, *options: str) -> list[dict[str, Any]]:
    """The rows of `qstep pairs`."""
    _, _, format, more = TRAINERS[method]
    output = folder / "pairs.jsonl"
    assert main(["pairs", "--input", str(rows), "--format", format, "--output", str(output), *more, *options]) == 0
    return list(read_rows(output))


def in_rotation(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the prompts in turn. TRL's rotation by one then gives each response the next problem's prompt."""
    problems: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        problems.setdefault(row["prompt"], []).append(row)
    (size,) = {len(group) for group in problems.values()}
    return [group[sample] for sample in range(size) for group in problems.values()]


def trl_trainer(method: str, pairs: list[dict[str, Any]], base: Path, moved: Path, folder: Path, **options: Any) -> Any:
    config, kind, *_ = TRAINERS[method]
    reference = {} if method == "sft" else {"ref_model": AutoModelForCausalLM.from_pretrained(base)}
    return kind(
        model=AutoModelForCausalLM.from_pretrained(moved),
        args=config(str(folder), max_length=None, per_device_train_batch_size=len(pairs), **SETTINGS, **options),
        train_dataset=Dataset.from_list(pairs),
        processing_class=miniature.tokenizer(),
        **reference,
    )


def own_trainer(method: str, rows: Path, base: Path, moved: Path, folder: Path, **options: Any) -> Any:
    run = qstep_trainer(method, base, rows, folder, per_device_train_batch_size=64, **{**SETTINGS, **options})
    state = AutoModelForCausalLM.from_pretrained(moved).state_dict()
    run.bare_model.pretrained.load_state_dict(state)  # the reference's log-probs are stored already
    return run


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Equal to 1e-5 of the largest entry."""
    assert ours.keys() == theirs.keys() and ours
    largest = max(float(value.abs().max()) for value in theirs.values())
    for name, value in theirs.items():
        assert (ours[name] - value).abs().max() <= 1e-5 * largest, name


def compare(ours: Any, theirs: Any) -> None:
    ((batch,),) = ours.get_train_dataloader()
    (their_batch,) = [*theirs.get_train_dataloader()]
    begin_step(ours, ours.bare_model, [[batch]])
    loss, their_loss = ours.compute_loss(ours.bare_model, batch), theirs.compute_loss(theirs.model, their_batch)
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-5)
    loss.backward()
    their_loss.backward()
    assert_close(gradients(ours.bare_model.pretrained), gradients(theirs.model))
    start = {name: p.detach().clone() for name, p in theirs.model.named_parameters()}
    for run in (ours, theirs):
        run.model.zero_grad()
        run.train()

    def moves(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: p.detach() - start[name] for name, p in model.named_parameters()}

    our_moves, their_moves = moves(ours.bare_model.pretrained), moves(theirs.model)
    for name, value in their_moves.items():
        assert value.abs().max() > 0, name
        torch.testing.assert_close(our_moves[name], value, rtol=1e-3, atol=1e-5)


Case = Callable[..., tuple[Any, Any]]


@pytest.fixture
def both(rows: Path, base: Path, moved: Path, tmp_path: Path) -> Case:
    """Makes both trainers of a method, with the options that both know."""

    def made(method: str, file: Path = rows, pairs: tuple[str, ...] = (), **options: Any) -> tuple[Any, Any]:
        found = written(method, file, tmp_path, *pairs)
        if method == "kto":
            found = in_rotation(found)
        own = {name: value for name, value in options.items() if name != "loss_type"}
        own |= {"loss": options["loss_type"]} if "loss_type" in options else {}
        own |= {"pairs": pairs[1]} if pairs else {}
        own |= {"responses_per_prompt": 3} if method == "kto" else {}
        ours = own_trainer(method, file, base, moved, tmp_path / "ours", **own)
        return ours, trl_trainer(method, found, base, moved, tmp_path / "theirs", **options)

    return made


def test_sft(both: Case) -> None:
    compare(*both("sft"))


@pytest.mark.parametrize("pairs", ["all", "one", "best_worst"])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_dpo(loss: str, pairs: str, both: Case) -> None:
    ours, theirs = both("dpo", pairs=("--pairs", pairs), loss_type=loss, beta=0.3)
    assert len(ours.train_dataset) == 12  # of 16 problems, 4 have one response only
    assert len(theirs.train_dataset) == {"all": 28}.get(pairs, 12)
    compare(ours, theirs)


@pytest.mark.parametrize("weights", [{}, {"desirable_weight": 0.5, "undesirable_weight": 1.5}])
def test_kto(weights: dict[str, float], both: Case, rows_file: Path, tmp_path: Path) -> None:
    columns = ("id", "problem_id", "prompt", "completion", "reward")
    write_jsonl(tmp_path / "four.jsonl", [{k: row[k] for k in columns} for row in read_rows(rows_file)])
    ours, theirs = both("kto", tmp_path / "four.jsonl", beta=0.3, **weights)
    compare(ours, theirs)
    found, expected = (
        [line[name] for line in run.state.log_history if "learning_rate" in line]
        for run, name in ((ours, "kl/mismatched"), (theirs, "kl"))
    )
    assert len(found) == 3 and min(found) > 0.01
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("method", TRAINERS)
def test_trl_reads_conversations_and_tools(method: str, tmp_path: Path) -> None:
    """The tokens of TRL are those of the chat template, with the tools, and responses of several turns are kept."""
    chats.save_chat_model(tmp_path / "model")
    prompts = [chats.PROMPT, [{"role": "user", "content": "What is 3+3?"}]]
    said = [chats.TURNS, "The answer is 5."]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
    write_jsonl(
        tmp_path / "rows.jsonl",
        [
            {"prompt": prompt, "completion": completion, "label": isinstance(completion, list), "tools": tools}
            for prompt in prompts
            for completion in said
        ],
    )
    pairs = written(method, tmp_path / "rows.jsonl", tmp_path)
    assert {type(row["prompt"]) for row in pairs} == {list}
    config, kind, *_ = TRAINERS[method]
    run = kind(
        model=str(tmp_path / "model"),
        args=config(str(tmp_path / "out"), max_length=None, **SETTINGS),
        train_dataset=Dataset.from_list(pairs),
        processing_class=chats.chat_tokenizer(),
    )
    first = run.train_dataset[0]
    ids = first["input_ids"] if method == "sft" else first["prompt_ids"]
    text = chats.chat_tokenizer().decode(ids)
    assert "2+2?" in text and '"name": "add"' in text
    if method != "sft":
        response = chats.chat_tokenizer().decode(first["chosen_ids" if method == "dpo" else "completion_ids"])
        assert response.startswith("ask<tool_call>") and "The answer is 4." in response
