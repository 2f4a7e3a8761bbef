"""The options of a server, except those of its model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class ServerOptions:
    """Where a server listens, and its limits.

    Args:
        host: the address to listen at. Anybody who can reach it may use the server, unless it is a loopback address.
        port: the port; 0 chooses a free one, which is printed.
        served_model_name: the model's name in requests; the value of `--scorer` by default.
        max_body_bytes: maximum size of a request. A longer one is refused with 413 before it is parsed.
        queue_tokens: maximum number of tokens that wait for the model. Requests beyond it are refused with 503.
        max_connections: maximum number of connections at the same time.
        client_s: seconds that a client may take to send a request, and that a connection may be idle.
        drain_s: seconds that running requests have to finish after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8100
    served_model_name: str | None = None
    max_body_bytes: int = 2**20
    queue_tokens: int = 262_144
    max_connections: int = 256
    client_s: int = 20
    drain_s: int = 30
