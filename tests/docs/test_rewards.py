"""docs/rewards.md: its snippets run, with a stand-in of TRL (tests/real_trl runs the first one with TRL itself)."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pages import ROOT
from pooling_server import answering, pooled
from published_scorers import qwen_prm
from qstep.data import write_jsonl
from scorers import miniature_scorer

PAGE = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
TRL, SERVER, VERL, OPENRLHF, TOKENS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class Trainer:
    """Calls the rewards with right answers, as TRL 1.16 calls them."""

    found: dict[str, list[float | None]]

    def __init__(self, *, reward_funcs: list[Any], train_dataset: Any, processing_class: Any, **_: Any) -> None:
        self.rewards, self.rows, self.tokenizer = reward_funcs, list(train_dataset), processing_class

    def train(self) -> None:
        completions = [f"We add.\nThe answer is {row['answer']}." for row in self.rows]
        ids = [[*self.tokenizer.encode(text), self.tokenizer.eos_token_id] for text in completions]
        columns = {"answer": [row["answer"] for row in self.rows], "trainer_state": None, "log_extra": print}
        prompts = [row["prompt"] for row in self.rows]
        Trainer.found = {
            reward.__name__: reward(
                prompts=prompts, completions=completions, completion_ids=ids, log_metric=lambda *_: None, **columns
            )
            for reward in self.rewards
        }


def test_every_snippet_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    miniature_scorer(tmp_path / "runs" / "pqm")
    qwen_prm(tmp_path / "Qwen" / "Qwen2.5-Math-PRM-7B")
    write_jsonl(tmp_path / "problems.jsonl", [{"prompt": f"{n} + 1?", "answer": str(n + 1)} for n in range(8)])
    stand_in = SimpleNamespace(GRPOConfig=lambda folder, **options: options, GRPOTrainer=Trainer)
    monkeypatch.setitem(sys.modules, "trl", stand_in)  # type: ignore[arg-type]
    names: dict[str, Any] = {}
    assert TRL.count("Qwen/Qwen2.5-Math-1.5B-Instruct") == 2
    exec(TRL.replace("Qwen/Qwen2.5-Math-1.5B-Instruct", "Qwen/Qwen2.5-Math-PRM-7B"), names)
    assert Trainer.found["outcome"] == [1.0] * 8
    assert all(reward is not None and 0 < reward < 1 for reward in Trainer.found["qwen_prm_min"])
    assert names["scorer"].step_separator == "\n"
    with answering(lambda number, body: pooled(*[[[9.0], [1.0], [-1.0], [0.0]] for _ in body["input"]])) as url:
        exec(SERVER.replace("http://127.0.0.1:8100", url), names)
    assert capsys.readouterr().out == "[0.2689414213699951]\n", "sigmoid(-1)"
    exec(VERL, names)
    assert re.fullmatch(r"\{'score': 0\.\d+, 'ungradable': 0\.0\}\n", capsys.readouterr().out)
    exec(OPENRLHF, names)
    assert capsys.readouterr().out == "tensor([1.])\n"
    exec(TOKENS, names)
    [shown] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert capsys.readouterr().out == shown
