"""An OpenAI-compatible server that answers miniature problems, and fails in every way that real ones have.

What it says of a prompt follows from the prompt, the call's seed and the choice's index, as a real server's does.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from qstep.tasks import miniature

TOKENIZER = miniature.tokenizer()
EOS = TOKENIZER.eos_token_id
MODEL = "served"

FAULTS = (
    *("429", "429 later", "500", "503", "hang", "drip", "half-close", "reset", "empty", "no choices", "no JSON"),
    *("cut JSON", "fewer", "more", "twice", "aborted", "ids of another", "no ids", "no logprobs", "wrong logprobs"),
)

Body = dict[str, Any]


def answer(prompt: list[int], seed: int, index: int) -> tuple[str, list[int], str]:
    """Text, tokens and finish reason of a choice: the solution, in one case of four cut off at a length."""
    text = miniature.solution(TOKENIZER.decode(prompt, skip_special_tokens=True))
    digest = hashlib.sha256(repr((prompt, seed, index)).encode()).digest()
    text = text[:-1] + str(digest[0] % 10)
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    if digest[1] % 4:
        return text, [*ids, EOS], "stop"
    ids = ids[: 3 + digest[2] % (len(ids) - 3)]
    return TOKENIZER.decode(ids), ids, "length"


def choices(body: Body) -> list[dict[str, Any]]:
    """What vLLM answers to a call."""
    made = []
    for index in range(body["n"]):
        text, ids, reason = answer(body["prompt"], body["seed"], index)
        for stop in body.get("stop", []):
            if stop in text:
                text, reason = text[: text.index(stop) + len(stop)], "stop"
                ids = TOKENIZER.encode(text, add_special_tokens=False)
        logprobs = {"tokens": [], "token_logprobs": [-0.25] * len(ids)} if "logprobs" in body else None
        given = {"token_ids": ids} if body.get("return_token_ids") else {}
        made.append({"index": index, "text": text, "finish_reason": reason, "logprobs": logprobs, **given})
    return made


class FakeServer(ThreadingHTTPServer):
    """Serves on a port of its own; `script(body, number)` names the fault of each call, None for a good answer."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, script: Callable[[Body, int], str | tuple[int, bytes] | None], hang_s: float = 3.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.hang_s = hang_s
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that hang up."""


@contextmanager
def serving(
    script: Callable[[Body, int], str | tuple[int, bytes] | None] = lambda body, number: None, hang_s: float = 3.0
) -> Iterator[FakeServer]:
    with FakeServer(script, hang_s) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def hostile(seed: int, share: float = 0.5) -> Callable[[Body, int], str | None]:
    """A script of random faults for a share of the calls."""
    rng = random.Random(seed)
    return lambda body, number: rng.choice(FAULTS) if rng.random() < share else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            fault = self.server.script(body, len(self.server.bodies))
            self.server.bodies.append(body)
            self.server.headers.append(dict(self.headers))
        if isinstance(fault, tuple):
            self._send(*fault)
        elif self.path != "/v1/completions" or body["model"] != MODEL:
            self._send(404, b'{"error": {"message": "The model does not exist."}}')
        else:
            self._fail(fault, body)

    def _fail(self, fault: str | None, body: Body) -> None:
        made = choices(body)
        whole = json.dumps({"choices": made}).encode()
        match fault:
            case "429":
                self._send(429, b"slow down", {"Retry-After": "0"})
            case "429 later":
                self._send(429, b"slow down", {"Retry-After": "1"})
            case "500" | "503":
                self._send(int(fault), b"<html>oh no</html>")
            case "hang":
                time.sleep(self.server.hang_s)
                self.close_connection = True
            case "drip":
                self._head(200, len(whole))
                for byte in whole[: int(self.server.hang_s * 20)]:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
                self.close_connection = True
            case "half-close":
                self._head(200, len(whole))
                self.wfile.write(whole[: len(whole) // 2])
                self.connection.shutdown(socket.SHUT_WR)
                self.close_connection = True
            case "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
            case "empty":
                self._send(200, b"")
            case "no choices":
                self._send(200, b'{"choices": []}')
            case "no JSON":
                self._send(200, b"<html>welcome</html>")
            case "cut JSON":
                self._send(200, whole[: len(whole) // 2])
            case _:
                self._send(200, json.dumps({"choices": self._bent(fault, made)}).encode())

    def _bent(self, fault: str | None, made: list[dict[str, Any]]) -> list[Any]:
        match fault:
            case "fewer":
                return made[1:]
            case "more":
                return [*made, {**made[0], "index": len(made)}, {**made[0], "index": -1}, None, {}]
            case "twice":
                return [*made[:1], *made]
            case "aborted":
                return [{**made[0], "finish_reason": "abort"}, *made[1:]]
            case "ids of another":
                return [{**choice, "token_ids": [5, 5, EOS]} for choice in made]
            case "no ids":
                return [{**choice, "token_ids": None} for choice in made]
            case "no logprobs":
                return [{**choice, "logprobs": None} for choice in made]
            case "wrong logprobs":
                return [{**choice, "logprobs": {"token_logprobs": [-0.5]}} for choice in made]
        return made

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(content), headers)
        self.wfile.write(content)
