"""A small real HTTP server that answers `/pooling` by a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = {"data": [{"id": "mini", "max_model_len": 4096}]}
Answer = tuple[int, Any]


@contextmanager
def answering(script: Callable[[int, Any], Answer | None], models: Any = MODELS) -> Iterator[str]:
    """A server whose n-th answer to `/pooling` is the script's; None is to hang up without one."""
    asked = iter(range(10**9))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, models)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = script(next(asked), body)
            if answer is None:
                self.close_connection = True
            else:
                self._send(*answer)

        def _send(self, status: int, content: Any) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def pooled(*rows: Any) -> Answer:
    return 200, {"data": [{"index": i, "data": of} for i, of in enumerate(rows)]}
