"""What a server is given beside its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from qstep.runs.options import Bounds, Options

_AT_LEAST_1 = Bounds(least=1)


@dataclass(kw_only=True)
class ServerOptions(Options):
    """Where a server listens, and what it takes.

    Args:
        host: the address to listen at; any but a loopback one is open to everybody who reaches it.
        port: 0 is any free one, which is printed.
        served_model_name: the model's name in requests; that of `--scorer` by default.
        max_body_bytes: of a request; a longer one is refused with 413 before it is parsed.
        queue_tokens: tokens that may wait for the model; what would be more is refused with 503.
        max_connections: at once.
        client_s: seconds a client may take to send a request, and a connection may idle.
        drain_s: seconds that requests under way have to finish after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Bounds(least=0, most=2**16 - 1)] = 8100
    served_model_name: str | None = None
    max_body_bytes: Annotated[int, _AT_LEAST_1] = 2**20
    queue_tokens: Annotated[int, _AT_LEAST_1] = 262_144
    max_connections: Annotated[int, _AT_LEAST_1] = 256
    client_s: Annotated[int, _AT_LEAST_1] = 20
    drain_s: Annotated[int, _AT_LEAST_1] = 30
