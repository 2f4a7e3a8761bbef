"""A scorer at a server that is hostile, slow or of another make: a small real HTTP server answers by a script."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from pooling_server import Answer, answering, pooled
from qstep.calls import EndpointError, Server
from qstep.models import StepContract, encode_steps
from qstep.scoring import endpoint
from qstep.scoring.endpoint import EndpointScorer, served_model
from qstep.stages.score import ScoreConfig
from scorers import miniature_scorer

PROMPT, STEPS = "7+8*3=\n", ["7+8=5", "5*3=5", "#5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scorer's folder without its weights: they are not needed."""
    folder = miniature_scorer(tmp_path_factory.mktemp("models") / "scorer")
    (folder / "model.safetensors").unlink()
    return folder


def ids_of(folder: Path) -> tuple[list[int], list[int]]:
    """The sequence's ids and where its steps end."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    contract = StepContract.of(AutoConfig.from_pretrained(folder), tokenizer)
    prompt, ids, ends = encode_steps(tokenizer, contract, PROMPT, STEPS)
    return [*prompt, *ids], [len(prompt) + end for end in ends]


def load(folder: Path, url: str, **options: Any) -> EndpointScorer:
    return EndpointScorer.load(folder, Server(url, retries=3, backoff_s=0.01, **options))


def test_a_row_per_separator_and_a_row_per_token(folder: Path) -> None:
    """The prompt's own newline has a row too, and is no step; a row may be a number or a list of one."""
    ids, ends = ids_of(folder)
    sent = []

    def script(number: int, body: Any) -> Answer:
        sent.append(body)
        per_separator = [[9.0], [1.5], [-2], [0.25]]
        per_token: list[Any] = [[100.0]] * len(ids)
        for end, q in zip(ends, (1.5, -2, 0.25), strict=True):
            per_token[end] = [q]
        return pooled([per_separator, per_token, [9.0, 1.5, -2, 0.25]][number])

    with answering(script) as url:
        scorer = load(folder, url)
        for _ in range(3):
            assert scorer.score(PROMPT, STEPS) == [1.5, -2.0, 0.25]
    assert sent[0] == {"model": "mini", "input": [ids], "task": "token_classify", "use_activation": False}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (pooled([[1.0]] * 3), r"expected 4 rows \(a row per separator token.*step_tag_id 15\) or \d+ .*got '3 rows'"),
        (pooled([[1.0]] * 5), "got '5 rows'"),
        (pooled(), "expected 1 entry of `data`"),
        (pooled([[1.0]] * 4, [[1.0]] * 4), "expected 1 entry"),
        ((200, {"data": [{"index": 1, "data": [[1.0]] * 4}]}), r"in order, got \[1\]"),
        (pooled([[1.0], [float("nan")], [1.0], [1.0]]), r"after 4 tries: .* cannot be read \(NaN is not JSON"),
        (pooled([[1.0], [float("inf")], [1.0], [1.0]]), "Infinity is not JSON"),
        (pooled([[1.0], [0.5, 0.5], [1.0], [1.0]]), "one finite number"),
        (pooled([[1.0], [True], [1.0], [1.0]]), "one finite number"),
        (pooled([[1.0], None, [1.0], [1.0]]), "one finite number"),
        (pooled("AACAPwAAgD8="), "got 'AACAPwAAgD8='"),
        ((200, {"data": 5}), "a list `data` of objects"),
        ((200, []), r"after 4 tries: .* cannot be read \(a list, not a JSON object\): \[\]"),
        ((200, b"<html>"), r"after 4 tries: .* cannot be read \(not JSON .*\): <html>"),
        ((200, b"[" * 60_000), "nested too deeply"),
        ((200, b" " * 10**6), "sent more than 6"),
        ((400, {"error": "no such task"}), "a request of 1 sequence: .*/pooling refused it: HTTP 400: no such task"),
        ((302, b""), "refused it: HTTP 302"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_answer_is_refused_with_what_was_expected(answer: Answer, says: str, folder: Path) -> None:
    with answering(lambda *_: answer) as url, pytest.raises(EndpointError, match=says):
        load(folder, url).score(PROMPT, STEPS)


def test_overload_faults_and_hang_ups_are_tried_again(folder: Path) -> None:
    good = pooled([[0.0], [1.0], [2.0], [3.0]])
    for trouble in ((503, b"full"), (429, b""), (500, b""), None):
        with answering(lambda number, _, trouble=trouble: good if number == 3 else trouble) as url:
            assert load(folder, url).score(PROMPT, STEPS) == [1.0, 2.0, 3.0]
        with (
            answering(lambda *_, trouble=trouble: trouble) as url,
            pytest.raises(EndpointError, match=r"no usable answer .* after 4 tries"),
        ):
            load(folder, url).score(PROMPT, STEPS)


def test_a_server_that_hangs_is_given_up(folder: Path) -> None:
    def script(number: int, _: Any) -> Answer:
        time.sleep(1.5 if number == 0 else 0)
        return pooled([[0.0], [1.0], [2.0], [3.0]])

    with answering(script) as url:
        assert load(folder, url, timeout_s=0.5).score(PROMPT, STEPS) == [1.0, 2.0, 3.0]


def test_a_batch_is_sent_in_requests_that_a_server_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt that rows share counts once in a batch here, and goes out with each of them."""
    monkeypatch.setattr(endpoint, "_MOST_TOKENS", 40)
    monkeypatch.setattr(endpoint, "_MOST_SEQUENCES", 3)
    sent: list[list[list[int]]] = []

    def script(number: int, body: Any) -> Answer:
        sent.append(body["input"])
        return pooled(*([[float(len(ids) + i)] for i in range(ids.count(15))] for ids in body["input"]))

    rows = [{"id": str(i), "prompt": PROMPT, "completions": STEPS[: i % 4]} for i in range(12)]
    with answering(script) as url:
        [batch] = load(folder, url).score_rows(rows, max_tokens=10_000)
    assert [(row["id"], len(q)) for row, q in batch] == [(str(i), i % 4) for i in range(12)]
    assert len(sent) > 1 and sum(map(len, sent)) == 3, "equal sequences are sent once"
    assert all(len(of) == 1 or (sum(map(len, of)) <= 40 and len(of) <= 3) for of in sent)


def test_rows_come_in_order_and_no_more_than_four_requests_ahead(folder: Path) -> None:
    """Answers of later requests that come earlier do not change the order; what is read ahead is bounded."""
    taken = 0
    running = most = 0
    lock = threading.Lock()

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for i in range(40):
            taken += 1
            yield {"id": str(i), "prompt": PROMPT, "completions": STEPS[: i % 4]}

    def script(number: int, body: Any) -> Answer:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02 * (number % 3))
        with lock:
            running -= 1
        return pooled(*([[float(len(ids) + i)] for i in range(ids.count(15))] for ids in body["input"]))

    with answering(script) as url:
        scorer = load(folder, url)
        seen = []
        for batch in scorer.score_rows(rows(), max_tokens=1):
            seen += batch
            assert taken <= len(seen) + 4
        assert [row["id"] for row, _ in seen] == [str(i) for i in range(40)]
        for row, q in seen:
            assert len(q) == len(row["completions"]) and len({*q}) == len(q)
        assert 2 <= most <= 4
        first = next(iter(scorer.score_rows(rows(), max_tokens=1)))
        assert first[0][0]["id"] == "0", "who stops reading leaves nothing running"


def test_which_server_and_which_model(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"the server's address is '127\.0\.0\.1:1'; give an address such as"):
        load(folder, "127.0.0.1:1")
    with pytest.raises(EndpointError, match=r"Cannot connect to http://127\.0\.0\.1:1/v1/models"):
        served_model(Server("http://127.0.0.1:1/v1/"), "x")
    two = {"data": [{"id": "a"}, {"id": "b", "root": str(folder)}]}
    with answering(lambda *_: None, two) as url:
        assert load(folder, url).model == "b"
        with pytest.raises(EndpointError, match=r"serves \['a', 'b'\], and which of them is c is unknown"):
            served_model(Server(url), "c")
    short = {"data": [{"id": "a", "max_model_len": 100}]}
    with (
        answering(lambda *_: None, short) as url,
        pytest.raises(ValueError, match=r"100 tokens at most.*max_length is 128"),
    ):
        load(folder, url)
    for field in ("contract", "tokenizer"):
        other = {"data": [{"id": "a", "qstep": {field: {"version": 0} if field == "contract" else "0"}}]}
        with answering(lambda *_: None, other) as url, pytest.raises(ValueError, match=f"another (step )?{field}"):
            load(folder, url)
    for wrong in ({}, {"data": [5]}, {"data": [{}]}):
        with answering(lambda *_: None, wrong) as url, pytest.raises(EndpointError, match="expected a list `data`"):
            load(folder, url)


def test_the_settings_of_a_stage_name_what_the_server_says(folder: Path, tmp_path: Path) -> None:
    said = {"data": [{"id": "a", "qstep": {"fingerprint": "f", "dtype": "bfloat16"}}]}
    with answering(lambda *_: None, said) as url:
        config = ScoreConfig(tmp_path / "a", tmp_path / "b", scorer=str(folder), endpoint=url)
        assert config.scorer_fingerprint().endswith(" served as a f bfloat16")
