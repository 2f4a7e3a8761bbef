"""Runs the application: listens, bounds how long connections may be slow, and drains on SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from qstep.serving.app import Service
from qstep.words import counted

_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-type: text/plain\r\n"
    b"content-length: 21\r\n\r\ntoo many connections\n"
)


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 with a time limit: a connection is closed if no complete request head arrives in `timeout_keep_alive` s.

    It is also closed if a client continues to send a body that was refused. (uvicorn alone waits for ever once a byte
    has arrived.) A connection beyond `max_connections` gets a 503 and is closed, and the others are served. (uvicorn's
    own limit refuses every request while too many connections are open, also idle ones.)
    """

    max_connections: int
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.write(_TOO_MANY)
            transport.close()
        else:
            self._wait()

    def handle_events(self) -> None:
        answered = self.cycle
        super().handle_events()
        if self.cycle is not answered:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # otherwise the next request has begun
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class DrainingServer(uvicorn.Server):
    """Marks the service as draining as soon as a signal arrives."""

    service: Service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.service.draining = True
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError if the address cannot be used."""
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen at {host} port {port}: {error.strerror or error}") from error


def run(service: Service, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or Ctrl-C, then answers the queued requests and returns.

    Raises TimeoutError if requests were cut off after `drain_s` seconds.
    """
    options = service.options
    config = uvicorn.Config(
        service.app(),
        http=type("Protocol", (ImpatientProtocol,), {"max_connections": options.max_connections}),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=options.client_s,
        timeout_graceful_shutdown=options.drain_s,
    )
    server = DrainingServer(config)
    server.service = service

    async def serve() -> None:
        serving = asyncio.ensure_future(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            ready()
        await serving

    # uvicorn raises the signal again after draining. A requested stop is not a failure, so it is ignored.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        asyncio.run(serve())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if service.cut_off:
        cut_off = counted(service.cut_off, "request")
        raise TimeoutError(f"{cut_off} could not be answered within --drain_s {options.drain_s}")
