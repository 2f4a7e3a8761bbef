"""The routes: `/pooling` with vLLM's schema, `/v1/models`, `/health` and `/metrics`."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from itertools import islice
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from qstep.data import tokenizer_fingerprint
from qstep.scoring import StepScorer, score_sequences
from qstep.scoring.formats import ContractFormat
from qstep.serving.batches import Batcher, QueueFull
from qstep.serving.metrics import Metrics
from qstep.serving.options import ServerOptions
from qstep.serving.requests import Asked, Refused, RequestReader

_CLOSE = {"connection": "close"}


class Service:
    """One scorer's answers to requests.

    `draining` is set when the server is to stop. Requests in the queue are then still answered, new ones are refused.
    """

    def __init__(
        self, scorer: StepScorer, options: ServerOptions, *, name: str, batch_tokens: int, fingerprint: str
    ) -> None:
        self.scorer, self.options, self.name = scorer, options, name
        assert isinstance(scorer.format, ContractFormat), "a scorer with a step contract"
        self.reader = RequestReader(
            scorer.format,
            scorer.model.config.get_text_config().vocab_size,
            name,
            options.queue_tokens,
            windows=scorer.windows,
        )
        self.draining = False
        self.cut_off = 0
        self._begun = int(time.time())
        self._said = {
            "contract": asdict(scorer.format.contract),
            "tokenizer": tokenizer_fingerprint(scorer.format.tokenizer),
            "fingerprint": fingerprint,
            "dtype": str(next(scorer.model.parameters()).dtype).removeprefix("torch."),
        }
        self._parsing = ThreadPoolExecutor(1, thread_name_prefix="parsing")
        self._batcher = Batcher(self._compute, batch_tokens=batch_tokens, queue_tokens=options.queue_tokens)
        self._metrics = Metrics(lambda: self._batcher.tokens)

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/pooling", self._pooling, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
                Route("/metrics", self._prometheus, methods=["GET"]),
            ],
            exception_handlers={HTTPException: self._no_route, Exception: self._fault},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        worker = asyncio.create_task(self._batcher.run())
        yield
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
        self._parsing.shutdown(wait=False, cancel_futures=True)

    async def _pooling(self, request: Request) -> Response:
        begun = time.perf_counter()
        try:
            response = await self._answered(request)
        except Refused as refused:
            response = _refusal(refused.status, str(refused))
        except QueueFull:
            response = _refusal(503, "the queue is full; try again", {"retry-after": "1"})
        except ClientDisconnect:
            self._metrics.disconnects.inc()
            return Response(status_code=400)  # nobody receives it
        except asyncio.CancelledError:  # drain_s have passed
            self.cut_off += 1
            response = _refusal(503, "the server has stopped", _CLOSE)
        self._metrics.seconds.observe(time.perf_counter() - begun)
        self._metrics.requests.labels("pooling", response.status_code).inc()
        return response

    async def _answered(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "send application/json")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "send the body uncompressed")
        try:
            body = await asyncio.wait_for(self._body(request), self.options.client_s)
        except TimeoutError:
            return _refusal(408, f"the request took longer than {self.options.client_s} s to arrive", _CLOSE)
        if self.draining:
            return _refusal(503, "the server is stopping", _CLOSE)
        asked = await asyncio.get_running_loop().run_in_executor(self._parsing, self.reader.read, body)
        sequences = [sequence for one in asked for sequence in one.sequences]
        answers = await _unless_gone(request, self._batcher.answer(sequences))
        return _json(200, self._reply(asked, answers))

    async def _body(self, request: Request) -> bytes:
        """The body; reading stops once it is longer than allowed."""
        most = self.options.max_body_bytes
        too_long = Refused(413, f"the body is longer than {most} bytes")
        if int(request.headers.get("content-length", 0)) > most:
            raise too_long
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise too_long
        return bytes(body)

    def _compute(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        tokens = sum(map(len, sequences))
        with self._metrics.forward.time():
            answers = score_sequences(self.scorer, sequences)
        self._metrics.sequences.inc(len(sequences))
        self._metrics.tokens.inc(tokens)
        self._metrics.batch.observe(tokens)
        return answers

    def _reply(self, asked: Sequence[Asked], answers: Sequence[Sequence[float]]) -> dict[str, Any]:
        tokens = sum(one.tokens for one in asked)
        warnings = [one.warning for one in asked if one.warning is not None]
        in_order = iter(answers)
        data = [one.rows(list(islice(in_order, len(one.sequences)))) for one in asked]
        return {
            "id": f"pool-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": self.name,
            "data": [{"index": i, "object": "pooling", "data": rows} for i, rows in enumerate(data)],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
            **({"warnings": warnings} if warnings else {}),
        }

    async def _models(self, _: Request) -> Response:
        model = {"id": self.name, "object": "model", "created": self._begun, "owned_by": "qstep"}
        model |= {"max_model_len": self.scorer.max_length, "qstep": self._said}
        return _json(200, {"object": "list", "data": [model]})

    async def _health(self, _: Request) -> Response:
        return _refusal(503, "the server is stopping", _CLOSE) if self.draining else _json(200, {"status": "ok"})

    async def _prometheus(self, _: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def _no_route(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        self._metrics.requests.labels("other", error.status_code).inc()
        return _refusal(error.status_code, error.detail, error.headers)

    async def _fault(self, _: Request, error: Exception) -> Response:
        """The answer to an error in this program. Details go to the server's log, not to the client."""
        self._metrics.requests.labels("pooling", 500).inc()
        return _refusal(500, "the server failed; its log says why")


async def _unless_gone(request: Request, work: Any) -> list[list[float]]:
    """The result of the work. If the client leaves, the work is cancelled and ClientDisconnect raised."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((answer, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        leaving.cancel()


def _json(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Response:
    safe = {"x-content-type-options": "nosniff", **(headers or {})}
    return Response(orjson.dumps(content), status_code=status, media_type="application/json", headers=safe)


def _refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error in the form of vLLM's and OpenAI's, at most 4 KB long."""
    return _json(status, {"error": {"message": message[:600], "code": status}}, headers)
