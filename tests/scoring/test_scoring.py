"""Our checkpoints as scorers: the step contract, batches that change nothing, equal responses computed once."""

from __future__ import annotations

import copy
from itertools import chain
from pathlib import Path

import pytest
import torch
from tokenizers import normalizers
from transformers import AutoConfig, AutoModelForTokenClassification

from byte_tokenizer import byte_tokenizer
from qstep.models import ScorerModel, StepContract, encode_steps
from qstep.scoring import Scorer, StepScorer
from qstep.scoring.formats import ContractFormat
from qstep.tasks import miniature
from scorers import miniature_scorer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return miniature_scorer(tmp_path / "scorer")


def test_a_scorer_is_a_plain_token_classifier(folder: Path) -> None:
    """What qstep scores is what any user of AutoModelForTokenClassification reads at the separators."""
    scorer = StepScorer.load(folder)
    prompt, steps = "7+8*3=\n", ["7+8=5", "5*3=5", "#5"]
    q_values = scorer.score(prompt, steps)
    plain = AutoModelForTokenClassification.from_pretrained(folder).eval()
    text = prompt + "".join(step + "\n" for step in steps)
    ids = miniature.tokenizer()(text)["input_ids"]
    logits = plain(torch.tensor([ids])).logits[0, :, 0]
    newlines = [i for i, token in enumerate(ids) if token == scorer.format.contract.separator_token_id][1:]
    assert q_values == pytest.approx(logits[newlines].tolist(), abs=1e-5)
    assert plain.config.num_labels == 1 and plain.config.problem_type == "regression"
    assert "qstep_packed" not in (folder / "config.json").read_text()


def test_scores_do_not_depend_on_the_batch(folder: Path) -> None:
    scorer: Scorer = StepScorer.load(folder)
    rows = []
    for problem in miniature.problems("train", 5):
        steps = miniature.solution(problem.prompt).split("\n")
        rows += [
            {"id": f"{problem.id}#{n}", "prompt": problem.prompt, "completions": steps[:n]}
            for n in range(len(steps) + 1)  # the first without a step
        ]
    single = [scorer.score(row["prompt"], row["completions"]) for row in rows]
    assert [len(q) for q in single] == [len(row["completions"]) for row in rows]
    for order in (rows, rows[::2] + rows[1::2]):
        for max_tokens in (1, 100, 10_000):
            together = list(chain.from_iterable(scorer.score_rows(order, max_tokens=max_tokens)))
            assert [row for row, _ in together] == order
            for row, q in together:
                assert q == pytest.approx(single[rows.index(row)], abs=1e-5)


def test_equal_responses_are_computed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 rows, 2 prompts with 2 responses each: 4 responses of 6 and 9 tokens (separators in), 2 prompts of 5."""
    scorer = StepScorer.load(folder)
    rows = [
        {"id": f"{n}", "prompt": f"{5 + n // 20}+3=\n", "completions": ["8+3=1", "#1"][: 1 + n % 2]} for n in range(40)
    ]
    expected = [scorer.score(row["prompt"], row["completions"]) for row in rows]
    computed = []
    scorer.model.register_forward_pre_hook(lambda module, inputs: computed.append(len(inputs[0]["input_ids"])))
    [scored] = scorer.score_rows(rows)
    assert [row for row, _ in scored] == rows
    assert computed == [2 * (5 + 6 + 9)]
    for (_, q), single in zip(scored, expected, strict=True):
        assert q == pytest.approx(single, abs=1e-5)


def test_contract_refuses_what_it_was_not_trained_with(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    tokenizer = miniature.tokenizer()
    with pytest.raises(ValueError, match="2 tokens"):
        StepContract.create(
            tokenizer, step_separator="\n", separator_token="==", max_length=9, aggregation="min", objective="pqm"
        )
    with pytest.raises(ValueError, match="scorer was trained"):
        broken = copy.deepcopy(config)
        broken.qstep["separator_token"] = "+"
        StepContract.of(broken, tokenizer)
    with pytest.raises(ValueError, match="chat template"):
        templated = miniature.tokenizer()
        templated.chat_template = "{{ messages }}"
        StepContract.of(config, templated)
    with pytest.raises(ValueError, match="version"):
        old = copy.deepcopy(config)
        old.qstep["version"] = 0
        StepContract.of(old, tokenizer)
    with pytest.raises(ValueError, match="no step contract"):
        del config.qstep
        StepContract.of(config, tokenizer)


def test_an_over_long_row_is_refused_not_truncated(folder: Path) -> None:
    scorer = StepScorer.load(folder)
    row = {"id": "here", "prompt": "7+8=\n", "completions": ["7+8=5"] * 30}
    with pytest.raises(ValueError, match=r"row 'here': .* are 185 tokens, and this scorer's max_length is 128"):
        list(scorer.score_rows([row]))


def test_what_fits_is_what_can_be_encoded(folder: Path) -> None:
    """Around the limit of 128 tokens, for prompts of 5 and 7: a row fits exactly where what is encoded does."""
    scorer = StepScorer.load(folder)
    for prompt in ("7+8=\n", "7+8*3=\n"):
        for n in range(15, 25):
            for last in ("#5", "8*3=5"):
                row = {"prompt": prompt, "completions": ["7+8=5"] * n + [last]}
                [(prompt_ids, ids, _)] = scorer.format.encode(prompt, row["completions"])
                assert scorer.fits(row) == (len(prompt_ids) + len(ids) <= 128)


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC(), normalizers.NFKC(), normalizers.Lowercase()])
@pytest.mark.parametrize("text", ["x" * 7, "\U0001d160" * 2, "\ufdfa"])
def test_what_grows_in_normalisation_fits_only_where_it_can_be_encoded(
    text: str, normalizer: normalizers.Normalizer | None, folder: Path
) -> None:
    """At every limit up to 50. U+FDFA, 3 bytes, is 33 under NFKC, and U+1D160, 4 bytes, is 12 under NFC."""
    tokenizer = byte_tokenizer(normalizer)
    contract = {"step_separator": "\n", "separator_token": "<eos>", "aggregation": "min", "objective": "pqm"}
    model = ScorerModel.load(folder)
    lengths = set()
    for max_length in range(1, 51):
        StepContract.create(tokenizer, max_length=max_length, **contract).attach(model.config)
        scorer = StepScorer(model, ContractFormat(tokenizer, StepContract.of(model.config, tokenizer)))
        prompt_ids, ids, _ = encode_steps(tokenizer, scorer.format.contract, "a", [text])
        fits = len(prompt_ids) + len(ids) <= max_length
        assert scorer.fits({"prompt": "a", "completions": [text]}) == fits
        if fits:
            lengths.add(max_length)
    assert lengths and 1 not in lengths
