"""The options of a server, except those of its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from qstep.runs.options import Bounds, Options

_AT_LEAST_1 = Bounds(least=1)


@dataclass(kw_only=True)
class ServerOptions(Options):
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
    port: Annotated[int, Bounds(least=0, most=2**16 - 1)] = 8100
    served_model_name: str | None = None
    max_body_bytes: Annotated[int, _AT_LEAST_1] = 2**20
    queue_tokens: Annotated[int, _AT_LEAST_1] = 262_144
    max_connections: Annotated[int, _AT_LEAST_1] = 256
    client_s: Annotated[int, _AT_LEAST_1] = 20
    drain_s: Annotated[int, _AT_LEAST_1] = 30
