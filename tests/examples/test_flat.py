"""examples/pqm.py and examples/dqo.py: on one batch they give the trainers' loss and gradients, and they run."""

from __future__ import annotations

import json
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from examples import example
from qstep.data import read_rows, write_jsonl
from qstep.losses import pqm_loss
from qstep.scoring import StepScorer
from qstep.tasks import miniature
from tiny_trainers import trainer

PQM, DQO = example("pqm"), example("dqo")
TOKENIZER = miniature.tokenizer()
SEPARATOR = TOKENIZER("\n")["input_ids"][0]
ALL = {"per_device_train_batch_size": 16, "responses_per_prompt": 4, "train_sampling_strategy": "sequential"}


def trainers_loss(made) -> torch.Tensor:
    """The loss on the first batch, which holds all rows."""
    [[batch]] = made.get_train_dataloader()
    return made.compute_loss(made.bare_model.eval(), batch)


@pytest.mark.parametrize("margin", [0.0, 4.0])
def test_pqm_has_the_loss_of_its_trainer(base: Path, rows_file: Path, tmp_path: Path, margin: float) -> None:
    made = trainer("pqm", base, rows_file, tmp_path, stop_at_first_error=True, margin=margin, **ALL)
    torch.nn.init.normal_(made.bare_model.pretrained.score.weight)
    model = PQM.load_model(base)
    model.load_state_dict(made.bare_model.pretrained.state_dict())
    batch = PQM.collate(TOKENIZER, PQM.read_rows(rows_file), SEPARATOR)
    loss = PQM.pqm_loss(PQM.q_values(model.eval(), batch), batch["labels_BS"], margin).mean()
    assert loss.item() == pytest.approx(trainers_loss(made).item(), rel=1e-6)
    loss.backward()
    trainers_loss(made).backward()
    for own, other in zip(model.parameters(), made.bare_model.pretrained.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, atol=1e-6, rtol=1e-4)


def test_pqm_has_the_loss_of_the_library_on_any_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    q = 5 * torch.randn(500, 7, generator=generator)
    correct, length = torch.randint(0, 8, (2, 500, 1), generator=generator)
    places = torch.arange(7)
    labels = torch.where(places < torch.maximum(correct, length), (places < correct).long(), -100)
    torch.testing.assert_close(PQM.pqm_loss(q, labels, 4.0), pqm_loss(q, labels, 4.0), atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("lam", [1.0, 0.7])
def test_dqo_has_the_loss_of_its_trainer(base: Path, rows_file: Path, tmp_path: Path, lam: float) -> None:
    reference = AutoModelForCausalLM.from_pretrained(base).eval()
    rows = list(read_rows(rows_file))
    with torch.no_grad():
        batch = DQO.collate(TOKENIZER, rows)
        logps = DQO.token_logps(reference, batch)
    for row, own, mask in zip(rows[::2], logps[::2], batch["response_BT"][::2], strict=True):
        row["logps_behavior"] = (own[mask] - 0.01).tolist()
    for row in rows[1::2]:  # taken to be of the reference
        del row["logps_behavior"]
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, rows)

    made = trainer(
        "dqo", base, file, tmp_path / "run", importance="trajectory", behavior="reference", lam=lam, beta=0.3, **ALL
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.bare_model.parameters():
            parameter.add_(0.001 * torch.randn_like(parameter))
    policy = AutoModelForCausalLM.from_pretrained(base).eval()
    policy.load_state_dict(made.bare_model.pretrained.state_dict())
    value = DQO.Value(policy, 0.0).eval()
    value.trunk.load_state_dict(made.bare_model.value_trunk.state_dict())
    value.head.load_state_dict(made.bare_model.value_head.state_dict())

    batch = DQO.collate(TOKENIZER, DQO.read_rows(file))
    arguments = (batch["behavior_BT"], value(batch), batch["rewards_BT"], batch["response_BT"], 0.3, lam)
    losses = DQO.dqo_loss(DQO.token_logps(policy, batch), DQO.token_logps(reference, batch).detach(), *arguments)
    assert losses.mean().item() == pytest.approx(trainers_loss(made).item(), rel=1e-6)
    losses.mean().backward()
    trainers_loss(made).backward()
    networks = (policy, value.trunk, value.head)
    trained = (made.bare_model.pretrained, made.bare_model.value_trunk, made.bare_model.value_head)
    pairs = (zip(a.parameters(), b.parameters(), strict=True) for a, b in zip(networks, trained, strict=True))
    for own, other in chain.from_iterable(pairs):
        torch.testing.assert_close(own.grad, other.grad, atol=2e-6, rtol=1e-3)


def run(module, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [module.__file__, *arguments])
    module.main()


def test_pqm_learns_and_its_model_scores(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", str(base), "--rows", str(rows_file), "--output", str(tmp_path / "prm")]
    run(PQM, monkeypatch, *given, "--learning_rate", "1e-2", "--epochs", "4", "--batch_size", "32")
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 8 and losses[-1] < 0.8 * losses[0]
    rows = list(read_rows(rows_file))
    assert len(StepScorer.load(tmp_path / "prm").score(rows[0]["prompt"], rows[0]["completions"])) == len(
        rows[0]["completions"]
    )


def test_dqo_learns(
    base: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{name: value for name, value in row.items() if name != "logps_behavior"} for row in read_rows(rows_file)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model", str(base), "--rows", str(file), "--output", str(tmp_path / "policy"), "--epochs", "3"]
    run(DQO, monkeypatch, *given, "--learning_rate", "1e-4", "--value_learning_rate", "1e-3", "--batch_size", "64")
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 3 and losses[-1] < losses[0]
    AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
