"""The list of kinds, and that a published format is one file and one line of that list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, LlamaConfig

from published_scorers import MAKERS, plain_tokenizer
from qstep.scoring import load_scorer, published, recognise
from qstep.scoring.kinds import FORMATS, ScorerKind
from qstep.scoring.loading import format_of


def test_a_new_format_is_one_file_and_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its Q is the classifier's output at the mark after each step; nothing else in the package knows of it."""
    tokenizer = plain_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_labels=1, pad_token_id=None, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"architectures": ["ToyRewardModel"]}))

    with pytest.raises(ValueError, match=r"ToyRewardModel\) is not recognisable"):
        recognise(str(tmp_path))
    monkeypatch.setitem(FORMATS, "toy", "toy_format")
    assert recognise(str(tmp_path)) == "toy"

    ids, marks = tokenizer.encode("[What is 3 + 12?]"), []
    for step in ("3 + 12 = 15", "so 15"):
        ids += [*tokenizer.encode(step), *tokenizer.encode("!")]
        marks.append(len(ids) - 1)
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0, marks, 0].tolist()
    scorer = load_scorer(str(tmp_path), options={"aggregation": "last"})
    assert scorer.score("What is 3 + 12?", ["3 + 12 = 15", "so 15"]) == pytest.approx(wanted, abs=1e-5)
    assert scorer.aggregation == "last" and abs(wanted[0] - wanted[1]) > 1e-3
    with pytest.raises(ValueError, match=r"--scorer_options\.beta is not read by a scorer of kind toy"):
        load_scorer(str(tmp_path), options={"beta": 1.0})
    with pytest.raises(ValueError, match="a scorer of kind toy does not read it"):
        load_scorer(str(tmp_path), reference="x")


def test_the_kinds_are_the_formats_our_own_and_an_ensembles() -> None:
    assert set(get_args(ScorerKind)) == {"auto", "qstep", "ensemble", *FORMATS}
    for kind in FORMATS:
        assert format_of(kind).kind == kind
    assert {file.stem for file in Path(published.__file__).parent.glob("*.py")} - {"__init__", "base"} <= {*FORMATS}


@pytest.mark.parametrize("kind", ["generative", "implicit", "policy", "trl"])
def test_a_named_splitter_is_no_text_between_steps(kind: str, tmp_path: Path) -> None:
    """Steps that it has cut are read with a blank line between them. Its name was read."""
    MAKERS[kind](tmp_path / kind)
    reference = str(tmp_path / f"{kind}_reference") if kind in ("implicit", "policy") else None
    steps = ["He has 3 apples.", "3 + 4 = 7"]
    found = [
        load_scorer(str(tmp_path / kind), kind=kind, reference=reference, options={"step_separator": separator}).score(
            "How many apples?", steps
        )
        for separator in ("split:blank_line", "split:answer:blank_line", "\n\n")
    ]
    assert found[0] == found[1] == found[2]


def test_a_generative_scorer_answers_at_once(tmp_path: Path) -> None:
    folder = MAKERS["generative"](tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"its chat template opens the thinking \(<think>\), so the first token"):
        load_scorer(str(folder), kind="generative")
