"""HTTP calls to the server of an engine or a scorer. A call without a usable answer is repeated after growing waits."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
import httpx2
from anyio.from_thread import BlockingPortal, start_blocking_portal

from qstep.data.jsonl import parse_row

T = TypeVar("T")

_TRY_AGAIN = (408, 429, 500, 502, 503, 504)
_LONGEST_WAIT_S = 60.0
_LONGEST_LOOK_S = 10.0
"""Timeout of a GET, for which the server computes nothing."""
_SHOWN = 300
"""Maximum number of characters that a message quotes from a server."""


class EndpointError(ConnectionError):
    """A server did not answer, or its answer is not what was requested."""


class Unusable(Exception):
    """An answer that cannot be used. The call should be repeated after at least `after` seconds."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


@dataclass
class Server:
    """A server, and the limits on calls to it.

    A call is repeated after status 408, 429, 500, 502, 503 or 504, a lost connection, a timeout, or an answer that
    cannot be read. Any other status is an error at once, and so is a server that was never reached.

    Args:
        url: its address, with or without `/v1`.
        api_key: sent as a bearer token. No message shows it.
        timeout_s: maximum seconds of one call. They include the time in the server's queue.
        retries: how many times a failed call is repeated.
        backoff_s: the wait after the first failure. It doubles after each further one, up to a minute. If the server
            asks for a longer wait, that is used.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 600.0
    retries: int = 8
    backoff_s: float = 0.5
    _has_answered: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self.url = checked_url(self.url, "the server's address")
        if self.api_key is not None and not re.fullmatch("[!-~]+", self.api_key):
            raise ValueError(
                "The server's key contains a space, a line break or a character outside ASCII. Check the environment "
                "variable"
            )

    @contextmanager
    def connected(self) -> Iterator[tuple[BlockingPortal, httpx2.AsyncClient]]:
        """A portal that starts calls, and the client to make them with. An error in the block cancels running calls."""
        headers = {"Accept-Encoding": "identity"}  # so that no small reply becomes a large one
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        client = httpx2.AsyncClient(headers=headers, timeout=None, limits=httpx2.Limits(max_connections=None))
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            yield portal, client

    async def call(
        self,
        client: httpx2.AsyncClient,
        path: str,
        body: Any,
        read: Callable[[dict[str, Any]], T],
        *,
        name: str,
        most_bytes: int,
    ) -> T:
        """Sends a POST, or a GET if `body` is None, and returns `read(answer)`. If `read` raises Unusable, it repeats.

        Args:
            name: how messages refer to the request.
            most_bytes: the maximum size of an answer.

        Raises EndpointError if all tries failed, the server refused the request, or it was never reached.
        """
        url, failures, wait = self.url + path, 0, self.backoff_s
        while True:
            try:
                return read(await self._reply(client, url, body, name, most_bytes))
            except Unusable as error:
                failures += 1
                if failures > self.retries:
                    raise EndpointError(
                        f"{name}: no usable answer from {url} after {failures} tries: {error}. "
                        "Finished rows are kept. Check the server, and run the command again"
                    ) from None
                await anyio.sleep(min(max(error.after, wait * random.uniform(0.5, 1.0)), _LONGEST_WAIT_S))
                wait = min(2 * wait, _LONGEST_WAIT_S)

    async def _reply(
        self, client: httpx2.AsyncClient, url: str, body: Any, name: str, most_bytes: int
    ) -> dict[str, Any]:
        longest = min(self.timeout_s, _LONGEST_LOOK_S) if body is None else self.timeout_s
        content = bytearray()
        try:
            with anyio.fail_after(longest):
                async with client.stream("GET" if body is None else "POST", url, json=body) as reply:
                    async for chunk in reply.aiter_bytes():
                        content += chunk
                        if len(content) > most_bytes:
                            raise EndpointError(
                                f"{name}: {url} sent more than {most_bytes} bytes, the maximum for this request"
                            )
        except TimeoutError:
            raise Unusable(f"no answer within {longest:g} s") from None
        except httpx2.ConnectError as error:
            said = self.shown(str(error))
            if not self._has_answered:
                raise EndpointError(
                    f"Cannot connect to {url} ({said}). Start the server, or correct the address"
                ) from None
            raise Unusable(f"connection refused ({said})") from None
        except httpx2.RequestError as error:
            raise Unusable(f"connection broken ({self.shown(f'{type(error).__name__}: {error}')})") from None
        self._has_answered = True
        if reply.status_code != 200:
            said = f"HTTP {reply.status_code}: {self._message(bytes(content))}"
            if reply.status_code in _TRY_AGAIN:
                raise Unusable(said, _retry_after(reply.headers.get("retry-after", "")))
            raise EndpointError(f"{name}: {url} refused it: {said}")
        try:
            return parse_row(bytes(content))
        except ValueError as error:
            said = self.shown(content.decode(errors="replace"))
            raise Unusable(f"an answer that cannot be read ({error}): {said}") from None

    def _message(self, content: bytes) -> str:
        """The error as the server describes it."""
        try:
            said = parse_row(content)
        except ValueError:
            return self.shown(content.decode(errors="replace"))
        error = said.get("error", said)
        return self.shown(str(error.get("message", error) if isinstance(error, dict) else error))

    def shown(self, text: str) -> str:
        """A server's answer for a message: one short printable line, without the key."""
        if self.api_key:
            text = text.replace(self.api_key, "***")
        text = "".join(character for character in " ".join(text.split()) if character.isprintable())
        return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def checked_url(url: str, name: str) -> str:
    """A server's address, without a final `/v1`.

    Raises ValueError, naming the address `name`, if it is not an address or has more parts than one. It is stored with
    the rows, so it must not contain a key.
    """
    if {*"@?#"} & {*url}:
        raise ValueError(
            f"{name} contains a user, a query or a fragment. Give only the address; a key belongs in the environment"
        )
    try:
        address = urlsplit(url)
        usable = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{name} is {url!r}; give an address such as http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1")


def _retry_after(value: str) -> float:
    """The seconds that a server asks to wait, from a number or a date."""
    if value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    return (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
