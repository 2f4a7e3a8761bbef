"""`qstep serve` as a real process: the same Qs as here, and nothing that a client sends breaks it.

`make test-faults` asks for the full forms: 1,000 bodies of a fuzzer and 2,000 requests from 16 clients.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings

from qstep.calls import Server
from qstep.data import read_rows, write_jsonl
from qstep.models import ScorerModel, encode_steps
from qstep.scoring import Scorer, StepScorer, load_scorer, score_sequences
from qstep.scoring.endpoint import EndpointScorer
from qstep.scoring.sequences import shared_beginnings
from qstep.serving.requests import Refused, RequestReader
from qstep.stages.score import ScoreConfig, score
from qstep.tasks import miniature
from scorers import miniature_scorer
from served import Served, answer_of, post_bytes, serving

FULL = "QSTEP_KILLS" in os.environ
FUZZ, REQUESTS = (1000, 2000) if FULL else (60, 200)
LIMIT = 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_scorer(tmp_path_factory.mktemp("models") / "scorer")


@pytest.fixture(scope="module")
def scorer(folder: Path) -> StepScorer:
    return StepScorer.load(folder)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("server") / "log"
    options = ("--max_body_bytes", str(LIMIT), "--client_s", "2", "--queue_tokens", "20000")
    with serving(folder, log, *options, "--served_model_name", "mini") as served:
        yield served
        assert served.process.poll() is None, log.read_text()
        assert "Traceback" not in log.read_text()


def rows_of(count: int) -> list[dict[str, Any]]:
    """Four responses to each problem, of different lengths; the last has no step."""
    rows = []
    for problem in miniature.problems("train", count):
        steps = miniature.solution(problem.prompt).split("\n")
        rows += [
            {"id": f"{problem.id}#{n}", "prompt": problem.prompt, "completions": steps[: len(steps) - n]}
            for n in (0, 1, 2, len(steps))
        ]
    return rows


def ids_of(scorer: StepScorer, row: dict[str, Any]) -> list[int]:
    prompt, ids, _ = encode_steps(scorer.format.tokenizer, scorer.format.contract, row["prompt"], row["completions"])
    return [*prompt, *ids]


def test_a_reply_is_vllms(server: Served, scorer: StepScorer) -> None:
    """Two sequences, a row for each separator, that of the prompt too: Q as the model's plain forward gives it."""
    rows = rows_of(1)[:2]
    status, body = server.post(
        {"model": "mini", "input": [ids_of(scorer, row) for row in rows], "task": "token_classify"}
        | {"use_activation": False}
    )
    reply = json.loads(body)
    assert status == 200 and reply["object"] == "list" and reply["model"] == "mini"
    assert [(item["index"], item["object"]) for item in reply["data"]] == [(0, "pooling"), (1, "pooling")]
    for row, item in zip(rows, reply["data"], strict=True):
        expected = scorer.score(row["prompt"], row["completions"])
        assert len(item["data"]) == 1 + len(expected)
        assert [q for [q] in item["data"][1:]] == pytest.approx(expected, abs=1e-5)
    assert reply["usage"]["total_tokens"] == sum(len(ids_of(scorer, row)) for row in rows)
    alone = json.loads(server.post({"input": ids_of(scorer, rows[0])})[1])["data"]
    assert [q for [q] in alone[0]["data"]] == pytest.approx([q for [q] in reply["data"][0]["data"]], abs=1e-5)


def test_a_prompt_and_steps_need_no_tokenizer(server: Served, scorer: StepScorer) -> None:
    row = rows_of(1)[0]
    given = {"prompt": row["prompt"], "steps": row["completions"]}
    for sent in (given, [given]):
        [item] = json.loads(server.post({"input": sent})[1])["data"]
        assert [q for [q] in item["data"]] == pytest.approx(scorer.score(row["prompt"], row["completions"]), abs=1e-5)


def test_a_step_that_a_named_splitter_cuts_again_is_refused(tmp_path: Path) -> None:
    scorer = load_scorer(str(miniature_scorer(tmp_path / "mini", step_separator="split:line")))
    reader = RequestReader(scorer.format, 16, "mini", 1000)
    assert len(reader.read(b'{"input": {"prompt": "1+2=", "steps": ["3-0=3", "#3"]}}')[0].wanted[0]) == 2
    with pytest.raises(Refused, match=r"`input.steps\[1\]` contains the separator 'split:line': it is several steps"):
        reader.read(json.dumps({"input": {"prompt": "1+2=", "steps": ["1+2=3", "3-0=3\n#3"]}}).encode())


def test_a_long_response_is_read_in_windows_if_the_server_is_started_so(folder: Path, tmp_path: Path) -> None:
    """The Q of each step, in order, as in this process. Without the option, and for token ids, it is refused."""
    row = rows_of(1)[0]
    steps = row["completions"] * 20
    expected = load_scorer(str(folder), windows=True).score(row["prompt"], steps)
    alone = StepScorer.load(folder)
    with serving(folder, tmp_path / "log", "--over_long", "window") as served:
        given = [{"prompt": row["prompt"], "steps": row["completions"]}, {"prompt": row["prompt"], "steps": steps}]
        status, body = served.post({"input": given})
        assert status == 200, body
        short, long = json.loads(body)["data"]
        assert [q for [q] in short["data"]] == pytest.approx(alone.score(row["prompt"], row["completions"]), abs=1e-5)
        assert [q for [q] in long["data"]] == pytest.approx(expected, abs=1e-5)
        assert json.loads(body)["usage"]["total_tokens"] > alone.max_length
        assert served.post({"input": [1] * (alone.max_length + 1)})[0] == 400
        step_alone = {"prompt": row["prompt"], "steps": ["1" * 4 * alone.max_length]}
        assert served.post({"input": step_alone})[0] == 400, "a step longer than a window"


def test_an_endpoint_is_a_scorer(server: Served, folder: Path, scorer: StepScorer) -> None:
    rows = rows_of(20) * 2
    there: Scorer = EndpointScorer.load(folder, Server(server.url))
    expected = [q for batch in scorer.score_rows(rows) for _, q in batch]
    for max_tokens in (1, 300, 8192):
        scored = [one for batch in there.score_rows(rows, max_tokens=max_tokens) for one in batch]
        assert [row for row, _ in scored] == rows
        for (_, q), here in zip(scored, expected, strict=True):
            assert q == pytest.approx(here, abs=1e-5)
    assert there.score(rows[0]["prompt"], rows[0]["completions"]) == pytest.approx(expected[0], abs=1e-5)
    assert (there.step_separator, there.max_length, there.fits(rows[0])) == ("\n", 128, True)


def test_qstep_score_asks_a_server(server: Served, folder: Path, tmp_path: Path) -> None:
    """Its rows are those of scoring here; other weights or options of a model that is elsewhere are refused."""
    write_jsonl(tmp_path / "rows.jsonl", rows_of(3))
    here = score(ScoreConfig(tmp_path / "rows.jsonl", tmp_path / "here.jsonl", scorer=str(folder)))
    config = ScoreConfig(tmp_path / "rows.jsonl", tmp_path / "there.jsonl", scorer=str(folder), endpoint=server.url)
    for a, b in zip(read_rows(here), read_rows(score(config)), strict=True):
        assert a["q_values"] == pytest.approx(b["q_values"], abs=1e-5) and a["id"] == b["id"]
    with pytest.raises(ValueError, match="--dtype is 'bfloat16', but it has no effect with --endpoint"):
        ScoreConfig(tmp_path / "rows.jsonl", tmp_path / "x", scorer="x", endpoint=server.url, dtype="bfloat16")
    other = miniature_scorer(tmp_path / "other")
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ValueError, match="serves 'mini' with other weights than those in"):
        score(ScoreConfig(tmp_path / "rows.jsonl", tmp_path / "x.jsonl", scorer=str(other), endpoint=server.url))
    shorter = miniature_scorer(tmp_path / "shorter", max_length=64)
    with pytest.raises(ValueError, match="with another step contract than"):
        EndpointScorer.load(shorter, Server(server.url))


def test_requests_from_16_clients_at_once(server: Served, scorer: StepScorer) -> None:
    """Each gets its own Qs, whatever was computed beside it; a full queue says so and when to come again."""
    rows = [row for row in rows_of(40) if row["completions"]]
    expected = {row["id"]: scorer.score(row["prompt"], row["completions"]) for row in rows}
    rng = random.Random(0)

    def ask(_: int) -> int:
        row = rng.choice(rows)
        for _ in range(100):
            status, body = server.post({"input": ids_of(scorer, row)})
            if status != 503:
                break
            time.sleep(0.1)
        assert status == 200, body
        [item] = json.loads(body)["data"]
        assert [q for [q] in item["data"][1:]] == pytest.approx(expected[row["id"]], abs=1e-5)
        return status

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(REQUESTS))) == [200] * REQUESTS
    metrics = httpx2.get(f"{server.url}/metrics").text
    passes, computed = (
        float(re.search(rf"^{name} (\S+)", metrics, re.MULTILINE)[1])
        for name in ("qstep_forward_seconds_count", "qstep_sequences_total")
    )
    assert passes < computed, "requests that wait together are computed together"


BAD_BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "no object": (b"[]", 400),
    "a byte order mark": (b"\xef\xbb\xbf{}", 400),
    "no UTF-8": (b'{"input": "\xff"}', 400),
    "NaN": (b'{"input": [NaN]}', 400),
    "Infinity": (b'{"input": [Infinity]}', 400),
    "1e999": (b'{"input": [1e999]}', 400),
    "a blank step": (b'{"input": {"prompt": "1+1=", "steps": ["5", " "]}}', 400),
    "a lone surrogate": (b'{"input": {"prompt": "\\ud800", "steps": ["5"]}}', 400),
    "a huge number": (b'{"input": [' + b"9" * 5000 + b"]}", 400),
    "deep lists": (b'{"input": ' + b"[" * 40_000, 400),
    "deep objects": (b'{"a":' * 10_000, 400),
    "many empty lists": (b'{"input": [' + b"[]," * 30_000 + b"[]]}", 400),
    "many short lists": (b'{"input": [' + b"[1]," * 20_000 + b"[1]]}", 400),
    "no input": (b"{}", 400),
    "null": (b'{"input": null}', 400),
    "empty": (b'{"input": []}', 400),
    "text": (b'{"input": "7+8=5"}', 400),
    "a boolean": (b'{"input": [true]}', 400),
    "a fraction": (b'{"input": [1.5]}', 400),
    "below the vocabulary": (b'{"input": [-1]}', 400),
    "above the vocabulary": (b'{"input": [1000000]}', 400),
    "beyond 64 bits": (b'{"input": [18446744073709551616]}', 400),
    "mixed": (b'{"input": [[1], 2]}', 400),
    "too long for the model": (b'{"input": [' + b"1," * 128 + b"1]}", 400),
    "another task": (b'{"input": [1], "task": "embed"}', 400),
    "a task of another type": (b'{"input": [1], "task": ["token_classify"]}', 400),
    "base64": (b'{"input": [1], "encoding_format": "base64"}', 400),
    "no boolean": (b'{"input": [1], "use_activation": "false"}', 400),
    "an unknown field": (b'{"input": [1], "truncate_prompt_tokens": 5}', 400),
    "a long unknown field": (b'{"' + b"a" * 90_000 + b'": 1}', 400),
    "control characters": (b'{"' + b"\\u0000" * 10_000 + b'": 1}', 400),
    "another model": (b'{"input": [1], "model": "' + b"m" * 90_000 + b'"}', 404),
    "no name of a model": (b'{"input": [1], "model": 5}', 400),
    "steps alone": (b'{"input": {"steps": ["5"]}}', 400),
    "steps of numbers": (b'{"input": {"prompt": "7=\\n", "steps": [5]}}', 400),
    "two steps in one": (b'{"input": {"prompt": "7=\\n", "steps": ["5\\n6"]}}', 400),
    "a prompt of numbers": (b'{"input": {"prompt": [1], "steps": ["5"]}}', 400),
    "characters that the tokenizer lacks": (b'{"input": {"prompt": ":", "steps": []}}', 400),
    "a conversation without a template": (
        b'{"input": {"prompt": [{"role": "user", "content": "7="}], "steps": ["5"]}}',
        400,
    ),
    "a long body": (b'{"input": [' + b"1," * LIMIT + b"1]}", 413),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_bodies_are_refused_in_few_words(name: str, server: Served) -> None:
    body, expected = BAD_BODIES[name]
    status, answer = server.post(body)
    assert status == expected and len(answer) <= 4096
    assert json.loads(answer)["error"]["code"] == expected and b"Traceback" not in answer


def test_headers_that_lie_and_forms_that_differ(server: Served, scorer: StepScorer) -> None:
    good = {"input": ids_of(scorer, rows_of(1)[0])}
    assert server.post(good)[0] == 200
    assert server.post(good, content_type="text/plain")[0] == 415
    assert server.post(good, content_encoding="gzip")[0] == 415
    assert server.post(b"{}", content_length=str(10**30))[0] in (400, 413)
    assert server.post(b"{}", content_length="-1")[0] == 400
    assert server.post(b"{}", content_length="two")[0] == 400
    assert server.post(good, content_length="5")[0] == 400, "what follows the body is no request"
    chunks = b"".join(b"%x\r\n%s\r\n" % (50_000, b" " * 50_000) for _ in range(5)) + b"0\r\n\r\n"
    head = post_bytes(b"", content_length="", transfer_encoding="chunked")
    assert server.raw(head + chunks)[0] == 413
    body = json.dumps(good).encode()
    assert server.raw(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))[0] == 200
    assert server.raw(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")[0] == 400
    assert server.raw(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50_000 + b"\r\n")[0] == 400
    for method, path, expected in (("GET", "/pooling", 405), ("GET", "/..%2f..%2fetc/passwd", 404), ("PUT", "/x", 404)):
        status, answer = server.raw(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        assert status == expected and len(answer) < 200


def test_ten_megabytes_cost_no_memory(server: Served) -> None:
    """16 bodies of 10 MB at once, with their length, without, and with a lying one: 413, and no more memory."""
    server.post({"input": [1]})
    before = server.peak_bytes
    body = b'{"input": [' + b"[]," * 3_300_000 + b"[]]}"
    chunked = post_bytes(b"", content_length="", transfer_encoding="chunked") + b"%x\r\n" % len(body) + body
    forms = (post_bytes(body), chunked, post_bytes(body, content_length="90000"))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(server.raw, [forms[i % 3] for i in range(16)]))
    # Where the body goes on after the length that was told, the connection may be gone before the answer is read.
    assert {status for i, (status, _) in enumerate(answers) if i % 3 < 2} <= {413, 0}
    assert {status for i, (status, _) in enumerate(answers) if i % 3 == 2} <= {400, 0}
    assert [status for status, _ in answers].count(413) >= 8
    assert server.peak_bytes - before < 40 * 2**20
    assert server.post({"input": [1]})[0] == 200


def test_slow_clients_are_let_go(server: Served) -> None:
    """A head that never ends, a body that never ends, and a head that trickles: after 2 s they are gone."""
    head, body, trickle = (server.connect() for _ in range(3))
    begun = time.monotonic()
    with head, body, trickle:
        head.sendall(b"POST /pooling HTTP/1.1\r\nhost: x\r\n")
        body.sendall(post_bytes(b"{", content_length="1000"))
        trickle.sendall(b"POST /pooling HTTP/1.1\r\n")
        assert server.post({"input": [1]})[0] == 200, "others are served meanwhile"
        with pytest.raises(OSError):
            while time.monotonic() < begun + 30:
                trickle.sendall(b"a: b\r\n")
                time.sleep(0.2)
        assert time.monotonic() - begun > 1.5
        assert answer_of(head)[0] == 0
        assert answer_of(body)[0] == 408


def test_idle_connections_do_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    """Of 8 connections at most 5 are kept. A client among these is served, however many idle ones there are."""
    with serving(folder, tmp_path / "log", "--max_connections", "5", "--client_s", "30") as served:
        with httpx2.Client(base_url=served.url) as client, ExitStack() as idle:
            assert client.get("/health").status_code == 200
            connections = [idle.enter_context(served.connect()) for _ in range(7)]
            for _ in range(3):
                assert client.get("/health").status_code == 200
            assert [answer_of(connection)[0] for connection in connections[-3:]] == [503] * 3
        while served.raw(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")[0] != 200:
            time.sleep(0.1)  # until the places of those that left are free


def test_the_work_of_a_client_that_left_is_dropped(server: Served) -> None:
    """100 requests of 128 tokens in 20 sequences each, given up at once: the server is free long before they would be
    done, and its queue is empty."""
    request = post_bytes({"input": [[random.randrange(16) for _ in range(128)] for _ in range(20)]})
    connections = [server.connect() for _ in range(100)]
    for connection in connections:
        connection.sendall(request)
    for connection in connections:
        connection.close()
    deadline = time.monotonic() + 60
    while "qstep_queue_tokens 0.0" not in httpx2.get(f"{server.url}/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.post({"input": [1]})[0] == 200
    assert "qstep_disconnects_total 0.0" not in httpx2.get(f"{server.url}/metrics").text


OPENAPI = {
    "openapi": "3.1.0",
    "info": {"title": "pooling", "version": "1"},
    "paths": {
        "/pooling": {
            "post": {
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Request"}}},
                },
                "responses": {
                    code: {"description": code, "content": {"application/json": {}}}
                    for code in ("200", "400", "404", "413")
                },
            }
        }
    },
    "components": {
        "schemas": {
            "Ids": {
                "type": "array",
                "minItems": 1,
                "maxItems": 100,
                "items": {"type": "integer", "minimum": 0, "maximum": 15},
            },
            "Steps": {
                "type": "object",
                "required": ["prompt", "steps"],
                "properties": {
                    "prompt": {"type": "string", "pattern": "^[0-9+*=-]{1,20}$"},
                    "steps": {"type": "array", "minItems": 1, "items": {"enum": ["1+2=3", "3-0=3", "#3", "", "é"]}},
                },
            },
            "Request": {
                "type": "object",
                "required": ["input"],
                "properties": {
                    "model": {"enum": ["mini", "maxi"]},
                    "task": {"enum": ["token_classify", None]},
                    "use_activation": {"type": "boolean"},
                    "input": {
                        "anyOf": [
                            {"$ref": "#/components/schemas/Ids"},
                            {"$ref": "#/components/schemas/Steps"},
                            {"type": "array", "items": {"$ref": "#/components/schemas/Ids"}},
                        ]
                    },
                },
            },
        }
    },
}


def test_no_body_of_a_fuzzer_is_answered_with_a_fault(server: Served) -> None:
    """Bodies by the schema and bodies that break it, from schemathesis: 200 or 4xx, errors of at most 4 KB."""
    operation = schemathesis.openapi.from_dict(OPENAPI)["/pooling"]["POST"]
    seen: list[int] = []
    checks = dict(max_examples=FUZZ // 2, deadline=None, database=None, derandomize=True)
    client = httpx2.Client(base_url=server.url)

    def send(case: Any) -> None:
        content = json.dumps(case.body, default=str).encode() if not isinstance(case.body, bytes) else case.body
        answer = client.post("/pooling", content=content, headers={"content-type": "application/json"})
        seen.append(answer.status_code)
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, content
        assert answer.status_code == 200 or len(answer.content) <= 4096

    for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
        strategy = operation.as_strategy(generation_mode=mode)
        settings(**checks, suppress_health_check=list(HealthCheck))(given(case=strategy)(send))()
    assert len(seen) >= FUZZ and {200, 400} <= {*seen}


def test_sigterm_drains(folder: Path, scorer: StepScorer, tmp_path: Path) -> None:
    """What is under way is answered, what comes then is not taken, and the process ends well, in a bounded time; a
    queue that is full says so before."""
    row = max(rows_of(40), key=lambda row: len(row["completions"]))
    ids = ids_of(scorer, row)
    expected = scorer.score(row["prompt"], row["completions"])
    options = ("--score_tokens", "128", "--queue_tokens", "9000", "--drain_s", "60")
    with serving(folder, tmp_path / "log", *options) as served:
        assert served.post({"input": ids})[0] == 200
        request = post_bytes({"input": [ids] * (4000 // len(ids))}, close=False)
        connections = [served.connect() for _ in range(6)]
        for connection in connections:
            connection.sendall(request)
        statuses = []
        half = served.connect()
        half.sendall(request[: len(request) // 2])
        time.sleep(0.3)
        served.process.send_signal(signal.SIGTERM)
        for connection in connections:
            status, body = answer_of(connection)
            statuses.append(status)
            if status == 200:
                for item in json.loads(body)["data"]:
                    assert [q for [q] in item["data"][1:]] == pytest.approx(expected, abs=1e-5)
            else:
                assert status == 503
        assert statuses.count(200) >= 2
        half.sendall(request[len(request) // 2 :])
        assert answer_of(half)[0] in (503, 0)
        assert served.process.wait(30) == 0, served.log.read_text()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", served.port))
        assert "Traceback" not in served.log.read_text()


def test_what_is_not_answered_in_time_is_cut_off_and_said(folder: Path, tmp_path: Path) -> None:
    """2,000 sequences in as many forward passes do not end in the second that is left after SIGTERM."""
    rng = random.Random(0)
    request = {"input": [[rng.randrange(16) for _ in range(125)] for _ in range(2000)]}
    with serving(folder, tmp_path / "log", "--score_tokens", "125", "--drain_s", "1") as served:
        with served.connect() as connection:
            connection.sendall(post_bytes(request))
            while "qstep_forward_tokens_count 0.0" in httpx2.get(f"{served.url}/metrics").text:
                time.sleep(0.05)
            served.process.send_signal(signal.SIGTERM)
            assert answer_of(connection)[0] in (503, 0)
        assert served.process.wait(60) == 1
        assert "1 request could not be answered within --drain_s 1" in served.log.read_text()


def test_what_sequences_begin_with_is_computed_once(scorer: StepScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs that share 40 tokens, and one alone: 40 + 2 * 5 + 40 + 2 * 6 + 30 tokens; equal ones count once."""
    rng = random.Random(0)
    a, b, alone = ([first, *(rng.randrange(2, 16) for _ in range(n - 1))] for first, n in ((3, 40), (2, 40), (4, 30)))
    sequences = [[*a, 5, 15, 6, 15, 7], alone, [*b, *[4] * 5, 15], [*a, 8, 15, 6, 15, 7], [*b, *[9] * 5, 15], alone]
    sizes = []
    compute = ScorerModel.q_of_tokens

    def watched(model: ScorerModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        sizes.append(len(batch["input_ids"]))
        return compute(model, batch)

    monkeypatch.setattr(ScorerModel, "q_of_tokens", watched)
    together = score_sequences(scorer, sequences)
    assert sizes == [132]
    for ids, q_values in zip(sequences, together, strict=True):
        assert q_values == pytest.approx(score_sequences(scorer, [ids])[0], abs=1e-5)
        assert len(q_values) == ids.count(15)


def test_beginnings_by_hand() -> None:
    """Three share 20 tokens (40 saved); were a fourth that shares 16 to join them, 48 would be."""
    x = list(range(20))
    three = [[*x, 50], [*x, 60], [*x, 70]]
    assert shared_beginnings(three) == [(0, 3, 20)]
    assert shared_beginnings([*three, [*x[:16], 80, 90]]) == [(0, 4, 16)]
    assert shared_beginnings([*three, [*x[:15], 80, 90]]) == [(0, 3, 20), (3, 4, 17)]
    assert shared_beginnings([x]) == [(0, 1, 20)]
