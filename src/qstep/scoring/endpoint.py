"""A scorer on a server, vLLM's or `qstep serve`: rows become token ids here, and their Qs come from `/pooling`."""

from __future__ import annotations

import json
import math
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from qstep.data import tokenizer_fingerprint
from qstep.models import StepContract
from qstep.scoring.formats import ContractFormat
from qstep.scoring.groups import GroupScorer, Pending
from qstep.scoring.scorer import Scored

_TRY_AGAIN = (429, 500, 502, 503, 504)
_LONGEST_WAIT_S = 30.0
_SHOWN = 300
"""Characters of a server's words that an error repeats."""


class EndpointError(RuntimeError):
    """A server that did not answer, or not with what was asked for."""


@dataclass(frozen=True)
class ServedModel:
    """What a server says of its model. vLLM gives the name and the length alone.

    `contract` and `tokenizer` are those of `qstep serve`, `fingerprint` names its weights by their content.
    """

    name: str
    max_length: int | None
    contract: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None


class EndpointScorer(GroupScorer):
    """A checkpoint's contract and tokenizer, read here, and its Qs from a server that holds the weights.

    Takes a reply with a row per separator token (vLLM's STEP pooling, `qstep serve`), and one with a row per token.
    Overload, a server's fault, a lost connection and silence are tried again, ever later; all else is an error.

    Args:
        endpoint: the server's root URL: `http://127.0.0.1:8100`.
        model: the name under which it serves the scorer.
        in_flight: requests at once.
        timeout_s: seconds a server may be silent.
        attempts: how often a request is sent.
        first_wait_s: seconds before the second attempt; each further one waits twice as long, 30 at most.
    """

    def __init__(
        self,
        contract: StepContract,
        tokenizer: PreTrainedTokenizerBase,
        endpoint: str,
        model: str,
        *,
        in_flight: int = 4,
        timeout_s: float = 300.0,
        attempts: int = 8,
        first_wait_s: float = 0.5,
    ) -> None:
        super().__init__(ContractFormat(tokenizer, contract))
        self._separator = contract.separator_token_id
        self.endpoint, self.model = _root(endpoint), model
        self.in_flight, self.timeout_s, self.attempts, self.first_wait_s = in_flight, timeout_s, attempts, first_wait_s

    @classmethod
    def load(cls, path: str | Path, endpoint: str, *, fingerprint: str | None = None, **options: Any) -> EndpointScorer:
        """The scorer of a checkpoint, of which `config.json` and the tokenizer are read, at a server.

        `fingerprint` names the weights that the server should have; `options` are those of the class.

        Raises:
            ValueError: the checkpoint has no step contract, or the server says that it serves another one, another
                tokenizer or other weights, or fewer tokens at once. (vLLM says nothing but the last.)
            EndpointError: the server does not answer.
        """
        tokenizer = AutoTokenizer.from_pretrained(path)
        contract = StepContract.of(AutoConfig.from_pretrained(path), tokenizer)
        served = served_model(endpoint, str(path))
        where = f"{endpoint} serves {served.name!r}"
        if served.contract is not None and dict(served.contract) != asdict(contract):
            raise ValueError(f"{where} with another step contract than {path} has: {dict(served.contract)}")
        if served.tokenizer is not None and served.tokenizer != tokenizer_fingerprint(tokenizer):
            raise ValueError(f"{where} with another tokenizer than that of {path}")
        if fingerprint is not None and served.fingerprint is not None and served.fingerprint != fingerprint:
            raise ValueError(f"{where} with other weights than those in {path}")
        if served.max_length is not None and served.max_length < contract.max_length:
            raise ValueError(
                f"{where} for {served.max_length} tokens at most, and the scorer's max_length is "
                f"{contract.max_length}: start the server for as many (vLLM: --max-model-len {contract.max_length})"
            )
        return cls(contract, tokenizer, endpoint, served.name, **options)

    def _score_batches(self, batches: Iterator[Pending]) -> Iterator[list[Scored]]:
        """Sends `in_flight` batches ahead of the one that is waited for."""
        stop = Event()
        waiting: deque[tuple[Pending, Future[list[list[float]]]]] = deque()

        def next_one() -> list[Scored]:
            batch, answer = waiting.popleft()
            return batch.scored(answer.result())

        with ThreadPoolExecutor(self.in_flight) as pool, httpx2.Client(timeout=self.timeout_s) as client:
            try:
                for batch in batches:
                    waiting.append((batch, pool.submit(self._ask, client, batch, stop)))
                    if len(waiting) == self.in_flight:
                        yield next_one()
                while waiting:
                    yield next_one()
            finally:
                stop.set()
                for _, answer in waiting:
                    answer.cancel()

    def _ask(self, client: httpx2.Client, batch: Pending, stop: Event) -> list[list[float]]:
        """The Qs of each sequence. One without a step has none, and is not sent."""
        places = [([*prompt, *ids], [len(prompt) + end for end in ends]) for prompt, ids, ends in batch.sequences()]
        sequences = [ids for ids, ends in places if ends]
        if not sequences:
            return [[] for _ in places]
        body = {"model": self.model, "input": sequences, "task": "token_classify", "use_activation": False}
        answers = iter(self._rows(self._post(client, body, stop), sequences))
        return [self._q_values(next(answers), ids, ends) if ends else [] for ids, ends in places]

    def _post(self, client: httpx2.Client, body: Mapping[str, Any], stop: Event) -> Any:
        url, wait, said = f"{self.endpoint}/pooling", self.first_wait_s, ""
        limit = 2**16 + 64 * sum(map(len, body["input"]))
        for attempt in range(self.attempts):
            if attempt:
                stop.wait(min(wait, _LONGEST_WAIT_S) * random.uniform(1, 1.25))
                wait *= 2
            if stop.is_set():
                break
            try:
                status, headers, content = _exchange(client, "POST", url, limit, body)
            except httpx2.TransportError as error:
                said = str(error) or type(error).__name__
                continue
            if status == 200:
                return _parsed(content, url)
            said = f"{status}: {content[:_SHOWN].decode(errors='replace')}"
            if status not in _TRY_AGAIN:
                raise EndpointError(f"{url} refused a request of {len(body['input'])} sequences with {said}")
            asked = headers.get("retry-after", "")
            wait = max(wait, float(asked)) if asked.isascii() and asked.isdigit() else wait
        raise EndpointError(f"{url} gave no answer in {self.attempts} attempts; the last: {said}")

    def _rows(self, reply: Any, sequences: Sequence[Sequence[int]]) -> list[Any]:
        """What the reply holds of each sequence."""
        data = reply.get("data") if isinstance(reply, dict) else None
        if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
            raise self._unlike("a list `data` of objects", reply)
        if len(data) != len(sequences) or any(item.get("index", i) != i for i, item in enumerate(data)):
            indices = [item.get("index") for item in data]
            raise self._unlike(f"{len(sequences)} entries of `data`, in order", indices)
        return [item.get("data") for item in data]

    def _q_values(self, rows: Any, ids: Sequence[int], ends: Sequence[int]) -> list[float]:
        """The Qs at a sequence's step ends, of a row for each of its separators, or one for each of its tokens."""
        separators = [i for i, token in enumerate(ids) if token == self._separator]
        if not isinstance(rows, list) or len(rows) not in (len(separators), len(ids)):
            raise self._unlike(
                f"{len(separators)} rows (a row per separator token, vLLM's STEP pooling with step_tag_id "
                f"{self._separator}) or {len(ids)} (a row per token)",
                f"{len(rows)} rows" if isinstance(rows, list) else rows,
            )
        row_at = dict(zip(separators if len(rows) == len(separators) else range(len(ids)), rows, strict=True))
        return [self._q_value(row_at[end]) for end in ends]

    def _q_value(self, row: Any) -> float:
        match row:
            case [int() | float() as q] | (int() | float() as q) if not isinstance(q, bool) and math.isfinite(q):
                return float(q)
        raise self._unlike("one finite number for a step", row)

    def _unlike(self, expected: str, found: Any) -> EndpointError:
        return EndpointError(f"{self.endpoint}/pooling: expected {expected}, got {repr(found)[:_SHOWN]}")


def served_model(endpoint: str, path: str) -> ServedModel:
    """What a server says of the model that it serves; of several, of the one named as the checkpoint's path.

    Raises EndpointError where it does not answer, or serves several under other names.
    """
    url = f"{_root(endpoint)}/v1/models"
    try:
        with httpx2.Client(timeout=10.0) as client:
            status, _, content = _exchange(client, "GET", url, 2**20)
    except httpx2.TransportError as error:
        raise EndpointError(f"{url} does not answer: {str(error) or type(error).__name__}") from error
    if status != 200:
        raise EndpointError(f"{url} answered {status}: {content[:_SHOWN].decode(errors='replace')}")
    reply = _parsed(content, url)
    models = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(models, list) or not all(isinstance(m, dict) and isinstance(m.get("id"), str) for m in models):
        raise EndpointError(f"{url}: expected a list `data` of models, got {repr(reply)[:_SHOWN]}")
    named = [model for model in models if path in (model["id"], model.get("root"))] if len(models) != 1 else models
    if len(named) != 1:
        raise EndpointError(f"{url} serves {[model['id'] for model in models]}, and which of them is {path} is unknown")
    [model] = named
    longest, said = model.get("max_model_len"), model.get("qstep")
    words = said if isinstance(said, dict) else {}
    return ServedModel(
        model["id"],
        longest if isinstance(longest, int) else None,
        **{name: words.get(name) for name in ("contract", "tokenizer", "fingerprint", "dtype")},
    )


def _root(endpoint: str) -> str:
    root = endpoint.rstrip("/")
    if not root.startswith(("http://", "https://")) or root.endswith(("/v1", "/pooling")):
        raise ValueError(f"--endpoint {endpoint} is no server's root URL: give one like http://127.0.0.1:8100")
    return root


def _exchange(
    client: httpx2.Client, method: str, url: str, limit: int, body: Mapping[str, Any] | None = None
) -> tuple[int, httpx2.Headers, bytes]:
    """Status, headers and content of a reply of at most `limit` bytes."""
    with client.stream(method, url, json=body, headers={"accept-encoding": "identity"}) as reply:
        content = bytearray()
        for chunk in reply.iter_bytes():
            content += chunk
            if len(content) > limit:
                raise EndpointError(f"{url} sent more than {limit} bytes, which no answer to this request has")
        return reply.status_code, reply.headers, bytes(content)


def _parsed(content: bytes, url: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise EndpointError(f"{url} answered what is no JSON: {content[:_SHOWN].decode(errors='replace')}") from error
