"""Calls over HTTP of an engine's or a scorer's server: made again where they bring nothing usable, later each time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import anyio
import httpx2
from anyio.from_thread import BlockingPortal, start_blocking_portal

from qstep.data.shards import parse_row

T = TypeVar("T")

_LONGEST_WAIT_S = 60.0
"""Of a retry that the server has not put off itself."""

_LONGEST_RETRY_AFTER_S = 600.0
"""The most that a server's Retry-After is obeyed."""

_MESSAGE_LENGTH = 300


class Unusable(Exception):
    """An answer to ask again for, no sooner than `after` seconds from now."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


@dataclass
class Server:
    """A server, and how patiently it is asked.

    Args:
        url: its address, with or without `/v1`.
        api_key: sent as a bearer token; left out of every message.
        timeout_s: most seconds of one call, queueing in the server included.
        retries: calls in a row that bring nothing, after the first, before a request is given up.
        backoff_s: the wait after the first failure; it doubles with each, up to a minute.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 600.0
    retries: int = 8
    backoff_s: float = 0.5
    _has_answered: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/").removesuffix("/v1")

    @contextmanager
    def connected(self) -> Iterator[tuple[BlockingPortal, httpx2.AsyncClient]]:
        """Where calls are started, and what with; those under way are cancelled where this is left by an error."""
        headers = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        client = httpx2.AsyncClient(headers=headers, timeout=None, limits=httpx2.Limits(max_connections=None))
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            yield portal, client

    async def call(
        self, client: httpx2.AsyncClient, path: str, body: Any, name: str, read: Callable[[dict[str, Any]], T]
    ) -> T:
        """What `read` makes of the answer to a request, which messages call by its name.

        `read` raises Unusable at an answer to ask again for.

        Raises:
            ConnectionError: the request was given up, or the server was never reached.
            ValueError: the server refuses the request as wrong.
        """
        url, failures, wait = self.url + path, 0, self.backoff_s
        while True:
            try:
                return read(await self._reply(client, url, body, name))
            except Unusable as error:
                failures += 1
                if failures > self.retries:
                    raise ConnectionError(
                        f"{name} is given up after {failures} tries without a usable answer of {url}: {error}. "
                        "Rows that are done are kept: see to the server, and run the same again"
                    ) from None
                await anyio.sleep(max(error.after, wait * random.uniform(0.5, 1.0)))
                wait = min(2 * wait, _LONGEST_WAIT_S)

    async def _reply(self, client: httpx2.AsyncClient, url: str, body: Any, name: str) -> dict[str, Any]:
        try:
            with anyio.fail_after(self.timeout_s):
                reply = await client.post(url, json=body)
        except TimeoutError:
            raise Unusable(f"no answer within {self.timeout_s:g} s") from None
        except httpx2.ConnectError as error:
            if not self._has_answered:
                raise ConnectionError(
                    f"{url} is not to be reached ({error}): start the server, or mend --engine_url"
                ) from None
            raise Unusable(f"connection refused ({error})") from None
        except httpx2.RequestError as error:
            raise Unusable(f"connection broken ({type(error).__name__}: {error})") from None
        self._has_answered = True
        if reply.status_code != 200:
            said = f"HTTP {reply.status_code}: {self._message(reply)}"
            if reply.status_code in (408, 429) or reply.status_code >= 500:
                raise Unusable(said, _retry_after(reply))
            raise ValueError(f"{name}: {url} refuses it, {said}")
        try:
            return parse_row(reply.content)
        except ValueError as error:
            raise Unusable(f"an answer that is {error}") from None

    def _message(self, reply: httpx2.Response) -> str:
        """What the server says is wrong, in one short printable line, without the key."""
        try:
            said = parse_row(reply.content)
        except ValueError:
            text = reply.text
        else:
            error = said.get("error", said)
            text = str(error.get("message", error) if isinstance(error, dict) else error)
        if self.api_key:
            text = text.replace(self.api_key, "***")
        text = "".join(character for character in " ".join(text.split()) if character.isprintable())
        return text if len(text) <= _MESSAGE_LENGTH else text[: _MESSAGE_LENGTH - 3] + "..."


def _retry_after(reply: httpx2.Response) -> float:
    """Seconds that the server asks to wait, in number or date."""
    value = reply.headers.get("retry-after", "")
    try:
        date = None if value.isdecimal() else parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    seconds = float(value) if date is None else (date - datetime.now(timezone.utc)).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_S)
