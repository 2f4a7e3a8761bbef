"""Rows as a training set: what makes an item, what is left out, and which rows are too long."""

from __future__ import annotations

import logging
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import normalizers

from byte_tokenizer import byte_tokenizer
from qstep.data import RowError, encode_prompt, encode_text, write_jsonl
from qstep.objectives import METHODS, dataset
from qstep.objectives.classification import ClassificationConfig
from qstep.objectives.config import GroupConfig
from qstep.objectives.dataset import GroupDataset
from qstep.objectives.likelihood import not_right
from qstep.objectives.responses import policy_rows
from qstep.objectives.source import RowsFile
from qstep.tasks import miniature
from qstep.types import Row


def rows_of(path: Path, rows: list[Row], **options: object) -> GroupDataset:
    write_jsonl(path, rows)
    config = GroupConfig(str(path.parent), use_cpu=True, report_to="none", **options)
    return policy_rows(RowsFile(path), config, byte_tokenizer(), "prompt-completion", not_right)


def test_items_are_chunks_of_one_problem_and_prompt(tmp_path: Path) -> None:
    """p has 3 rows of prompt a and 1 of prompt b, q one, not side by side: with 2 a chunk, items of 2, 1, 1, 1."""
    order = [("p", "a"), ("q", "a"), ("p", "a"), ("p", "b"), ("p", "a")]
    rows = [{"problem_id": p, "prompt": prompt, "completion": f"c{i}"} for i, (p, prompt) in enumerate(order)]
    found = rows_of(tmp_path / "rows.jsonl", rows, responses_per_prompt=2)
    assert [found[i]["row_index"] for i in range(len(found))] == [[0, 2], [4], [1], [3]]
    assert found[0]["rows"] == [rows[0], rows[2]] and found[0]["weight"] == 1
    assert found[~1]["row_index"] == [4] and found[~1]["weight"] == 0
    whole = rows_of(tmp_path / "rows.jsonl", rows, responses_per_prompt=None)
    assert [whole[i]["row_index"] for i in range(len(whole))] == [[0, 2, 4], [1], [3]]


def test_prompts_with_one_hash_are_refused_by_the_line_of_one(tmp_path: Path) -> None:
    found = rows_of(tmp_path / "rows.jsonl", [{"prompt": prompt, "completion": "c"} for prompt in "ab"])
    table = np.array(found.index.table)
    table["problem"] = 0
    of_one_hash = GroupDataset(found.source, replace(found.index, table=table), found.rows, None, Counter())
    says = r"rows\.jsonl, line 1: its prompt differs from that of another row .*\. Give each row a problem_id"
    with pytest.raises(ValueError, match=says):
        of_one_hash[0]


@pytest.mark.parametrize("most", [0, -1])
def test_an_item_holds_a_response_at_least(most: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"--responses_per_prompt is {most}; it must be at least 1"):
        rows_of(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "c"}], responses_per_prompt=most)


def test_rows_are_left_out_for_one_reason_each(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "c", "reward": reward} for reward in (1.0, None, 0.0, 2.0, -1.0)]
    found = rows_of(tmp_path / "rows.jsonl", [*rows, {"prompt": "a", "completion": "d"}])
    assert found.rows.tolist() == [0, 3, 5] and found.left_out == {"ungradable": 1, "not right": 2}
    with pytest.raises(ValueError, match="no row can be used"):
        rows_of(tmp_path / "rows.jsonl", rows[1:2])


def test_a_blank_response_is_left_out_unless_its_tokens_are_known(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": text, "label": True} for text in ("c", "", " \n", "d")]
    found = rows_of(tmp_path / "rows.jsonl", [*rows, {**rows[1], "completion_ids": [0]}])
    assert found.rows.tolist() == [0, 3, 4] and found.left_out == {"blank": 2}


def test_a_response_graded_wrong_is_not_imitated_for_its_partial_reward(tmp_path: Path) -> None:
    graded = [{"label": False, "reward": 0.5}, {"reward": 0.5}, {"label": True, "reward": 0.5}, {"reward": 1.0}]
    found = rows_of(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "c", **row} for row in graded])
    assert found.rows.tolist() == [2, 3] and found.left_out == {"not right": 2}


def test_over_long_rows_are_refused_with_their_number_or_dropped_and_counted(tmp_path: Path) -> None:
    """A prompt " a" of 2 tokens, completions of n letters are n + 1 (the blank) + 1 (the end)."""
    rows = [{"prompt": "a", "completion": "x" * n} for n in (3, 30, 6, 40, 7)]
    with pytest.raises(ValueError, match=r"3 rows are longer than --max_length 10 tokens: line 2 \(34\), line 4"):
        rows_of(tmp_path / "rows.jsonl", rows, max_length=10)
    found = rows_of(tmp_path / "rows.jsonl", rows, max_length=10, over_long="drop")
    assert found.rows.tolist() == [0, 2] and found.left_out == {"longer than max_length": 3}
    assert rows_of(tmp_path / "rows.jsonl", rows, max_length=11, over_long="drop").rows.tolist() == [0, 2, 4]


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC(), normalizers.NFKD(), normalizers.Lowercase()])
def test_no_row_has_more_tokens_than_its_bytes_tell(normalizer: normalizers.Normalizer | None, tmp_path: Path) -> None:
    """U+1D160 grows to three times its bytes under NFC, U+FDFA to eleven times under NFKD."""
    texts = ["plain", "äöü ß", "\U0001d160" * 9, "\ufdfa" * 5, "混ぜ 物", "\n\n ", "é" * 30]
    prompts = [*texts, *([{"role": "system", "content": t}, {"role": "user", "content": t}] for t in texts)]
    rows = [{"prompt": prompt, "completion": f".{text}"} for prompt, text in zip(prompts, texts * 2, strict=True)]
    rows = [row for row in rows if str(row["prompt"]).strip()]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    tokenizer = byte_tokenizer(normalizer)
    source = RowsFile(tmp_path / "rows.jsonl")
    most = dataset._most_tokens(source, source.index("prompt-completion"), tokenizer, reads_ids=True)
    real = [len(encode_prompt(tokenizer, r["prompt"])) + len(encode_text(tokenizer, r["completion"])) for r in rows]
    assert (most >= real).all()
    if normalizer is None:
        assert most[0] <= real[0] + 5


def test_only_doubtful_rows_are_tokenised_and_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": "a", "completion": "x" * n} for n in (3, 90, 6)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    read: list[int] = []
    row = dataset.Index.row
    monkeypatch.setattr(dataset.Index, "row", lambda self, number: read.append(number) or row(self, number))
    monkeypatch.setattr("qstep.objectives.responses._CHECKED", 1)
    for _ in range(2):
        rows_of(tmp_path / "rows.jsonl", rows, max_length=94)
    assert read.count(1) == 1 and 2 not in read


def test_rows_split_by_another_separator_are_refused(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "rows.jsonl",
        [
            {"prompt": "1+1=\n", "completions": ["1+1=2", "#2"], "labels": [True, True], "step_separator": separator}
            for separator in ("\n", "\n\n")
        ],
    )
    config = ClassificationConfig(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(RowError, match=r"line 2, field 'step_separator': is '\\n\\n'"):
        METHODS["bce"].objective(config, miniature.tokenizer()).rows(RowsFile(tmp_path / "rows.jsonl"))


def test_ids_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    ids = encode_text(byte_tokenizer(), "seven")
    good = {"prompt": "a", "completion": "seven", "completion_ids": ids}
    assert len(rows_of(tmp_path / "rows.jsonl", [good])) == 1
    for other in ([*ids, ids[1]], [7 * 10**8]):
        with pytest.raises(ValueError, match=r"rows\.jsonl, line 2, field 'completion_ids': this tokenizer reads"):
            rows_of(tmp_path / "rows.jsonl", [good, {**good, "completion_ids": other}])


def test_lengths_are_those_of_prompt_and_responses(tmp_path: Path) -> None:
    rows = [{"prompt": "a" * 40, "completion": "b" * n} for n in (40, 80)]
    assert np.array_equal(rows_of(tmp_path / "rows.jsonl", rows, responses_per_prompt=2).lengths, [40])


def test_tokens_are_estimated_by_rows_that_are_counted(tmp_path: Path) -> None:
    """One row is its own sample, so its tokens are exact. Two alike in an item share their prompt."""
    row = {"prompt": "a" * 40, "completion": "b" * 40}
    alone, two = (rows_of(tmp_path / f"{n}.jsonl", [row] * n, responses_per_prompt=2) for n in (1, 2))
    assert alone.count_tokens is not None
    exact = alone.count_tokens(row, "")
    assert alone.tokens.tolist() == [exact] and exact > alone.lengths[0]
    assert two.tokens.tolist() == [math.ceil(1.5 * exact)]


def test_a_length_is_that_of_the_row_it_was_measured_on(tmp_path: Path) -> None:
    """Two reasons to leave rows out keep one row each, of 24 and 44 tokens: the second is not taken for the first."""
    config = GroupConfig(str(tmp_path), use_cpu=True, report_to="none", max_length=24)
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "7" * n} for n in (20, 40)])

    def only(number: int) -> GroupDataset:
        left_out = {"the other": np.arange(2) != number}
        return policy_rows(
            RowsFile(tmp_path / "rows.jsonl"), config, byte_tokenizer(), "prompt-completion", lambda index: left_out
        )

    assert only(0).rows.tolist() == [0]
    with pytest.raises(ValueError, match=r"1 rows are longer than --max_length 24 tokens: line 2"):
        only(1)


def test_sampled_rows_are_measured_by_what_is_read(tmp_path: Path) -> None:
    """A step scorer reads the texts of steps, whatever the number of sampled tokens: rows with ids are measured too."""
    row = {"prompt": "1", "completions": ["2" * 30, "3" * 30], "labels": [True, True], "step_separator": "\n"}
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{**row, "completion": "2", "completion_ids": [1, 2]}, {**row, "completions": ["2", "3"]}])
    method = METHODS["pqm"]
    config = method.config(str(tmp_path), use_cpu=True, report_to="none", max_length=20, over_long="drop")
    found = method.objective(config, miniature.tokenizer()).rows(RowsFile(path))
    assert found.rows.tolist() == [1] and found.left_out == {"longer than max_length": 1}


def test_a_policys_rows_that_contradict_each_other_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": "a", "completion": "c", "reward": reward} for reward in (1.0, 0.0, 1.0)]
    with caplog.at_level(logging.WARNING):
        rows_of(tmp_path / "one.jsonl", [rows[0], rows[2]])
        assert "contradict" not in caplog.text
        rows_of(tmp_path / "rows.jsonl", [{**rows[0], "prompt": "b"}, *rows])
    assert "3 rows contradict another row of the same response, first on line 2" in caplog.text
