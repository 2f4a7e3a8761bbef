"""`qstep serve` as a process of its own, and sockets to speak to it with by hand."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass
class Served:
    """A server under way."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def peak_bytes(self) -> int:
        """The most memory that the process ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024

    def connect(self, timeout: float = 60) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def raw(self, data: bytes, timeout: float = 60) -> tuple[int, bytes]:
        """Sends bytes on a connection of their own; the status (0 for none) and all that came after the head."""
        with self.connect(timeout) as connection:
            with suppress(OSError):  # refused before all was sent
                connection.sendall(data)
            return answer_of(connection)

    def post(self, body: Any, *, timeout: float = 60, **headers: str) -> tuple[int, bytes]:
        return self.raw(post_bytes(body, **headers), timeout)


def answer_of(connection: socket.socket) -> tuple[int, bytes]:
    """Reads until the other side closes: the status (0 for none) and all that came after the head."""
    answer = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head else 0), body


def post_bytes(body: Any, *, close: bool = True, **headers: str) -> bytes:
    """A request to `/pooling`; what is no bytes yet is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"host": "x", "content-type": "application/json", "content-length": str(len(content))}
    fields |= {"connection": "close"} if close else {}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"POST /pooling HTTP/1.1\r\n{head}\r\n".encode() + content


@contextmanager
def serving(scorer: Path, log: Path, *options: str) -> Iterator[Served]:
    """Runs `qstep serve` at a free port."""
    command = [sys.executable, "-m", "qstep.cli", "serve", "--scorer", str(scorer), "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    with log.open("wb") as err:
        process = subprocess.Popen(command, stderr=err, stdout=err, env=environment)
    try:
        deadline = time.monotonic() + 240
        while (found := re.search(r"at http://127\.0\.0\.1:(\d+)", log.read_text())) is None:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Served(process, log, int(found[1]))
    finally:
        if process.poll() is None:
            psutil.Process(process.pid).kill()
        process.wait()
