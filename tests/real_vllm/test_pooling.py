"""A checkpoint of `qstep train pqm`'s make, served unmodified by the real vLLM: its Qs are those of transformers
(make test-vllm).

The model has SmolLM2's architecture and tokenizer, and random weights; QSTEP_SCORER names another checkpoint to use.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from qstep.calls import Server
from qstep.data import read_rows, write_jsonl
from qstep.models import ModelOptions, ScorerModel, StepContract, encode_steps
from qstep.scoring import StepScorer
from qstep.scoring.endpoint import EndpointScorer
from qstep.stages.score import ScoreConfig, score

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from vllm_server import TOKEN_POOLING, step_pooling, vllm_serving

QUESTION = "A farmer has {n} rows of {m} apple trees.\nHow many trees are there in {k} such farms?"
STEPS = [
    "One farm has {n} * {m} trees, which is a number we call t.",
    "So t = {n} * {m}.",
    "Then {k} farms have {k} * t trees.",
    "#### the product",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "QSTEP_SCORER" in os.environ:
        return Path(os.environ["QSTEP_SCORER"])
    folder = tmp_path_factory.mktemp("models")
    script = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "data" / "make_smollm2.py"))
    source = script["gguf_file"]()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    torch.manual_seed(0)
    shape = dict(hidden_size=192, intermediate_size=256, num_hidden_layers=3, num_attention_heads=3)
    config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=1, tie_word_embeddings=True, **shape)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    model = ScorerModel.new(ModelOptions(model_name_or_path=str(folder / "base")))
    separators = dict(step_separator="\n", separator_token="\n")
    StepContract.create(tokenizer, **separators, max_length=1024, aggregation="min", objective="pqm").attach(
        model.config
    )
    model.save(folder / "scorer")
    tokenizer.save_pretrained(folder / "scorer")
    return folder / "scorer"


@pytest.fixture(scope="module", params=["STEP", "ALL"])
def url(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    scorer = StepScorer.load(folder)
    pooling = step_pooling(scorer.format.contract) if request.param == "STEP" else TOKEN_POOLING
    log = tmp_path_factory.mktemp("vllm") / "log"
    with vllm_serving(sys.executable, folder, log, pooling, "--max-model-len", str(scorer.max_length)) as url:
        yield url


def rows() -> list[dict[str, Any]]:
    """Texts and conversations as prompts, responses of no step to four; the separator is in every prompt."""
    found: list[dict[str, Any]] = []
    for n in range(2, 14):
        values = {"n": n, "m": n * n, "k": n + 3}
        question = QUESTION.format(**values)
        prompt: Any = f"{question}\n" if n % 3 else [{"role": "user", "content": question}]
        steps = [step.format(**values) for step in STEPS]
        found += [
            {"id": f"{n}#{i}", "prompt": prompt, "completions": steps[:i], "step_separator": "\n"} for i in range(5)
        ]
    return found


@pytest.mark.timeout(1800)
def test_vllm_gives_the_qs_of_transformers(url: str, folder: Path) -> None:
    """Within 1e-4 in fp32 of a plain forward of each sequence, and of qstep's own scoring."""
    asked = rows()
    served = [
        one for batch in EndpointScorer.load(folder, Server(url)).score_rows(asked, max_tokens=2000) for one in batch
    ]
    scorer = StepScorer.load(folder)
    here = [one for batch in scorer.score_rows(asked) for one in batch]
    plain = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert [row for row, _ in served] == asked
    for (row, there), (_, ours) in zip(served, here, strict=True):
        prompt, ids, ends = encode_steps(
            scorer.format.tokenizer, scorer.format.contract, row["prompt"], row["completions"]
        )
        with torch.inference_mode():
            logits = plain(torch.tensor([[*prompt, *ids]])).logits[0, :, 0]
        assert there == pytest.approx(logits[[len(prompt) + end for end in ends]].tolist(), abs=1e-4)
        assert there == pytest.approx(ours, abs=1e-4)
    spread = [q for _, q_values in here for q in q_values]
    assert max(spread) - min(spread) > 0.01, "that Qs agree says something only if they differ"


@pytest.mark.timeout(1800)
def test_qstep_score_asks_vllm(url: str, folder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", rows())
    here = score(ScoreConfig(tmp_path / "rows.jsonl", tmp_path / "here.jsonl", scorer=str(folder)))
    there = score(ScoreConfig(tmp_path / "rows.jsonl", tmp_path / "there.jsonl", scorer=str(folder), endpoint=url))
    for ours, theirs in zip(read_rows(here), read_rows(there), strict=True):
        assert ours["id"] == theirs["id"] and ours["q_values"] == pytest.approx(theirs["q_values"], abs=1e-4)
