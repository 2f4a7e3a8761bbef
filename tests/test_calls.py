"""Calls of a server, by the engine and by the scorer: what one tries again, the other does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from fake_server import MODEL, TOKENIZER, serving
from qstep.calls import EndpointError, Server, _retry_after, checked_url
from qstep.generation import HTTPEngine, Request, SamplingSettings
from qstep.generation.options import EngineOptions
from qstep.models import StepContract
from qstep.scoring.endpoint import EndpointScorer, ServedModel
from qstep.scoring.options import ScorerOptions
from qstep.stages.search import SearchConfig
from scorers import miniature_scorer

Ask = Callable[[Server], Any]
DRAWN = {"choices": [{"text": "35", "finish_reason": "stop", "index": 0}]}
SCORED = {"data": [{"index": 0, "data": [[0.0], [1.5]]}]}
GOOD = json.dumps(DRAWN | SCORED).encode()
"""An answer that either takes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_scorer(tmp_path_factory.mktemp("models") / "scorer")


@pytest.fixture(scope="module")
def asks(folder: Path) -> dict[str, Ask]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    contract = StepContract.of(AutoConfig.from_pretrained(folder), tokenizer)

    def draw(server: Server) -> str:
        request = Request("p", [5, 12, 7, 13, 15], [0])
        [(_, [response])] = HTTPEngine(server, MODEL, TOKENIZER).sample([request], SamplingSettings(64))
        return response.text

    def score(server: Server) -> list[float]:
        return EndpointScorer(contract, tokenizer, server, "mini").score("5*7=\n", ["35"])

    return {"engine": draw, "scorer": score}


@pytest.fixture(params=["engine", "scorer"])
def ask(request: pytest.FixtureRequest, asks: dict[str, Ask]) -> Ask:
    return asks[request.param]


def tried(ask: Ask, status: int, said: bytes = b"no", **options: Any) -> int:
    """How many calls it takes where the first has this status, and the others are answered."""
    options = {"retries": 2, "backoff_s": 0.01, **options}
    with serving(lambda body, number: (status, said) if number == 0 else (200, GOOD)) as server:
        try:
            assert ask(Server(server.endpoint, **options)) in ("35", [1.5])
        except EndpointError as error:
            assert f"refused it: HTTP {status}" in str(error)
            assert len(server.bodies) == 1
            return 0
        return len(server.bodies) - 1


def test_which_statuses_are_tried_again(ask: Ask) -> None:
    again = {408: 1, 429: 1, 500: 1, 502: 1, 503: 1, 504: 1}
    never = dict.fromkeys((201, 204, 302, 400, 401, 403, 404, 409, 413, 422, 425, 501, 505), 0)
    assert {status: tried(ask, status, b"") for status in again | never} == again | never


def test_a_request_that_fails_always_is_tried_as_often_as_asked(ask: Ask) -> None:
    for retries in (0, 3):
        with serving(lambda body, number: (503, b"")) as server:
            with pytest.raises(EndpointError, match=f"no usable answer from .* after {retries + 1} tries"):
                ask(Server(server.endpoint, retries=retries, backoff_s=0.01))
            assert len(server.bodies) == retries + 1


def test_no_answer_in_time_is_tried_again(ask: Ask) -> None:
    def script(body: Any, number: int) -> tuple[int, bytes]:
        time.sleep(1.0 if number == 0 else 0)
        return 200, GOOD

    with serving(script) as server:
        assert ask(Server(server.endpoint, timeout_s=0.5, retries=3)) in ("35", [1.5])
    assert len(server.bodies) > 1


def test_a_reply_without_end_is_no_answer(ask: Ask) -> None:
    with (
        serving(lambda body, number: (200, b" " * 10**6)) as server,
        pytest.raises(EndpointError, match=r"sent more than \d+ bytes, the maximum for this request"),
    ):
        ask(Server(server.endpoint))
    assert len(server.bodies) == 1


def test_the_key_is_sent_and_in_no_message(ask: Ask) -> None:
    """Whatever answer repeats it; it is cut out before the words are cut short."""
    said = b"x" * 295 + b"sk-secret"
    for status, content in ((401, said), (500, said), (200, said), (200, b'{"data": ["sk-secret"]}')):
        with (
            serving(lambda body, number, answer=(status, content): answer) as server,
            pytest.raises(EndpointError) as raised,
        ):
            ask(Server(server.endpoint, "sk-secret", retries=0))
        assert server.headers[0]["Authorization"] == "Bearer sk-secret"
        assert "sk-" not in str(raised.value), str(raised.value)
    for key in ("sk-secret\n", "sk secret", "", "sk-s\u00e9cret"):
        with pytest.raises(ValueError, match="a space, a line break or a character outside ASCII") as refused:
            Server("http://h", key)
        assert "secret" not in str(refused.value)
    assert "sk-secret" not in repr(Server("http://h", "sk-secret"))


def test_a_wait_that_a_server_asks_for() -> None:
    later = datetime.now(UTC) + timedelta(seconds=100)
    assert _retry_after("7") == 7
    assert 98 < _retry_after(format_datetime(later, usegmt=True)) <= 100
    assert 98 < _retry_after(format_datetime(later.replace(tzinfo=None))) <= 100, "a date without a zone is of UTC"
    assert _retry_after(format_datetime(later - timedelta(days=1))) < 0
    far = "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"
    assert [_retry_after(value) for value in ("", "soon", "-1", "1.5", "7, 8", far)] == [0.0] * 6


def test_no_wait_is_longer_than_a_minute(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("qstep.calls.anyio.sleep", sleep)
    faults: list[Any] = [(429, b"", {"Retry-After": "7"}), (503, b"", {"Retry-After": "1000"}), *[(500, b"")] * 7]
    with serving(lambda body, number: [*faults, (200, GOOD)][number]) as server:
        ask(Server(server.endpoint, retries=9, backoff_s=1.0))
    assert slept[:2] == [7, 60]
    assert all(most / 2 <= wait <= most for wait, most in zip(slept[2:], (4, 8, 16, 32, 60, 60, 60), strict=True))


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://h:8000", "http://h:8000"),
        ("http://h:8000/", "http://h:8000"),
        ("http://h:8000/v1", "http://h:8000"),
        ("https://h/a/v1/", "https://h/a"),
        ("http://[::1]:80", "http://[::1]:80"),
        *((url, None) for url in ("h:8000", "ftp://h", "http://", "http://h:0", "http://h:x", "http://[::1")),
        *((url, None) for url in ("http://me:pw@h", "http://h?a", "http://h#a")),
    ],
)
def test_an_address(url: str, root: str | None) -> None:
    if root is not None:
        assert Server(url).url == root
        return
    with pytest.raises(ValueError, match=r"^--x (is|contains)") as refused:
        checked_url(url, "--x")
    assert "pw" not in str(refused.value)


def test_options_of_calls_are_read_where_a_server_is_asked(tmp_path: Path) -> None:
    """A search has an engine and a scorer, of which either may be a server."""

    def search(**options: Any) -> SearchConfig:
        return SearchConfig(model_name_or_path="m", scorer="s", output=tmp_path / "o", retries=3, **options)

    search(endpoint="http://h")
    search(engine="http", engine_url="http://h")
    refused = r"--retries is 3, but it has no effect without "
    with pytest.raises(ValueError, match=refused + "--engine http or --endpoint: give that too, or remove it$"):
        search()
    with pytest.raises(ValueError, match=refused + "--endpoint: give that too, or remove it$"):
        ScorerOptions(scorer="s", retries=3)
    with pytest.raises(ValueError, match=refused + "--engine http: give that too, or remove it$"):
        EngineOptions(retries=3)
    with pytest.raises(ValueError, match="--endpoint is 'h:80'; give an address"):
        search(endpoint="h:80")


def test_each_server_gets_its_own_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-engine")
    monkeypatch.setenv("QSTEP_SCORER_API_KEY", "sk-scorer")
    options: Any = {"request_timeout_s": 7.0, "retries": 3}
    engine: Any = EngineOptions(engine="http", engine_url="http://h/v1", **options).load_engine(
        str(folder.with_name("base"))
    )
    assert engine.server == Server("http://h", "sk-engine", 7.0, 3)
    asked: list[Server] = []

    def served(server: Server, path: str) -> ServedModel:
        asked.append(server)
        return ServedModel("mini", None)

    monkeypatch.setattr("qstep.scoring.endpoint.served_model", served)
    scorer = ScorerOptions(scorer=str(folder), endpoint="http://h/v1", **options)
    assert scorer.scorer_fingerprint().endswith(" served as mini None None")
    assert isinstance(loaded := scorer.load_scorer(), EndpointScorer)
    assert asked == [Server("http://h", "sk-scorer", 7.0, 3)] * 2 and loaded.server == asked[1]
